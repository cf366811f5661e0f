//! Files that are whole, torn, wrong and made by others.

// So that clippy takes the helpers for tests, too.
#![cfg(test)]

mod raw; // files byte by byte, so that they can lie
mod decode; // quantised blocks against a slow twin
mod vectors; // against gguf-py
mod round_trip; // what is written is read again
mod torn; // cut off anywhere, any byte another
mod errors; // the sentence for every mistake in a file
mod write; // what is refused, and what happens to the file that was there
