//! AdamW of an embedding table that is looked up and nothing else.
//!
//! A row that was never seen has no gradient, so its moments are zero and move nothing. A row that was seen is moved by
//! its moments in each later step, seen or not. So moments of the rows seen so far are all there is to keep, and the
//! result is that of the whole table, to the bit: the same operations on fewer numbers. With weight decay all rows
//! decay, as they do there.

use std::collections::BTreeMap;

use burn::tensor::{Device, IndexingUpdateOp, Tensor, TensorData};

use crate::config::TrainingConfig;
use crate::row_gradient::{RowGradient, indices, spread, union};

const ROWS: &str = "rows";
const TIME: &str = "time";
const MOMENT_1: &str = "moment_1";
const MOMENT_2: &str = "moment_2";

/// AdamW (arXiv:1711.05101, alg. 2) with moments for the rows seen so far.
#[derive(Debug, Clone)]
pub struct RowAdamW {
    betas: [f32; 2],
    epsilon: f32,
    weight_decay: f32,
    /// `None` before the first step.
    state: Option<RowMoments>,
}

#[derive(Debug, Clone)]
struct RowMoments {
    /// Steps taken.
    time: i32,
    /// Ascending, each once.
    rows: Vec<i64>,
    /// `[rows, width]`
    moment_1: Tensor<2>,
    /// `[rows, width]`
    moment_2: Tensor<2>,
}

impl RowAdamW {
    /// Before its first step.
    pub fn new(config: &TrainingConfig) -> Self {
        Self {
            betas: config.betas.map(|beta| beta as f32),
            epsilon: config.epsilon as f32,
            weight_decay: config.weight_decay as f32,
            state: None,
        }
    }

    /// The table after one more step.
    ///
    /// # Shapes
    /// - `table`, result: `[vocab, width]`, off the autodiff device
    pub fn step(&mut self, rate: f64, table: Tensor<2>, gradient: &RowGradient) -> Tensor<2> {
        let moments = self.advance(gradient);
        let delta = self.delta(&moments);
        let decay = rate * f64::from(self.weight_decay);
        let table = if decay == 0.0 { table } else { table.mul_scalar(1.0 - decay) };
        let rows = indices(moments.rows.clone(), &table);
        let moved = table.clone().select(0, rows.clone()) - delta.mul_scalar(rate);
        self.state = Some(moments);
        table.select_assign(0, rows, moved, IndexingUpdateOp::Assign)
    }

    /// Rows that have moments.
    pub fn rows(&self) -> &[i64] {
        self.state.as_ref().map_or(&[], |state| &state.rows)
    }

    /// The moments after a gradient.
    fn advance(&mut self, gradient: &RowGradient) -> RowMoments {
        let [beta_1, beta_2] = self.betas;
        let Some(RowMoments { time, rows, moment_1, moment_2 }) = self.state.take() else {
            let rows = gradient.rows().to_vec();
            let gradient = gradient.spread(&rows);
            return RowMoments {
                time: 1,
                rows,
                moment_1: gradient.clone().mul_scalar(1.0 - beta_1),
                moment_2: gradient.square().mul_scalar(1.0 - beta_2),
            };
        };
        let all = union(&rows, gradient.rows());
        let gradient = gradient.spread(&all);
        let [moment_1, moment_2] = [moment_1, moment_2].map(|kept| spread(kept, &rows, &all));
        RowMoments {
            time: time + 1,
            rows: all,
            moment_1: moment_1.mul_scalar(beta_1).add(gradient.clone().mul_scalar(1.0 - beta_1)),
            moment_2: moment_2.mul_scalar(beta_2).add(gradient.square().mul_scalar(1.0 - beta_2)),
        }
    }

    /// `m̂ / (√v̂ + ε)`, both moments corrected for their start at zero.
    fn delta(&self, moments: &RowMoments) -> Tensor<2> {
        let [correction_1, correction_2] = self.betas.map(|beta| 1.0 - beta.powi(moments.time));
        let moment_1 = moments.moment_1.clone().div_scalar(correction_1);
        let moment_2 = moments.moment_2.clone().div_scalar(correction_2);
        moment_1.div(moment_2.sqrt().add_scalar(self.epsilon))
    }

