//! Work of which a GPU computes nothing.

/// Runs `work`, of which GPUs compile every kernel and keep every byte in their books, and compute nothing. What is read back
/// meanwhile is meaningless; memory is only taken from the driver where something is copied to it or from it.
///
/// It holds for all threads of the process. The processor computes as ever.
pub fn rehearsed<T>(work: impl FnOnce() -> T) -> T {
    #[cfg(feature = "gpu")]
    let _nothing_is_launched = cubecl_runtime::dry_run::DryRun::new();
    work()
}
