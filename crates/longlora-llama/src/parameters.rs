//! A model's parameters by name: out of the modules, and back into them.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::path::Path;

use burn::module::{Module, ModuleMapper, ModuleVisitor, Param, ParamId};
use burn::tensor::{DType, Element, Int, Tensor, TensorData, bf16};
use longlora_adapters::AdapterConfig;
use longlora_kernels::nf4::{self, Nf4};
use safetensors::Dtype;
use safetensors::tensor::View;

use crate::error::LlamaError;
use crate::files::safetensors_dtype;
use crate::llama::Llama;
use crate::names::{base_path, checkpoint_name};
use crate::role::Role;
use crate::storage::WeightStorage;

/// Some of a model's parameters.
#[derive(Debug, Clone, PartialEq)]
pub enum Selection {
    /// The weights of the model itself, without adapters.
    Base,
    /// What an adapter trains: its own tensors, and the norms, embeddings and head if it says so.
    Adapter(AdapterConfig),
}

impl Selection {
    /// Whether the parameter at `path` belongs to it.
    pub fn contains(&self, path: &str) -> bool {
        let role = Role::of(path);
        match self {
            Self::Base => !matches!(role, Role::Lora | Role::RopeOffset),
            Self::Adapter(config) => match role {
                Role::Lora => config.lora.is_some(),
                Role::RopeOffset => config.rope_offset.is_some(),
                Role::Norm => config.norms,
                Role::Embedding => config.embeddings,
                Role::Head => config.head,
                Role::Weight => false,
            },
        }
    }
}

/// The selected parameters, by their checkpoint names, in the checkpoint's layout.
pub fn collect(llama: &Llama, selection: &Selection) -> BTreeMap<String, TensorData> {
    let parameters = handles(llama, selection).into_iter();
    parameters.map(|(name, parameter)| (name, parameter.data())).collect()
}

/// The same, not yet copied.
pub(crate) fn handles(llama: &Llama, selection: &Selection) -> BTreeMap<String, Handle> {
    let mut collector = Collector { selection, path: vec![], parameters: BTreeMap::new() };
    llama.visit(&mut collector);
    collector.parameters
}

/// A parameter whose numbers are copied when they are asked for.
pub(crate) struct Handle {
    shape: Vec<usize>,
    data: Box<dyn Fn() -> TensorData>,
}

impl Handle {
    fn new<const D: usize>(tensor: Tensor<D>) -> Self {
        let shape = tensor.dims().to_vec();
        Self { shape, data: Box::new(move || tensor.to_data()) }
    }

    /// Its numbers, in the checkpoint's layout.
    pub(crate) fn data(&self) -> TensorData {
        (self.data)()
    }

    /// Its shape, in the checkpoint's layout.
    pub(crate) fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// Bytes of its numbers as floats of type `dtype`.
    pub(crate) fn byte_len(&self, dtype: DType) -> usize {
        self.shape.iter().product::<usize>() * dtype.size()
    }

    /// As safetensors writes it, in floats of type `dtype`.
    pub(crate) fn view(&self, dtype: DType) -> HandleView<'_> {
        HandleView { parameter: self, dtype }
    }
}

/// A parameter that is converted when it is written.
pub(crate) struct HandleView<'a> {
    parameter: &'a Handle,
    dtype: DType,
}

impl View for HandleView<'_> {
    fn dtype(&self) -> Dtype {
        safetensors_dtype(self.dtype).expect("parameters are floats")
    }

    fn shape(&self) -> &[usize] {
        &self.parameter.shape
    }

    fn data(&self) -> Cow<'_, [u8]> {
        Cow::Owned(self.parameter.data().convert_dtype(self.dtype).as_bytes().to_vec())
    }

    fn data_len(&self) -> usize {
        self.parameter.byte_len(self.dtype)
    }
}

/// Puts tensors, in the checkpoint's layout and of any float type, in the place of the selected parameters, as f32.
///
/// `source` hands out each tensor by its checkpoint name, or says why it cannot; `path` is for error messages.
///
/// # Errors
/// The first error of `source`, or [`LlamaError::Shape`].
pub fn restore(
    llama: Llama,
    selection: &Selection,
    path: &Path,
    source: impl FnMut(&str) -> Result<TensorData, LlamaError>,
) -> Result<Llama, LlamaError> {
    restore_as(llama, selection, WeightStorage::F32, path, source)
}

