//! What is trained, counted.

use std::fmt;

use burn::module::{Module, ModuleVisitor, Param};
use burn::tensor::{Int, Tensor};
use longlora_kernels::nf4;

use crate::llama::Llama;
use crate::parameters::Selection;
use crate::role::Role;

/// Numbers of parameters by what they are for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Trainable {
    /// Entries of A and B matrices.
    pub lora: usize,
    /// RoPE offsets.
    pub rope_offsets: usize,
    /// Norm weights.
    pub norms: usize,
    /// Token embeddings.
    pub embeddings: usize,
    /// Other weights: the head, and those of the projections and MLPs when the whole model is trained.
    pub weights: usize,
    /// What stays as it is.
    pub frozen: usize,
}

/// Counts what `selection` trains. Weights that were never read are counted without being drawn.
pub fn count_trainable(llama: &Llama, selection: &Selection) -> Trainable {
    let mut counter = Counter { selection, path: vec![], count: Trainable::default() };
    llama.visit(&mut counter);
    counter.count
}

impl Trainable {
    /// All that is trained.
    pub fn total(&self) -> usize {
        self.lora + self.rope_offsets + self.norms + self.embeddings + self.weights
    }
}

/// A table, one kind of parameter per line.
impl fmt::Display for Trainable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let all = self.total() + self.frozen;
        let share = |count: usize| 100.0 * count as f64 / all.max(1) as f64;
        let kinds = [
            ("LoRA", self.lora),
            ("RoPE offsets", self.rope_offsets),
            ("norms", self.norms),
            ("embeddings", self.embeddings),
            ("other weights", self.weights),
        ];
        for (kind, count) in kinds.into_iter().filter(|&(_, count)| count > 0) {
            writeln!(f, "{kind:<14}{:>16}{:>9.3} %", grouped(count), share(count))?;
        }
        writeln!(
            f,
            "{:<14}{:>16}{:>9.3} %",
            "trained",
            grouped(self.total()),
            share(self.total())
        )?;
        write!(f, "{:<14}{:>16}{:>9.3} %", "frozen", grouped(self.frozen), share(self.frozen))
    }
}

/// `8388608` as `8,388,608`.
fn grouped(count: usize) -> String {
    let digits = count.to_string();
    let mut grouped = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    grouped
}

struct Counter<'a> {
    selection: &'a Selection,
    path: Vec<String>,
    count: Trainable,
}

impl ModuleVisitor for Counter<'_> {
    fn enter_module(&mut self, name: &str, _container_type: &str) {
        self.path.push(name.to_owned());
    }

    fn exit_module(&mut self, _name: &str, _container_type: &str) {
        self.path.pop();
    }

    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        let path = self.path.join(".");
        let count = &mut self.count;
        let kind = match Role::of(&path) {
            _ if !self.selection.contains(&path) => &mut count.frozen,
            Role::Lora => &mut count.lora,
            Role::RopeOffset => &mut count.rope_offsets,
            Role::Norm => &mut count.norms,
            Role::Embedding => &mut count.embeddings,
            Role::Head | Role::Weight => &mut count.weights,
        };
        *kind += param.lazy_shape().num_elements();
    }

    /// Blocks of NF4.
    fn visit_int<const D: usize>(&mut self, param: &Param<Tensor<D, Int>>) {
        self.count.frozen += nf4::width(param.lazy_shape().num_elements());
    }
}
