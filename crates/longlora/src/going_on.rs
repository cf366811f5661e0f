//! How a run goes on that was stopped, or found the disk full.

use std::error::Error;
use std::io::{self, ErrorKind};

use anyhow::anyhow;
use longlora_train::RunFolder;

use crate::device::DeviceArgs;
use crate::in_one_sentence;
use crate::places::{command, typed};

/// The command that goes on with a run, on the same device.
pub(crate) fn resumption(run: &RunFolder, device: &DeviceArgs) -> String {
    let resume = command(&format!("finetune --resume {}", typed(run.path())));
    match device.to_string().as_str() {
        "flex" => resume,
        device => format!("{resume} --device {device}"),
    }
}

/// The same error; if the disk was full, with what to do then. `how` is the command that goes on, if anything was begun.
pub(crate) fn after_full_disk(error: anyhow::Error, run: &RunFolder, how: &str) -> anyhow::Error {
    let is_full = |cause: &(dyn Error + 'static)| {
        let kind = cause.downcast_ref::<io::Error>().map(io::Error::kind);
        matches!(kind, Some(ErrorKind::StorageFull | ErrorKind::QuotaExceeded))
    };
    if !run.config().exists() || !error.chain().any(is_full) {
        return error;
    }
    anyhow!("{}; free some space, then go on with: {how}", in_one_sentence(&error))
}

#[cfg(test)]
mod tests {
    use longlora_llama::LlamaError;
    use longlora_train::TrainError;

    use super::*;

    #[test]
    fn a_full_disk_is_told_with_how_to_go_on_and_nothing_else_is() {
        let folder = tempfile::tempdir().unwrap();
        let run = RunFolder::create(&folder.path().join("run")).unwrap();
        let said = |kind: ErrorKind, of_model: bool| {
            let (action, path, source) = ("write", "step/optimizer.bpk".into(), kind.into());
            let error = match of_model {
                true => TrainError::Llama(LlamaError::File { action, path, source }),
                false => TrainError::File { action, path, source },
            };
            in_one_sentence(&after_full_disk(error.into(), &run, "longlora finetune --resume run"))
        };
        let advice = "; free some space, then go on with: longlora finetune --resume run";
        // Nothing was begun.
        assert!(!said(ErrorKind::StorageFull, false).ends_with(advice));
        run.write("config.toml", "").unwrap();
        for of_model in [false, true] {
            for kind in [ErrorKind::StorageFull, ErrorKind::QuotaExceeded] {
                let said = said(kind, of_model);
                assert!(said.starts_with("cannot write `step/optimizer.bpk`"), "{said}");
                assert!(said.ends_with(advice), "{said}");
            }
            assert!(!said(ErrorKind::PermissionDenied, of_model).contains("go on"));
        }
    }
}
