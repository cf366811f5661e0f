//! Memory of this process.

use nix::sys::resource::{UsageWho, getrusage};

/// Largest resident memory so far, in bytes, as the operating system counts it; `None` where it does not tell.
pub fn peak_memory_bytes() -> Option<u64> {
    let peak = u64::try_from(getrusage(UsageWho::RUSAGE_SELF).ok()?.max_rss()).ok()?;
    // Apple counts in bytes, everyone else in KiB.
    let unit = if cfg!(target_vendor = "apple") { 1 } else { 1024 };
    Some(peak * unit)
}
