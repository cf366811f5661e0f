//! The gradients of one step, each in the form that is smallest.

use burn::module::Param;
use burn::optim::GradientsParams;
use burn::tensor::Tensor;
use longlora_llama::Llama;

use crate::clip::{clip_factor, scaled, sum_of_squares};
use crate::row_gradient::RowGradient;

/// The gradients of one step.
pub(crate) struct StepGradients {
    /// Whole tensors, by parameter.
    pub(crate) whole: GradientsParams,
    /// Of the embedding table, if it is trained and is not the head.
    pub(crate) table: Option<RowGradient>,
}

impl StepGradients {
    /// All as whole tensors.
    pub(crate) fn into_whole(self, llama: &Llama) -> GradientsParams {
        let Self { mut whole, table } = self;
        if let Some(gradient) = table {
            let table = table_of(llama);
            whole.register(table.id, gradient.dense(table.dims()[0]));
        }
        whole
    }

    /// Scaled so that their joint norm is at most `max_norm`, as [`clip_by_global_norm`](crate::clip_by_global_norm)
    /// does; the norm before, too.
    pub(crate) fn clipped(self, llama: &Llama, max_norm: f64) -> (Self, f64) {
        let of_table = self.table.as_ref().map_or(0.0, RowGradient::sum_of_squares);
        let norm = (sum_of_squares(llama, &self.whole) + of_table).sqrt();
        let Some(factor) = clip_factor(norm, max_norm) else { return (self, norm) };
        let whole = scaled(llama, self.whole, factor);
        let table = self.table.map(|gradient| gradient.scaled(factor));
        (Self { whole, table }, norm)
    }
}

/// Whether the embedding table is trained and looked up alone: the softmax over a head would reach every row.
pub(crate) fn table_is_looked_up_alone(llama: &Llama) -> bool {
    llama.lm_head.is_some() && table_of(llama).is_require_grad()
}

pub(crate) fn table_of(llama: &Llama) -> &Param<Tensor<2>> {
    &llama.model.embed_tokens.weight
}
