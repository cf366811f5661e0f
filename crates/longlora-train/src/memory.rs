//! Memory of this process, and of the device it computes on.

use burn::tensor::Device;
use nix::sys::resource::{UsageWho, getrusage};

/// Largest resident memory so far, in bytes, as the operating system counts it; `None` where it does not tell.
pub fn peak_memory_bytes() -> Option<u64> {
    let peak = u64::try_from(getrusage(UsageWho::RUSAGE_SELF).ok()?.max_rss()).ok()?;
    // Apple counts in bytes, everyone else in KiB.
    let unit = if cfg!(target_vendor = "apple") { 1 } else { 1024 };
    Some(peak * unit)
}

/// What the allocator of a GPU holds now, in bytes: tensors, and pages that wait for others. `None` of the processor.
///
/// Pages are given back seldom, so after a step it is nearly the step's peak. What the driver and the context take comes
/// on top.
pub fn device_memory_held(device: &Device) -> Option<u64> {
    device.clone().without_autodiff().memory_pool_usage().map(|usage| usage.bytes_reserved)
}
