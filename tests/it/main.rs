//! What the crates promise together, and the program from outside.

// So that clippy takes the helpers for tests, too.
#![cfg(test)]

// Helpers.
mod fixture; // files: golden vectors beside the tests, larger ones outside the checkout
mod gradients; // gradients by parameter name, and how far two sets of tensors are apart
#[path = "../../crates/longlora-hub/tests/it/server.rs"]
mod server; // HTTP, one request per connection
mod random; // random models and batches, from seeds
mod place; // a folder in which runs are made
mod sentence; // what an error has to be
mod by_hand; // logits, and what follows from them, in f64

// Against other programs.
mod golden_tiny; // transformers: logits, loss and every gradient of a tiny LLaMA
mod golden_families; // transformers: the same of tiny models of every family
mod gguf; // GGUF files: out and in again, bit for bit
mod golden_lora; // PEFT: an adapter in, merged, trained for 20 steps, and out again
mod golden_longlora; // LongLoRA's own code: adapters with norms and embeddings in a file beside them
mod golden_smollm2; // transformers and PEFT: the real model of this project
mod peft; // PEFT's options: rsLoRA, DoRA, patterns, saved modules, in and out again
mod golden_passkeys; // transformers: what the real model answers to passkeys
mod golden_stories; // transformers: the same of a real small model, up to 2,048 tokens

// Against our own slow paths.
mod exactness; // the block-wise step and the chunked loss equal plain autodiff; burn's learner equals our loop
mod dropping; // layers and tiles drop entries of their own
mod offloading; // inputs that wait in the host's memory change no bit
mod generate; // writing with a cache is writing without one; streaming is what its definition says
mod causality; // no token depends on a later one, by the Jacobian of the whole model
mod properties; // packing, batching, merging, saving change nothing

// Runs and users.
mod storage; // weights kept in bf16 and NF4 compute what the same numbers in f32 do
mod export; // what other programs get computes the same
mod pickles; // PyTorch files: read as safetensors are, torn ones named
mod resume; // stopped, crashed and resumed runs end where an uninterrupted one does
mod bad_options; // options and paths that cannot be: refused at once, by their names
mod bad_runs; // runs that cannot go on: what is refused, and what is kept
mod trainable; // a 7B model is counted without being held
mod errors; // every mistake is one sentence that names the file and the value
mod adapter_errors; // the same of adapters
mod any_options; // whatever stands in a config is taken or refused, and nothing panics
mod cli; // the program from outside: what the terminal shows, and the exit codes
mod tables; // the table at the end of a run: what it is measured on, and what of it is kept
mod evaluating; // `eval` beside perplexity, and `compare`: what is asked, kept and gone on with
mod bench; // `longlora bench`: the floor, and what is measured over it
mod devices; // `--device` and `longlora devices`: what is refused, and with which words
mod fetching; // `longlora fetch`, and models that it fetched
mod exporting; // `export` and `convert`: what they write, what they refuse, what they leave behind
mod exported_tokenizers; // what goes with weights: tokenizers, chat templates, the context that they know
mod writing; // the program that writes: `generate` and `chat`
mod conversations; // `finetune` on conversations and instructions
