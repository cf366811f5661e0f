//! The default of `longlora finetune`: a small model and public-domain text, inside the program.

use std::path::Path;

use anyhow::{Context, Result};
use longlora_train::{FinetuneConfig, RunFolder};

const CONFIG: &str = include_str!("../../../assets/finetune.toml");

/// A file of `assets`, by its place there; below the run folder it is in `embedded`.
macro_rules! asset {
    ($name:literal) => {
        ($name, include_bytes!(concat!("../../../assets/", $name)))
    };
}

const FILES: [(&str, &[u8]); 11] = [
    asset!("model/config.json"),
    asset!("model/model.safetensors"),
    asset!("model/tokenizer.json"),
    asset!("model/tokenizer_config.json"),
    asset!("text/train/austen_northanger_abbey.txt"),
    asset!("text/train/bible_kjv_epistles_rest.txt"),
    asset!("text/train/shakespeare_lear.txt"),
    asset!("text/train/shakespeare_othello.txt"),
    asset!("text/held-out/austen_persuasion.txt"),
    asset!("text/held-out/bible_kjv_epistles.txt"),
    asset!("text/held-out/shakespeare_hamlet.txt"),
];

/// The embedded run. Its paths are below `run`; nothing is there until [`unpack`].
pub(crate) fn config(run: &Path) -> Result<FinetuneConfig> {
    let config = FinetuneConfig::from_toml(CONFIG, Path::new("assets/finetune.toml"))?;
    Ok(config.relative_to(run))
}

/// Puts the embedded model and text into the run folder, so that the run can be repeated from there.
pub(crate) fn unpack(run: &RunFolder) -> Result<()> {
    for (name, contents) in FILES {
        let path = run.path().join("embedded").join(name);
        let folder = path.parent().expect("every name has a folder");
        std::fs::create_dir_all(folder)
            .with_context(|| format!("cannot create `{}`", folder.display()))?;
        longlora_llama::write_atomically(&path, contents)?;
    }
    Ok(())
}
