//! The weight of a linear layer, however it is kept.

use burn::module::{Module, Param, ParamId};
use burn::nn::Linear;
use burn::tensor::{DType, Device, Int, Shape, Tensor};
use longlora_kernels::Weight;
use longlora_kernels::nf4::{self, BLOCK, Nf4, WORDS};

/// A linear layer as it was pre-trained.
#[derive(Module, Debug)]
pub enum Base {
    /// Floats: f32 or, frozen, bf16.
    Dense(Linear),
    /// Four bits per number, frozen.
    Nf4(Nf4Linear),
}

/// A frozen linear layer in NF4 (QLoRA, arXiv:2305.14314, sec. 3), in [`longlora_kernels::nf4`]'s blocks.
#[derive(Module, Debug)]
pub struct Nf4Linear {
    /// `[d_output, d_input / 64 · 9]`, i32
    pub blocks: Param<Tensor<2, Int>>,
    /// `[d_output]`
    pub bias: Option<Param<Tensor<1>>>,
}

impl Nf4Linear {
    /// The layer before its bias, with every output times its factor.
    pub(crate) fn scaled(self, factors: Tensor<1>) -> Self {
        let factors: Vec<f32> = factors.into_data().iter().collect();
        let blocks = self.blocks.map(|blocks| Nf4::of(blocks).scaled(&factors).into_blocks());
        Self { blocks, ..self }
    }
}

impl Base {
    /// `[d_input, d_output]`, of a weight that may not be there yet.
    pub fn dims(&self) -> [usize; 2] {
        match self {
            Self::Dense(linear) => linear.weight.lazy_shape().dims(),
            Self::Nf4(linear) => {
                let [d_output, words] = linear.blocks.lazy_shape().dims();
                [nf4::width(words), d_output]
            }
        }
    }

    /// Where it lies.
    pub fn device(&self) -> Device {
        match self {
            Self::Dense(linear) => linear.weight.lazy_device(),
            Self::Nf4(linear) => linear.blocks.lazy_device(),
        }
    }

    /// Whether its weight is there, read or drawn.
    pub fn is_read(&self) -> bool {
        match self {
            Self::Dense(linear) => linear.weight.is_initialized(),
            Self::Nf4(linear) => linear.blocks.is_initialized(),
        }
    }

    /// `[d_input, d_output]`
    pub fn weight(&self) -> Weight {
        match self {
            Self::Dense(linear) => linear.weight.val().into(),
            Self::Nf4(linear) => Nf4::of(linear.blocks.val()).into(),
        }
    }

    /// `[d_output]`
    pub fn bias(&self) -> Option<Tensor<1>> {
        let bias = match self {
            Self::Dense(linear) => &linear.bias,
            Self::Nf4(linear) => &linear.bias,
        };
        bias.as_ref().map(Param::val)
    }

    /// The layer in NF4, if its rows are of whole blocks, or else as it is. A weight that is there is quantised at once, and
    /// freed; one that was never drawn is quantised when it is.
    pub fn quantized(self) -> Self {
        let [d_input, d_output] = self.dims();
        let device = self.device();
        let linear = match self {
            Self::Dense(linear) if d_input.is_multiple_of(BLOCK) => linear,
            other => return other,
        };
        let Linear { weight, bias } = linear;
        let blocks = if weight.is_initialized() {
            Param::initialized(ParamId::new(), quantized(weight.into_value(), &device))
        } else {
            let shape = Shape::new([d_output, d_input / BLOCK * WORDS]);
            let draw = move |device: &Device, _| quantized(weight.val(), device);
            Param::uninitialized(ParamId::new(), draw, device, false, shape)
        };
        Self::Nf4(Nf4Linear { blocks, bias })
    }

    /// The layer in floats, which a weight in NF4 becomes in f32.
    pub fn dequantized(self) -> Linear {
        match self {
            Self::Dense(linear) => linear,
            Self::Nf4(Nf4Linear { blocks, bias }) => {
                let weight = Nf4::of(blocks.val()).dequantize(DType::F32);
                // Laid out as a fresh one would be.
                let weight = Tensor::from_data(weight.to_data(), &weight.device());
                let weight = Param::from_tensor(weight).set_require_grad(false);
                Linear { weight, bias }
            }
        }
    }
}

/// The blocks of a weight `[d_input, d_output]`.
fn quantized(weight: Tensor<2>, device: &Device) -> Tensor<2, Int> {
    let weight = weight.without_autodiff().cast(DType::F32).transpose().into_data();
    let blocks = nf4::quantize(&weight).expect("its rows are of whole blocks");
    Nf4::read(blocks, device)
}
