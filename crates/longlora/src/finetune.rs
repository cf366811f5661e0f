//! `longlora finetune`

use std::path::{Path, PathBuf, absolute};

use anyhow::{Context, Result, bail, ensure};
use burn::tensor::Device;
use clap::Args;
use longlora_adapters::RopeKind;
use longlora_llama::{LlamaConfig, Trainable, count_trainable, model_files};
use longlora_train::{
    Event, FinetuneConfig, FolderLock, HeldOut, Outcome, RunFolder, Stop, TrainError, finetune,
    note_held_out, preview, resume,
};

use crate::adapter_args::AdapterArgs;
use crate::comparison::refuse_short;
use crate::count::refuse_twice;
use crate::device::{DeviceArgs, description};
use crate::embedded;
use crate::going_on::{after_full_disk, resumption};
use crate::model::{
    WeightKind, announce_nf4, announce_weights, fetched, model_folder, refuse_needless_scaling,
    refuse_unsupported,
};
use crate::pattern::PatternArgs;
use crate::places::refuse_within;
use crate::progress::{CtrlC, Progress};
use crate::run_report::{finish, has_report, tell_result};
use crate::table_plan::TablePlan;
use crate::training_args::{TrainingArgs, long_warm_up};
use crate::{Stopped, in_one_sentence, print, say};

/// Everything that the settings of the run say already: its arguments and groups of arguments.
const NOT_WITH_RESUME: [&str; 26] = [
    "config",
    "model",
    "weights",
    "data",
    "context_length",
    "out",
    "dry_run",
    // The group of the struct that has these has no members, as there is another one in it.
    "rope_scaling",
    "train_length",
    "PatternArgs",
    "AdapterArgs",
    "steps",
    "learning_rate",
    "embedding_learning_rate",
    "decay",
    "rope_offset_learning_rate",
    "warmup_steps",
    "batch_size",
    "accumulation",
    "parallel",
    "offload_activations",
    "weight_decay",
    "max_grad_norm",
    "append_eos",
    "sequential",
    "seed",
];

/// Extend a model's context on your own documents.
///
/// Without a model, the small one inside the program is extended from 256 to 1,024 tokens on public-domain text: a few
/// minutes on two cores. With --model, --data and --context-length, yours is. Ctrl-C finishes the step and saves;
/// --resume goes on and ends bit for bit where the uninterrupted run would have.
///
/// Defaults are LongLoRA's, with --model; the small model has settings of its own, which --dry-run prints.
///
/// The run folder gets config.toml, manifest.json, metrics.jsonl, checkpoints, the adapter in PEFT's format (with --full
/// the whole model), report.html.
#[derive(Args)]
pub(crate) struct Finetune {
    /// Settings of the run, as the config.toml of an earlier one; options below override it
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Hugging Face model folder or GGUF file, or the name of a model that `longlora fetch` has fetched
    #[arg(long, value_name = "PATH|OWNER/NAME")]
    model: Option<PathBuf>,
    /// How the matrices of the model are kept: bf16 takes half the memory of f32, nf4 a seventh for the layers, as in QLoRA; what is trained stays f32 [default: f32]
    #[arg(long, value_name = "TYPE")]
    weights: Option<WeightKind>,
    /// Training text: a .txt or .md file; a .jsonl, .jsonl.gz or .json file of objects with `text`, `messages`,
    /// `conversations`, or `instruction` and `output`; a .json or .bin file of token ids; or a folder of them
    #[arg(long, value_name = "PATH")]
    data: Option<PathBuf>,
    /// The context to reach, in tokens: those of a training window, unless --train-length says otherwise
    #[arg(long, value_name = "TOKENS", visible_alias = "context-size")]
    context_length: Option<usize>,
    /// Where the run goes; must not exist yet [default: the next free number below runs]
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Go on with an earlier run from its latest checkpoint; takes --device, --memory, --save-every and the options of the table
    /// at the end
    #[arg(long, value_name = "DIR", conflicts_with_all = NOT_WITH_RESUME)]
    resume: Option<PathBuf>,
    #[command(flatten)]
    device: DeviceArgs,
    /// Check model, settings and text, print the settings, what would be trained and the memory that it takes, and stop
    #[arg(long)]
    dry_run: bool,
    #[command(flatten, next_help_heading = "Context")]
    context: ContextArgs,
    #[command(flatten, next_help_heading = "Adapters")]
    adapters: AdapterArgs,
    #[command(flatten, next_help_heading = "Training")]
    training: TrainingArgs,
    #[command(flatten, next_help_heading = "Measurement")]
    held_out: HeldOutArgs,
}

