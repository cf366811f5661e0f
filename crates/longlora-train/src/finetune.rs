//! The recipe: the whole run, in reading order.

use std::fs;
use std::path::Path;

use burn::tensor::{DType, Device};
use longlora_adapters::AdapterConfig;
use longlora_data::{BatchStream, Corpus, SourceFile, Tokenizer, Windows, copy_companions};
use longlora_llama::{
    AdapterFacts, Llama, LlamaConfig, MAX_SHARD_BYTES, load_pretrained_as, model_files,
    save_adapter, save_pretrained,
};

use crate::checkpoint::Checkpoint;
use crate::config::{FinetuneConfig, HeldOut};
use crate::error::TrainError;
use crate::event::{Event, Reading};
use crate::execution::{MemoryPlan, refuse_large_tensors};
use crate::folder_lock::FolderLock;
use crate::optimizer::Optimizer;
use crate::run_folder::{Manifest, RunFolder};
use crate::session::{Outcome, Session};
use crate::stop::Stop;
use crate::trainee::Trainee;

/// Extends a model's context on its owner's documents, and leaves everything in the run folder.
///
/// # Errors
/// [`TrainError`], before the first step where it can be known by then.
pub fn finetune(
    config: &FinetuneConfig,
    run: &RunFolder,
    device: &Device,
    stop: &Stop,
    report: &mut dyn FnMut(Event<'_>),
) -> Result<Outcome, TrainError> {
    config.validate()?;
    let config = &config.clone().absolute()?;
    let _lock = FolderLock::take(run.path())?;
    run.write("config.toml", &config.to_toml())?;
    let llama = config.trainable(extended_model(config, device)?);
    let (windows, manifest) = training_windows(config, &llama)?;
    run.write_manifest(&manifest)?;
    go_on(config, run, windows, beginning(config, llama), stop, report)
}

/// Goes on from a run's latest checkpoint, and ends bit for bit where the uninterrupted run would have. A run that was
/// stopped before its first checkpoint begins anew.
///
/// # Errors
/// [`TrainError`], also if the model or the texts are no longer what the run began with.
pub fn resume(
    run: &RunFolder,
    device: &Device,
    stop: &Stop,
    report: &mut dyn FnMut(Event<'_>),
) -> Result<Outcome, TrainError> {
    let config = FinetuneConfig::read(&run.config())?;
    config.validate()?;
    let _lock = FolderLock::take(run.path())?;
    let llama = config.trainable(extended_model(&config, device)?);
    let (windows, manifest) = training_windows(&config, &llama)?;
    let checkpoints = run.checkpoints();
    let state = if Checkpoint::exists(&checkpoints)? {
        run.refuse_other_sources(&manifest)?;
        Checkpoint::load(&checkpoints, llama, &config.selection(), &config.training)?
    } else {
        refuse_finished(run)?;
        run.write_manifest(&manifest)?;
        beginning(&config, llama)
    };
    report(Event::Resumed { step: state.0.step, taken: run.steps_taken() });
    go_on(&config, run, windows, state, stop, report)
}

/// The files that say how text becomes tokens.
const TOKENIZER: [&str; 3] = ["tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"];

/// What a run would read and hold in memory, as far as can be known without its weights: they are not read.
///
/// # Errors
/// [`TrainError`], as [`finetune`] before its first step.
pub fn preview(
    config: &FinetuneConfig,
    device: &Device,
) -> Result<(Reading, MemoryPlan), TrainError> {
    config.validate()?;
    let (training, storage) = (&config.training, config.model.weights);
    let base = LlamaConfig::read(&config.model.path)?;
    if let Some(adapters) = &config.adapters {
        base.check_new_adapters(adapters)?;
    }
    base.rope.extended(config.context.rope_scaling, config.context.length)?.validate()?;
    let windows = windows(config, &Corpus::read(&config.data.path)?, base.vocab_size)?;
    let llama = base.init(&device.clone().autodiff()).computing_in(storage.compute_on(device));
    let (llama, selection) = (config.trainable(llama), config.selection());
    refuse_large_tensors(&llama, training, config.context.length)?;
    let plan = MemoryPlan::kept_as(storage, &llama, &selection, training, config.context.length);
    Ok((Reading::of(&windows, training), plan))
}

/// A run without checkpoints begins anew, but not where that would replace a result.
fn refuse_finished(run: &RunFolder) -> Result<(), TrainError> {
    match [run.adapter(), run.model()].iter().find(|result| result.exists()) {
        None => Ok(()),
        Some(result) => Err(TrainError::NotResumable {
            path: run.path().to_owned(),
            reason: format!(
                "it has no checkpoint, and its result is in `{}` already; start a new run",
                result.display()
            ),
        }),
    }
}

/// Before the first step.
fn beginning(config: &FinetuneConfig, llama: Llama) -> (Checkpoint, Llama, Optimizer) {
    let start = Checkpoint { step: 0, tokens: 0 };
    let optimizer = Optimizer::new(&config.training, start.step);
    (start, llama, optimizer)
}

fn go_on(
    config: &FinetuneConfig,
    run: &RunFolder,
    windows: Windows,
    (at, llama, optimizer): (Checkpoint, Llama, Optimizer),
    stop: &Stop,
    report: &mut dyn FnMut(Event<'_>),
) -> Result<Outcome, TrainError> {
    let training = &config.training;
    let selection = config.selection();
    report(Event::Reading(&Reading::of(&windows, training)));
    refuse_large_tensors(&llama, training, config.context.length)?;
    let plan = MemoryPlan::new(&llama, &selection, training, config.context.length);
    report(Event::Planned(&plan));
    let max_grad_norm = (training.max_grad_norm > 0.0).then_some(training.max_grad_norm);
    let session = Session {
        run,
        config: training,
        seed: config.seed,
        selection,
        stream: BatchStream::new(
            windows,
            config.order(),
            training.batch_size,
            training.accumulation,
        ),
        at,
        trainee: Trainee {
            llama,
            pattern: config.attention,
            max_grad_norm,
            execution: plan.execution,
        },
        optimizer,
    };
    // A result that was there before is its owner's, who may have changed it; it is whole if its last file is there.
    let last = match config.adapters {
        Some(_) => run.adapter().join("adapter_config.json"),
        None => run.model().join("config.json"),
    };
    let has_result = at.step == training.steps && last.exists();
    let outcome = session.run(stop, report)?;
    if let Outcome::Finished(llama) = &outcome
        && !has_result
    {
        match &config.adapters {
            Some(adapters) => write_adapter(llama, adapters, config, run)?,
            None => write_model(llama, config, run)?,
        }
    }
    Ok(outcome)
}

fn write_adapter(
    llama: &Llama,
    adapters: &AdapterConfig,
    config: &FinetuneConfig,
    run: &RunFolder,
) -> Result<(), TrainError> {
    let facts = AdapterFacts {
        longlora_version: env!("CARGO_PKG_VERSION").to_owned(),
        context_length: config.context.length,
        training_pattern: config.attention,
        rope: llama.config.rope.clone(),
        rope_offset: adapters.rope_offset,
    };
    let base = config.model.path.display().to_string();
    Ok(save_adapter(llama, adapters, &facts, &base, &run.adapter())?)
}

/// A model of its own: every weight is another one.
fn write_model(llama: &Llama, config: &FinetuneConfig, run: &RunFolder) -> Result<(), TrainError> {
    let (from, model) = (&config.model.path, run.model());
    fs::create_dir_all(&model).map_err(TrainError::file("create", &model))?;
    if from.is_dir() {
        copy_companions(from, &model, config.context.length)?;
    } else {
        Tokenizer::read(from)?.save(&model.join("tokenizer.json"))?;
    }
    // Last: its `config.json` says that the folder is whole.
    Ok(save_pretrained(llama, &model, DType::F32, MAX_SHARD_BYTES)?)
}

/// The base model on the autodiff device, its position embedding stretched.
fn extended_model(config: &FinetuneConfig, device: &Device) -> Result<Llama, TrainError> {
    let model = &config.model;
    let mut llama = load_pretrained_as(&model.path, model.weights, &device.clone().autodiff())?;
    if let Some(adapters) = &config.adapters {
        llama.config.check_new_adapters(adapters)?;
    }
    let context = &config.context;
    llama.config.rope = llama.config.rope.extended(context.rope_scaling, context.length)?;
    llama.config.rope.validate()?;
    Ok(llama)
}

/// The windows to learn from, without the held-out ones, and what the run is made of.
fn training_windows(
    config: &FinetuneConfig,
    llama: &Llama,
) -> Result<(Windows, Manifest), TrainError> {
    let corpus = Corpus::read(&config.data.path)?;
    let windows = windows(config, &corpus, llama.config.vocab_size)?;
    let manifest = Manifest::new(config.seed, &corpus.files, windows.tokens(), windows.len())
        .with_held_out(&held_out_files(config)?);
    let mut sources = model_files(&config.model.path)?;
    if corpus.has_text() {
        let of_tokenizer = TOKENIZER.map(|name| config.model.path.join(name));
        sources.extend(of_tokenizer.into_iter().filter(|path| path.exists()));
    }
    Ok((windows, manifest.with_model(&sources)?))
}

/// The windows to learn from, of which one at least is whole.
fn windows(
    config: &FinetuneConfig,
    corpus: &Corpus,
    vocab_size: usize,
) -> Result<Windows, TrainError> {
    let (windows, _) = split(config, corpus)?;
    windows.check_vocabulary(vocab_size)?;
    let (tokens, length) = (windows.tokens(), config.context.length);
    if tokens < length {
        return Err(TrainError::ShortText { path: config.data.path.clone(), tokens, length });
    }
    Ok(windows)
}

/// The text that the table of a run is measured on, as token ids. Empty, if nothing was held out.
///
/// # Errors
/// [`TrainError`], if the text cannot be read, or has a token that the model does not know.
pub fn held_out_documents(config: &FinetuneConfig) -> Result<Vec<Vec<u32>>, TrainError> {
    let vocab_size = LlamaConfig::read(&config.model.path)?.vocab_size;
    let Some(path) = config.eval_data() else {
        let (_, held_out) = split(config, &Corpus::read(&config.data.path)?)?;
        let documents = held_out.documents();
        for tokens in &documents {
            check_vocabulary(tokens, vocab_size, &config.data.path)?;
        }
        return Ok(documents.into_iter().map(<[u32]>::to_vec).collect());
    };
    let corpus = Corpus::read(path)?;
    let documents = tokenize(config, &corpus)?;
    for (document, tokens) in corpus.documents.iter().zip(&documents) {
        check_vocabulary(tokens, vocab_size, &document.source)?;
    }
    Ok(documents)
}

fn check_vocabulary(tokens: &[u32], vocab_size: usize, path: &Path) -> Result<(), TrainError> {
    match tokens.iter().find(|&&token| token as usize >= vocab_size) {
        None => Ok(()),
        Some(&token) => Err(TrainError::UnknownToken { path: path.to_owned(), token, vocab_size }),
    }
}

/// Notes in the manifest of a run what its table is measured on from now on, as `config` has it: [`resume`] takes it for what
/// the run began with.
///
/// # Errors
/// [`TrainError`], if the text cannot be read, or the disk refuses.
pub fn note_held_out(config: &FinetuneConfig, run: &RunFolder) -> Result<(), TrainError> {
    run.note_held_out(&held_out_files(config)?)
}

/// Those of a table that is wanted, and whose text is not a share of the training text.
fn held_out_files(config: &FinetuneConfig) -> Result<Vec<SourceFile>, TrainError> {
    match config.eval_data() {
        Some(path) if config.evaluation.enabled => Ok(Corpus::read(path)?.files),
        _ => Ok(vec![]),
    }
}

/// `(training, held out)`
fn split(config: &FinetuneConfig, corpus: &Corpus) -> Result<(Windows, Windows), TrainError> {
    let windows = Windows::pack(tokenize(config, corpus)?, config.context.length)?;
    let fraction = match config.data.held_out {
        HeldOut::Fraction(fraction) => fraction,
        HeldOut::Path(_) => 0.0,
    };
    Ok(windows.split_validation(fraction))
}

/// Token ids need no tokenizer, text does.
fn tokenize(config: &FinetuneConfig, corpus: &Corpus) -> Result<Vec<Vec<u32>>, TrainError> {
    let tokenizer = corpus.has_text().then(|| Tokenizer::read(&config.model.path)).transpose()?;
    Ok(corpus.tokenize(tokenizer.as_ref())?)
}
