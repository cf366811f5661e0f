//! Memory of a device.

use burn::tensor::Device;

/// What a GPU has, in bytes; `None` of the processor, whose memory is everyone's, and where the driver does not tell.
///
/// Opens the device.
pub fn device_memory(device: &Device) -> Option<u64> {
    match device.clone().without_autodiff().as_dispatch() {
        #[cfg(any(feature = "cuda", feature = "wgpu"))]
        burn::backend::DispatchDevice::Cube(device) => {
            device.client().properties().memory.max_memory()
        }
        _ => None,
    }
}

/// The largest tensor that a GPU takes, in bytes, however much memory it has; `None` of the processor.
///
/// Opens the device.
pub fn device_buffer(device: &Device) -> Option<u64> {
    match device.clone().without_autodiff().as_dispatch() {
        #[cfg(any(feature = "cuda", feature = "wgpu"))]
        burn::backend::DispatchDevice::Cube(device) => {
            Some(device.client().properties().memory.max_page_size)
        }
        _ => None,
    }
}
