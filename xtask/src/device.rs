//! The devices that the program can be built for, and which of them a command names.

use std::ffi::{OsStr, OsString};
use std::str::FromStr;

use anyhow::bail;

/// A device by its name in `--device`, without any `:n`, and what it needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Device {
    pub(crate) name: &'static str,
    /// The cargo feature with its code; the processor needs none.
    pub(crate) feature: Option<&'static str>,
}

/// The first is the default.
const DEVICES: [Device; 5] = [
    Device { name: "flex", feature: None },
    Device { name: "cuda", feature: Some("cuda") },
    Device { name: "wgpu", feature: Some("wgpu") },
    Device { name: "vulkan", feature: Some("vulkan") },
    Device { name: "metal", feature: Some("metal") },
];

impl Device {
    /// The device of the last `--device NAME` or `--device=NAME` among `words`, read up to a `--`.
    pub(crate) fn named_in(words: &[OsString]) -> anyhow::Result<Self> {
        named_device(words).map_or(Ok(DEVICES[0]), |name| name.parse())
    }
}

impl Default for Device {
    fn default() -> Self {
        DEVICES[0]
    }
}

impl FromStr for Device {
    type Err = anyhow::Error;

    /// `cuda` or `cuda:1`
    fn from_str(name: &str) -> anyhow::Result<Self> {
        let kind = name.split_once(':').map_or(name, |(kind, _number)| kind);
        match DEVICES.into_iter().find(|device| device.name == kind) {
            Some(device) => Ok(device),
            None => bail!(
                "longlora cannot be built for device `{name}`; use {}",
                DEVICES.map(|device| format!("`{}`", device.name)).join(", ")
            ),
        }
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

    /// The name and the feature of the device.
    #[track_caller]
    fn check(line: &str, expected: Result<(&str, Option<&str>), &str>) {
        let words: Vec<OsString> = line.split_whitespace().map(OsString::from).collect();
        let ours = Device::named_in(&words).map_err(|error| error.to_string());
        let ours = ours.map(|device| (device.name, device.feature));
        assert_eq!(ours, expected.map_err(str::to_owned), "{line}");
    }

    #[test]
    fn the_device_is_read_wherever_it_stands() {
        let flex = Ok(("flex", None));
        check("finetune", flex);
        check("finetune --device flex --out runs/1", flex);
        check("finetune config.toml --device=flex", flex);
        check("finetune --device", flex);
        check("generate -- --device cuda", flex);
        check("finetune --device cuda:1 --out runs/1", Ok(("cuda", Some("cuda"))));
        check("eval perplexity --device=vulkan", Ok(("vulkan", Some("vulkan"))));
        check("chat --device flex --device metal", Ok(("metal", Some("metal"))));
    }

    #[test]
    fn a_device_that_cannot_be_built_is_named() {
        let refused = "longlora cannot be built for device `tpu:1`; \
                       use `flex`, `cuda`, `wgpu`, `vulkan`, `metal`";
        check("finetune --device tpu:1", Err(refused));
        check("finetune --device=tpu:1", Err(refused));
        check("finetune --device flex --device tpu:1", Err(refused));
    }
}
