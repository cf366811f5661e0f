//! `longlora compare`

mod data;
mod ledger;
mod measuring;
mod method;
mod summary;
mod training;
mod verdict;

use std::collections::BTreeMap;
use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use burn::tensor::Device;
use longlora_adapters::RopeKind;
use longlora_llama::{Llama, LlamaConfig, WeightStorage, count_trainable};
use longlora_train::{FinetuneConfig, FolderLock, HeldOut, RunFolder};

use crate::comparison::{default_lengths, refuse_short};
use crate::count::any_number;
use crate::device::DeviceArgs;
use crate::embedded;
use crate::fingerprint::fingerprint;
use crate::model::{WeightKind, fetched, load_stretched, model_folder, refuse_unsupported};
use crate::places::refuse_within;
use crate::{print, say};
use data::Text;
use ledger::Ledger;
use measuring::{Bench, Measured, passkeys};
use method::{METHODS, Method, UNTOUCHED, Way};
use summary::{Row, Summary, Training};
use training::{Cost, Interrupt, Trained, TrainingFailed, Workshop};

/// Compare ways to a longer context on your own documents, and recommend one.
///
/// Every trained method takes the same number of tokens from the same text, and is measured on the same held-out text:
/// perplexity by length, passkeys, what the short context lost, time and memory. Without a model, the small one inside the
/// program is used. What is finished is kept in the folder: the same command goes on after Ctrl-C, and another method or
/// seed is added to what is there; other settings need another folder.
#[derive(clap::Args)]
pub(crate) struct Compare {
    /// Hugging Face model folder or GGUF file, or the name of a model that `longlora fetch` has fetched
    #[arg(long, value_name = "PATH|OWNER/NAME", requires = "data", requires = "context_length")]
    model: Option<PathBuf>,
    /// Text: a .txt, .md, .jsonl or .jsonl.gz (field `text`), .json or .bin (token ids) file, or a folder of them
    #[arg(long, value_name = "PATH")]
    data: Option<PathBuf>,
    /// The context to reach, in tokens
    #[arg(long, value_name = "TOKENS", visible_alias = "context-size")]
    context_length: Option<usize>,
    /// Where everything goes
    #[arg(long, value_name = "DIR", default_value = "comparison")]
    out: PathBuf,
    /// Methods, separated by commas, or `all` [default: those of a user; `all` adds the ablations of the paper]
    #[arg(long, value_name = "METHOD,…", value_delimiter = ',')]
    methods: Vec<String>,
    /// Seeds of each trained method, separated by commas
    #[arg(long, value_name = "SEED,…", value_delimiter = ',', default_values_t = [0])]
    seeds: Vec<u64>,
    /// RoPE scaling of the trained methods; LongLoRA's is linear
    #[arg(long, value_name = "SCALING", default_value = "linear")]
    rope_scaling: RopeKind,
    /// Optimizer steps of each trained method
    #[arg(long, value_name = "STEPS")]
    steps: Option<u64>,
    /// Windows per step, one after the other
    #[arg(long, value_name = "COUNT", visible_alias = "grad-accum")]
    accumulation: Option<usize>,
    /// Peak learning rate of all that is trained but the whole model
    #[arg(long, value_name = "RATE", visible_alias = "lr")]
    learning_rate: Option<f64>,
    /// Peak learning rate of full fine-tuning [default: that of norms and embeddings]
    #[arg(long, value_name = "RATE")]
    full_learning_rate: Option<f64>,
    /// How the matrices of the model are kept, in training and in every measurement: bf16 takes half the memory of f32, nf4 a
    /// seventh for the layers; without full fine-tuning, which freezes none
    #[arg(long, value_name = "TYPE", default_value = "f32")]
    weights: WeightKind,
    /// Text to measure on, instead of the last 5 % of the training text
    #[arg(long, value_name = "PATH")]
    eval_data: Option<PathBuf>,
    /// Context lengths to measure, separated by commas [default: half of the model's own, then doubled up to the new one]
    #[arg(long, value_name = "TOKENS,…", value_delimiter = ',')]
    eval_lengths: Vec<usize>,
    /// Measure on so many tokens at most, an equal share from the start of each document that is long enough
    #[arg(long, value_name = "TOKENS", default_value_t = 65_536)]
    eval_tokens: usize,
    /// Passkeys for each length and depth; 0 leaves them out
    #[arg(long, value_name = "COUNT", default_value_t = 1, value_parser = any_number::<usize>())]
    passkey_trials: usize,
    #[command(flatten)]
    device: DeviceArgs,
}

/// A method, and the settings of its training if it has one.
struct Plan {
    method: &'static Method,
    training: Option<FinetuneConfig>,
}

