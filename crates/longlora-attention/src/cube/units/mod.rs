//! Kernels for every GPU: tiles in shared memory, sums in registers, no instruction that only some devices have.
