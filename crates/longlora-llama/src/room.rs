//! A model without numbers: room for its weights, where a rehearsal is to show what they take.

use burn::module::{Module, ModuleMapper, Param};
use burn::tensor::{DType, Int, Shape, Tensor};

use crate::llama::Llama;
use crate::parameters::Selection;
use crate::storage::WeightStorage;

/// `llama` with room for its weights on its device, and any numbers in them: for a rehearsal. What `trained` selects is kept in f32,
/// all else as `storage` says.
pub fn with_room_for_weights(llama: Llama, storage: WeightStorage, trained: &Selection) -> Llama {
    storage.prepare(llama).map(&mut Roomy { storage, trained, path: vec![] })
}

struct Roomy<'a> {
    storage: WeightStorage,
    trained: &'a Selection,
    path: Vec<String>,
}

impl ModuleMapper for Roomy<'_> {
    fn enter_module(&mut self, name: &str, _container_type: &str) {
        self.path.push(name.to_owned());
    }

    fn exit_module(&mut self, _name: &str, _container_type: &str) {
        self.path.pop();
    }

    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let (path, device) = (self.path.join("."), param.lazy_device());
        let is_trained = self.trained.contains(&path);
        let dtype = if is_trained { DType::F32 } else { self.storage.of(&path, &device) };
        let room = |shape: Shape| Tensor::empty(shape, (&device, dtype));
        let room = device.memory_persistent_allocations(param.lazy_shape(), room);
        let id = param.id;
        param.transform_for_load(room, id)
    }

    /// Blocks of NF4.
    fn map_int<const D: usize>(&mut self, param: Param<Tensor<D, Int>>) -> Param<Tensor<D, Int>> {
        let device = param.lazy_device();
        // One row, as blocks are read.
        let row = |shape: &Shape| Shape::new([shape.num_elements()]);
        let room = |shape: Shape| {
            Tensor::<1, Int>::empty(row(&shape), (&device, DType::I32)).reshape(shape)
        };
        let room = device.memory_persistent_allocations(param.lazy_shape(), room);
        let id = param.id;
        param.transform_for_load(room, id)
    }
}
