//! `longlora eval needle`

use std::path::PathBuf;

use anyhow::Result;
use clap::ValueEnum;
use longlora_data::Corpus;
use longlora_eval::{HeatMap, NeedleConfig, NeedleKind, Question, needle_questions};

use crate::count::{at_least_one, refuse_twice, tokens};
use crate::exam::ExamArgs;
use crate::heat::show;
use crate::texts::texts;

/// Needles in your own documents: numbers and places, hidden between sentences; accuracy by length and depth.
#[derive(clap::Args)]
pub(crate) struct Needle {
    #[command(flatten)]
    exam: ExamArgs,
    /// Text to hide them in: a .txt, .md, .jsonl or .jsonl.gz (field `text`) file, or a folder of them
    #[arg(long, value_name = "PATH")]
    data: PathBuf,
    /// Context lengths in tokens, separated by commas
    #[arg(long, value_name = "TOKENS,…", value_delimiter = ',', required = true, value_parser = tokens())]
    lengths: Vec<usize>,
    /// Where the needle stands, from 0 (the beginning) to 1, separated by commas
    #[arg(long, value_name = "SHARE,…", value_delimiter = ',', default_values_t = [0.0, 0.25, 0.5, 0.75, 1.0])]
    depths: Vec<f64>,
    /// What is hidden and asked for, separated by commas
    #[arg(
        long,
        value_name = "KIND,…",
        value_delimiter = ',',
        default_value = "single,several,values,key"
    )]
    kinds: Vec<Kind>,
    /// Questions for each length, depth and kind
    #[arg(long, value_name = "COUNT", default_value_t = 1, value_parser = at_least_one())]
    trials: usize,
}

#[derive(Clone, Copy, ValueEnum)]
enum Kind {
    /// One number
    Single,
    /// One number among three others
    Several,
    /// Four numbers of one place
    Values,
    /// The place of a number
    Key,
}

impl From<Kind> for NeedleKind {
    fn from(kind: Kind) -> Self {
        match kind {
            Kind::Single => Self::Single,
            Kind::Several => Self::Several,
            Kind::Values => Self::Values,
            Kind::Key => Self::Key,
        }
    }
}

impl Needle {
    pub(crate) fn run(self) -> Result<()> {
        refuse_twice("--lengths", &self.lengths)?;
        refuse_twice("--depths", &self.depths)?;
        let kinds = self.kinds.iter().map(|&kind| NeedleKind::from(kind).task());
        refuse_twice("--kinds", &kinds.collect::<Vec<_>>())?;
        let documents = texts(&Corpus::read(&self.data)?, &self.data)?;
        let prompter = self.exam.prompter()?;
        let mut questions: Vec<Question> = vec![];
        for &kind in &self.kinds {
            let config = NeedleConfig {
                kind: kind.into(),
                lengths: self.lengths.clone(),
                depths: self.depths.clone(),
                trials: self.trials,
                seed: self.exam.seed,
            };
            questions.extend(needle_questions(&config, &documents, &prompter)?);
        }
        let answers = self.exam.ask("needle", &prompter, &questions)?;
        let map = |kind: &Kind| {
            let task = NeedleKind::from(*kind).task();
            let of_kind: Vec<_> =
                answers.iter().filter(|answer| answer.task == task).cloned().collect();
            HeatMap::new(task, &of_kind)
        };
        let maps: Vec<HeatMap> = self.kinds.iter().map(map).collect();
        show(&maps, &answers, self.exam.json)
    }
}