/// A comparison whose settings are possible, and belong to its folder.
struct Begun {
    base: LlamaConfig,
    /// To measure at, in tokens.
    lengths: Vec<usize>,
    text: Text,
    model_sha256: String,
    ledger: Ledger,
    plans: Vec<Plan>,
}

/// What every row is made with.
struct Tools<'a> {
    /// Of plain LongLoRA.
    config: &'a FinetuneConfig,
    text: &'a Text,
    bench: Bench<'a>,
    workshop: Workshop,
}

impl Compare {
    pub(crate) fn run(self) -> Result<()> {
        let interrupt = Interrupt::listen()?;
        ensure!(!self.seeds.is_empty(), "name at least one seed with --seeds");
        refuse_short("--eval-lengths", &self.eval_lengths)?;
        let chosen = self.chosen()?;
        let config = self.config()?;
        refuse_unsupported(config.model.weights, &self.device.open()?)?;
        let is_new = !self.out.exists();
        std::fs::create_dir_all(&self.out)
            .with_context(|| format!("cannot create `{}`", self.out.display()))?;
        // Before anything is done in the folder, which may be another process's.
        let _lock = FolderLock::take(&self.out)?;
        let begun = self.begin(&config, &chosen);
        // A folder that was there before is not ours to remove.
        if is_new && begun.is_err() {
            self.discard()?;
        }
        let Begun { base, lengths, mut text, model_sha256, mut ledger, plans } = begun?;
        text.leave_in(&self.out)?;
        let device = self.device.to_string();
        let mut summary = Summary::new(&config, base.rope.original_context(), &lengths, &device);
        let workshop = Workshop { folder: self.out.clone(), device, model_sha256, interrupt };
        let bench = self.bench(&config, &text, &lengths)?;
        let tools = Tools { config: &config, text: &text, bench, workshop };
        let failures = self.fill(&mut summary, plans, &mut ledger, &tools)?;
        summary.findings()?.iter().for_each(|finding| print(finding));
        say(&format!("the report is {}", self.out.join("report.html").display()));
        ensure!(failures.is_empty(), "{}", failures.join("; "));
        Ok(())
    }

    /// All that can be refused after the options alone, up to the settings that the folder keeps.
    fn begin(&self, config: &FinetuneConfig, chosen: &[&Method]) -> Result<Begun> {
        if self.model.is_none() {
            embedded::unpack(&self.out.join("embedded"))?;
        }
        let base = extendable(config)?;
        let lengths = self.lengths(&base, config.context.length);
        let text = Text::read(config, self.eval_tokens)?;
        text.refuse_longer(&lengths)?;
        let model_sha256 =
            fingerprint(&[&config.model.path], &format!("{:?}", config.model.weights))?;
        self.make_folders()?;
        let settings = self.settings(config, &text, &lengths, &model_sha256);
        let names = chosen.iter().map(|method| method.name.to_owned());
        let ledger = Ledger::open(&self.out, settings, names, &self.seeds)?;
        let plans = self.plans(config, &ledger)?;
        // Not before the folder is known to be of these settings, and these to be possible.
        ledger.save()?;
        Ok(Begun { base, lengths, text, model_sha256, ledger, plans })
    }

    /// Removes the folder, which this command has made.
    fn discard(&self) -> Result<()> {
        if !self.out.exists() {
            return Ok(());
        }
        std::fs::remove_dir_all(&self.out)
            .with_context(|| format!("cannot remove `{}`", self.out.display()))
    }

    fn make_folders(&self) -> Result<()> {
        for folder in ["configs", "runs", "measurements"] {
            let folder = self.out.join(folder);
            std::fs::create_dir_all(&folder)
                .with_context(|| format!("cannot create `{}`", folder.display()))?;
        }
        Ok(())
    }

