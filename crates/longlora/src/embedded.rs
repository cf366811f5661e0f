//! The default of `longlora finetune`: a small model and public-domain text, inside the program.

use std::path::Path;

use anyhow::{Context, Result};
use longlora_train::{FinetuneConfig, RunFolder};

const CONFIG: &str = include_str!("../../../assets/finetune.toml");

/// Where each file goes below the run folder, and what is in it.
const FILES: [(&str, &[u8]); 12] = [
    ("embedded/model/config.json", include_bytes!("../../../assets/model/config.json")),
    ("embedded/model/model.safetensors", include_bytes!("../../../assets/model/model.safetensors")),
    ("embedded/model/tokenizer.json", include_bytes!("../../../assets/model/tokenizer.json")),
    (
        "embedded/model/tokenizer_config.json",
        include_bytes!("../../../assets/model/tokenizer_config.json"),
    ),
    (
        "embedded/train/acts.txt",
        include_bytes!("../../../assets/text/train/bible_kjv_gospels_acts.txt"),
    ),
    (
        "embedded/train/henry_v.txt",
        include_bytes!("../../../assets/text/train/shakespeare_henry_v.txt"),
    ),
    (
        "embedded/train/mansfield_park.txt",
        include_bytes!("../../../assets/text/train/austen_mansfield_park.txt"),
    ),
    (
        "embedded/train/othello.txt",
        include_bytes!("../../../assets/text/train/shakespeare_othello.txt"),
    ),
    (
        "embedded/train/pride_and_prejudice.txt",
        include_bytes!("../../../assets/text/train/austen_pride_and_prejudice.txt"),
    ),
    (
        "embedded/held-out/epistles.txt",
        include_bytes!("../../../assets/text/held-out/bible_kjv_epistles.txt"),
    ),
    (
        "embedded/held-out/hamlet.txt",
        include_bytes!("../../../assets/text/held-out/shakespeare_hamlet.txt"),
    ),
    (
        "embedded/held-out/persuasion.txt",
        include_bytes!("../../../assets/text/held-out/austen_persuasion.txt"),
    ),
];

/// The embedded run. Its paths are below `run`; nothing is there until [`unpack`].
pub(crate) fn config(run: &Path) -> Result<FinetuneConfig> {
    let config = FinetuneConfig::from_toml(CONFIG, Path::new("assets/finetune.toml"))?;
    Ok(config.relative_to(run))
}

/// Puts the embedded model and text into the run folder, so that the run can be repeated from there.
pub(crate) fn unpack(run: &RunFolder) -> Result<()> {
    for (name, contents) in FILES {
        let path = run.path().join(name);
        let folder = path.parent().expect("every name has a folder");
        std::fs::create_dir_all(folder)
            .with_context(|| format!("cannot create `{}`", folder.display()))?;
        longlora_llama::write_atomically(&path, contents)?;
    }
    Ok(())
}
