use tokenizers::models::bpe::{BPE, BpeTrainer};
use tokenizers::normalizers::NormalizerWrapper;
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::processors::template::TemplateProcessing;
use tokenizers::{AddedToken, TokenizerImpl};

use crate::{DataError, SpecialToken, SpecialTokens, Tokenizer};

const BOS: &str = "<s>";
const EOS: &str = "</s>";

/// The special tokens and every byte.
const SMALLEST_VOCABULARY: usize = 2 + 256;
/// More tokens than any model has.
const LARGEST_VOCABULARY: usize = 1 << 24;

/// A pair seen once teaches nothing.
const MIN_COUNT: u64 = 2;

/// Model, normalizer (there is none), pre-tokenizer, post-processor, decoder.
type ByteLevelBpe = TokenizerImpl<BPE, NormalizerWrapper, ByteLevel, TemplateProcessing, ByteLevel>;

/// Trains a byte-level BPE tokenizer (Sennrich et al., arXiv:1508.07909, alg. 1; bytes as in GPT-2).
///
/// Ids 0 and 1 are `<s>` and `</s>`, the next 256 are the bytes, so every text can be encoded and
/// comes back unchanged. `<s>` is put in front of every text. The vocabulary stays smaller than
/// `vocab_size` if the texts run out of pairs that occur twice. The same texts give the same
/// tokenizer, to the byte.
///
/// # Errors
/// A `vocab_size` without room for every byte, or with room for more tokens than any model has.
pub fn train_byte_level_bpe<'a>(
    texts: impl Iterator<Item = &'a str>,
    vocab_size: usize,
) -> Result<Tokenizer, DataError> {
    if vocab_size > LARGEST_VOCABULARY {
        return Err(DataError::VocabularyTooLarge { vocab_size, largest: LARGEST_VOCABULARY });
    }
    if vocab_size < SMALLEST_VOCABULARY {
        return Err(DataError::VocabularyTooSmall { vocab_size, smallest: SMALLEST_VOCABULARY });
    }
    let texts: Vec<&str> = texts.collect(); // the trainer shares them among threads
    train(texts, vocab_size).map_err(|source| DataError::BuildTokenizer { vocab_size, source })
}

fn train(texts: Vec<&str>, vocab_size: usize) -> tokenizers::Result<Tokenizer> {
    let special = [BOS, EOS].map(|token| AddedToken::from(token, true));
    let mut trainer = BpeTrainer::builder()
        .vocab_size(vocab_size)
        .min_frequency(MIN_COUNT)
        .special_tokens(special.to_vec())
        .initial_alphabet(ByteLevel::alphabet().into_iter().collect())
        .show_progress(false)
        .build();
    let template = TemplateProcessing::builder()
        .try_single(format!("{BOS} $A"))?
        .try_pair(format!("{BOS} $A $B"))?
        .special_tokens(vec![(BOS, 0)])
        .build()?;

    let bytes = ByteLevel::default().add_prefix_space(false);
    let mut inner = ByteLevelBpe::new(BPE::default());
    inner
        .with_pre_tokenizer(Some(bytes))
        .with_decoder(Some(bytes))
        .with_post_processor(Some(template))
        .train(&mut trainer, texts.into_iter())?;
    let special = |content: &str, id| Some(SpecialToken { content: content.into(), id });
    let special_tokens = SpecialTokens { bos: special(BOS, 0), eos: special(EOS, 1) };
    Ok(Tokenizer::new(inner.into(), special_tokens))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn saved(texts: &[&str], vocab_size: usize) -> String {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("tokenizer.json");
        let tokenizer = train_byte_level_bpe(texts.iter().copied(), vocab_size).unwrap();
        tokenizer.save(&path).unwrap();
        std::fs::read_to_string(path).unwrap()
    }

    fn spelled(tokenizer: &Tokenizer, text: &str) -> Vec<String> {
        let ids = tokenizer.encode(text).unwrap();
        ids.iter().map(|id| tokenizer.decode(&[*id]).unwrap()).collect()
    }

    /// Worked out by hand: "hug" 10, "pug" 5, "pun" 12, "bun" 4, "hugs" 5 times, as words of their
    /// own. u+g 20, u+n 16, h+ug 15, then p+un 12.
    #[test]
    fn the_most_frequent_pair_is_merged_first() {
        let words = [("hug\n", 10), ("pug\n", 5), ("pun\n", 12), ("bun\n", 4), ("hugs\n", 5)];
        let text: String = words.iter().map(|(word, count)| word.repeat(*count)).collect();

        let tokenizer = train_byte_level_bpe([text.as_str()].into_iter(), 262).unwrap();

        assert_eq!(tokenizer.vocab_size(), 262);
        let ids = ["ug", "un", "hug", "pun"].map(|token| tokenizer.token_id(token));
        assert_eq!(ids, [258, 259, 260, 261].map(Some));
        assert_eq!(spelled(&tokenizer, "hugs"), ["", "hug", "s"]);
        assert_eq!(spelled(&tokenizer, "bug"), ["", "b", "ug"]);
    }

    #[test]
    fn every_text_begins_with_bos_and_comes_back() {
        let tokenizer = train_byte_level_bpe(["the cat", "the hat"].into_iter(), 300).unwrap();
        let SpecialTokens { bos, eos } = tokenizer.special_tokens();
        assert_eq!(bos.as_ref().map(|bos| bos.id), tokenizer.token_id(BOS));
        assert_eq!(eos.as_ref().map(|eos| eos.id), tokenizer.token_id(EOS));
        assert_eq!((tokenizer.token_id(BOS), tokenizer.token_id(EOS)), (Some(0), Some(1)));

        for text in ["", "the cat", "  the\thats\r\n\n", "café — 42! 你好 🦙", "\0"] {
            let ids = tokenizer.encode(text).unwrap();
            assert_eq!(ids[0], 0, "{text:?}");
            assert_eq!(tokenizer.decode(&ids).unwrap(), text);
        }
        assert_eq!(tokenizer.encode("</s>").unwrap(), [0, 1]);
    }

    #[test]
    fn the_vocabulary_ends_where_nothing_repeats() {
        let tokenizer = train_byte_level_bpe(["abc"].into_iter(), 1000).unwrap();
        assert_eq!(tokenizer.vocab_size(), 258);
        let error = train_byte_level_bpe(["abc"].into_iter(), 257).err().unwrap().to_string();
        assert!(error.contains("`257`") && error.contains("`258`"), "{error}");
    }

    /// Long enough that a quadratic step anywhere would take minutes.
    #[test]
    fn a_megabyte_is_encoded_whole_and_comes_back() {
        let book: String = (0..150_000).map(|n| format!("{} ", n * n)).collect();
        assert!(book.len() > 1 << 20);
        let tokenizer = train_byte_level_bpe([book.as_str()].into_iter(), 400).unwrap();
        let ids = tokenizer.encode(&book).unwrap();
        assert_eq!(tokenizer.decode(&ids).unwrap(), book);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]

        /// Few letters make many ties between pairs.
        #[test]
        fn the_same_texts_give_the_same_file(text in "[ab c]{0,200}", vocab_size in 258..300usize) {
            prop_assert_eq!(saved(&[&text], vocab_size), saved(&[&text], vocab_size));
        }
    }
}
