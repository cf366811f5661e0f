//! Questions to a model, from the command line.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use clap::Args;
use longlora_adapters::RopeKind;
use longlora_data::ChatTemplate;
use longlora_eval::{Answer, Examinee, Prompter, Question, Results, exam};
use longlora_llama::WeightStorage;

use crate::fingerprint::fingerprint;
use crate::model::{ModelArgs, WeightKind};
use crate::progress::Progress;
use crate::say;
use crate::template_arguments::{TemplateArguments, template_arguments};

/// Where answers go, unless another file is named.
const RESULTS: &str = "results";

/// A model that is asked, and how.
#[derive(Args)]
pub(crate) struct ExamArgs {
    #[command(flatten)]
    model: ModelArgs,
    /// How the matrices of the model are kept: bf16 takes half the memory of f32, nf4 a seventh for the layers
    #[arg(long, value_name = "TYPE", default_value = "f32")]
    weights: WeightKind,
    /// Ask as a user in a chat, by the model's chat template, instead of as a text to continue
    #[arg(long)]
    chat: bool,
    /// What else the chat template is told, as a JSON object: '{"enable_thinking": false}'
    #[arg(long, value_name = "JSON", value_parser = template_arguments, requires = "chat")]
    chat_template_kwargs: Option<TemplateArguments>,
    /// File that each answer is added to; what stands in it is not asked again [default: results/TASK.jsonl]
    #[arg(long, value_name = "FILE")]
    results: Option<PathBuf>,
    /// Print scores and answers as JSON instead of tables
    #[arg(long)]
    pub(crate) json: bool,
    /// Every draw follows from it
    #[arg(long, value_name = "SEED", default_value_t = 0)]
    pub(crate) seed: u64,
}

impl ExamArgs {
    /// Turns questions into what the model reads.
    pub(crate) fn prompter(&self) -> Result<Prompter> {
        if self.chat { self.chat_prompter() } else { self.text_prompter() }
    }

    /// As a text to continue.
    pub(crate) fn text_prompter(&self) -> Result<Prompter> {
        Ok(Prompter::text(self.model.tokenizer()?))
    }

    fn chat_prompter(&self) -> Result<Prompter> {
        let (tokenizer, folder) = (self.model.tokenizer()?, self.model.tokenizer_folder()?);
        let template = ChatTemplate::read(&folder, &tokenizer)?.with_context(|| {
            format!("`{}` has no chat template; leave --chat out", folder.display())
        })?;
        let arguments = self.chat_template_kwargs.clone().unwrap_or_default();
        Ok(Prompter::chat(tokenizer, template.with_arguments(arguments)))
    }

    pub(crate) fn is_chat(&self) -> bool {
        self.chat
    }

    /// The model, stretched to `longest` tokens if it was asked for. An update of low rank costs little in
    /// training, and two products per layer and token here, so it is merged where the weights can take it.
    pub(crate) fn load(&self, longest: usize) -> Result<Examinee> {
        let stretch = self.model.stretch(Some(longest))?;
        let llama = self.model.load(self.weights.into(), Some(longest))?.for_generation();
        let (name, key) = (self.name(stretch), self.key(stretch)?);
        let weights = Some(WeightStorage::from(self.weights).to_string());
        let adapter = self.model.adapter().map(short_hash).transpose()?;
        let room = llama.config.rope.max_position_embeddings;
        Ok(Examinee { llama, name, weights, adapter, key, room })
    }

    /// The model as the command line names it, and what was done to it.
    fn name(&self, stretch: Option<(RopeKind, usize)>) -> String {
        let adapter = self.model.adapter().map(|adapter| format!("with {}", adapter.display()));
        let stretch = stretch.map(|(kind, length)| format!("stretched to {length} by {kind}"));
        let of_both = [adapter, stretch].into_iter().flatten();
        std::iter::once(self.model.named()).chain(of_both).collect::<Vec<_>>().join(" ")
    }

    fn key(&self, stretch: Option<(RopeKind, usize)>) -> Result<String> {
        let folder = self.model.folder()?;
        let paths = [Some(folder.as_path()), self.model.adapter()];
        let paths: Vec<&Path> = paths.into_iter().flatten().collect();
        let stretch =
            stretch.map(|(kind, length)| format!("{kind:?} {length}")).unwrap_or_default();
        let (device, version) = (self.model.device_name(), env!("CARGO_PKG_VERSION"));
        fingerprint(&paths, &format!("{stretch}\n{:?}\n{device}\n{version}", self.weights))
    }

    /// Opens the file of answers of a task.
    pub(crate) fn results(&self, task: &str) -> Result<Results> {
        let default = || Path::new(RESULTS).join(format!("{task}.jsonl"));
        Ok(Results::open(&self.results.clone().unwrap_or_else(default))?)
    }

    /// Asks everything, and shows how far it is.
    pub(crate) fn ask(
        &self,
        task: &str,
        prompter: &Prompter,
        questions: &[Question],
    ) -> Result<Vec<Answer>> {
        ensure!(
            !questions.is_empty(),
            "there is nothing to ask; give more lengths, depths or trials"
        );
        let mut longest = 0;
        for question in questions {
            longest = longest.max(question.length).max(prompter.tokens(question)?);
        }
        let mut results = self.results(task)?;
        ask(&self.load(longest)?, task, prompter, questions, &mut results)
    }
}

/// Enough digits to tell the adapters of one path apart, all of whose files count.
fn short_hash(adapter: &Path) -> Result<String> {
    let mut hash = fingerprint(&[adapter], "")?;
    hash.truncate(12);
    Ok(hash)
}

/// Asks everything, and shows how far it is.
pub(crate) fn ask(
    examinee: &Examinee,
    task: &str,
    prompter: &Prompter,
    questions: &[Question],
    results: &mut Results,
) -> Result<Vec<Answer>> {
    let mut progress = Progress::new();
    let mut show = |done, all| progress.part(task, done, all);
    let answers = exam(examinee, prompter, questions, results, &mut show)?;
    progress.finish();
    say(&format!("every answer is in {}", results.path().display()));
    Ok(answers)
}
