//! Models by their Hugging Face name, fetched when a command is told so, and never otherwise.
//!
//! [`Hub::fetch`] puts the files of a model into the cache that it shares with Python's `huggingface_hub`, and returns
//! the folder; [`cached`] finds that folder again without the network. Nothing here writes to the terminal: who wants to
//! see how far a file has come passes a [`Progress`].
//!
//! A file is worth nothing until its checksum is right. The hub names every file by one: SHA-256 for large files, git's
//! SHA-1 for small ones. What arrives is written to `blobs/<checksum>.part`, goes on where it broke off, and becomes
//! `blobs/<checksum>` only when size and checksum are the hub's.
//!
//! # Why not `hf_hub::api`
//!
//! The layout of the cache and the list of a model's files are the `hf-hub` crate's (`Cache`, `Repo`, `RepoInfo`). Its
//! downloads (0.5.0, `api/sync.rs`) are not used, for they keep none of the promises above. They append to a part file
//! whatever the server sends, even if that is the whole file again; a part file that is complete makes them fail for
//! good; they compare no checksum, and fetch again what is there. They ask for a branch and not for the commit that was
//! listed, so that two files may come from two commits. They use names that the server chose as paths, unchecked, and
//! send the token to the host of large files, which is not the hub. `HF_TOKEN`, `HF_HUB_CACHE` and `HF_HUB_OFFLINE` are
//! not read.

mod error;
mod name;
mod checksum;
mod cache;
mod environment;
mod remote;
mod plan;
mod blob;
mod fetch;

pub use cache::cached;
pub use environment::default_cache;
pub use error::HubError;
pub use fetch::{Hub, Progress, Wanted};
pub use name::is_model_name;