#[derive(Args)]
struct ContextArgs {
    /// RoPE scaling from the model's own context to the new one: none, linear, ntk, dynamic, yarn or llama3 [default: linear]
    #[arg(long, value_name = "SCALING")]
    rope_scaling: Option<RopeKind>,
    /// Tokens of a training window, if fewer than the context to reach, to which positions are stretched all the same
    #[arg(long, value_name = "TOKENS")]
    train_length: Option<usize>,
    #[command(flatten)]
    pattern: PatternArgs,
}

#[derive(Args)]
struct HeldOutArgs {
    /// Text for the table at the end, instead of a share of the training text
    #[arg(long, value_name = "PATH")]
    eval_data: Option<PathBuf>,
    /// Context lengths of the table, separated by commas [default: the model's own, doubled up to the new one]
    #[arg(long, value_name = "TOKENS,…", value_delimiter = ',')]
    eval_lengths: Option<Vec<usize>>,
    /// Measure on so many tokens at most, an equal share from the start of each document that is long enough [default: 65536]
    #[arg(long, value_name = "TOKENS")]
    eval_tokens: Option<usize>,
    /// Leave the table out; a share of the text is held out all the same, unless --eval-data names another text
    #[arg(long, conflicts_with_all = ["eval_lengths", "eval_tokens"])]
    no_eval: bool,
}

impl HeldOutArgs {
    /// Whether one of them says how the table is to be.
    fn ask_for_a_table(&self) -> bool {
        self.eval_data.is_some() || self.eval_lengths.is_some() || self.eval_tokens.is_some()
    }

    /// What is not said stays as it is.
    fn apply(&self, config: &mut FinetuneConfig) -> Result<()> {
        let evaluation = &mut config.evaluation;
        if let Some(lengths) = &self.eval_lengths {
            refuse_short("--eval-lengths", lengths)?;
            refuse_twice("--eval-lengths", lengths)?;
            evaluation.lengths = Some(lengths.clone());
        }
        evaluation.tokens = self.eval_tokens.unwrap_or(evaluation.tokens);
        evaluation.enabled = !self.no_eval && (evaluation.enabled || self.ask_for_a_table());
        Ok(())
    }

    /// What may change between two parts of a run.
    fn change(&self, config: &mut FinetuneConfig) -> Result<()> {
        self.apply(config)?;
        let Some(path) = &self.eval_data else { return Ok(()) };
        let path = absolute(path).with_context(|| format!("cannot find `{}`", path.display()))?;
        match &mut config.data.held_out {
            HeldOut::Path(held_out) => {
                *held_out = path;
                config.evaluation.data = None;
            }
            // It is not learned from, whatever is measured on.
            HeldOut::Fraction(_) => config.evaluation.data = Some(path),
        }
        Ok(())
    }
}

impl Finetune {
    pub(crate) fn run(self) -> Result<()> {
        if let Some(folder) = &self.resume {
            return self.go_on(&RunFolder::open(folder)?);
        }
        let mut out = self.out.clone().map_or_else(next_free_run, Ok)?;
        let mut config = self.resolve(&out)?;
        config.validate()?;
        if let Some(warning) = long_warm_up(&config.training) {
            say(&warning);
        }
        if self.dry_run {
            print(&config.to_toml());
            return self.preview(config);
        }
        refuse_within(&out, &config.data.path)?;
        if let Some(path) = config.eval_data() {
            refuse_within(&out, path)?;
        }
        let ctrl_c = CtrlC::listen()?;
        let mut run = RunFolder::create(&out);
        while self.out.is_none() && is_taken(&run) {
            out = next_free_run()?;
            config = self.resolve(&out)?;
            run = RunFolder::create(&out);
        }
        let run = run?;
        let done =
            self.unpack(run.path()).and_then(|()| self.train_and_measure(&config, &run, &ctrl_c));
        if done.is_err()
            && let Err(error) = run.discard_unless_begun()
        {
            say(&in_one_sentence(&error.into()));
        }
        done.map_err(|error| after_full_disk(error, &run, &resumption(&run, &self.device)))
    }

