//! Where this machine stands: against the floor of a training step, and against PyTorch and PEFT.
//!
//! Each measurement is a process of its own, `longlora bench` or `benches/peer_bench.py`, timed by itself on the wall clock.
//! `docs/performance.md` says what the rows mean.

mod pairs;
mod row;
mod verdict;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use xshell::{Shell, cmd};

use crate::build::Build;
use crate::device::Device;
use crate::python;
use crate::workspace::Workspace;
use pairs::Pairs;
use row::{ROWS, Row};
use verdict::Verdict;

/// Measures; takes minutes, and with PyTorch hours.
#[derive(clap::Args)]
pub(crate) struct Bench {
    /// What to measure, with a number where there are several: flex (the CPU), cuda, wgpu, vulkan or metal [default: flex]
    #[arg(long, value_name = "DEVICE", conflicts_with = "against_pytorch")]
    device: Option<String>,
    /// Run the rows of docs/performance.md, PyTorch and PEFT in turn with ours
    #[arg(long)]
    against_pytorch: bool,
    /// Python with torch, transformers and PEFT [default: a virtual environment that is made for it]
    #[arg(long, value_name = "PATH", requires = "against_pytorch")]
    python: Option<PathBuf>,
    /// Rows to run, separated by commas [default: all of them]
    #[arg(
        long,
        value_name = "NAME,…",
        value_delimiter = ',',
        value_parser = row::named,
        requires = "against_pytorch"
    )]
    rows: Vec<&'static Row>,
    /// Pairs of runs per row; the median of their ratios counts
    #[arg(long, value_name = "COUNT", default_value_t = 3, value_parser = at_least_one)]
    pairs: usize,
    /// Steps per run; the median of their times counts
    #[arg(long, value_name = "COUNT", default_value_t = 3, value_parser = at_least_one)]
    steps: usize,
    /// Hugging Face model folder [default: models/SmolLM2-135M-Instruct, which `cargo xtask models` brings, or else random
    /// weights of its shape]
    #[arg(long, value_name = "DIR")]
    model: Option<PathBuf>,
    /// Divide all lengths by so much, to try this out; the targets mean nothing then
    #[arg(long, value_name = "FACTOR", default_value_t = 1, value_parser = at_least_one)]
    shrink: usize,
}

/// What all measurements have in common.
struct Setting {
    /// The program.
    program: PathBuf,
    /// As the program names it; the processor, if it is not named.
    device: Option<String>,
    /// Model and text; random, if there is no model.
    subject: Option<[PathBuf; 2]>,
    steps: usize,
    shrink: usize,
}

/// PyTorch's side.
struct Peer {
    python: PathBuf,
    script: PathBuf,
}

impl Bench {
    pub(crate) fn run(self) -> anyhow::Result<ExitCode> {
        let sh = Shell::new()?;
        let workspace = Workspace::read(&sh)?;
        let device = self.device.as_deref().map_or(Ok(Device::default()), str::parse)?;
        let program = Build::new(&sh, &workspace, device)?.program(&sh, &workspace)?;
        let setting = self.setting(program, &workspace.root)?;
        if !self.against_pytorch {
            return setting.stand(&sh);
        }
        let peer = self.peer(&sh, &workspace)?;
        let folder = workspace.target_directory.join("bench");
        sh.create_dir(&folder)?;
        let all: Vec<&Row> = ROWS.iter().collect();
        let rows = if self.rows.is_empty() { &all } else { &self.rows };
        let mut verdicts = vec![];
        for row in rows {
            let lines = folder.join(format!("{}.jsonl", row.name));
            let pairs = Pairs::run(&sh, row, self.pairs, &setting, &peer, &lines)?;
            verdicts.extend(row.figures.iter().map(|figure| Verdict::of(row, figure, &pairs)));
        }
        Ok(verdict::report(&verdicts, &folder, self.shrink))
    }

    fn setting(&self, program: PathBuf, root: &Path) -> anyhow::Result<Setting> {
        let smollm2 = root.join("models/SmolLM2-135M-Instruct");
        let there = smollm2.join("tokenizer.json").exists().then_some(smollm2);
        // The caller's folder, wherever the program runs.
        let given = self.model.as_ref().map(std::path::absolute).transpose()?;
        // It has more than 100,000 tokens.
        let text = root.join("assets/text/train/austen_northanger_abbey.txt");
        Ok(Setting {
            program,
            device: self.device.clone(),
            subject: given.or(there).map(|model| [model, text]),
            steps: self.steps,
            shrink: self.shrink,
        })
    }

    fn peer(&self, sh: &Shell, workspace: &Workspace) -> anyhow::Result<Peer> {
        let folder = workspace.root.join("benches");
        let python = match &self.python {
            Some(python) => python.clone(),
            None => {
                let venv = workspace.target_directory.join("bench/venv");
                python::environment(sh, &folder.join("requirements.txt"), &venv)?
            }
        };
        Ok(Peer { python, script: folder.join("peer_bench.py") })
    }
}

