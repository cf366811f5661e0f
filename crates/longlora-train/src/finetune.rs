//! The recipe: the whole run, in reading order.

use burn::tensor::{DType, Device};
use longlora_adapters::AdapterConfig;
use longlora_data::{BatchStream, Companions, Corpus};
use longlora_llama::{
    AdapterFacts, BaseModel, Llama, LlamaConfig, MAX_SHARD_BYTES, load_pretrained_as, model_files,
    save_adapter, save_pretrained,
};

use crate::checkpoint::Checkpoint;
use crate::config::FinetuneConfig;
use crate::error::TrainError;
use crate::event::{Event, Reading};
use crate::execution::{MemoryPlan, refuse_large_tensors};
use crate::folder_lock::FolderLock;
use crate::optimizer::Optimizer;
use crate::run_folder::{Manifest, RunFolder};
use crate::session::{Outcome, Session};
use crate::stop::Stop;
use crate::text::{Text, held_out_files};
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
    let (text, manifest) = training_text(config, &llama)?;
    run.write_manifest(&manifest)?;
    go_on(config, run, text, beginning(config, llama), stop, report)
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
    let (text, manifest) = training_text(&config, &llama)?;
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
    go_on(&config, run, text, state, stop, report)
}

/// The files that say how text becomes tokens.
const TOKENIZER: [&str; 3] = ["tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"];
/// The file that says how conversations become text, where it is one of its own.
const CHAT_TEMPLATE: &str = "chat_template.jinja";

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
    companions(config)?;
    base.rope.extended(config.context.rope_scaling, config.context.length)?.validate()?;
    let text = Text::read(config, &Corpus::read(&config.data.path)?, base.vocab_size)?;
    let llama = base.init(&device.clone().autodiff()).computing_in(storage.compute_on(device));
    let (llama, selection) = (config.trainable(llama), config.selection());
    refuse_large_tensors(&llama, training, config.context.window())?;
    let plan = MemoryPlan::kept_as(storage, &llama, &selection, training, config.context.window());
    Ok((Reading::of(&text.windows, text.documents, training), plan))
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
    Text { windows, documents }: Text,
    (at, llama, optimizer): (Checkpoint, Llama, Optimizer),
    stop: &Stop,
    report: &mut dyn FnMut(Event<'_>),
) -> Result<Outcome, TrainError> {
    let training = &config.training;
    let selection = config.selection();
    // Read before anything takes its time, and written when it is done.
    let companions = companions(config)?;
    report(Event::Reading(&Reading::of(&windows, documents, training)));
    refuse_large_tensors(&llama, training, config.context.window())?;
    let plan = MemoryPlan::new(&llama, &selection, training, config.context.window());
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
        if let Some(adapters) = &config.adapters {
            write_adapter(llama, adapters, config, run)?;
        }
        if let Some(companions) = &companions {
            write_model(llama, companions, run)?;
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
    let (model, length) = (&config.model, config.context.length);
    let facts = AdapterFacts::new(llama, adapters, length, config.attention).beside(model.weights);
    let base = model.fetched.clone().unwrap_or_else(|| BaseModel::at(&model.path));
    Ok(save_adapter(llama, adapters, &facts, &base, &run.adapter())?)
}

/// What goes with a model of its own; `None` for an adapter, which takes the base's.
fn companions(config: &FinetuneConfig) -> Result<Option<Companions>, TrainError> {
    match config.adapters {
        Some(_) => Ok(None),
        None => Ok(Some(Companions::read(&config.model.path, config.context.length)?)),
    }
}

/// A model of its own: every weight is another one.
fn write_model(llama: &Llama, companions: &Companions, run: &RunFolder) -> Result<(), TrainError> {
    companions.write(&run.model())?;
    // Last: its `config.json` says that the folder is whole.
    Ok(save_pretrained(llama, &run.model(), DType::F32, MAX_SHARD_BYTES)?)
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

/// What is learned from, and what the run is made of.
fn training_text(config: &FinetuneConfig, llama: &Llama) -> Result<(Text, Manifest), TrainError> {
    let corpus = Corpus::read(&config.data.path)?;
    let text = Text::read(config, &corpus, llama.config.vocab_size)?;
    let (tokens, windows) = (text.windows.tokens(), text.windows.len());
    let manifest = Manifest::new(config.seed, &corpus.files, tokens, windows);
    let mut sources = model_files(&config.model.path)?;
    let of_text = if corpus.has_text() { &TOKENIZER[..] } else { &[] };
    let of_conversations = corpus.has_conversations().then_some(&CHAT_TEMPLATE);
    let names = of_text.iter().chain(of_conversations);
    let beside = names.map(|name| config.model.path.join(name));
    sources.extend(beside.filter(|path| path.exists()));
    let manifest = manifest.with_documents(text.documents).with_held_out(&held_out_files(config)?);
    Ok((text, manifest.with_model(&sources)?))
}