    fn bench<'a>(
        &self,
        config: &FinetuneConfig,
        text: &'a Text,
        lengths: &'a [usize],
    ) -> Result<Bench<'a>> {
        Ok(Bench {
            folder: self.out.clone(),
            held_out: &text.held_out,
            held_out_sha256: &text.held_out_sha256,
            lengths,
            passkeys: match self.passkey_trials {
                0 => None,
                trials => passkeys(&config.model.path, lengths, trials)?,
            },
        })
    }

    /// A row for each plan, and the report; returns what could not be trained.
    fn fill(
        &self,
        summary: &mut Summary,
        plans: Vec<Plan>,
        ledger: &mut Ledger,
        tools: &Tools<'_>,
    ) -> Result<Vec<String>> {
        let mut failures = vec![];
        for plan in plans {
            match self.row(plan, ledger.seeds(), tools) {
                Err(error) if error.is::<TrainingFailed>() => failures.push(error.to_string()),
                row => summary.add(row?),
            }
            // After each, so that there is something to read while the others are computed.
            if ledger.may_replace(summary.rows()) {
                summary.write(&self.out)?;
                ledger.has_reported(summary.rows())?;
            }
        }
        summary.write(&self.out)?;
        ledger.has_reported(summary.rows())?;
        Ok(failures)
    }

    /// The methods that are named.
    fn chosen(&self) -> Result<Vec<&'static Method>> {
        let given: Vec<&str> = self.methods.iter().map(String::as_str).collect();
        match given.as_slice() {
            [] => Ok(METHODS.iter().filter(|method| method.usual).collect()),
            ["all"] => Ok(METHODS.iter().collect()),
            names => {
                let named: Result<Vec<&Method>, String> =
                    names.iter().map(|name| method::named(name)).collect();
                named.map_err(anyhow::Error::msg)
            }
        }
    }

    /// What the folder is to hold, in the order of the tables, the untouched model first: everything is compared with it.
    /// Checked before anything takes its time.
    fn plans(&self, config: &FinetuneConfig, ledger: &Ledger) -> Result<Vec<Plan>> {
        let wanted = |method: &&Method| method.name == UNTOUCHED || ledger.wants(method.name);
        let mut plans: Vec<Plan> = vec![];
        for method in METHODS.iter().filter(wanted) {
            let training = match method.way {
                Way::Untrained(_) => None,
                Way::Trained(change) => {
                    let mut config = config.clone();
                    change(&mut config);
                    self.rate_of_full(&mut config);
                    let weights = config.model.weights;
                    if config.adapters.is_none() && weights != WeightStorage::F32 {
                        let named = self.methods.iter().any(|name| name == method.name);
                        ensure!(
                            !named && self.full_learning_rate.is_none(),
                            "{} freezes no weights that could be kept in `{weights}`; leave it out, or give --weights f32",
                            method.title
                        );
                        say(&format!(
                            "{} is left out: it freezes no weights that could be kept in {weights}",
                            method.title
                        ));
                        continue;
                    }
                    config.validate()?;
                    Some(config)
                }
            };
            let same = |plan: &&Plan| training.is_some() && plan.training == training;
            match plans.iter().find(same) {
                None => plans.push(Plan { method, training }),
                Some(Plan { method: same, .. }) => say(&format!(
                    "{} is left out: with these settings it is {}",
                    method.title, same.title
                )),
            }
        }
        let of_full =
            |plan: &Plan| plan.training.as_ref().is_some_and(|one| one.adapters.is_none());
        ensure!(
            self.full_learning_rate.is_none() || plans.iter().any(of_full),
            "--full-learning-rate is that of full fine-tuning, which is not among the methods; add `full`, or leave it out"
        );
        Ok(plans)
    }

    /// What every number of the folder depends on.
    fn settings(
        &self,
        config: &FinetuneConfig,
        text: &Text,
        lengths: &[usize],
        model_sha256: &str,
    ) -> BTreeMap<String, String> {
        let FinetuneConfig { context, training, .. } = config;
        let mut full = config.clone();
        full.adapters = None;
        self.rate_of_full(&mut full);
        let rates = training.learning_rates;
        let settings = [
            ("base model", model_sha256.to_owned()),
            ("text to learn from", text.train_sha256.clone()),
            ("text to measure on", text.held_out_sha256.clone()),
            ("context", context.length.to_string()),
            ("RoPE scaling", context.rope_scaling.to_string()),
            ("number of steps", training.steps.to_string()),
            (
                "number of windows per step",
                (training.batch_size * training.accumulation).to_string(),
            ),
            ("learning rate", format!("{} and {}", rates.lora, rates.norms_and_embeddings)),
            ("learning rate of full fine-tuning", full.training.learning_rates.lora.to_string()),
            ("list of lengths", format!("{lengths:?}")),
            ("number of passkeys", self.passkey_trials.to_string()),
            ("device", self.device.to_string()),
        ];
        settings.map(|(key, value)| (key.to_owned(), value)).into()
    }

    fn config(&self) -> Result<FinetuneConfig> {
        for data in self.data.iter().chain(&self.eval_data) {
            refuse_within(&self.out, data)?;
        }
        let mut config = match (&self.model, &self.data, self.context_length) {
            (Some(model), Some(data), Some(length)) => {
                let folder = model_folder(model)?;
                let fetched = fetched(model, &folder);
                let mut config = FinetuneConfig::longlora(folder, data.clone(), length);
                config.model.fetched = fetched;
                config
            }
            _ => embedded::config(&self.out)?,
        };
        if let Some(data) = &self.data {
            config.data.path.clone_from(data);
            config.data.held_out = HeldOut::Fraction(0.05);
        }
        if let Some(path) = &self.eval_data {
            config.data.held_out = HeldOut::Path(path.clone());
        }
        config.model.weights = self.weights.into();
        config.context.length = self.context_length.unwrap_or(config.context.length);
        config.context.rope_scaling = self.rope_scaling;
        let training = &mut config.training;
        training.steps = self.steps.unwrap_or(training.steps);
        training.accumulation = self.accumulation.unwrap_or(training.accumulation);
        if let Some(rate) = self.learning_rate {
            training.learning_rates.lora = rate;
            training.learning_rates.norms_and_embeddings = rate;
        }
        let config = method::plain(config.absolute()?);
        config.validate()?;
        Ok(config)
    }

    fn lengths(&self, base: &LlamaConfig, context_length: usize) -> Vec<usize> {
        if !self.eval_lengths.is_empty() {
            let mut lengths = self.eval_lengths.clone();
            lengths.sort_unstable();
            lengths.dedup();
            return lengths;
        }
        let half = (base.rope.original_context() / 2).max(2);
        let mut lengths = default_lengths(base, context_length);
        lengths.insert(0, half);
        lengths.dedup();
        lengths
    }

    fn row(
        &self,
        Plan { method, training }: Plan,
        seeds: &[u64],
        Tools { config, text, bench, workshop }: &Tools<'_>,
    ) -> Result<Row> {
        let (Way::Trained(_), Some(training)) = (&method.way, training) else {
            return Ok(Row::untrained(method, self.untrained(method, config, bench)?));
        };
        let context_length = training.context.window();
        let what = Training { trainable: self.count(&training)?, context_length };
        let mut of_seeds = vec![];
        for &seed in seeds {
            let config = FinetuneConfig { seed, ..training.clone() };
            let trained = workshop.train(method, config, text)?;
            let measured = self.trained(method, &trained, bench)?;
            of_seeds.push((seed, measured, trained.cost));
        }
        Ok(Row::trained(method, of_seeds, what))
    }

    /// The rate of everything, where everything is trained.
    fn rate_of_full(&self, config: &mut FinetuneConfig) {
        let rates = &mut config.training.learning_rates;
        if config.adapters.is_none() {
            let rate = self.full_learning_rate.unwrap_or(rates.norms_and_embeddings);
            rates.lora = rate;
            rates.norms_and_embeddings = rate;
        }
    }

    /// What is trained, in parameters.
    fn count(&self, config: &FinetuneConfig) -> Result<u64> {
        let llama = LlamaConfig::read(&config.model.path)?.init(&self.device.open()?);
        Ok(count_trainable(&config.trainable(llama), &config.selection()).total() as u64)
    }

    fn untrained(
        &self,
        method: &Method,
        config: &FinetuneConfig,
        bench: &Bench<'_>,
    ) -> Result<Measured> {
        let model = &config.model;
        let kind = match method.way {
            Way::Untrained(kind) => kind,
            Way::Trained(_) => None,
        };
        let stretch = kind.map(|kind| (kind, config.context.length));
        let key = fingerprint(&[&model.path], &format!("{stretch:?} {:?}", model.weights))?;
        bench.measure(method.name, &key, None, || {
            load_stretched(&model.path, model.weights, stretch, &self.device.open()?, None)
        })
    }

    fn trained(&self, method: &Method, trained: &Trained, bench: &Bench<'_>) -> Result<Measured> {
        let Trained { config, run, .. } = trained;
        let result = result(config, run);
        let key =
            fingerprint(&[&config.model.path, &result], &format!("{:?}", config.model.weights))?;
        let name = format!("{}-seed{}", method.name, config.seed);
        let pattern = (config.attention, config.context.window());
        bench.measure(&name, &key, Some(pattern), || {
            load_finetuned(config, run, &self.device.open()?)
        })
    }
}

/// The base model, which has to be one whose context is to grow.
fn extendable(config: &FinetuneConfig) -> Result<LlamaConfig> {
    let base = LlamaConfig::read(&config.model.path)?;
    let reach = base.rope.max_position_embeddings;
    ensure!(
        config.context.length > reach,
        "the model reaches `{reach}` tokens by itself; ask for a longer --context-length"
    );
    Ok(base)
}

/// Where a run's result is.
fn result(config: &FinetuneConfig, run: &RunFolder) -> PathBuf {
    if config.adapters.is_some() { run.adapter() } else { run.model() }
}

/// The result of a run: the base with its adapter, or a model of its own.
fn load_finetuned(config: &FinetuneConfig, run: &RunFolder, device: &Device) -> Result<Llama> {
    let (base, weights) = (&config.model.path, config.model.weights);
    match config.adapters {
        Some(_) => load_stretched(base, weights, None, device, Some(&run.adapter())),
        None => load_stretched(&run.model(), weights, None, device, None),
    }
}
