//! `longlora eval ruler`

use std::path::PathBuf;

use anyhow::{Result, ensure};
use longlora_data::Corpus;
use longlora_eval::{
    Answer, HeatMap, Question, RulerConfig, RulerScores, RulerTask, read_qa_items, ruler_questions,
};
use serde_json::json;

use crate::count::{at_least_one, refuse_twice, tokens};
use crate::exam::ExamArgs;
use crate::print;
use crate::texts::texts;

/// RULER's average of Llama-2-7B-chat at its own 4,096 tokens, by which its table tells effective lengths.
const LLAMA_2: f64 = 85.6;

/// RULER: needles with several keys, values and queries, variable tracking, common and frequent words, question answering;
/// and from them the effective context.
///
/// arXiv:2404.06654. Essays are your own documents. Questions of qa_1 and qa_2 come from a file; without one the two tasks
/// are left out.
#[derive(clap::Args)]
pub(crate) struct Ruler {
    #[command(flatten)]
    exam: ExamArgs,
    /// Text to hide needles in: a .txt, .md, .jsonl or .jsonl.gz (field `text`) file, or a folder of them
    #[arg(long, value_name = "PATH")]
    data: PathBuf,
    /// Context lengths in tokens, separated by commas
    #[arg(long, value_name = "TOKENS,…", value_delimiter = ',', required = true, value_parser = tokens())]
    lengths: Vec<usize>,
    /// Tasks, separated by commas [default: all 13, or 11 without --qa-data]
    #[arg(long, value_name = "TASK,…", value_delimiter = ',')]
    tasks: Vec<String>,
    /// Questions for each task and length; RULER has 500
    #[arg(long, value_name = "COUNT", default_value_t = 10, value_parser = at_least_one())]
    samples: usize,
    /// Questions with their documents: SQuAD's or HotpotQA's JSON, or JSONL with `question`, `answers` and `context`
    #[arg(long, value_name = "FILE")]
    qa_data: Option<PathBuf>,
    /// The context counts as effective as long as it reaches this share of the score at the shortest length
    #[arg(long, value_name = "SHARE", default_value_t = 0.85)]
    effective_share: f64,
}

impl Ruler {
    pub(crate) fn run(self) -> Result<()> {
        ensure!(
            self.effective_share > 0.0 && self.effective_share <= 1.0,
            "an --effective-share of `{}` is none; use a number above 0, up to 1",
            self.effective_share
        );
        refuse_twice("--lengths", &self.lengths)?;
        refuse_twice("--tasks", &self.tasks)?;
        let prompter = self.exam.prompter()?;
        let texts = texts(&Corpus::read(&self.data)?, &self.data)?;
        let qa = self.qa_data.as_deref().map(read_qa_items).transpose()?.unwrap_or_default();
        let mut questions: Vec<Question> = vec![];
        for task in self.tasks()? {
            for &length in &self.lengths {
                let (samples, seed) = (self.samples, self.exam.seed);
                let config = RulerConfig { task, length, samples, seed };
                questions.extend(ruler_questions(&config, &texts, &qa, &prompter)?);
            }
        }
        let answers = self.exam.ask("ruler", &prompter, &questions)?;
        self.show(&answers)
    }

    fn tasks(&self) -> Result<Vec<RulerTask>> {
        if self.tasks.is_empty() {
            let all = RulerTask::all().into_iter();
            return Ok(all.filter(|task| self.qa_data.is_some() || !task.needs_qa()).collect());
        }
        let named = self.tasks.iter().map(|name| RulerTask::named(name).ok_or(name));
        named.collect::<Result<_, _>>().map_err(|name| {
            let known: Vec<_> = RulerTask::all().iter().map(|task| task.name()).collect();
            anyhow::anyhow!("`{name}` is no task of RULER; they are {}", known.join(", "))
        })
    }

    fn show(&self, answers: &[Answer]) -> Result<()> {
        let scores = RulerScores::new(answers);
        let effective = scores.effective_context(self.effective_share);
        let like_llama =
            scores.is_complete().then(|| scores.effective_context_above(LLAMA_2)).flatten();
        if self.exam.json {
            let means = scores.lengths().into_iter().filter_map(|length| {
                let interval = scores.interval(length)?;
                Some(json!({ "length": length, "interval": interval }))
            });
            print(&serde_json::to_string_pretty(&json!({
                "scores": scores, "means": means.collect::<Vec<_>>(),
                "effective_share": self.effective_share, "effective_context": effective,
                "effective_context_above_llama_2_7b_at_4k": like_llama, "answers": answers,
            }))?);
            return Ok(());
        }
        print(&scores.to_text());
        let map = HeatMap::new("needles", answers);
        if !map.cells().is_empty() {
            print(&map.to_text());
        }
        let tokens = |length: Option<usize>| {
            length.map_or("less than the shortest".to_owned(), |length| format!("{length} tokens"))
        };
        print(&format!(
            "effective context: {} (up to it, {:.0} % of the score at the shortest length)",
            tokens(effective),
            100.0 * self.effective_share
        ));
        if scores.is_complete() {
            print(&format!(
                "by RULER's own measure, a score above {LLAMA_2} (Llama-2-7B-chat at 4,096 tokens, 500 questions of each \
                 task): {}, with {} questions of each",
                tokens(like_llama),
                self.samples
            ));
        } else {
            print(&format!(
                "these are {} of RULER's 13 tasks, whose mean cannot be compared with its table",
                scores.tasks().count()
            ));
        }
        Ok(())
    }
}
