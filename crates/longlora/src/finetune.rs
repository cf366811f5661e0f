//! `longlora finetune`

use std::path::{Path, PathBuf, absolute};

use anyhow::{Context, Result, bail, ensure};
use burn::tensor::Device;
use clap::Args;
use longlora_adapters::RopeKind;
use longlora_eval::{Cost, LossCurve, PerplexityTable, Report};
use longlora_gguf::is_gguf;
use longlora_llama::{LlamaConfig, Trainable, count_trainable, model_files};
use longlora_train::{
    Event, FinetuneConfig, FolderLock, HeldOut, HeldOutText, Outcome, RunFolder, StepReport, Stop,
    TrainError, finetune, held_out_documents, preview, resume,
};

use crate::adapter_args::AdapterArgs;
use crate::comparison::{Comparison, default_lengths, refuse_short};
use crate::device::{DeviceArgs, description};
use crate::embedded;
use crate::held_out::{left_out, share};
use crate::model::{
    WeightKind, fetched, model_folder, refuse_needless_scaling, refuse_unsupported,
};
use crate::pattern::PatternArgs;
use crate::places::{refuse_within, typed};
use crate::progress::{CtrlC, Progress};
use crate::training_args::TrainingArgs;
use crate::{Stopped, in_one_sentence, print, say};

/// Everything that the settings of the run say already: its arguments and groups of arguments.
const NOT_WITH_RESUME: [&str; 25] = [
    "config",
    "model",
    "weights",
    "data",
    "context_length",
    "out",
    "dry_run",
    "ContextArgs",
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
    /// How the matrices of the model are kept: bf16 takes half the memory of f32; what is trained stays f32 [default: f32]
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
    /// Measure on so many tokens at most, an equal share from the start of each document that is long enough
    #[arg(long, value_name = "TOKENS", default_value_t = 65_536)]
    eval_tokens: usize,
    /// Leave the table out
    #[arg(long)]
    no_eval: bool,
}