impl Setting {
    /// The rates of this machine, and the floor of the step of the first row.
    fn stand(&self, sh: &Shell) -> anyhow::Result<ExitCode> {
        let program = &self.program;
        for words in ["gemm", "floor --tokens 8192 --attention s2 --steps N"] {
            let words = self.ours(words);
            cmd!(sh, "{program} bench {words...}").quiet().run()?;
            separate();
        }
        Ok(ExitCode::SUCCESS)
    }

    /// The words of a command of ours, `N` the number of steps, lengths shrunk.
    fn ours(&self, words: &str) -> Vec<String> {
        let kind = words.split(' ').next().unwrap_or_default();
        let mut words = self.words(words);
        if let Some(device) = &self.device {
            words.extend(["--device".to_owned(), device.clone()]);
        }
        if let Some([model, text]) = &self.subject {
            let mut add = |option: &str, path: &Path| {
                words.extend([option.to_owned(), path.display().to_string()]);
            };
            add("--model", model);
            if ["step", "forward", "floor"].contains(&kind) {
                add("--data", text);
            }
        }
        words
    }

    /// The same of the peer, whose model and text stand first.
    fn theirs(&self, words: &str) -> Vec<String> {
        let subject = match &self.subject {
            Some(paths) => paths.each_ref().map(|path| path.display().to_string()),
            None => ["random", "random"].map(str::to_owned),
        };
        subject.into_iter().chain(self.words(words)).collect()
    }

    fn words(&self, words: &str) -> Vec<String> {
        words.split(' ').map(|word| self.word(word)).collect()
    }

    /// Numbers of four digits and more are lengths.
    fn word(&self, word: &str) -> String {
        match word.parse::<usize>() {
            Ok(length) if length >= 1000 => (length / self.shrink).to_string(),
            _ if word == "N" => self.steps.to_string(),
            _ => word.to_owned(),
        }
    }
}

fn at_least_one(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(0) => Err("at least 1 is needed".to_owned()),
        Ok(number) => Ok(number),
        Err(_) => Err("it has to be a number".to_owned()),
    }
}

#[expect(clippy::print_stdout, reason = "this is the result")]
fn separate() {
    println!();
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        bench: Bench,
    }

    fn parse(line: &str) -> Result<Bench, String> {
        let parsed = Line::try_parse_from(line.split_whitespace());
        parsed.map(|line| line.bench).map_err(|error| error.to_string())
    }

    fn setting(subject: Option<[PathBuf; 2]>) -> Setting {
        Setting { program: PathBuf::new(), device: None, subject, steps: 2, shrink: 16 }
    }

    #[test]
    fn rows_are_chosen_by_name() {
        let bench = parse("bench --against-pytorch --rows forward-8192,train-full-4096").unwrap();
        let names: Vec<&str> = bench.rows.iter().map(|row| row.name).collect();
        assert_eq!(names, ["forward-8192", "train-full-4096"]);
        assert_eq!((bench.pairs, bench.steps, bench.shrink), (3, 3, 1));
    }

    #[test]
    fn what_means_nothing_is_refused() {
        let check = |line: &str, needle: &str| {
            let error = parse(line).err().expect("it is a mistake");
            assert!(error.contains(needle), "{error}");
        };
        check("bench --against-pytorch --rows train", "train-s2-8192");
        check("bench --against-pytorch --pairs 0", "at least 1");
        check("bench --rows forward-8192", "--against-pytorch");
        check("bench --python python3", "--against-pytorch");
        check("bench --steps many", "a number");
        check("bench --against-pytorch --device cuda", "--device");
    }

    #[test]
    fn lengths_shrink_and_steps_are_filled_in() {
        let words = setting(None).ours("step --tokens 8192 --group 2048 --memory 20GiB --steps N");
        assert_eq!(words.join(" "), "step --tokens 512 --group 128 --memory 20GiB --steps 2");
        assert_eq!(setting(None).theirs("eval full 8192").join(" "), "random random eval full 512");
    }

    #[test]
    fn the_device_is_ours_alone() {
        let setting = Setting { device: Some("cuda:1".to_owned()), ..setting(None) };
        assert_eq!(setting.ours("gemm").join(" "), "gemm --device cuda:1");
        assert_eq!(setting.theirs("eval full 8192").join(" "), "random random eval full 512");
    }

    #[test]
    fn model_and_text_go_to_whom_they_concern() {
        let setting = setting(Some(["m", "t"].map(PathBuf::from)));
        assert_eq!(setting.ours("gemm").join(" "), "gemm --model m");
        assert_eq!(setting.ours("forward").join(" "), "forward --model m --data t");
        assert_eq!(setting.theirs("eval full 8192").join(" "), "m t eval full 512");
    }
}