    /// From the settings of the run and what the options change of them.
    fn go_on(&self, run: &RunFolder) -> Result<()> {
        let mut config = FinetuneConfig::read(&run.config())?;
        self.training.change(&mut config.training);
        self.held_out.change(&mut config)?;
        config.validate()?;
        let done = self.train_and_measure(&config, run, &CtrlC::listen()?);
        done.map_err(|error| after_full_disk(error, run, &resumption(run, &self.device)))
    }

    /// Has the next `--resume` go on with these settings, too.
    fn keep(&self, config: &FinetuneConfig, run: &RunFolder) -> Result<()> {
        let other_text = self.held_out.eval_data.is_some();
        if !other_text && *config == FinetuneConfig::read(&run.config())? {
            return Ok(());
        }
        let _lock = FolderLock::take(run.path())?;
        run.write("config.toml", &config.to_toml())?;
        if other_text {
            note_held_out(config, run)?;
        }
        Ok(())
    }

    fn unpack(&self, run: &Path) -> Result<()> {
        if self.is_embedded() { embedded::unpack(&run.join("embedded")) } else { Ok(()) }
    }

    fn is_embedded(&self) -> bool {
        self.config.is_none() && self.model.is_none()
    }

    /// All that is known before the weights are read.
    fn preview(&self, mut config: FinetuneConfig) -> Result<()> {
        let place = tempfile::tempdir().context("cannot create a temporary folder")?;
        if self.is_embedded() {
            self.unpack(place.path())?;
            config = self.resolve(place.path())?;
        }
        let (device, base) = self.open(&config)?;
        TablePlan::read(&config, &base)?;
        announce(&config, &base, &device);
        let (reading, memory) = preview(&config, &device)?;
        let mut progress = Progress::new();
        progress.event(Event::Reading(&reading));
        progress.event(Event::Planned(&memory));
        Ok(())
    }

    /// The device and the model, and that they suit the settings.
    fn open(&self, config: &FinetuneConfig) -> Result<(Device, LlamaConfig)> {
        let device = self.device.open()?;
        refuse_unsupported(config.model.weights, &device)?;
        self.training.refuse_unsuitable(&device)?;
        let base = LlamaConfig::read(&config.model.path)?;
        // Its files are there and whole, before anything takes its time.
        model_files(&config.model.path)?;
        if let Some(kind) = self.context.rope_scaling {
            refuse_needless_scaling(&base, kind, config.context.length)?;
        }
        if let Some(adapters) = &config.adapters {
            base.check_new_adapters(adapters)?;
        }
        Ok((device, base))
    }

    fn train_and_measure(
        &self,
        config: &FinetuneConfig,
        run: &RunFolder,
        ctrl_c: &CtrlC,
    ) -> Result<()> {
        let (device, base) = self.open(config)?;
        let table = TablePlan::read(config, &base);
        let table = match self.resume {
            Some(_) => table.context(
                "the text of the run's table cannot be taken; name another with --eval-data, or give --no-eval",
            ),
            None => table,
        }?;
        if self.resume.is_some() {
            if !config.evaluation.enabled && !self.held_out.no_eval {
                say(
                    "the run was begun without a table, or resumed so; --eval-tokens 65536 makes one",
                );
            }
            // Now that they are known to be possible.
            self.keep(config, run)?;
        }
        let trainable = announce(config, &base, &device);
        say(&format!("run folder: {}", run.path().display()));
        let (how, had_report) = (resumption(run, &self.device), has_report(run));
        let (outcome, has_stepped) = self.train(run, config, &device, &ctrl_c.stop)?;
        if let Outcome::Stopped { step } = outcome {
            return Err(Stopped(format!("stopped after step {step}; go on with: {how}")).into());
        }
        let Some(table) = table else {
            ctrl_c.training_is_over("stopped; what was trained is on the disk".to_owned());
            tell_result(config, run, "");
            return Ok(());
        };
        if had_report && !has_stepped && !self.held_out.ask_for_a_table() {
            let more = ", the report in report.html beside it stays as it is; --eval-lengths, --eval-tokens or --eval-data \
                        measure anew and replace it";
            tell_result(config, run, more);
            return Ok(());
        }
        // Where a report is, only who asks for a table gets another.
        let asked = match had_report {
            true => format!(" --eval-tokens {}", config.evaluation.tokens),
            false => String::new(),
        };
        ctrl_c.training_is_over(format!(
            "stopped; what was trained is on the disk, the table is not; make it with: {how}{asked}"
        ));
        let place = format!("{} ({})", self.device, description(&device).1);
        finish(config, run, &table, &trainable, (&device, &place))
    }

