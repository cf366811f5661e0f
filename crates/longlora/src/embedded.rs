//! The default of `longlora finetune`: a small model and public-domain text, inside the program.

use std::path::Path;

use anyhow::{Context, Result};
use longlora_train::FinetuneConfig;

const CONFIG: &str = include_str!("../../../assets/finetune.toml");

/// Files of `assets` by their places there; below the run folder they are in `embedded`.
const FILES: [(&str, &[u8]); 11] = [
    ("model/config.json", include_bytes!("../../../assets/model/config.json")),
    ("model/model.safetensors", include_bytes!("../../../assets/model/model.safetensors")),
    ("model/tokenizer.json", include_bytes!("../../../assets/model/tokenizer.json")),
    ("model/tokenizer_config.json", include_bytes!("../../../assets/model/tokenizer_config.json")),
    (
        "text/train/austen_northanger_abbey.txt",
        include_bytes!("../../../assets/text/train/austen_northanger_abbey.txt"),
    ),
    (
        "text/train/bible_kjv_epistles_rest.txt",
        include_bytes!("../../../assets/text/train/bible_kjv_epistles_rest.txt"),
    ),
    (
        "text/train/shakespeare_lear.txt",
        include_bytes!("../../../assets/text/train/shakespeare_lear.txt"),
    ),
    (
        "text/train/shakespeare_othello.txt",
        include_bytes!("../../../assets/text/train/shakespeare_othello.txt"),
    ),
    (
        "text/held-out/austen_persuasion.txt",
        include_bytes!("../../../assets/text/held-out/austen_persuasion.txt"),
    ),
    (
        "text/held-out/bible_kjv_epistles.txt",
        include_bytes!("../../../assets/text/held-out/bible_kjv_epistles.txt"),
    ),
    (
        "text/held-out/shakespeare_hamlet.txt",
        include_bytes!("../../../assets/text/held-out/shakespeare_hamlet.txt"),
    ),
];

/// The embedded run. Its paths are below `run`; nothing is there until [`unpack`].
pub(crate) fn config(run: &Path) -> Result<FinetuneConfig> {
    let config = FinetuneConfig::from_toml(CONFIG, Path::new("assets/finetune.toml"))?;
    Ok(config.relative_to(run))
}

/// Puts the embedded model and text into `folder`, the `embedded` of a run, so that it can be repeated from there.
pub(crate) fn unpack(folder: &Path) -> Result<()> {
    for (name, contents) in FILES {
        let path = folder.join(name);
        let folder = path.parent().expect("every name has a folder");
        std::fs::create_dir_all(folder)
            .with_context(|| format!("cannot create `{}`", folder.display()))?;
        longlora_llama::write_atomically(&path, contents)?;
    }
    Ok(())
}
