//! The input of a block between its forward and its backward.

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::LazyLock;
use std::sync::mpsc::{Receiver, channel};
use std::thread;

use burn::tensor::{Device, Tensor, TensorData};
use rayon::{ThreadPool, ThreadPoolBuilder};

/// Where the inputs of blocks wait for the backward.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum InputsWait {
    /// Where they were computed.
    #[default]
    OnDevice,
    /// In the memory of the host, which a GPU has less of beside it than it has itself.
    InHostMemory,
}

/// An input, or the way to it.
pub(crate) enum KeptInput {
    Here(Box<Tensor<3>>),
    Leaving(Answer<TensorData>, Device),
    Away(TensorData, Device),
    Coming(Answer<Tensor<3>>),
}

impl KeptInput {
    /// Begins to move it to where it is to wait; the device computes on meanwhile.
    pub(crate) fn new(input: Tensor<3>, wait: InputsWait) -> Self {
        match wait {
            InputsWait::OnDevice => Self::Here(Box::new(input)),
            InputsWait::InHostMemory => {
                let device = input.device();
                Self::Leaving(copier(move || in_host_memory(input)), device)
            }
        }
    }

    /// Waits until it is where it is to wait.
    pub(crate) fn arrive(&mut self) {
        if let Self::Leaving(leaving, device) = self {
            *self = Self::Away(leaving.wait(), device.clone());
        }
    }

    /// Begins to bring it back.
    pub(crate) fn call_back(mut self) -> Self {
        self.arrive();
        match self {
            Self::Away(data, device) => Self::Coming(copier(move || {
                let dtype = data.dtype();
                Tensor::from_data(data, (&device, dtype))
            })),
            other => other,
        }
    }

    /// Waits for it.
    pub(crate) fn into_tensor(self) -> Tensor<3> {
        match self.call_back() {
            Self::Here(input) => *input,
            Self::Coming(coming) => coming.wait(),
            Self::Leaving(..) | Self::Away(..) => unreachable!("it was called back"),
        }
    }
}

/// All of it, read now. [`Tensor::into_data`] reads a GPU's memory when somebody looks at the numbers, and keeps it until
/// then and after.
fn in_host_memory(input: Tensor<3>) -> TensorData {
    let data = input.into_data();
    TensorData::from_bytes_vec(data.as_bytes().to_vec(), data.shape().clone(), data.dtype())
}

/// What the copier will have made.
pub(crate) struct Answer<T>(Receiver<thread::Result<T>>);

impl<T> Answer<T> {
    /// What it panicked with goes on.
    fn wait(&self) -> T {
        let answer = self.0.recv().expect("the copier answers");
        answer.unwrap_or_else(|reason| resume_unwind(reason))
    }
}

/// Does `work` on the one thread that copies, in the order of the calls. To burn's runtimes a thread is a stream, with room
/// on the device that it keeps: a thread for each copy would keep room for each.
fn copier<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Answer<T> {
    static COPIER: LazyLock<ThreadPool> = LazyLock::new(|| {
        let one = ThreadPoolBuilder::new().num_threads(1);
        one.build().expect("a thread can be started")
    });
    let (sender, receiver) = channel();
    COPIER.spawn_fifo(move || {
        let answer = catch_unwind(AssertUnwindSafe(work));
        sender.send(answer).ok(); // whoever waited may have panicked
    });
    Answer(receiver)
}

#[cfg(test)]
mod tests {
    use burn::tensor::Distribution;

    use super::*;

    fn input() -> Tensor<3> {
        Tensor::random([2, 3, 5], Distribution::Default, &Device::default())
    }

    #[test]
    fn what_waits_in_host_memory_is_on_no_device() {
        let data = in_host_memory(input());
        assert_eq!(format!("{:?}", data.bytes().property()), "Native");
    }

    #[test]
    fn what_comes_back_is_what_left() {
        let input = input();
        for wait in [InputsWait::OnDevice, InputsWait::InHostMemory] {
            let back = KeptInput::new(input.clone(), wait).call_back().into_tensor();
            assert_eq!(back.device(), input.device());
            back.into_data().assert_eq(&input.clone().into_data(), true);
        }
    }
}
