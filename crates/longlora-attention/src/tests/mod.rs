//! What is true of the operation as a whole.

mod catalogue; // problems, as data
mod answer; // one problem's numbers, and what each implementation makes of them
mod agreement;
mod golden;
mod gradient;
mod op;
mod cache;
mod extremes;
mod properties;
#[cfg(feature = "gpu")]
mod matrix;
