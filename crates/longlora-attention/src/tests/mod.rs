//! What is true of the operation as a whole.

mod catalogue; // problems, as data
pub(crate) mod answer; // one problem's numbers, and what each implementation makes of them
mod agreement;
mod golden;
mod gradient;
mod op;
mod cache;
mod extremes;
mod properties;
#[cfg(feature = "gpu")]
mod precision;
#[cfg(feature = "gpu")]
mod gpu; // only with a device to run on
#[cfg(feature = "emulated")]
mod emulated; // only with a C++ compiler