impl Finetune {
    pub(crate) fn run(self) -> Result<()> {
        if let Some(folder) = &self.resume {
            let run = RunFolder::open(folder)?;
            let mut config = FinetuneConfig::read(&run.config())?;
            let before = config.clone();
            self.training.change(&mut config.training);
            if config != before {
                config.validate()?;
                let _lock = FolderLock::take(run.path())?;
                run.write("config.toml", &config.to_toml())?;
            }
            if let Some(path) = &self.held_out.eval_data {
                config.data.held_out = HeldOut::Path(path.clone());
            }
            return self.train_and_measure(&config, &run, &CtrlC::listen()?);
        }
        let mut out = self.out.clone().map_or_else(next_free_run, Ok)?;
        let mut config = self.resolve(&out)?;
        config.validate()?;
        if self.dry_run {
            print(&config.to_toml());
            return self.preview(config);
        }
        refuse_within(&out, &config.data.path)?;
        if let HeldOut::Path(path) = &config.data.held_out {
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
        done
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
        self.held_out.plan(&config, &base)?;
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
        let table = self.held_out.plan(config, &base)?;
        let trainable = announce(config, &base, &device);
        say(&format!("run folder: {}", run.path().display()));
        let outcome = self.train(run, config, &device, &ctrl_c.stop)?;
        ctrl_c.training_is_over();
        match (outcome, table) {
            (Outcome::Finished(_), None) => say(&result_of(config, run)),
            (Outcome::Finished(_), Some(table)) => {
                let place = format!("{} ({})", self.device, description(&device).1);
                finish(config, run, &table, &trainable, (&device, &place))?;
            }
            (Outcome::Stopped { step }, _) => {
                let path = typed(run.path());
                let how =
                    format!("stopped after step {step}; go on with: finetune --resume {path}");
                return Err(Stopped(how).into());
            }
        }
        if config.adapters.is_some() && is_gguf(&config.model.path) {
            say(&format!(
                "Python takes no GGUF file as the base of an adapter; `longlora convert {} --out DIR` makes a folder of it",
                typed(&config.model.path)
            ));
        }
        Ok(())
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
        }
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

    fn train(
        &self,
        run: &RunFolder,
        config: &FinetuneConfig,
        device: &Device,
        stop: &Stop,
    ) -> Result<Outcome> {
        let mut progress = Progress::new();
        let mut report = |event: Event<'_>| progress.event(event);
        let outcome = match self.resume {
            Some(_) => resume(run, device, stop, &mut report)?,
            None => finetune(config, run, device, stop, &mut report)?,
        };
        progress.finish();
        Ok(outcome)
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
    trainable
}

/// What the table at the end is measured on.
struct TablePlan {
    documents: Vec<Vec<u32>>,
    lengths: Vec<usize>,
}

impl HeldOutArgs {
    /// Reads the held-out text before the first step: a table that cannot be made is a mistake to hear of now. `None`, if
    /// none is wanted, or nothing is held out.
    fn plan(&self, config: &FinetuneConfig, base: &LlamaConfig) -> Result<Option<TablePlan>> {
        if self.no_eval {
            return Ok(None);
        }
        let HeldOutText { mut documents, has_conversations } = held_out_documents(config)?;
        if documents.is_empty() {
            say("nothing is held out, so there will be no table; --eval-data gives text for it");
            return Ok(None);
        }
        if has_conversations {
            say(
                "the table reads held-out conversations as texts: what is asked counts as what is answered",
            );
        }
        refuse_short("--eval-lengths", self.eval_lengths.as_deref().unwrap_or_default())?;
        let lengths = match &self.eval_lengths {
            Some(lengths) => lengths.clone(),
            None => default_lengths(base, config.context.length),
        };
        if let HeldOut::Fraction(_) = config.data.held_out {
            joined_if_short(&mut documents, &lengths);
        }
        let length = lengths.iter().copied().max().unwrap_or_default();
        let longest = documents.iter().map(Vec::len).max().unwrap_or_default();
        let without = share(&mut documents, self.eval_tokens, length);
        if documents.is_empty() {
            let reach = longest.min(self.eval_tokens);
            bail!(
                "the table needs a held-out document of `{length}` tokens, and the longest has `{longest}`, of which \
                 `{reach}` would be used; give longer text with --eval-data, other --eval-lengths or --eval-tokens, or \
                 --no-eval"
            );
        }
        if let Some(said) = left_out(&documents, without, self.eval_tokens) {
            say(&said);
        }
        Ok(Some(TablePlan { documents, lengths }))
    }
}

/// Documents that happened to be held out and none of which is as long as the longest length become one text: better a table
/// that says less than none.
fn joined_if_short(documents: &mut Vec<Vec<u32>>, lengths: &[usize]) {
    let needed = lengths.iter().copied().max().unwrap_or_default();
    let longest = documents.iter().map(Vec::len).max().unwrap_or_default();
    if longest < needed && documents.len() > 1 {
        say(&format!(
            "the longest of {} held-out documents has {longest} tokens, so the table reads them as one text; what {needed} \
             tokens of one document are worth is told by --eval-data with longer ones",
            documents.len()
        ));
        *documents = vec![documents.concat()];
    }
}

/// The table, on standard output and in a report.
fn finish(
    config: &FinetuneConfig,
    run: &RunFolder,
    TablePlan { documents, lengths }: &TablePlan,
    trainable: &Trainable,
    (device, place): (&Device, &str),
) -> Result<()> {
    let comparison = Comparison::measure(config, run, documents, lengths, device)?;
    let findings = comparison.findings()?;
    let table = comparison.table.to_text();
    let report = report(config, run, comparison.table, findings, trainable, place)?;
    run.write("report.json", &report.to_json())?;
    run.write("report.md", &report.to_markdown())?;
    run.write("report.html", &report.to_html()?)?;
    print(&table);
    report.findings.iter().for_each(|finding| print(finding));
    say(&format!("{}, the report in report.html beside it", result_of(config, run)));
    // The model that is included finds nothing to begin with.
    if !config.model.path.starts_with(absolute(run.path())?) {
        say(&format!(
            "perplexity does not tell what it still finds; {} does",
            passkeys_of(config, run)
        ));
    }
    Ok(())
}

/// The command that asks for passkeys.
fn passkeys_of(config: &FinetuneConfig, run: &RunFolder) -> String {
    let model = match config.adapters {
        Some(_) => {
            let (model, adapter) = (config.model.path.display(), run.adapter());
            format!("--model {model} --adapter {}", adapter.display())
        }
        None => format!("--model {}", run.model().display()),
    };
    format!("eval passkey {model} --lengths {}", config.context.length)
}

/// All that was measured of a run.
fn report(
    config: &FinetuneConfig,
    run: &RunFolder,
    perplexity: PerplexityTable,
    findings: Vec<String>,
    trainable: &Trainable,
    place: &str,
) -> Result<Report> {
    let steps = run.metrics()?;
    let model = config.model.path.display().to_string();
    let facts = [
        ("model", model.clone()),
        ("data", config.data.path.display().to_string()),
        (
            "trained",
            format!("{} parameters for {} steps", trainable.total(), config.training.steps),
        ),
        ("seed", config.seed.to_string()),
        ("device", place.to_owned()),
        ("longlora", env!("CARGO_PKG_VERSION").to_owned()),
    ];
    let points = steps.iter().map(|step| (step.step, step.loss)).collect();
    Ok(Report {
        title: format!("{model} at {} tokens", config.context.length),
        facts: facts.map(|(name, value)| (name.to_owned(), value)).to_vec(),
        findings,
        perplexity,
        costs: vec![Cost {
            name: "training".to_owned(),
            context: config.context.window(),
            seconds: steps.iter().map(|step| step.step_time_ms / 1000.0).sum(),
            peak_memory_bytes: steps.iter().filter_map(StepReport::memory_bytes).max(),
            trainable: Some(trainable.total() as u64),
        }],
        losses: vec![LossCurve { name: "training".to_owned(), points }],
        ..Report::default()
    })
}

/// Where the result is.
fn result_of(config: &FinetuneConfig, run: &RunFolder) -> String {
    match config.adapters {
        Some(_) => format!("the adapter is in {}", run.adapter().display()),
        None => format!("the model is in {}", run.model().display()),
    }
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
