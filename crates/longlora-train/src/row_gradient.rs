//! The gradient of an embedding table that is looked up and nothing else: only rows of tokens that occurred have one.

use burn::tensor::{DType, IndexingUpdateOp, Int, Tensor, TensorData};

/// Some rows of a gradient; all others are zero.
#[derive(Debug, Clone)]
pub struct RowGradient {
    /// Which rows, ascending, each once.
    rows: Vec<i64>,
    /// `[rows, width]`
    values: Tensor<2>,
}

impl RowGradient {
    /// The gradient by the table from which `ids` were looked up; terms of one row are added in the order of the tokens.
    ///
    /// # Shapes
    /// - `ids`: `tokens` entries; `upstream`: `[tokens, width]`
    ///
    /// # Panics
    /// If there is not one row of `upstream` for each id.
    pub fn of_lookup(ids: &[i64], upstream: Tensor<2>) -> Self {
        let [tokens, width] = upstream.dims();
        assert_eq!(ids.len(), tokens, "needs one row for each id");
        let mut rows = ids.to_vec();
        rows.sort_unstable();
        rows.dedup();
        // Many terms meet in one row.
        let upstream = upstream.cast(DType::F32);
        let zeros = Tensor::zeros([rows.len(), width], &upstream.device());
        let places = places(ids, &rows, &upstream);
        let values = zeros.select_assign(0, places, upstream, IndexingUpdateOp::Add);
        Self { rows, values }
    }

    /// Which rows it has, ascending.
    pub fn rows(&self) -> &[i64] {
        &self.rows
    }

    /// The sum of both.
    pub fn plus(self, other: Self) -> Self {
        let rows = union(&self.rows, &other.rows);
        let values = self.spread(&rows) + other.spread(&rows);
        Self { rows, values }
    }

    /// All its entries times `factor`.
    pub fn scaled(self, factor: f64) -> Self {
        Self { values: self.values.mul_scalar(factor), ..self }
    }

    /// Of all its entries.
    pub fn sum_of_squares(&self) -> f64 {
        self.values.clone().square().sum().into_data().iter::<f64>().sum()
    }

    /// The whole gradient of a table of `vocab` rows: `[vocab, width]`.
    pub fn dense(&self, vocab: usize) -> Tensor<2> {
        let all: Vec<i64> = (0..vocab as i64).collect();
        self.spread(&all)
    }

    /// Those of its rows and zeros that `rows` names, which hold all of its own: `[rows, width]`.
    pub(crate) fn spread(&self, rows: &[i64]) -> Tensor<2> {
        spread(self.values.clone(), &self.rows, rows)
    }
}

/// The rows of `values`, which are those that `from` names, among zeros for all others that `to` names.
pub(crate) fn spread(values: Tensor<2>, from: &[i64], to: &[i64]) -> Tensor<2> {
    if from == to {
        return values;
    }
    let zeros = Tensor::zeros([to.len(), values.dims()[1]], &values.device());
    let places = places(from, to, &values);
    zeros.select_assign(0, places, values, IndexingUpdateOp::Add)
}

/// Rows that are in one of two ascending lists, ascending.
pub(crate) fn union(one: &[i64], other: &[i64]) -> Vec<i64> {
    let mut rows = [one, other].concat();
    rows.sort_unstable();
    rows.dedup();
    rows
}

/// Where each of `rows` stands in `among`.
fn places(rows: &[i64], among: &[i64], like: &Tensor<2>) -> Tensor<1, Int> {
    let place = |row| among.binary_search(row).expect("the row is among them") as i64;
    indices(rows.iter().map(place).collect(), like)
}

/// Row numbers as a tensor where `like` is.
pub(crate) fn indices(rows: Vec<i64>, like: &Tensor<2>) -> Tensor<1, Int> {
    let count = rows.len();
    Tensor::from_data(TensorData::new(rows, [count]), &like.device())
}

#[cfg(test)]
mod tests {
    use burn::tensor::Device;

    use super::*;

    fn numbers(tensor: Tensor<2>) -> Vec<f32> {
        tensor.into_data().iter().collect()
    }

    fn gradient(ids: &[i64], upstream: &[f32]) -> RowGradient {
        let data = TensorData::new(upstream.to_vec(), [ids.len(), upstream.len() / ids.len()]);
        RowGradient::of_lookup(ids, Tensor::from_data(data, &Device::flex()))
    }

    #[test]
    fn terms_of_one_row_are_added_and_other_rows_are_zero() {
        let first = gradient(&[4, 1, 4], &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0]);
        assert_eq!(first.rows(), [1, 4]);
        assert_eq!(numbers(first.dense(5)), [0., 0., 3., 4., 0., 0., 0., 0., 6., 8.]);
        let sum = first.plus(gradient(&[0, 4], &[7.0, 8.0, 1.0, 1.0]));
        assert_eq!(sum.rows(), [0, 1, 4]);
        assert_eq!(numbers(sum.values.clone()), [7., 8., 3., 4., 7., 9.]);
        assert_eq!(sum.sum_of_squares(), 49. + 64. + 9. + 16. + 49. + 81.);
        assert_eq!(numbers(sum.scaled(2.0).values), [14., 16., 6., 8., 14., 18.]);
    }
}