    /// Its state as a file holds it; `None` before the first step.
    pub(crate) fn tensors(&self) -> Option<BTreeMap<String, TensorData>> {
        let state = self.state.as_ref()?;
        // Files of ours hold floats; those of 64 bits are exact for all rows that there are.
        let rows: Vec<f64> = state.rows.iter().map(|&row| row as f64).collect();
        let count = rows.len();
        let tensors = [
            (ROWS, TensorData::new(rows, [count])),
            (TIME, TensorData::new(vec![f64::from(state.time)], [1])),
            (MOMENT_1, state.moment_1.to_data()),
            (MOMENT_2, state.moment_2.to_data()),
        ];
        Some(tensors.map(|(name, tensor)| (name.to_owned(), tensor)).into())
    }

    /// Takes up the state of a file, for a table of this shape.
    ///
    /// # Errors
    /// What is wrong with it.
    pub(crate) fn load(
        &mut self,
        mut tensors: BTreeMap<String, TensorData>,
        [vocab, width]: [usize; 2],
        device: &Device,
    ) -> Result<(), String> {
        let mut take = |name: &str| tensors.remove(name).ok_or(format!("`{name}` is missing"));
        let rows: Vec<i64> = take(ROWS)?.iter().collect();
        let time: Vec<i32> = take(TIME)?.iter().collect();
        let &[time] = time.as_slice() else { return Err(format!("`{TIME}` is not one number")) };
        if !rows.is_sorted_by(|a, b| a < b)
            || rows.iter().any(|row| !(0..vocab as i64).contains(row))
        {
            return Err(format!("`{ROWS}` are not rows of a table of `{vocab}`, ascending"));
        }
        let moments = [take(MOMENT_1)?, take(MOMENT_2)?];
        if moments.iter().any(|moment| moment.shape().to_vec() != [rows.len(), width]) {
            return Err(format!("its moments are not `{}` rows of `{width}`", rows.len()));
        }
        let [moment_1, moment_2] =
            moments.map(|moment| Tensor::from_data(moment.convert::<f32>(), device));
        self.state = Some(RowMoments { time, rows, moment_1, moment_2 });
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use burn::module::{Module, Param};
    use burn::nn::Embedding;
    use burn::optim::GradientsParams;
    use rand::{RngExt, SeedableRng};
    use rand_chacha::ChaCha8Rng;

    use super::*;
    use crate::clip::clip_by_global_norm;
    use crate::optimizer::Optimizer;

    const VOCAB: usize = 23;
    const WIDTH: usize = 5;
    const STEPS: u64 = 12;

    fn embedding() -> Embedding {
        let mut random = ChaCha8Rng::seed_from_u64(99);
        let entries: Vec<f32> =
            (0..VOCAB * WIDTH).map(|_| random.random_range(-1.0..1.0)).collect();
        let device = Device::flex().autodiff();
        let weight = Tensor::from_data(TensorData::new(entries, [VOCAB, WIDTH]), &device);
        Embedding { weight: Param::from_tensor(weight) }
    }

    /// The gradient of step `number`: other tokens in each, and none above 16.
    fn gradient(number: u64) -> RowGradient {
        let mut random = ChaCha8Rng::seed_from_u64(number);
        let ids: Vec<i64> = (0..6).map(|_| random.random_range(0..17)).collect();
        let values: Vec<f32> = (0..6 * WIDTH).map(|_| random.random_range(-1.0..1.0)).collect();
        let values = Tensor::from_data(TensorData::new(values, [6, WIDTH]), &Device::flex());
        RowGradient::of_lookup(&ids, values)
    }

    fn numbers(table: Tensor<2>) -> Vec<f32> {
        table.into_data().iter().collect()
    }

    fn rate(number: u64) -> f64 {
        1e-2 / (1 + number) as f64
    }

    /// Burn's AdamW over the whole table, clipped.
    fn dense(config: &TrainingConfig, max_norm: f64) -> Vec<Vec<f32>> {
        let (mut embedding, mut adam_w) = (embedding(), Optimizer::new(config, 0).adam_w);
        let steps = (0..STEPS).map(|number| {
            let mut grads = GradientsParams::new();
            grads.register(embedding.weight.id, gradient(number).dense(VOCAB));
            let grads = clip_by_global_norm(&embedding, grads, max_norm).0;
            embedding = adam_w.step(rate(number), embedding.clone(), grads);
            numbers(embedding.valid().weight.val())
        });
        steps.collect()
    }

    /// Ours, written and read again after the fifth step.
    fn by_rows(config: &TrainingConfig, max_norm: f64) -> (Vec<Vec<f32>>, RowAdamW) {
        let mut table = embedding().valid().weight.val();
        let mut adam_w = RowAdamW::new(config);
        let mut steps = vec![];
        for number in 0..STEPS {
            let gradient = gradient(number);
            let factor = (max_norm / (gradient.sum_of_squares().sqrt() + 1e-6)).min(1.0);
            table = adam_w.step(rate(number), table, &gradient.scaled(factor));
            steps.push(numbers(table.clone()));
            if number == 4 {
                let kept = adam_w.tensors().unwrap();
                adam_w = RowAdamW::new(config);
                adam_w.load(kept, [VOCAB, WIDTH], &Device::flex()).unwrap();
            }
        }
        (steps, adam_w)
    }

    #[test]
    fn steps_are_those_of_the_whole_table_to_the_bit() {
        for weight_decay in [0.0, 0.1] {
            let config = TrainingConfig { weight_decay, ..TrainingConfig::default() };
            let (ours, adam_w) = by_rows(&config, f64::INFINITY);
            assert_eq!(ours, dense(&config, f64::INFINITY), "weight decay {weight_decay}");

            let mut seen: Vec<i64> =
                (0..STEPS).flat_map(|number| gradient(number).rows().to_vec()).collect();
            seen.sort_unstable();
            seen.dedup();
            assert_eq!(adam_w.rows(), seen);
            assert!(seen.len() < VOCAB);
            let moments = &adam_w.tensors().unwrap()[MOMENT_2];
            assert_eq!(moments.shape().to_vec(), [seen.len(), WIDTH]);
        }
    }

    /// The norm is summed in another order, so the factor may differ in its last digit. Entries are up to 1.
    #[test]
    fn clipped_steps_are_those_of_the_whole_table() {
        let config = TrainingConfig { weight_decay: 0.1, ..TrainingConfig::default() };
        let (ours, theirs) = (by_rows(&config, 0.5).0, dense(&config, 0.5));
        let errors = ours.concat().into_iter().zip(theirs.concat()).map(|(a, b)| (a - b).abs());
        // Unlike `f32::max`, this keeps a NaN.
        let error = errors.fold(0.0, |error, x| if x > error || x.is_nan() { x } else { error });
        assert!(error < 1e-7, "off by {error:e}");
    }

    #[test]
    fn a_row_that_was_never_seen_stays_as_it_was() {
        let (steps, _) = by_rows(&TrainingConfig::default(), f64::INFINITY);
        let before = numbers(embedding().valid().weight.val());
        let last = &steps[STEPS as usize - 1];
        assert_eq!(last[17 * WIDTH..], before[17 * WIDTH..]);
        assert_ne!(last[..17 * WIDTH], before[..17 * WIDTH]);
    }

    #[test]
    fn a_torn_state_is_refused_with_the_reason() {
        let config = TrainingConfig::default();
        let kept = by_rows(&config, 1.0).1.tensors().unwrap();
        let refusal = |change: &dyn Fn(&mut BTreeMap<String, TensorData>)| {
            let mut torn = kept.clone();
            change(&mut torn);
            RowAdamW::new(&config).load(torn, [VOCAB, WIDTH], &Device::flex()).unwrap_err()
        };
        let absent = refusal(&|tensors| drop(tensors.remove(TIME)));
        assert!(absent.contains("`time`"), "{absent}");
        let narrow = TensorData::zeros::<f32, _>([2, WIDTH]);
        let narrow = refusal(&|tensors| drop(tensors.insert(MOMENT_1.to_owned(), narrow.clone())));
        assert!(narrow.contains("rows of `5`"), "{narrow}");
        let beyond = TensorData::new(vec![1.0, 99.0], [2]);
        let beyond = refusal(&|tensors| drop(tensors.insert(ROWS.to_owned(), beyond.clone())));
        assert!(beyond.contains("table of `23`"), "{beyond}");
    }
}
