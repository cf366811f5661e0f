//! `longlora eval passkey`

use anyhow::{Result, ensure};
use clap::ValueEnum;
use longlora_eval::{HeatMap, PasskeyProtocol, passkey_questions};

use crate::count::{at_least_one, refuse_twice, tokens};
use crate::exam::ExamArgs;
use crate::heat::show;

/// Where the number stands, unless it is said.
const DEPTHS: [f64; 5] = [0.0, 0.25, 0.5, 0.75, 1.0];

/// Passkey retrieval: a number, hidden in text without any meaning; accuracy by length and depth.
///
/// It is the easiest of the retrieval tasks: a model that fails here finds nothing, one that passes may still fail `eval
/// needle` and `eval ruler`.
#[derive(clap::Args)]
pub(crate) struct Passkey {
    #[command(flatten)]
    exam: ExamArgs,
    /// Whose lengths and depths
    #[arg(long, value_name = "PROTOCOL", default_value = "grid")]
    protocol: ProtocolKind,
    /// Context lengths in tokens, separated by commas, for `grid`
    #[arg(long, value_name = "TOKENS,…", value_delimiter = ',', value_parser = tokens())]
    lengths: Vec<usize>,
    /// Where the number stands, from 0 (the beginning) to 1, separated by commas, for `grid` [default: 0,0.25,0.5,0.75,1]
    #[arg(long, value_name = "SHARE,…", value_delimiter = ',')]
    depths: Vec<f64>,
    /// Questions for each length and depth [default: 1; longlora: 10 for each length, landmark: 50]
    #[arg(long, value_name = "COUNT", value_parser = at_least_one())]
    trials: Option<usize>,
    /// Longest text, for `longlora` in its measure of tokens, for `landmark` in characters of garbage [default: 32,000 and
    /// 38,000]
    #[arg(long, value_name = "SIZE", value_parser = tokens())]
    max: Option<usize>,
    /// Distance of two lengths, for `longlora` [default: 1000]
    #[arg(long, value_name = "TOKENS", value_parser = tokens())]
    interval: Option<usize>,
}

#[derive(Clone, Copy, PartialEq, ValueEnum)]
enum ProtocolKind {
    /// Every length with every depth
    Grid,
    /// LongLoRA's: lengths in steps of 1,000, depths and numbers by NumPy's seeds 0 to 9
    Longlora,
    /// Landmark Attention's: 0 to 38,000 characters, random depths
    Landmark,
}

impl Passkey {
    pub(crate) fn run(self) -> Result<()> {
        refuse_twice("--lengths", &self.lengths)?;
        refuse_twice("--depths", &self.depths)?;
        let protocol = self.protocol()?;
        let prompter = self.exam.prompter()?;
        let questions = passkey_questions(&protocol, self.exam.seed, &prompter)?;
        let answers = self.exam.ask("passkey", &prompter, &questions)?;
        show(&[HeatMap::new("passkey", &answers)], &answers, self.exam.json)
    }

    fn protocol(&self) -> Result<PasskeyProtocol> {
        let grid = self.protocol == ProtocolKind::Grid;
        let longlora = self.protocol == ProtocolKind::Longlora;
        ensure!(
            grid || self.lengths.is_empty(),
            "--lengths goes with `--protocol grid` alone; the others have lengths of their own, up to --max"
        );
        ensure!(
            grid || self.depths.is_empty(),
            "--depths goes with `--protocol grid` alone; the others draw their depths"
        );
        ensure!(
            longlora || self.interval.is_none(),
            "--interval goes with `--protocol longlora` alone"
        );
        ensure!(
            !longlora || self.exam.seed == 0,
            "--seed `{}` changes nothing in `--protocol longlora`, whose draws have seeds of their own; leave it out",
            self.exam.seed
        );
        ensure!(
            !grid || self.max.is_none(),
            "--max goes with `--protocol longlora` and `landmark`; name the --lengths"
        );
        ensure!(!grid || !self.lengths.is_empty(), "name the context lengths with --lengths");
        Ok(match self.protocol {
            ProtocolKind::Grid => PasskeyProtocol::Grid {
                lengths: self.lengths.clone(),
                depths: if self.depths.is_empty() { DEPTHS.to_vec() } else { self.depths.clone() },
                trials: self.trials.unwrap_or(1),
            },
            ProtocolKind::Longlora => PasskeyProtocol::LongLora {
                max_tokens: self.max.unwrap_or(32_000),
                interval: self.interval.unwrap_or(1000),
                trials: self.trials.unwrap_or(10),
            },
            ProtocolKind::Landmark => PasskeyProtocol::Landmark {
                max_characters: self.max.unwrap_or(38_000),
                trials: self.trials.unwrap_or(50),
            },
        })
    }
}
