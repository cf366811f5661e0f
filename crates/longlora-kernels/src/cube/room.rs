//! Room for what kernels write, and guards around it.

use std::cell::RefCell;

use burn::tensor::{DType, Shape};
use burn_cubecl::CubeDevice;
use burn_cubecl::ops::numeric::empty_device_contiguous_dtype;
use burn_cubecl::tensor::CubeTensor;
use cubecl::client::Client;
use cubecl::server::Handle;

/// What stands before and behind a guarded room.
const GUARD: u8 = 0xA5;
/// What a guarded room is full of: in every type of float it is not a number.
const UNWRITTEN: u8 = 0xFF;
/// Bytes of a guard, at least.
const GUARD_LEN: usize = 1024;

thread_local! {
    /// The rooms of this thread, while they are guarded.
    static GUARDED: RefCell<Option<Vec<Guarded>>> = const { RefCell::new(None) };
}

/// Room for a tensor beside another; what is in it is unknown.
pub fn empty(beside: &CubeTensor, shape: Shape, dtype: DType) -> CubeTensor {
    GUARDED.with_borrow_mut(|guarded| match guarded {
        None => unguarded(beside, shape, dtype),
        Some(guarded) => {
            let rooms = Guarded::new(beside, &shape, 1, dtype);
            let room = rooms.tensor(shape);
            guarded.push(rooms);
            room
        }
    })
}

/// Room for two tensors of one shape in one allocation, because a kernel may have few.
pub struct Pair {
    /// Both, as one row.
    pub all: CubeTensor,
    /// Where the second one begins, in elements: where the device can begin to read.
    pub second: usize,
    shape: Shape,
}

impl Pair {
    /// Beside another tensor; what is in it is unknown.
    pub fn empty(beside: &CubeTensor, shape: Shape, dtype: DType) -> Self {
        let count = shape.num_elements();
        GUARDED.with_borrow_mut(|guarded| match guarded {
            None => {
                let second = count.next_multiple_of(alignment(beside) / dtype.size());
                Self { all: unguarded(beside, Shape::new([second + count]), dtype), second, shape }
            }
            Some(guarded) => {
                let rooms = Guarded::new(beside, &shape, 2, dtype);
                let second = rooms.apart / dtype.size();
                let all = rooms.tensor(Shape::new([second + count]));
                guarded.push(rooms);
                Self { all, second, shape }
            }
        })
    }

    /// The two tensors.
    pub fn split(self) -> [CubeTensor; 2] {
        let CubeTensor { client, handle, device, dtype, .. } = self.all;
        let bytes = |elements: usize| (elements * dtype.size()) as u64;
        let behind_first = handle.size_in_used() - bytes(self.shape.num_elements());
        let first = handle.clone().offset_end(behind_first);
        let second = handle.offset_start(bytes(self.second));
        [first, second].map(|handle| {
            let (client, device, shape) = (client.clone(), device.clone(), self.shape.clone());
            CubeTensor::new_contiguous(client, device, shape, handle, dtype)
        })
    }
}

fn unguarded(beside: &CubeTensor, shape: Shape, dtype: DType) -> CubeTensor {
    let (client, device) = (beside.client.clone(), beside.device.clone());
    empty_device_contiguous_dtype(client, device, shape, dtype)
}

fn alignment(beside: &CubeTensor) -> usize {
    (beside.client.properties().memory.alignment as usize).max(1)
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
    let guarded = GUARDED.take().unwrap_or_default();
    guarded.iter().for_each(Guarded::check);
    (result, guarded.iter().map(|rooms| rooms.count).sum())
}

/// Rooms of one shape in one allocation, with guards before, between and behind them.
struct Guarded {
    client: Client,
    device: CubeDevice,
    whole: Handle,
    shape: Shape,
    dtype: DType,
    count: usize,
    /// Bytes before the first room.
    before: usize,
    /// Bytes from where one room begins to where the next one does.
    apart: usize,
}

impl Guarded {
    fn new(beside: &CubeTensor, shape: &Shape, count: usize, dtype: DType) -> Self {
        let (client, device) = (beside.client.clone(), beside.device.clone());
        let inside = vec![UNWRITTEN; shape.num_elements() * dtype.size()];
        let before = GUARD_LEN.next_multiple_of(alignment(beside));
        let apart = (inside.len() + GUARD_LEN).next_multiple_of(alignment(beside));
        let behind = vec![GUARD; apart - inside.len()];
        let bytes = [vec![GUARD; before], [inside, behind].concat().repeat(count)].concat();
        let whole = client.create_from_slice(&bytes);
        Self { client, device, whole, shape: shape.clone(), dtype, count, before, apart }
    }

    /// A tensor that begins where the first room does.
    fn tensor(&self, shape: Shape) -> CubeTensor {
        // Devices bind four bytes and more.
        let bytes = (shape.num_elements() * self.dtype.size()).next_multiple_of(4);
        let handle = self.whole.clone().offset_start(self.before as u64);
        let behind = handle.size_in_used() - bytes as u64;
        let (client, device, handle) =
            (self.client.clone(), self.device.clone(), handle.offset_end(behind));
        CubeTensor::new_contiguous(client, device, shape, handle, self.dtype)
    }

    fn check(&self) {
        let bytes = self.client.read_one(self.whole.clone()).expect("the device is there");
        let (before, rooms) = bytes.split_at(self.before);
        let stands = |guard: &[u8]| guard.iter().all(|&byte| byte == GUARD);
        let Self { shape, dtype, apart, count, .. } = self;
        assert!(stands(before), "something was written before a tensor of shape {shape:?}");
        // The allocation may be longer than what was asked for.
        for room in rooms.chunks(*apart).take(*count) {
            let behind = &room[shape.num_elements() * dtype.size()..];
            assert!(stands(behind), "something was written behind a tensor of shape {shape:?}");
        }
    }
}

#[cfg(test)]
mod tests {
    use burn::backend::ops::FloatTensorOps;
    use burn_cubecl::CubeBackend;
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
    fn both_of_a_pair_may_be_written() {
        let (both, rooms) = guarded(|| {
            let both = Pair::empty(&room(1), Shape::new([3, 11]), DType::F32).split();
            both.clone().into_iter().for_each(write);
            both
        });
        assert_eq!((rooms, both.map(|x| x.meta.shape().num_elements())), (3, [33, 33]));
    }

    #[test]
    #[should_panic(expected = "behind a tensor of shape")]
    fn what_is_written_between_a_pair_is_seen() {
        guarded(|| write(Pair::empty(&room(1), Shape::new([33]), DType::F32).all));
    }

    #[test]
    #[should_panic(expected = "before a tensor")]
    fn numbers_before_the_first_are_seen() {
        write_into(256, 0);
    }
}