/// The same, with matrices kept as `storage` says; those in bf16 are frozen.
pub(crate) fn restore_as(
    llama: Llama,
    selection: &Selection,
    storage: WeightStorage,
    path: &Path,
    source: impl FnMut(&str) -> Result<TensorData, LlamaError>,
) -> Result<Llama, LlamaError> {
    let mut restorer =
        Restorer { selection, storage, file: path, source, path: vec![], error: None };
    let llama = llama.map(&mut restorer);
    match restorer.error {
        None => Ok(llama),
        Some(error) => Err(error),
    }
}

/// Gives every parameter an identity that follows from its path alone, so that optimizer state finds its parameter
/// again in another process.
pub(crate) fn identify_by_path(llama: Llama) -> Llama {
    llama.map(&mut Identifier { path: vec![] })
}

struct Collector<'a> {
    selection: &'a Selection,
    path: Vec<String>,
    parameters: BTreeMap<String, Handle>,
}

impl ModuleVisitor for Collector<'_> {
    fn enter_module(&mut self, name: &str, _container_type: &str) {
        self.path.push(name.to_owned());
    }

    fn exit_module(&mut self, _name: &str, _container_type: &str) {
        self.path.pop();
    }

    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        let path = self.path.join(".");
        if self.selection.contains(&path) {
            let name = checkpoint_name(&path);
            let tensor = transposed_if(name.transposed, param.val().without_autodiff());
            self.parameters.insert(name.name, Handle::new(tensor));
        }
    }

    /// Blocks of NF4, as the numbers that they stand for.
    fn visit_int<const D: usize>(&mut self, param: &Param<Tensor<D, Int>>) {
        let path = self.path.join(".");
        if self.selection.contains(&path) {
            let weight = Nf4::of(matrix(param.val()));
            let [d_input, d_output] = weight.dims();
            let data = move || weight.clone().dequantize(DType::F32).transpose().into_data();
            let handle = Handle { shape: vec![d_output, d_input], data: Box::new(data) };
            self.parameters.insert(checkpoint_name(&path).name, handle);
        }
    }
}

struct Restorer<'a, S> {
    selection: &'a Selection,
    storage: WeightStorage,
    file: &'a Path,
    source: S,
    path: Vec<String>,
    error: Option<LlamaError>,
}

impl<S: FnMut(&str) -> Result<TensorData, LlamaError>> Restorer<'_, S> {
    fn read(
        &mut self,
        name: &str,
        needed: Vec<usize>,
        dtype: DType,
    ) -> Result<TensorData, LlamaError> {
        let data = (self.source)(name)?.convert_dtype(dtype);
        if data.shape().to_vec() != needed {
            return Err(LlamaError::Shape {
                path: self.file.to_owned(),
                tensor: name.to_owned(),
                found: data.shape().to_vec(),
                needed,
            });
        }
        Ok(data)
    }

    /// A weight in NF4.
    fn blocks<const D: usize>(
        &mut self,
        param: &Param<Tensor<D, Int>>,
        name: &str,
    ) -> Result<Tensor<D, Int>, LlamaError> {
        let [d_output, words] = [0, 1].map(|dim| param.lazy_shape()[dim]);
        let data = self.read(name, vec![d_output, nf4::width(words)], DType::F32)?;
        let data = nf4::quantize(&data).expect("its rows are of whole blocks");
        let device = param.lazy_device();
        let shape = param.lazy_shape();
        let read = |data: TensorData| Nf4::read(data, &device).reshape(shape.clone());
        Ok(device.memory_persistent_allocations(data, read))
    }

    fn tensor<const D: usize>(
        &mut self,
        param: &Param<Tensor<D>>,
        name: &str,
        transposed: bool,
        dtype: DType,
    ) -> Result<Tensor<D>, LlamaError> {
        let mut needed = param.lazy_shape().to_vec();
        if transposed {
            needed.reverse();
        }
        let data = self.read(name, needed, dtype)?;
        // Laid out as a fresh one would be: products of a view are rounded otherwise, and where numbers came from must
        // not change what they compute.
        let data = if transposed { transpose(&data) } else { data };
        // GPUs keep what stays apart from what comes and goes, in memory of just its size.
        let device = param.lazy_device();
        let read = |data: TensorData| Tensor::from_data(data, (&device, dtype));
        Ok(device.memory_persistent_allocations(data, read))
    }
}

