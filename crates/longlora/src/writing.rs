//! Text that a model writes at the terminal: how its tokens are chosen, where it ends, how fast it came.

use std::io::Write;
use std::ops::ControlFlow;
use std::process::exit;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use clap::Args;
use longlora_data::{DecodeStream, Tokenizer};
use longlora_llama::{GenerateOptions, KvCache, Llama, Sampling, StopReason, Streaming};

use crate::model::{ModelArgs, WeightKind};
use crate::stop_strings::StopStrings;
use crate::{say, signals};

/// Sinks of StreamingLLM's paper.
const SINKS: usize = 4;

/// How text is written.
#[derive(Args)]
pub(crate) struct WritingArgs {
    /// How the matrices of the model are kept, an adapter merged into them: bf16 takes half the memory of f32; nf4 a seventh for the layers, with the adapter beside them
    #[arg(long, value_name = "TYPE", default_value = "f32")]
    weights: WeightKind,
    /// 0 takes the likeliest token, 1 draws one as the model has learnt, what lies between draws more carefully
    #[arg(long, value_name = "NUMBER", default_value_t = 0.0)]
    temperature: f64,
    /// Draw among so many of the likeliest tokens
    #[arg(long, value_name = "TOKENS")]
    top_k: Option<usize>,
    /// Draw among the likeliest tokens that together have this probability
    #[arg(long, value_name = "PROBABILITY")]
    top_p: Option<f64>,
    /// Draw among tokens at least this likely, relative to the likeliest one
    #[arg(long, value_name = "SHARE")]
    min_p: Option<f64>,
    /// Above 1: make tokens that the text has already less likely
    #[arg(long, value_name = "FACTOR", default_value_t = 1.0)]
    repetition_penalty: f64,
    /// Seed of the draws
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// End before this text, or at this special token; may be given several times
    #[arg(long, value_name = "TEXT")]
    stop: Vec<String>,
    /// For text without an end (StreamingLLM): keep the last so many tokens, and the sinks, in the cache
    #[arg(long, value_name = "TOKENS")]
    window: Option<usize>,
    /// First tokens that stay beside the window [default: 4]
    #[arg(long, value_name = "TOKENS", requires = "window")]
    sinks: Option<usize>,
}

impl WritingArgs {
    fn sampling(&self) -> Result<Sampling> {
        let Self { temperature, top_k, top_p, min_p, repetition_penalty, seed, .. } = *self;
        let sampling = Sampling { temperature, top_k, top_p, min_p, repetition_penalty, seed };
        sampling.validate()?;
        let chooses = top_k.is_some() || top_p.is_some() || min_p.is_some();
        ensure!(
            temperature > 0.0 || !chooses,
            "--top-k, --top-p and --min-p say what is drawn from, and at temperature `0` nothing is drawn; \
             give a --temperature, too"
        );
        Ok(sampling)
    }

    fn streaming(&self, context: usize) -> Result<Option<Streaming>> {
        let Some(window) = self.window else { return Ok(None) };
        let sinks = self.sinks.unwrap_or(SINKS);
        ensure!(window > 0, "a --window of `0` tokens sees nothing; give at least 1");
        ensure!(
            sinks.checked_add(window).is_some_and(|held| held <= context),
            "`{sinks}` sinks and a window of `{window}` are more than the `{context}` tokens that the model reaches; \
             choose a smaller --window"
        );
        Ok(Some(Streaming { sinks, window }))
    }
}

/// A model that writes.
pub(crate) struct Writer {
    pub(crate) llama: Llama,
    pub(crate) tokenizer: Tokenizer,
    /// As asked for.
    pub(crate) options: GenerateOptions,
    stops: Vec<String>,
    interrupt: Interrupt,
}

impl Writer {
    pub(crate) fn load(
        model: &ModelArgs,
        writing: &WritingArgs,
        max_new_tokens: usize,
    ) -> Result<Self> {
        let sampling = writing.sampling()?;
        ensure!(
            !writing.stop.iter().any(String::is_empty),
            "a --stop `` ends every text; give some text"
        );
        let tokenizer = model.tokenizer()?;
        // An update of low rank costs little in training, and two products per layer and token here.
        let llama = model.load(writing.weights.into(), None)?.for_generation();
        let streaming = writing.streaming(llama.config.rope.max_position_embeddings)?;
        // Special tokens are in no text, so that no string would be found in it.
        let special = |stop: &String| tokenizer.special_token_id(stop);
        let stops = writing.stop.iter().filter(|stop| special(stop).is_none()).cloned().collect();
        let eos = tokenizer.special_tokens().eos.iter().map(|eos| eos.id);
        let eos_token_ids = eos.chain(writing.stop.iter().filter_map(special)).collect();
        let options = GenerateOptions {
            max_new_tokens,
            sampling,
            streaming,
            eos_token_ids,
            ..Default::default()
        };
        let interrupt = Interrupt::listen()?;
        Ok(Self { llama, tokenizer, options, stops, interrupt })
    }

