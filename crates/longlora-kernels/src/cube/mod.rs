//! GPUs: one source in CubeCL for CUDA, Vulkan, Metal and WebGPU.
