//! `longlora compare`

mod data;
mod measuring;
mod method;
mod summary;
mod training;
mod verdict;

use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use longlora_adapters::RopeKind;
use longlora_llama::{LlamaConfig, count_trainable};
use longlora_train::{FinetuneConfig, HeldOut, RunFolder};

use crate::comparison::{default_lengths, load_finetuned};
use crate::device::DeviceArgs;
use crate::embedded;
use crate::fingerprint::fingerprint;
use crate::model::{load_stretched, model_folder};
use crate::{print, say};
use data::Text;
use measuring::{Bench, Measured, passkeys};
use method::{METHODS, Method, UNTOUCHED, Way};
use summary::{Row, Summary, Training};
use training::{Cost, Interrupt, Trained, Workshop};

/// Compare ways to a longer context on your own documents, and recommend one.
///
/// Every trained method takes the same number of tokens from the same text, and is measured on the same held-out text:
/// perplexity by length, passkeys, what the short context lost, time and memory. Without a model, the small one inside the
/// program is used. What is finished is kept in the folder: the same command goes on after Ctrl-C, and another method or
/// seed is added to what is there.
#[derive(clap::Args)]
pub(crate) struct Compare {
    /// Hugging Face model folder, or the name of a model that `longlora fetch` has fetched
    #[arg(long, value_name = "DIR|OWNER/NAME", requires = "data", requires = "context_length")]
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
    /// Text to measure on, instead of the last 5 % of the training text
    #[arg(long, value_name = "PATH")]
    eval_data: Option<PathBuf>,
    /// Context lengths to measure, separated by commas [default: half of the model's own, then doubled up to the new one]
    #[arg(long, value_name = "TOKENS,…", value_delimiter = ',')]
    eval_lengths: Vec<usize>,
    /// Measure on so many tokens at most, an equal share from the start of each document
    #[arg(long, value_name = "TOKENS", default_value_t = 65_536)]
    eval_tokens: usize,
    /// Passkeys for each length and depth; 0 leaves them out
    #[arg(long, value_name = "COUNT", default_value_t = 1)]
    passkey_trials: usize,
    #[command(flatten)]
    device: DeviceArgs,
}

impl Compare {
    pub(crate) fn run(self) -> Result<()> {
        let interrupt = Interrupt::listen()?;
        let methods = self.methods()?;
        ensure!(!self.seeds.is_empty(), "name at least one seed with --seeds");
        let config = self.config()?;
        let base = LlamaConfig::read(&config.model.path)?;
        let own = base.rope.original_context();
        ensure!(
            config.context.length > base.rope.max_position_embeddings,
            "the model reaches `{}` tokens by itself; ask for a longer --context-length",
            base.rope.max_position_embeddings
        );
        for folder in ["configs", "runs", "measurements"] {
            let folder = self.out.join(folder);
            std::fs::create_dir_all(&folder)
                .with_context(|| format!("cannot create `{}`", folder.display()))?;
        }
        let text = Text::read(&config, &self.out, self.eval_tokens)?;
        let lengths = self.lengths(&base, config.context.length);
        let bench = Bench {
            folder: self.out.clone(),
            held_out: &text.held_out,
            held_out_sha256: &text.held_out_sha256,
            lengths: &lengths,
            passkeys: match self.passkey_trials {
                0 => None,
                trials => passkeys(&config.model.path, &lengths, trials)?,
            },
        };
        let device = self.device.to_string();
        let workshop = Workshop { folder: self.out.clone(), device, interrupt };
        let mut summary = Summary::new(&config, own, &lengths, &self.device.to_string());
        for method in methods {
            summary.add(self.row(method, &config, &text, &bench, &workshop)?);
            // After each, so that there is something to read while the others are computed.
            summary.write(&self.out)?;
        }
        summary.findings()?.iter().for_each(|finding| print(finding));
        say(&format!("the report is {}", self.out.join("report.html").display()));
        Ok(())
    }

    fn methods(&self) -> Result<Vec<&'static Method>> {
        let given: Vec<&str> = self.methods.iter().map(String::as_str).collect();
        let chosen: Vec<&Method> = match given.as_slice() {
            [] => METHODS.iter().filter(|method| method.usual).collect(),
            ["all"] => METHODS.iter().collect(),
            names => {
                let named: Result<Vec<&Method>, String> =
                    names.iter().map(|name| method::named(name)).collect();
                named.map_err(anyhow::Error::msg)?
            }
        };
        // In the order of the tables, the untouched model first: everything is compared with it.
        let wanted = |method: &&Method| {
            method.name == UNTOUCHED || chosen.iter().any(|one| one.name == method.name)
        };
        Ok(METHODS.iter().filter(wanted).collect())
    }

    fn config(&self) -> Result<FinetuneConfig> {
        let mut config = match (&self.model, &self.data, self.context_length) {
            (Some(model), Some(data), Some(length)) => {
                FinetuneConfig::longlora(model_folder(model)?, data.clone(), length)
            }
            _ => {
                embedded::unpack(&self.out.join("embedded"))?;
                embedded::config(&self.out)?
            }
        };
        if let Some(data) = &self.data {
            config.data.path.clone_from(data);
        }
        if let Some(path) = &self.eval_data {
            config.data.held_out = HeldOut::Path(path.clone());
        }
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
        method: &'static Method,
        config: &FinetuneConfig,
        text: &Text,
        bench: &Bench<'_>,
        workshop: &Workshop,
    ) -> Result<Row> {
        match method.way {
            Way::Untrained(kind) => {
                let measured = self.untrained(method, kind, config, bench)?;
                Ok(Row::untrained(method, measured))
            }
            Way::Trained(change) => {
                let mut config = config.clone();
                change(&mut config);
                self.rate_of_full(&mut config);
                let context_length = config.context.length;
                let training = Training { trainable: self.count(&config)?, context_length };
                let mut seeds = vec![];
                for &seed in &self.seeds {
                    let config = FinetuneConfig { seed, ..config.clone() };
                    let trained = workshop.train(method, config, text)?;
                    let measured = self.trained(method, &trained, bench)?;
                    seeds.push((seed, measured, trained.cost));
                }
                Ok(Row::trained(method, seeds, training))
            }
        }
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
        kind: Option<RopeKind>,
        config: &FinetuneConfig,
        bench: &Bench<'_>,
    ) -> Result<Measured> {
        let model = &config.model;
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
        let pattern = (config.attention, config.context.length);
        bench.measure(&name, &key, Some(pattern), || {
            load_finetuned(config, run, &self.device.open()?)
        })
    }
}

/// Where a run's result is.
fn result(config: &FinetuneConfig, run: &RunFolder) -> PathBuf {
    if config.adapters.is_some() { run.adapter() } else { run.model() }
}
