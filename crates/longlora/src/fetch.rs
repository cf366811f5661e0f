//! `longlora fetch`

use std::io::IsTerminal;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::Result;
use indicatif::{HumanBytes, ProgressBar, ProgressStyle};
use longlora_hub::{Hub, Progress, Wanted};

use crate::{print, say};

/// Seconds between plain lines.
const LINE_INTERVAL: Duration = Duration::from_secs(5);

/// Fetch a model of the Hugging Face hub into the cache, and print its folder there.
///
/// No other command uses the network. The cache is the one of Python's huggingface_hub, and the variables are the same:
/// HF_TOKEN for gated models, HF_HOME or HF_HUB_CACHE, HF_ENDPOINT, HF_HUB_OFFLINE. What breaks off goes on when the
/// command is given again. Afterwards, --model OWNER/NAME finds the model.
#[derive(clap::Args)]
pub(crate) struct Fetch {
    /// Its name on the hub
    #[arg(value_name = "OWNER/NAME")]
    name: String,
    /// Branch, tag or commit
    #[arg(long, value_name = "REVISION", default_value = "main")]
    revision: String,
    /// This file alone, such as a GGUF; may be given several times
    #[arg(long = "file", value_name = "NAME")]
    files: Vec<String>,
    /// Where to keep models [default: HF_HUB_CACHE, or hub below HF_HOME, or ~/.cache/huggingface/hub]
    #[arg(long, value_name = "DIR")]
    cache: Option<PathBuf>,
    /// Address of the hub [default: HF_ENDPOINT, or that of huggingface.co]
    #[arg(long, value_name = "URL")]
    endpoint: Option<String>,
}

impl Fetch {
    pub(crate) fn run(self) -> Result<()> {
        let mut hub = Hub::from_env()?;
        if let Some(cache) = self.cache {
            hub = hub.with_cache(cache);
        }
        if let Some(endpoint) = &self.endpoint {
            hub = hub.with_endpoint(endpoint)?;
        }
        let wanted = Wanted { name: self.name, revision: self.revision, files: self.files };
        let mut files = Files::new();
        let fetched = hub.fetch(&wanted, &mut files);
        files.finish();
        print(&fetched?.display().to_string());
        Ok(())
    }
}

/// A line for every file that is there; while one is on its way, a bar on a terminal and plain lines in a pipe.
struct Files {
    bar: Option<ProgressBar>,
    file: String,
    last_line: Instant,
}

impl Files {
    fn new() -> Self {
        let bar = std::io::stderr().is_terminal().then(|| {
            let template = "{bar:24} {bytes}/{total_bytes}  {bytes_per_sec}  {eta} left  {msg}";
            let style =
                ProgressStyle::with_template(template).expect("the template is well-formed");
            ProgressBar::new(1).with_style(style)
        });
        Self { bar, file: String::new(), last_line: Instant::now() }
    }

    fn say(&self, line: &str) {
        match &self.bar {
            Some(bar) => bar.suspend(|| say(line)),
            None => say(line),
        }
    }

    fn begin(&mut self, file: &str, done: u64, size: u64) {
        self.file = file.to_owned();
        self.last_line = Instant::now();
        if let Some(bar) = &self.bar {
            bar.reset();
            bar.set_length(size);
            bar.set_message(file.to_owned());
            // What was there before says nothing about the speed.
            bar.set_position(done);
            bar.reset_eta();
        }
    }

    fn finish(self) {
        if let Some(bar) = self.bar {
            bar.finish_and_clear();
        }
    }
}

impl Progress for Files {
    fn at(&mut self, file: &str, done: u64, size: u64) {
        let first = self.file != file;
        if first {
            self.begin(file, done, size);
        }
        if done == size {
            let before = if first && size > 0 { ", was there" } else { "" };
            self.say(&format!("{file}  {}{before}", HumanBytes(size)));
        } else if let Some(bar) = &self.bar {
            bar.set_position(done);
        } else if self.last_line.elapsed() >= LINE_INTERVAL {
            self.say(&format!("{file}  {} of {}", HumanBytes(done), HumanBytes(size)));
            self.last_line = Instant::now();
        }
    }

    fn waiting(&mut self, file: &str) {
        self.say(&format!("{file}  is being fetched by another process; waiting for it"));
    }
}
