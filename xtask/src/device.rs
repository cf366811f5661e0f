//! Which cargo feature the `--device` of a command needs.

use std::ffi::{OsStr, OsString};

use anyhow::bail;

/// Devices that can be built, by the name before any `:n`, each with its cargo feature; the first
/// is the default.
const DEVICES: [(&str, Option<&str>); 1] = [("flex", None)];

/// The feature for the last `--device NAME` or `--device=NAME` among `words`, read up to a `--`.
pub(crate) fn cargo_feature(words: &[OsString]) -> anyhow::Result<Option<&'static str>> {
    let name = named_device(words).unwrap_or_else(|| DEVICES[0].0.to_owned());
    let kind = name.split_once(':').map_or(name.as_str(), |(kind, _number)| kind);
    match DEVICES.into_iter().find(|(device, _)| *device == kind) {
        Some((_, feature)) => Ok(feature),
        None => bail!(
            "this version cannot be built for device `{name}`; use {}",
            DEVICES.map(|(device, _)| format!("`--device {device}`")).join(" or ")
        ),
    }
}

/// A `--device` without a name is left to the program, whose message about it is better.
fn named_device(words: &[OsString]) -> Option<String> {
    let mut words = words.iter().map(OsString::as_os_str).take_while(|word| *word != "--");
    let mut named = None;
    while let Some(word) = words.next() {
        let word = word.to_string_lossy();
        if word == "--device" {
            named = words.next().map(OsStr::to_string_lossy).map(Into::into).or(named);
        } else if let Some(name) = word.strip_prefix("--device=") {
            named = Some(name.to_owned());
        }
    }
    named
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(line: &str, expected: Result<Option<&str>, &str>) {
        let words: Vec<OsString> = line.split_whitespace().map(OsString::from).collect();
        let ours = cargo_feature(&words).map_err(|error| error.to_string());
        assert_eq!(ours, expected.map_err(str::to_owned), "{line}");
    }

    #[test]
    fn the_device_is_read_wherever_it_stands() {
        check("finetune", Ok(None));
        check("finetune --device flex --out runs/1", Ok(None));
        check("finetune config.toml --device=flex", Ok(None));
        check("finetune --device", Ok(None));
        check("generate -- --device cuda", Ok(None));
    }

    #[test]
    fn a_device_that_cannot_be_built_is_named() {
        let refused = "this version cannot be built for device `cuda:1`; use `--device flex`";
        check("finetune --device cuda:1", Err(refused));
        check("finetune --device=cuda:1", Err(refused));
        check("finetune --device flex --device cuda:1", Err(refused));
    }
}
