//! `cargo xtask`: types the long commands for you, and nothing else.
//!
//! It builds `longlora` for the device at hand and becomes it, or runs the checks of this
//! repository. It knows neither burn nor any longlora crate, so it builds in seconds.

mod program;
mod device;
mod build;
mod without_llvm;
mod test;
mod ci;
mod models;
mod python;
mod interop;
mod bench;
mod invariants;
mod rust_source;
mod workspace;

use std::ffi::OsString;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

use device::Device;

/// Runs longlora from its source, or checks this repository.
#[derive(Parser)]
#[command(bin_name = "cargo xtask", disable_help_subcommand = true, after_help = PROGRAM_HELP)]
struct Xtask {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Build the program for a device and print where it lies
    Build {
        /// flex (the CPU), cuda, wgpu, vulkan or metal
        #[arg(long, value_name = "DEVICE", default_value = "flex")]
        device: Device,
    },
    /// Check the code for a device with clippy; needs neither the device nor LLVM
    Check {
        /// flex (the CPU), cuda, wgpu, vulkan or metal
        #[arg(long, value_name = "DEVICE", default_value = "flex")]
        device: Device,
    },
    /// Run every test, doc tests too; further arguments go to `cargo test`
    #[command(disable_help_flag = true)]
    Test {
        /// Run the tests of what a GPU computes instead, on cuda, wgpu, vulkan or metal
        #[arg(long, value_name = "DEVICE", conflicts_with_all = ["cargo_args", "test_args"])]
        device: Option<Device>,
        /// Arguments of `cargo test`
        #[arg(allow_hyphen_values = true)]
        cargo_args: Vec<OsString>,
        /// Arguments of the test programs
        #[arg(last = true)]
        test_args: Vec<OsString>,
    },
    /// Run the whole CI: format, clippy, tests, docs, every example, invariants
    Ci,
    /// Bring SmolLM2-135M, the real model of the tests, into `models`
    Models,
    /// Check our files in Python's PEFT and transformers and in llama.cpp
    Interop,
    /// Measure this machine against the floor of a training step, or against PyTorch and PEFT
    Bench(bench::Bench),
    /// A word that is none of the above is the program's, with all that follows it.
    #[command(external_subcommand)]
    Program(Vec<OsString>),
}

/// What clap cannot list: the program's commands, which belong to the program.
const PROGRAM_HELP: &str = "\
Any other word is a command of `longlora`, which is built in release mode and run:
  finetune  Extend a model's context on your own documents
  eval      Measure perplexity, retrieval, question answering, what the short context lost
  compare   Train and measure several methods on your own documents, and recommend one
  generate  Continue a text
  chat      Talk to a model, line by line
  export    Merge an adapter into its model and write files that other programs load
  convert   Turn a model into another format without changing it
  pretrain  Make a small model from nothing
  fetch     Fetch a model of the Hugging Face hub
  devices   List what this build and this machine have to compute on
  help      List all of them

`--device NAME` among their arguments picks what is built: flex (the CPU, the default), cuda, wgpu,
vulkan or metal. Everything is handed over unchanged, in the directory of the caller:
`cargo xtask finetune --help` is the program's own help.";

#[expect(clippy::print_stderr, reason = "the one place where errors reach the terminal")]
fn main() -> ExitCode {
    let done = match Xtask::parse().task {
        Task::Build { device } => build::run(device),
        Task::Check { device } => build::check(device),
        Task::Test { device: Some(device), .. } => test::run_on(device),
        Task::Test { device: None, cargo_args, test_args } => test::run(&cargo_args, &test_args),
        Task::Ci => ci::run(),
        Task::Models => models::run(),
        Task::Interop => interop::run(),
        Task::Bench(bench) => bench.run(),
        Task::Program(words) => program::run(&words),
    };
    // Not anyhow's own report: with RUST_BACKTRACE set it buries the sentence under a backtrace.
    done.unwrap_or_else(|error| {
        eprintln!("error: {error:#}");
        ExitCode::FAILURE
    })
}
