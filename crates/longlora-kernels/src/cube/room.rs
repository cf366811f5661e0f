//! Room for what kernels write, and guards around it.

use std::cell::RefCell;

use burn::tensor::{DType, Shape};
use burn_cubecl::ops::numeric::empty_device_contiguous_dtype;
use burn_cubecl::tensor::CubeTensor;

/// What stands before and behind a guarded room.
const GUARD: u8 = 0xA5;
/// What a guarded room is full of: in every type of float it is not a number.
const UNWRITTEN: u8 = 0xFF;
/// Bytes of a guard, at least.
const GUARD_LEN: usize = 1024;

thread_local! {
    /// The rooms of this thread, while they are guarded.
    static GUARDED: RefCell<Option<Vec<CubeTensor>>> = const { RefCell::new(None) };
}

/// Room for a tensor beside another; what is in it is unknown.
pub fn empty(beside: &CubeTensor, shape: Shape, dtype: DType) -> CubeTensor {
    GUARDED.with_borrow_mut(|rooms| match rooms {
        None => {
            let (client, device) = (beside.client.clone(), beside.device.clone());
            empty_device_contiguous_dtype(client, device, shape, dtype)
        }
        Some(rooms) => {
            let room = between_guards(beside, shape, dtype);
            rooms.push(room.clone());
            room
        }
    })
}

/// Does `work` while every room that this thread gives to kernels stands between guards and is full of what is not a number.
/// With how many rooms there were.
///
/// For tests: kernels are launched without checks of where they write.
///
/// # Panics
/// If a guard was written to. If `work` calls this function.
pub fn guarded<R>(work: impl FnOnce() -> R) -> (R, usize) {
    let before = GUARDED.replace(Some(vec![]));
    assert!(before.is_none(), "rooms are guarded already");
    let result = work();
    let rooms = GUARDED.take().unwrap_or_default();
    for room in &rooms {
        check(room);
    }
    (result, rooms.len())
}

fn between_guards(beside: &CubeTensor, shape: Shape, dtype: DType) -> CubeTensor {
    let (client, device) = (beside.client.clone(), beside.device.clone());
    let alignment = client.properties().memory.alignment as usize;
    let guard = vec![GUARD; GUARD_LEN.next_multiple_of(alignment.max(1))];
    // Devices bind four bytes and more.
    let inside = vec![UNWRITTEN; (shape.num_elements() * dtype.size()).next_multiple_of(4)];
    let handle = client.create_from_slice(&[&guard[..], &inside, &guard].concat());
    // The allocation may be longer still, which the handle knows of.
    let handle = handle.offset_start(guard.len() as u64).offset_end(guard.len() as u64);
    CubeTensor::new_contiguous(client, device, shape, handle, dtype)
}

fn check(room: &CubeTensor) {
    let mut whole = room.handle.clone();
    let (start, len) = (whole.offset_start.unwrap_or(0) as usize, whole.size_in_used() as usize);
    (whole.offset_start, whole.offset_end) = (None, None);
    let bytes = room.client.read_one(whole).expect("the device is there");
    let (before, rest) = bytes.split_at(start);
    let (inside, behind) = rest.split_at(len);
    let stands = |guard: &[u8], byte| guard.iter().all(|&there| there == byte);
    let shape = room.meta.shape();
    let tail = &inside[shape.num_elements() * room.dtype.size()..];
    assert!(stands(before, GUARD), "something was written before a tensor of shape {shape:?}");
    let (tail, behind) = (stands(tail, UNWRITTEN), stands(&behind[..start], GUARD));
    assert!(tail && behind, "something was written behind a tensor of shape {shape:?}");
}

#[cfg(test)]
mod tests {
    use burn::backend::ops::FloatTensorOps;
    use burn_cubecl::{CubeBackend, CubeDevice};
    use cubecl::prelude::*;

    use super::*;

    #[cube(launch_unchecked)]
    fn ones_kernel(to: &mut Tensor<f32>, count: usize) {
        if ABSOLUTE_POS < count {
            to[ABSOLUTE_POS] = 1.0;
        }
    }

    fn write(to: CubeTensor) {
        let (count, client) = (to.meta.shape().num_elements(), to.client.clone());
        let cubes = CubeCount::Static(count.div_ceil(32) as u32, 1, 1);
        #[expect(unsafe_code, reason = "as many are written as the tensor says that it has")]
        unsafe {
            let cube_dim = CubeDim::new_1d(32);
            ones_kernel::launch_unchecked(&client, cubes, cube_dim, to.into_tensor_arg(), count);
        }
    }

    fn room(count: usize) -> CubeTensor {
        let device =
            CubeDevice::enumerate_all().into_iter().next().expect("the tests run on a device");
        let beside = CubeBackend::float_zeros(Shape::new([1]), &device, DType::F32.into());
        empty(&beside, Shape::new([count]), DType::F32)
    }

    #[test]
    fn what_is_written_inside_may_be_anything() {
        let ((), rooms) = guarded(|| [1, 77, 256].map(room).into_iter().for_each(write));
        assert_eq!(rooms, 3);
    }

    /// A tensor that begins or ends where its room does not.
    fn write_into(start: u64, end: u64) {
        guarded(|| {
            let CubeTensor { client, device, mut handle, dtype, .. } = room(77);
            handle.offset_start = handle.offset_start.map(|offset| offset - start);
            handle.offset_end = handle.offset_end.map(|offset| offset - end);
            let shape = Shape::new([handle.size_in_used() as usize / 4]);
            write(CubeTensor::new_contiguous(client, device, shape, handle, dtype));
        });
    }

    #[test]
    #[should_panic(expected = "behind a tensor")]
    fn one_number_too_many_is_seen() {
        write_into(0, 4);
    }

    #[test]
    #[should_panic(expected = "before a tensor")]
    fn numbers_before_the_first_are_seen() {
        write_into(256, 0);
    }
}
