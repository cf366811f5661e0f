//! What the libraries advise, as options of this program, of which they know nothing.

use std::error::Error;

use longlora_eval::EvalError;
use longlora_hub::HubError;
use longlora_llama::LlamaError;
use longlora_train::TrainError;

use crate::places::typed;

/// The options that do what an error advises, if there are any. Its causes have their own.
pub(crate) fn options(error: &(dyn Error + 'static)) -> Option<String> {
    let model = || of_model(error.downcast_ref::<LlamaError>()?);
    let run = || of_run(error.downcast_ref::<TrainError>()?);
    let measurement = || of_measurement(error.downcast_ref::<EvalError>()?);
    let hub = || of_hub(error.downcast_ref::<HubError>()?);
    let fixed = || model().or_else(measurement).or_else(hub).map(ToOwned::to_owned);
    run().or_else(fixed)
}

fn of_model(error: &LlamaError) -> Option<&'static str> {
    match error {
        LlamaError::NotAnAdapter { .. } => Some("of a run, its `adapter`"),
        LlamaError::OffsetsOfLayers => Some("--rope-offset shared, or --drop-rope-offsets"),
        LlamaError::OffsetsOfDynamic => Some("--rope-scaling"),
        _ => None,
    }
}

fn of_run(error: &TrainError) -> Option<String> {
    match error {
        TrainError::Llama(error) => of_model(error).map(ToOwned::to_owned),
        TrainError::OtherHeldOut { .. } => Some("--eval-data".to_owned()),
        TrainError::RunExists { path } => Some(format!("--out, or --resume {}", typed(path))),
        TrainError::TornMetrics { path, .. } => {
            Some(format!("--resume {}", typed(path.parent().unwrap_or(path))))
        }
        _ => None,
    }
}

fn of_measurement(error: &EvalError) -> Option<&'static str> {
    match error {
        EvalError::LongQuestion { .. } => Some("--rope-scaling"),
        EvalError::ResultsFile { .. } | EvalError::BadResults { .. } => Some("--results"),
        EvalError::NoEssays { .. } => Some("--data"),
        EvalError::NoQaItems { .. } | EvalError::QaFile { .. } | EvalError::EmptyQaFile { .. } => {
            Some("--qa-data")
        }
        _ => None,
    }
}

fn of_hub(error: &HubError) -> Option<&'static str> {
    match error {
        HubError::NoCache | HubError::DiskFull { .. } => Some("--cache"),
        HubError::NoWeights { .. } => Some("--file"),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use std::io::ErrorKind;

    use anyhow::Error;

    use super::*;
    use crate::in_one_sentence;

    #[track_caller]
    fn check(error: impl Into<Error>, expected: &str) {
        assert_eq!(in_one_sentence(&error.into()), expected);
    }

    #[test]
    fn options_stand_behind_the_advice_and_before_the_cause() {
        let (path, source) = ("a/b.jsonl".into(), ErrorKind::PermissionDenied.into());
        let denied = Error::from(EvalError::ResultsFile { path, source });
        check(
            denied.context("no answers"),
            "no answers: `a/b.jsonl` cannot be read or written; check its folder, or name another file (--results): \
             permission denied",
        );
    }

    #[test]
    fn a_run_is_named_as_it_can_be_typed() {
        let path = "my run".into();
        let expected = "run folder `my run` exists already; choose another, or resume that run (--out, or --resume 'my run')";
        check(TrainError::RunExists { path }, expected);
        let path = "my run/metrics.jsonl".into();
        let source = serde_json::from_str::<u8>("").expect_err("it is no number");
        let expected = "a line of `my run/metrics.jsonl` is torn; resuming the run mends it (--resume 'my run'): \
                        EOF while parsing a value at line 1 column 0";
        check(TrainError::TornMetrics { path, source }, expected);
    }

    #[test]
    fn what_is_said_by_another_is_found() {
        let offsets = LlamaError::OffsetsOfLayers;
        let expected = format!("{offsets} (--rope-offset shared, or --drop-rope-offsets)");
        check(LlamaError::OffsetsOfLayers, &expected);
        check(TrainError::Llama(offsets), &expected);
    }
}
