//! `longlora`: extends the context window of a LLaMA on its owner's own documents.
//!
//! This crate holds the command line and nothing else. Data goes to standard output, everything else to standard error;
//! the exit code is 0, 1 after an error, 2 when a gate fails.

mod device;
mod progress;
mod pretrain;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Extends the context window of a LLaMA on its owner's own documents, by LongLoRA: shifted sparse attention in
/// training, full attention after it, LoRA with norms and embeddings, learnable RoPE offsets.
#[derive(Parser)]
#[command(version, propagate_version = true, max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Pretrain(pretrain::Pretrain),
}

fn main() -> ExitCode {
    tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        .with_env_filter(tracing_subscriber::EnvFilter::from_default_env())
        .init();
    let result = match Cli::parse().command {
        Command::Pretrain(command) => command.run(),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            say(&format!("error: {error:#}"));
            ExitCode::FAILURE
        }
    }
}

/// A line for the person at the terminal.
#[expect(clippy::print_stderr, reason = "this is the program's voice")]
fn say(line: &str) {
    eprintln!("{line}");
}

/// A result, for whatever reads standard output.
#[expect(clippy::print_stdout, reason = "this is the program's result")]
fn print(text: &str) {
    println!("{text}");
}
