//! In which type the weights of a model are kept.

use std::fmt;

use burn::module::{Module, ModuleMapper, Param};
use burn::tensor::{DType, Device, Tensor};
use serde::{Deserialize, Serialize};

use crate::block::Block;
use crate::compute::ComputeType;
use crate::llama::Llama;
use crate::names::base_path;
use crate::role::Role;

/// How large matrices are kept: those of linear layers, the embedding table and the head. Everything else, and everything
/// that is trained, is kept in f32.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum WeightStorage {
    /// 4 bytes per number.
    #[default]
    F32,
    /// 2 bytes per number. What a file holds in bf16 is kept exactly, all else is rounded to the nearest, ties to even.
    Bf16,
    /// 4.5 bits per number of the linear layers of blocks: NF4, as QLoRA keeps them (arXiv:2305.14314). The embedding table, the
    /// head, and layers whose rows are not of whole blocks are kept in bf16, where the device has it, or else in f32.
    Nf4,
}

/// As options and settings name it.
impl fmt::Display for WeightStorage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::F32 => "f32",
            Self::Bf16 => "bf16",
            Self::Nf4 => "nf4",
        })
    }
}

impl WeightStorage {
    /// The type of the activations of a model whose matrices are kept so. The CPU's kernels compute in f32; on a GPU, matrices
    /// in bf16 are multiplied as they are.
    pub fn compute_on(self, device: &Device) -> ComputeType {
        match self {
            Self::F32 => ComputeType::F32,
            _ if *device == Device::flex() => ComputeType::F32,
            Self::Bf16 => ComputeType::Bf16,
            Self::Nf4 if device.supports_dtype(DType::BF16) => ComputeType::Bf16,
            Self::Nf4 => ComputeType::F32,
        }
    }

    /// The type of the floats at `path`.
    pub(crate) fn of(self, path: &str, device: &Device) -> DType {
        let is_matrix = match Role::of(path) {
            Role::Embedding | Role::Head => true,
            // The router of a mixture of experts is another `weight`: it is small, and its choices are abrupt.
            Role::Weight => base_path(path).ends_with(".base.weight"),
            Role::Lora | Role::RopeOffset | Role::Norm => false,
        };
        match self {
            Self::Bf16 if is_matrix => DType::BF16,
            Self::Nf4 if is_matrix && device.supports_dtype(DType::BF16) => DType::BF16,
            _ => DType::F32,
        }
    }

    /// `llama` with the layers made for NF4 that will be read so; what was read stays as it is.
    pub(crate) fn prepare(self, mut llama: Llama) -> Llama {
        if self == Self::Nf4 {
            let linears = llama.model.layers.iter_mut().flat_map(Block::linears_mut);
            for linear in linears.filter(|linear| !linear.base.is_read()) {
                *linear = linear.clone().quantized();
            }
        }
        llama
    }
}

/// The same numbers in f32, of everything that is kept in bf16. What was never drawn stays so.
pub(crate) fn widened<M: Module>(module: M) -> M {
    module.map(&mut Widener)
}

struct Widener;

impl ModuleMapper for Widener {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        if is_narrow(&param) { param.map(|tensor| tensor.cast(DType::F32)) } else { param }
    }
}

/// Whether a parameter is kept in bf16. None is before it was read: fresh ones are f32.
pub(crate) fn is_narrow<const D: usize>(param: &Param<Tensor<D>>) -> bool {
    param.is_initialized() && param.val().dtype() == DType::BF16
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn matrices_alone_are_kept_in_bf16() {
        let layer = "model.layers.0";
        for (path, dtype) in [
            ("model.embed_tokens.weight".to_owned(), DType::BF16),
            ("lm_head.weight".to_owned(), DType::BF16),
            (format!("{layer}.self_attn.q_proj.base.Dense.weight"), DType::BF16),
            (format!("{layer}.mlp.Experts.experts.3.up_proj.base.Dense.weight"), DType::BF16),
            (format!("{layer}.mlp.Experts.gate.weight"), DType::F32),
            (format!("{layer}.self_attn.q_proj.base.Dense.bias"), DType::F32),
            (format!("{layer}.self_attn.q_proj.update.lora_a"), DType::F32),
            (format!("{layer}.input_layernorm.gamma"), DType::F32),
        ] {
            let of = |storage: WeightStorage| storage.of(&path, &Device::flex());
            assert_eq!(of(WeightStorage::Bf16), dtype, "{path}");
            assert_eq!(of(WeightStorage::Nf4), dtype, "{path}");
            assert_eq!(of(WeightStorage::F32), DType::F32, "{path}");
        }
    }
}
