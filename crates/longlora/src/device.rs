//! The device to compute on.

use burn::tensor::Device;
use clap::ValueEnum;

/// A device that this build can use.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub(crate) enum DeviceKind {
    /// The processor, all cores
    Flex,
}

impl DeviceKind {
    pub(crate) fn open(self) -> Device {
        match self {
            Self::Flex => Device::flex(),
        }
    }
}
