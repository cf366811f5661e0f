//! A model's modules by the names that Hugging Face gives them, which PEFT matches its options against.

use burn::module::{Module, ModuleVisitor, Param};
use burn::tensor::{Int, Tensor};
use longlora_kernels::nf4;

use crate::llama::Llama;
use crate::names::{base_path, checkpoint_name};
use crate::role::Role;

pub(crate) const EMBEDDING: &str = "model.embed_tokens";
pub(crate) const HEAD: &str = "lm_head";

/// A module that has a weight.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct NamedModule {
    /// `model.layers.0.self_attn.q_proj`
    pub(crate) name: String,
    /// What it is.
    pub(crate) kind: ModuleKind,
    /// Of its weight, as a checkpoint has it: `[d_output, d_input]`
    pub(crate) shape: Vec<usize>,
}

/// What a module is to an adapter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ModuleKind {
    /// A linear layer that can carry an update.
    Linear,
    Norm,
    Embedding,
    Head,
    /// A layer that an adapter of ours leaves alone.
    Other,
}

/// The modules of `llama` that have weights, the head among them even where it is tied.
pub(crate) fn named_modules(llama: &Llama) -> Vec<NamedModule> {
    let mut visitor = Modules { path: vec![], found: vec![] };
    llama.visit(&mut visitor);
    let mut modules = visitor.found;
    if llama.lm_head.is_none() {
        let shape = llama.model.embed_tokens.weight.lazy_shape().to_vec();
        modules.push(NamedModule { name: HEAD.to_owned(), kind: ModuleKind::Head, shape });
    }
    modules
}

struct Modules {
    path: Vec<String>,
    found: Vec<NamedModule>,
}

impl ModuleVisitor for Modules {
    fn enter_module(&mut self, name: &str, _container_type: &str) {
        self.path.push(name.to_owned());
    }

    fn exit_module(&mut self, _name: &str, _container_type: &str) {
        self.path.pop();
    }

    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        let path = base_path(&self.path.join("."));
        let kind = match Role::of(&path) {
            Role::Lora | Role::RopeOffset => return,
            Role::Norm => ModuleKind::Norm,
            Role::Embedding => ModuleKind::Embedding,
            Role::Head => ModuleKind::Head,
            Role::Weight if path.ends_with(".base.weight") => ModuleKind::Linear,
            Role::Weight => ModuleKind::Other,
        };
        // Biases belong to modules that their weights name.
        let weight = checkpoint_name(&path);
        if let Some(name) = weight.name.strip_suffix(".weight") {
            let mut shape = param.lazy_shape().to_vec();
            if weight.transposed {
                shape.reverse();
            }
            self.found.push(NamedModule { name: name.to_owned(), kind, shape });
        }
    }

    /// Blocks of NF4, which only linear layers have.
    fn visit_int<const D: usize>(&mut self, param: &Param<Tensor<D, Int>>) {
        let weight = checkpoint_name(&self.path.join(".")).name;
        let name = weight.strip_suffix(".weight").expect("blocks are a weight").to_owned();
        let [d_output, words] = [0, 1].map(|dim| param.lazy_shape()[dim]);
        let shape = vec![d_output, nf4::width(words)];
        self.found.push(NamedModule { name, kind: ModuleKind::Linear, shape });
    }
}
