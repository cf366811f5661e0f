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

#[cfg(test)]
mod tests {
    use longlora_adapters::Dropout;
    use longlora_attention::AttentionPattern;
    use longlora_data::{TokenBatch, Window};

    use super::*;
    use crate::batch::StepBatch;
    use crate::clip::clip_by_global_norm;
    use crate::execution::Execution;
    use crate::gradients::gradients;
    use crate::testing::tiny;

    fn of_step(llama: &Llama) -> StepGradients {
        let window = Window::new(vec![3, 1, 4, 1, 5, 9, 2, 6], vec![0]);
        let micro_batches = vec![TokenBatch::from_windows(&[window], 0)];
        let batch = StepBatch { micro_batches, dropout: Dropout::new(0) };
        gradients(llama, AttentionPattern::Full, &batch, Execution::SMALLEST).0
    }

    fn entries(llama: &Llama, grads: &GradientsParams) -> [Vec<f64>; 2] {
        let head = llama.lm_head.as_ref().expect("the head is no table");
        [table_of(llama).id, head.weight.id].map(|id| {
            let gradient = grads.get::<2>(id).expect("it is trained");
            gradient.into_data().iter().collect()
        })
    }

    /// The norm is summed in another order.
    #[test]
    fn the_rows_of_a_table_count_in_the_norm_and_are_scaled_with_all_else() {
        let llama = tiny();
        let whole = || of_step(&llama).into_whole(&llama);
        let norm = sum_of_squares(&llama, &whole()).sqrt();
        let max_norm = norm / 4.0;
        let (theirs, _) = clip_by_global_norm(&llama, whole(), max_norm);

        let (ours, before) = of_step(&llama).clipped(&llama, max_norm);

        assert!((before / norm - 1.0).abs() < 1e-6, "{before} instead of {norm}");
        assert!(ours.table.is_some());
        let ours = ours.into_whole(&llama);
        for (ours, theirs) in entries(&llama, &ours).iter().zip(&entries(&llama, &theirs)) {
            assert!(theirs.iter().any(|entry| *entry != 0.0));
            let mut both = ours.iter().zip(theirs);
            assert!(both.all(|(ours, theirs)| (ours - theirs).abs() < 1e-6 * max_norm));
        }
        let (_, before) = of_step(&llama).clipped(&llama, 2.0 * norm);
        assert!((before / norm - 1.0).abs() < 1e-6, "{before} instead of {norm}");
    }
}
