//! Rotating queries and keys.

use burn::tensor::{Device, Tensor, TensorData, assert_shape};

use crate::rope_offset::RopeOffset;
use crate::rope_scaling::RopeConfig;

/// Rotary position embedding of one forward pass: positions `0 .. seq`, frequencies after scaling.
#[derive(Debug, Clone)]
pub struct Rotary {
    inv_freq: Tensor<1>,
    positions: Tensor<1>,
    attention_factor: f32,
    plain: RotaryTables,
}

/// Cosines and sines: `[kv_heads or 1, seq, head_dim / 2]` each.
#[derive(Debug, Clone)]
pub struct RotaryTables {
    cos: Tensor<3>,
    sin: Tensor<3>,
}

impl Rotary {
    /// Prepares `seq` positions. Angles are f32, as in transformers.
    pub fn new(config: &RopeConfig, seq: usize, device: &Device) -> Self {
        let frequencies = config.frequencies(seq);
        let pairs = frequencies.inv_freq.len();
        let inv_freq =
            Tensor::<1>::from_data(TensorData::new(frequencies.inv_freq, [pairs]), device);
        let positions: Vec<f32> = (0..seq).map(|position| position as f32).collect();
        let positions = Tensor::<1>::from_data(TensorData::new(positions, [seq]), device);
        let attention_factor = frequencies.attention_factor;
        let plain = tables(inv_freq.clone().unsqueeze(), positions.clone(), attention_factor);
        Self { inv_freq, positions, attention_factor, plain }
    }

    /// The tables of a layer, whose frequencies a learnable offset may have moved.
    pub fn tables(&self, offset: Option<&RopeOffset>) -> RotaryTables {
        match offset {
            None => self.plain.clone(),
            Some(offset) => tables(
                offset.apply(self.inv_freq.clone()),
                self.positions.clone(),
                self.attention_factor,
            ),
        }
    }
}

/// `cos` and `sin` of `position · θ'`, times the attention factor; `inv_freq`: `[heads, pairs]`.
fn tables(inv_freq: Tensor<2>, positions: Tensor<1>, attention_factor: f32) -> RotaryTables {
    let angles = positions.unsqueeze_dim::<2>(1).unsqueeze::<3>() * inv_freq.unsqueeze_dim(1);
    let (cos, sin) = (angles.clone().cos(), angles.sin());
    if attention_factor == 1.0 {
        return RotaryTables { cos, sin };
    }
    RotaryTables { cos: cos.mul_scalar(attention_factor), sin: sin.mul_scalar(attention_factor) }
}

impl RotaryTables {
    /// Rotates half-split pairs `(x[i], x[i + head_dim / 2])`, as Hugging Face's weights need it (burn's own
    /// `RotaryEncoding` rotates neighbours).
    ///
    /// ```text
    /// y[i]                = x[i] · cos - x[i + head_dim / 2] · sin
    /// y[i + head_dim / 2] = x[i + head_dim / 2] · cos + x[i] · sin
    /// ```
    ///
    /// # Shapes
    /// - `x`, result: `[batch, heads, seq, head_dim]`, `heads` a multiple of the tables' heads
    pub fn rotate(&self, x: Tensor<4>) -> Tensor<4> {
        let [batch, heads, seq, head_dim] = x.dims();
        let [kv_heads, _, pairs] = self.cos.dims();
        assert_shape!(self.cos, [kv_heads, seq, pairs]);
        assert_eq!(head_dim, 2 * pairs, "needs heads of {} entries, got {head_dim}", 2 * pairs);
        assert!(
            heads.is_multiple_of(kv_heads),
            "needs a multiple of {kv_heads} heads, got {heads}"
        );
        // [1, kv_heads, 1, seq, pairs]
        let wide = |table: &Tensor<3>| table.clone().unsqueeze_dim::<4>(1).unsqueeze::<5>();
        let (cos, sin) = (wide(&self.cos), wide(&self.sin));
        let x = x.reshape([batch, kv_heads, heads / kv_heads, seq, head_dim]);
        let low = x.clone().narrow(4, 0, pairs);
        let high = x.narrow(4, pairs, pairs);
        let y_low = low.clone() * cos.clone() - high.clone() * sin.clone();
        let y_high = high * cos + low * sin;
        Tensor::cat(vec![y_low, y_high], 4).reshape([batch, heads, seq, head_dim])
    }
}
