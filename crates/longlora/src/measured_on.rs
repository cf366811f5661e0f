//! What the table of a run is measured on, in words.

use anyhow::Result;
use longlora_data::Corpus;
use longlora_train::{FinetuneConfig, HeldOut};

use crate::say;

/// Where the text is from.
pub(crate) fn measured_on(config: &FinetuneConfig) -> String {
    match (&config.evaluation.data, &config.data.held_out) {
        (Some(path), _) | (None, HeldOut::Path(path)) => path.display().to_string(),
        (None, HeldOut::Fraction(fraction)) => {
            let fraction: f64 = *fraction;
            let percent = (1000.0 * fraction).round() / 10.0;
            format!("the last {percent} % of {}", config.data.path.display())
        }
    }
}

/// The same, with how much of it is read.
pub(crate) fn read_of(config: &FinetuneConfig, documents: &[Vec<u32>]) -> String {
    let tokens: usize = documents.iter().map(Vec::len).sum();
    let documents = match documents.len() {
        1 => "one document".to_owned(),
        count => format!("{count} documents"),
    };
    format!("{}: {tokens} tokens in {documents}", measured_on(config))
}

/// Says so, if a file is both learned from and measured on, under whatever name.
pub(crate) fn warn_if_learned(config: &FinetuneConfig) -> Result<()> {
    let Some(path) = config.eval_data() else { return Ok(()) };
    let learned = Corpus::read(&config.data.path)?.files;
    let measured = Corpus::read(path)?.files;
    let is_learned = |sha256: &String| learned.iter().any(|file| file.sha256 == *sha256);
    if let Some(file) = measured.iter().find(|file| is_learned(&file.sha256)) {
        say(&format!(
            "`{}` is among the text to learn from, too, so the table tells what was learned of it, not what the model makes of \
             new text",
            file.path.display()
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_is_named_with_what_it_is_of_and_a_path_by_itself() {
        let mut config = FinetuneConfig::longlora("model".into(), "books".into(), 8192);
        assert_eq!(measured_on(&config), "the last 5 % of books");
        config.data.held_out = HeldOut::Fraction(0.003);
        assert_eq!(
            read_of(&config, &[vec![1, 2], vec![3]]),
            "the last 0.3 % of books: 3 tokens in 2 documents"
        );
        config.data.held_out = HeldOut::Path("held.txt".into());
        assert_eq!(read_of(&config, &[vec![1, 2]]), "held.txt: 2 tokens in one document");
        config.evaluation.data = Some("other.txt".into());
        assert_eq!(measured_on(&config), "other.txt");
    }
}
