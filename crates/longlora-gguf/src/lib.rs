//! GGUF, the file format of llama.cpp: metadata, tensors, quantised blocks.