    /// Refuses tokens that the model does not have.
    pub(crate) fn check_vocabulary(&self, ids: &[u32]) -> Result<()> {
        let vocab = self.llama.config.vocab_size;
        match ids.iter().find(|&&id| id as usize >= vocab) {
            None => Ok(()),
            Some(id) => anyhow::bail!(
                "the tokenizer gives token id `{id}`, and the model's vocabulary has `{vocab}` entries; \
                 is it this model's tokenizer?"
            ),
        }
    }

    /// Reads `new` after the cache, and writes on to standard output, after the text of `before`. Returns what was
    /// written; how fast it went goes to standard error.
    pub(crate) fn write(
        &self,
        before: &[u32],
        new: &[u32],
        cache: &mut KvCache,
        options: &GenerateOptions,
    ) -> Result<String> {
        let mut voice = Voice::new(&self.tokenizer, before, &self.stops)?;
        let mut speed = Speed::start(new.len());
        self.interrupt.begin();
        let generated = self.llama.generate_after(new, cache, options, |id| {
            speed.token();
            let said = voice.say(id);
            if self.interrupt.requested() { ControlFlow::Break(()) } else { said }
        });
        self.interrupt.end();
        speed.stop();
        let text = voice.finish()?;
        ensure!(
            generated.stop != StopReason::NotFinite,
            "the model computes NaN or infinity; is there a damaged weight, or a number in its config.json or adapter that \
             makes no sense?"
        );
        say(&speed.report(generated.ids.len()));
        Ok(text)
    }
}

/// Shows tokens as text on standard output, as soon as the text is final.
struct Voice<'a> {
    stream: DecodeStream<'a>,
    stops: StopStrings,
    text: String,
    failure: Option<anyhow::Error>,
}

impl<'a> Voice<'a> {
    /// Shows the text of `before`, in which stop strings do not count.
    fn new(tokenizer: &'a Tokenizer, before: &[u32], stops: &[String]) -> Result<Self> {
        show(&tokenizer.decode(before)?)?;
        let stream = tokenizer.decode_stream_after(before)?;
        Ok(Self { stream, stops: StopStrings::new(stops), text: String::new(), failure: None })
    }

    fn say(&mut self, id: u32) -> ControlFlow<()> {
        let piece = self.stream.push(id).map_err(anyhow::Error::from);
        let shown = piece.and_then(|piece| self.pass_on(&piece));
        self.failure = shown.err();
        if self.stops.found() || self.failure.is_some() {
            return ControlFlow::Break(());
        }
        ControlFlow::Continue(())
    }

    fn pass_on(&mut self, piece: &str) -> Result<()> {
        let passed = self.stops.push(piece);
        self.text += &passed;
        show(&passed)
    }

    /// Shows the rest, and returns all that was written.
    fn finish(self) -> Result<String> {
        let Self { stream, mut stops, text, failure } = self;
        if let Some(failure) = failure {
            return Err(failure);
        }
        let rest = stops.push(&stream.finish()) + &stops.finish();
        show(&rest)?;
        show("\n")?;
        Ok(text + &rest)
    }
}

/// Text to standard output, at once.
fn show(text: &str) -> Result<()> {
    let mut output = std::io::stdout().lock();
    output
        .write_all(text.as_bytes())
        .and_then(|()| output.flush())
        .context("cannot write to standard output")
}

/// Tokens per second of the two parts of the work.
struct Speed {
    read: usize,
    started: Instant,
    first: Option<Instant>,
    stopped: Instant,
}

impl Speed {
    fn start(read: usize) -> Self {
        let started = Instant::now();
        Self { read, started, first: None, stopped: started }
    }

    fn token(&mut self) {
        self.first.get_or_insert_with(Instant::now);
    }

    fn stop(&mut self) {
        self.stopped = Instant::now();
    }

    /// The first token comes with the reading, so that the speed of writing is that of the others.
    fn report(&self, written: usize) -> String {
        let per_second = |tokens: usize, from: Instant, to: Instant| {
            tokens as f64 / (to - from).as_secs_f64().max(1e-9)
        };
        let first = self.first.unwrap_or(self.stopped);
        let reading = per_second(self.read, self.started, first);
        let read = format!("read {} tokens at {reading:.1} tokens/s", self.read);
        if written < 2 {
            return format!("{read}, wrote {written}");
        }
        let writing = per_second(written - 1, first, self.stopped);
        format!("{read}, wrote {written} at {writing:.1} tokens/s")
    }
}

/// Ctrl-C ends the text that is being written; a second one, or one at any other time, ends the program.
#[derive(Clone, Default)]
struct Interrupt {
    writing: Arc<AtomicBool>,
    requested: Arc<AtomicBool>,
}

impl Interrupt {
    fn listen() -> Result<Self> {
        let interrupt = Self::default();
        let handler = interrupt.clone();
        signals::listen(move || {
            if !handler.writing.load(Ordering::SeqCst) {
                say("");
                exit(0);
            }
            if handler.requested.swap(true, Ordering::SeqCst) {
                exit(1);
            }
        })?;
        Ok(interrupt)
    }

    fn begin(&self) {
        self.requested.store(false, Ordering::SeqCst);
        self.writing.store(true, Ordering::SeqCst);
    }

    fn end(&self) {
        self.writing.store(false, Ordering::SeqCst);
    }

    fn requested(&self) -> bool {
        self.requested.load(Ordering::SeqCst)
    }
}
