//! The input of a block between its forward and its backward.

use std::thread::{self, JoinHandle};

use burn::tensor::{Device, Tensor, TensorData};

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
    Leaving(JoinHandle<TensorData>, Device),
    Coming(JoinHandle<Tensor<3>>),
}

impl KeptInput {
    /// Begins to move it to where it is to wait; the device computes on meanwhile, because a thread has its own stream.
    pub(crate) fn new(input: Tensor<3>, wait: InputsWait) -> Self {
        match wait {
            InputsWait::OnDevice => Self::Here(Box::new(input)),
            InputsWait::InHostMemory => {
                let device = input.device();
                Self::Leaving(thread::spawn(move || input.into_data()), device)
            }
        }
    }

    /// Begins to bring it back.
    pub(crate) fn call_back(self) -> Self {
        match self {
            Self::Leaving(leaving, device) => Self::Coming(thread::spawn(move || {
                let data = joined(leaving);
                let dtype = data.dtype();
                Tensor::from_data(data, (&device, dtype))
            })),
            here => here,
        }
    }

    /// Waits for it.
    pub(crate) fn into_tensor(self) -> Tensor<3> {
        match self.call_back() {
            Self::Here(input) => *input,
            Self::Coming(coming) => joined(coming),
            Self::Leaving(..) => unreachable!("it was called back"),
        }
    }
}

/// The result of a thread; what it panicked with goes on.
fn joined<T>(thread: JoinHandle<T>) -> T {
    thread.join().unwrap_or_else(|reason| std::panic::resume_unwind(reason))
}