    /// Options over the file, over the defaults.
    fn resolve(&self, out: &Path) -> Result<FinetuneConfig> {
        let mut config = match (&self.config, &self.model, &self.data, self.context_length) {
            (Some(file), ..) => FinetuneConfig::read(file)?,
            (None, Some(model), Some(data), Some(length)) => {
                FinetuneConfig::longlora(model.clone(), data.clone(), length)
            }
            (None, None, None, _) => embedded::config(out)?,
            _ => bail!("a model of your own needs --model, --data and --context-length"),
        };
        if let Some(model) = &self.model {
            config.model.path = model_folder(model)?;
            config.model.fetched = fetched(model, &config.model.path);
        }
        if let Some(kind) = self.weights {
            config.model.weights = kind.into();
        }
        if let Some(data) = &self.data {
            config.data.path.clone_from(data);
        }
        if let Some(path) = &self.held_out.eval_data {
            config.data.held_out = HeldOut::Path(path.clone());
            config.evaluation.data = None;
        }
        self.held_out.apply(&mut config)?;
        config.context.length = self.context_length.unwrap_or(config.context.length);
        if let Some(kind) = self.context.rope_scaling {
            config.context.rope_scaling = kind;
        }
        config.context.train_length = self.context.train_length.or(config.context.train_length);
        config.attention = self.context.pattern.over(config.attention)?;
        self.adapters.apply(&mut config.adapters);
        self.training.apply(&mut config);
        let offsets = config.adapters.as_ref().and_then(|adapters| adapters.rope_offset);
        ensure!(
            offsets.is_some() || self.training.rope_offset_learning_rate.is_none(),
            "--rope-offset-learning-rate is that of RoPE offsets, and none are trained; add `--rope-offset head`, or leave \
             it out"
        );
        Ok(config.absolute()?)
    }

    /// Also whether a step was taken.
    fn train(
        &self,
        run: &RunFolder,
        config: &FinetuneConfig,
        device: &Device,
        stop: &Stop,
    ) -> Result<(Outcome, bool)> {
        let mut progress = Progress::new();
        let mut report = |event: Event<'_>| progress.event(event);
        announce_weights(&config.model.path);
        let outcome = match self.resume {
            Some(_) => resume(run, device, stop, &mut report)?,
            None => finetune(config, run, device, stop, &mut report)?,
        };
        let has_stepped = progress.has_stepped();
        progress.finish();
        Ok((outcome, has_stepped))
    }
}

/// What is about to happen, before it takes its time.
fn announce(config: &FinetuneConfig, base: &LlamaConfig, device: &Device) -> Trainable {
    let llama = config.trainable(base.init(device));
    let trainable = count_trainable(&llama, &config.selection());
    let (reach, to) = (base.rope.max_position_embeddings, config.context.length);
    let model = config.model.path.display();
    say(&if to > reach {
        format!("extending {model} from {} to {to} tokens", base.rope.original_context())
    } else {
        format!("training {model} at {to} of its {reach} tokens")
    });
    if let Some(window) = config.context.train_length {
        say(&format!("windows have {window} tokens"));
    }
    for (key, probability) in base.ignored_dropout() {
        say(&format!(
            "`{key}` of config.json, {probability}, is not applied: only LoRA drops out (--lora-dropout)"
        ));
    }
    say(&format!("{trainable}"));
    announce_nf4(&llama, config.model.weights);
    trainable
}

/// Whether another process has just taken a number that was free.
fn is_taken(run: &Result<RunFolder, TrainError>) -> bool {
    match run {
        Ok(run) => run.was_there(),
        Err(error) => matches!(error, TrainError::RunExists { .. }),
    }
}

/// `runs/1`, `runs/2`, …
fn next_free_run() -> Result<PathBuf> {
    let free = (1..u32::MAX).map(|number| PathBuf::from(format!("runs/{number}")));
    free.into_iter().find(|path| !path.exists()).context("there is no free number below runs")
}
