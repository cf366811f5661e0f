//! `longlora`: extends the context window of a LLaMA on its owner's own documents.
//!
//! This crate holds the command line and nothing else. Results go to standard output, everything else to standard error;
//! the exit code is 0, 1 after an error or a training that was stopped, or 2 if something was measured and found wanting.

mod device;
mod places;
mod advice;
mod devices;
mod progress;
mod count;
mod signals;
mod size;
mod pattern;
mod model;
mod embedded;
mod adapter_args;
mod training_args;
mod held_out;
mod table_plan;
mod measured_on;
mod going_on;
mod run_report;
mod finetune;
mod comparison;
mod perplexity;
mod fingerprint;
mod exam;
mod heat;
mod template_arguments;
mod texts;
mod passkey;
mod needle;
mod ruler;
mod longbench;
mod retention;
mod prepare;
mod compare;
mod stop_strings;
mod writing;
mod generate;
mod chat;
mod destination;
mod export;
mod pretrain;
mod fetch;
mod bench;

use std::error::Error;
use std::io::{ErrorKind, Write, stderr, stdout};
use std::process::{ExitCode, exit};

use clap::{CommandFactory, FromArgMatches, Parser, Subcommand};
use longlora_kernels::keep_freed_memory;
use tracing_subscriber::EnvFilter;

use crate::advice::options;

/// Extends the context window of a LLaMA on its owner's own documents, by LongLoRA: shifted sparse attention in
/// training, full attention after it, LoRA with norms and embeddings, and, if you want, learnable RoPE offsets.
#[derive(Parser)]
#[command(version, propagate_version = true, max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Finetune(Box<finetune::Finetune>),
    #[command(subcommand)]
    Eval(Box<Eval>),
    Compare(Box<compare::Compare>),
    Generate(Box<generate::Generate>),
    Chat(Box<chat::Chat>),
    Export(export::Export),
    Convert(export::Convert),
    Pretrain(pretrain::Pretrain),
    Fetch(fetch::Fetch),
    Bench(Box<bench::Bench>),
    Devices(devices::Devices),
}

/// Measure what a model can do.
#[derive(Subcommand)]
enum Eval {
    Perplexity(perplexity::Perplexity),
    Passkey(passkey::Passkey),
    Needle(needle::Needle),
    Ruler(ruler::Ruler),
    Qa(longbench::Qa),
    Summarize(longbench::Summarize),
    Retention(retention::RetentionCheck),
    Prepare(prepare::Prepare),
}

impl Eval {
    fn run(self) -> anyhow::Result<()> {
        match self {
            Self::Perplexity(command) => command.run(),
            Self::Passkey(command) => command.run(),
            Self::Needle(command) => command.run(),
            Self::Ruler(command) => command.run(),
            Self::Qa(command) => command.run(),
            Self::Summarize(command) => command.run(),
            Self::Retention(command) => command.run(),
            Self::Prepare(command) => command.run(),
        }
    }
}

/// What `RUST_LOG` says; otherwise errors, and this project's own warnings.
fn log_filter() -> EnvFilter {
    EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("error,longlora=warn"))
}

fn main() -> ExitCode {
    keep_freed_memory();
    tracing_subscriber::fmt().with_writer(std::io::stderr).with_env_filter(log_filter()).init();
    let command = match parse() {
        Ok(cli) => cli.command,
        Err(answer) => return answer_instead(&answer),
    };
    let result = match command {
        Command::Finetune(command) => command.run(),
        Command::Eval(command) => command.run(),
        Command::Compare(command) => command.run(),
        Command::Generate(command) => command.run(),
        Command::Chat(command) => command.run(),
        Command::Export(command) => command.run(),
        Command::Convert(command) => command.run(),
        Command::Pretrain(command) => command.run(),
        Command::Fetch(command) => command.run(),
        Command::Bench(command) => command.run(),
        Command::Devices(command) => command.run(),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let word = if error.is::<Stopped>() { "" } else { "error: " };
            say(&format!("{word}{}", in_one_sentence(&error)));
            if error.is::<GateFailed>() { ExitCode::from(2) } else { ExitCode::FAILURE }
        }
    }
}

/// Reads the command line. What is no number of an option is so told with the option's name.
fn parse() -> Result<Cli, clap::Error> {
    let mut matches = with_negative_numbers(Cli::command()).try_get_matches()?;
    Cli::from_arg_matches_mut(&mut matches).map_err(|error| error.format(&mut Cli::command()))
}

/// The same command, whose options take `-1` as their value instead of as an option that is not known.
fn with_negative_numbers(command: clap::Command) -> clap::Command {
    let of_option = |arg: clap::Arg| {
        let has_value = !arg.is_positional() && arg.get_action().takes_values();
        arg.allow_negative_numbers(has_value)
    };
    command.mut_args(of_option).mut_subcommands(with_negative_numbers)
}

/// Something was measured and found wanting.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct GateFailed(String);

/// Ctrl-C: what was asked for is not there yet, and how to go on.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Stopped(String);

/// Characters of a cause that are shown.
const CAUSE: usize = 500;

/// An error with its causes, and the options that do what it advises.
fn in_one_sentence(error: &anyhow::Error) -> String {
    let said = |(depth, error): (usize, &(dyn Error + 'static))| {
        let mut said = error.to_string();
        // A parser may quote all that it was given: a whole book.
        let end = said.char_indices().nth(CAUSE).filter(|_| depth > 0);
        if let Some((end, _)) = end {
            said.replace_range(end.., "..");
        }
        match options(error) {
            Some(options) => format!("{said} ({options})"),
            None => said,
        }
    };
    error.chain().enumerate().map(said).collect::<Vec<_>>().join(": ")
}

/// Help and version go to standard output, a mistake on the command line to standard error, with exit code 1: clap's own
/// would be 2.
fn answer_instead(answer: &clap::Error) -> ExitCode {
    let shown = answer.print();
    if answer.use_stderr() || shown.is_err() { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

/// A line for the person at the terminal.
///
/// If nobody can read it, the work goes on.
fn say(line: &str) {
    let _ = writeln!(stderr(), "{line}");
}

/// A result, for whatever reads standard output. If that is full or was closed, the program ends: what it computes from here
/// on would reach nobody.
fn print(text: &str) {
    if let Err(error) = writeln!(stdout(), "{text}") {
        if error.kind() != ErrorKind::BrokenPipe {
            say(&format!("error: cannot write to standard output: {error}"));
        }
        exit(1);
    }
}