impl<S: FnMut(&str) -> Result<TensorData, LlamaError>> ModuleMapper for Restorer<'_, S> {
    fn enter_module(&mut self, name: &str, _container_type: &str) {
        self.path.push(name.to_owned());
    }

    fn exit_module(&mut self, _name: &str, _container_type: &str) {
        self.path.pop();
    }

    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let path = self.path.join(".");
        if self.error.is_some() || !self.selection.contains(&path) {
            return param;
        }
        let name = checkpoint_name(&path);
        let dtype = self.storage.of(&path, &param.lazy_device());
        match self.tensor(&param, &name.name, name.transposed, dtype) {
            Ok(tensor) => {
                let param_id = param.id;
                let loaded = param.transform_for_load(tensor, param_id);
                if dtype == DType::BF16 { loaded.set_require_grad(false) } else { loaded }
            }
            Err(error) => {
                self.error = Some(error);
                param
            }
        }
    }

    fn map_int<const D: usize>(&mut self, param: Param<Tensor<D, Int>>) -> Param<Tensor<D, Int>> {
        let path = self.path.join(".");
        if self.error.is_some() || !self.selection.contains(&path) {
            return param;
        }
        match self.blocks(&param, &checkpoint_name(&path).name) {
            Ok(blocks) => {
                let id = param.id;
                param.transform_for_load(blocks, id)
            }
            Err(error) => {
                self.error = Some(error);
                param
            }
        }
    }
}

/// A tensor of two dimensions as one.
fn matrix<const D: usize>(tensor: Tensor<D, Int>) -> Tensor<2, Int> {
    let [rows, columns] = [0, 1].map(|dim| tensor.dims()[dim]);
    tensor.reshape([rows, columns])
}

/// The transposed matrix of f32 or bf16.
fn transpose(matrix: &TensorData) -> TensorData {
    match matrix.dtype() {
        DType::BF16 => transpose_of::<bf16>(matrix),
        _ => transpose_of::<f32>(matrix),
    }
}

/// Tile by tile, so that both sides stay in cache.
fn transpose_of<E: Element + Default>(matrix: &TensorData) -> TensorData {
    const TILE: usize = 32;
    let (rows, columns) = (matrix.shape()[0], matrix.shape()[1]);
    let from = matrix.as_slice::<E>().expect("it is of this type");
    let mut to = vec![E::default(); from.len()];
    for top in (0..rows).step_by(TILE) {
        for left in (0..columns).step_by(TILE) {
            for row in top..rows.min(top + TILE) {
                for column in left..columns.min(left + TILE) {
                    to[column * rows + row] = from[row * columns + column];
                }
            }
        }
    }
    TensorData::new(to, [columns, rows])
}

/// Matrices only: nothing else is stored transposed.
fn transposed_if<const D: usize>(transposed: bool, tensor: Tensor<D>) -> Tensor<D> {
    if transposed { tensor.swap_dims(D - 2, D - 1) } else { tensor }
}

struct Identifier {
    path: Vec<String>,
}

impl ModuleMapper for Identifier {
    fn enter_module(&mut self, name: &str, _container_type: &str) {
        self.path.push(name.to_owned());
    }

    fn exit_module(&mut self, _name: &str, _container_type: &str) {
        self.path.pop();
    }

    fn map_float<const D: usize>(&mut self, mut param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        param.id = identity(&self.path.join("."));
        param
    }
}

/// How checkpoints know the parameter at `path`.
fn identity(path: &str) -> ParamId {
    ParamId::from(fnv1a(&base_path(path)))
}

/// 64-bit FNV-1a: stable across platforms and versions, unlike the standard library's hasher.
fn fnv1a(text: &str) -> u64 {
    text.bytes().fold(0xCBF2_9CE4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01B3)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// By which checkpoints find the state of their parameters: a weight was named so before it could be kept otherwise.
    #[test]
    fn a_weight_keeps_the_identity_that_checkpoints_know() {
        let path = "model.layers.0.self_attn.q_proj.base.Dense.weight";
        assert_eq!(
            identity(path),
            ParamId::from(fnv1a("model.layers.0.self_attn.q_proj.base.weight"))
        );
    }
}
