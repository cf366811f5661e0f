//! Gradients by parameter name, and how far two sets of tensors are apart.

use burn::module::{Module, ModuleMapper, Param};
use burn::optim::GradientsParams;
use burn::tensor::{Tensor, TensorData};
use burn::train::TrainStep;
use longlora_attention::AttentionPattern;
use longlora_llama::{Llama, Selection, collect};
use longlora_train::{Execution, StepBatch, Trainee, reference};

use crate::fixture::Tensors;

/// A loss and its gradients, by checkpoint names and in the checkpoint's layout.
#[derive(Debug, Clone)]
pub(crate) struct LossAndGradients {
    /// Mean over the targets, in nats.
    pub(crate) loss: f64,
    /// Of every parameter that is trained, and of no other.
    pub(crate) gradients: Tensors,
}

/// The training step: block by block.
pub(crate) fn of_step(
    llama: &Llama,
    selection: &Selection,
    pattern: AttentionPattern,
    batch: &StepBatch,
    execution: Execution,
) -> LossAndGradients {
    let trainee = Trainee { llama: llama.clone(), pattern, max_grad_norm: None, execution };
    let output = TrainStep::step(&trainee, batch.clone());
    assert_eq!(output.item.targets, batch.num_targets());
    LossAndGradients {
        loss: output.item.loss(),
        gradients: by_name(llama, selection, output.grads),
    }
}

/// Its slow twin: plain autodiff over the whole model.
pub(crate) fn of_reference(
    llama: &Llama,
    selection: &Selection,
    pattern: AttentionPattern,
    batch: &StepBatch,
) -> LossAndGradients {
    let (grads, output) = reference::gradients(llama, pattern, batch);
    LossAndGradients { loss: output.loss(), gradients: by_name(llama, selection, grads) }
}

/// Puts the gradients in the parameters' place, and collects them as if they were parameters.
fn by_name(llama: &Llama, selection: &Selection, grads: GradientsParams) -> Tensors {
    let mut exchange = Exchange { grads, count: 0 };
    let exchanged = llama.clone().map(&mut exchange);
    assert!(exchange.grads.is_empty(), "a gradient belongs to no parameter");
    let gradients = collect(&exchanged, selection);
    assert_eq!(gradients.len(), exchange.count, "what is trained is not what was selected");
    gradients
}

struct Exchange {
    grads: GradientsParams,
    count: usize,
}

impl ModuleMapper for Exchange {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let grad = self.grads.remove::<D>(param.id);
        assert_eq!(grad.is_some(), param.is_require_grad(), "{} of {}", param.id, param.shape());
        match grad {
            None => param,
            Some(grad) => {
                self.count += 1;
                Param::initialized(param.id, grad)
            }
        }
    }
}

/// The largest difference of two entries, relative to the largest entry of `theirs`.
pub(crate) fn relative_error(ours: &TensorData, theirs: &TensorData) -> f64 {
    absolute_error(ours, theirs) / largest(theirs.iter::<f64>())
}

/// The largest difference of two entries.
#[track_caller]
pub(crate) fn absolute_error(ours: &TensorData, theirs: &TensorData) -> f64 {
    assert_eq!(ours.shape(), theirs.shape());
    largest(ours.iter::<f64>().zip(theirs.iter::<f64>()).map(|(ours, theirs)| ours - theirs))
}

/// The largest magnitude; NaN, if there is one.
fn largest(values: impl Iterator<Item = f64>) -> f64 {
    values.fold(0.0, |largest: f64, value| {
        if value.is_nan() || largest.is_nan() { f64::NAN } else { largest.max(value.abs()) }
    })
}

/// Checks that both have the same names, and that no tensor is further off than `tolerance`, by [`relative_error`].
#[track_caller]
pub(crate) fn check_close(ours: &Tensors, theirs: &Tensors, tolerance: f64, case: &str) {
    let names = |tensors: &Tensors| tensors.keys().cloned().collect::<Vec<_>>();
    assert_eq!(names(ours), names(theirs), "{case}");
    let errors = ours.iter().map(|(name, ours)| (relative_error(ours, &theirs[name]), name));
    let (error, name) = errors.max_by(|(a, _), (b, _)| a.total_cmp(b)).unwrap();
    assert!(error <= tolerance, "{case}: `{name}` is off by {error:.2e} of its largest entry");
}
