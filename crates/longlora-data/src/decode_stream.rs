use crate::tokenizer::is_byte_token;
use crate::{DataError, Tokenizer};

/// Tokens of a text before that are looked at, and more where these begin within a character.
const CONTEXT: usize = 8;

/// Decodes ids one at a time and hands out only text that no later id can change.
///
/// A token may be a part of a character, and whether a word begins with a space depends on what
/// stands before it. So a text is handed out when it ends in a whole character, and the tokens of
/// the piece before stay as the context that the next piece is decoded in. All pieces together are
/// the [`decode`](Tokenizer::decode) of all ids, for any ids at all.
///
/// ```
/// # fn main() -> Result<(), longlora_data::DataError> {
/// # let tokenizer = longlora_data::train_byte_level_bpe(["good morning"].into_iter(), 270)?;
/// let mut stream = tokenizer.decode_stream();
/// let mut text = String::new();
/// for id in tokenizer.encode("naïve 🙂")? {
///     text += &stream.push(id)?;
/// }
/// text += &stream.finish();
/// assert_eq!(text, "naïve 🙂");
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct DecodeStream<'tokenizer> {
    tokenizer: &'tokenizer Tokenizer,
    /// The tokens of the piece handed out last, then those whose text is still to come.
    window: Vec<u32>,
    /// How many of the window's tokens are of the piece handed out last.
    context: usize,
    /// The text of those, decoded by themselves.
    given: String,
    /// The text of the window.
    text: String,
    /// Whether the window's text ends in tokens that stand for a single byte.
    ends_in_bytes: bool,
}

impl Tokenizer {
    /// Decodes ids as they come, special tokens left out.
    pub fn decode_stream(&self) -> DecodeStream<'_> {
        DecodeStream {
            tokenizer: self,
            window: Vec::new(),
            context: 0,
            given: String::new(),
            text: String::new(),
            ends_in_bytes: false,
        }
    }

    /// The same for a text that goes on behind `before`, of which nothing is handed out any more: whether the first word
    /// begins with a space is seen from what stands before it.
    ///
    /// # Errors
    /// [`DataError::Decode`], if the tokenizer refuses.
    pub fn decode_stream_after(&self, before: &[u32]) -> Result<DecodeStream<'_>, DataError> {
        // A run of bytes that is cut in two is another text.
        let begins_text = |at: &usize| match self.token(before[*at]) {
            Some(token) => {
                !is_byte_token(&token)
                    && !self.decode(&before[*at..=*at]).unwrap_or_default().is_empty()
            }
            None => false,
        };
        let last = before.len().saturating_sub(CONTEXT);
        let start = (0..last).rev().find(begins_text).unwrap_or_default();
        let window = before[start..].to_vec();
        let text = self.decode(&window)?;
        // The beginning of a character is not given yet: its end is still to come.
        let given = text.trim_end_matches(char::REPLACEMENT_CHARACTER).to_owned();
        let context = window.len();
        Ok(DecodeStream { tokenizer: self, window, context, given, text, ends_in_bytes: false })
    }
}

impl DecodeStream<'_> {
    /// Takes the next id and returns the text that has become final, which is often empty.
    ///
    /// # Errors
    /// [`DataError::Decode`], if the tokenizer refuses.
    pub fn push(&mut self, id: u32) -> Result<String, DataError> {
        self.window.push(id);
        let text = self.tokenizer.decode(&self.window)?;
        let says_something = text != self.text;
        self.text = text;
        // A run of bytes is decoded as a whole: one bad byte spoils the good ones before it. Tokens
        // that are left out do not end the run.
        if self.tokenizer.is_byte(id) {
            self.ends_in_bytes = true;
        } else if says_something {
            self.ends_in_bytes = false;
        }
        if self.ends_in_bytes || self.text.ends_with(char::REPLACEMENT_CHARACTER) {
            return Ok(String::new());
        }
        let piece = self.text.strip_prefix(&self.given).unwrap_or_default().to_string();
        if !piece.is_empty() {
            self.forget_context()?;
        }
        Ok(piece)
    }

    /// The rest: what was held back because more could have come.
    pub fn finish(self) -> String {
        self.text.strip_prefix(&self.given).unwrap_or_default().to_string()
    }

    fn forget_context(&mut self) -> Result<(), DataError> {
        self.window.drain(..self.context);
        self.context = self.window.len();
        self.given = self.tokenizer.decode(&self.window)?;
        self.text.clone_from(&self.given);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use std::fs;
    use std::path::Path;

    use proptest::prelude::*;
    use serde::Deserialize;

    use super::*;

    const ROOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../..");

    fn embedded() -> Tokenizer {
        Tokenizer::read(&Path::new(ROOT).join("assets/model")).unwrap()
    }

    fn pieces(tokenizer: &Tokenizer, ids: &[u32]) -> Vec<String> {
        let mut stream = tokenizer.decode_stream();
        let mut pieces: Vec<_> = ids.iter().map(|id| stream.push(*id).unwrap()).collect();
        pieces.push(stream.finish());
        pieces
    }

    #[track_caller]
    fn check(tokenizer: &Tokenizer, ids: &[u32]) {
        let whole = tokenizer.decode(ids).unwrap();
        assert_eq!(pieces(tokenizer, ids).concat(), whole, "{ids:?}");
    }

    const TEXTS: [&str; 6] = [
        "",
        "   ",
        "🙂👍🏽 👩‍👩‍👧",
        "你好，世界。こんにちは 안녕하세요",
        "naïve  café\n\n\tx",
        "a\u{FFFD}b \u{FFFD}",
    ];

    #[test]
    fn pieces_make_up_the_whole_text() {
        let tokenizer = embedded();
        for text in TEXTS {
            let ids = tokenizer.encode(text).unwrap();
            check(&tokenizer, &ids);
            assert_eq!(pieces(&tokenizer, &ids).concat(), text);
        }
    }

    #[test]
    fn no_piece_has_a_part_of_a_character() {
        let tokenizer = embedded();
        let ids = tokenizer.encode("x🙂y").unwrap();
        let pieces = pieces(&tokenizer, &ids);
        assert!(ids.len() > 5, "an emoji is four bytes to this tokenizer");
        assert!(pieces.contains(&"🙂".into()), "{pieces:?}");
    }

    #[test]
    fn pieces_of_the_golden_texts_make_them_up() {
        #[derive(Deserialize)]
        struct Case {
            text: String,
            ids: Vec<u32>,
        }
        let shared = Path::new(ROOT).join("../shared");
        if !shared.exists() {
            writeln!(
                std::io::stderr(),
                "skipped: pieces_of_the_golden_texts_make_them_up: ../shared is absent"
            )
            .unwrap();
            return;
        }
        let cases = fs::read(shared.join("golden/stories260k/tokenizer_cases.json")).unwrap();
        let cases: Vec<Case> = serde_json::from_slice(&cases).unwrap();
        let tokenizer = Tokenizer::read(&shared.join("models/stories260k")).unwrap();

        for Case { text, ids } in cases {
            check(&tokenizer, &ids);
            check(&embedded(), &embedded().encode(&text).unwrap());
        }
        for text in TEXTS {
            check(&tokenizer, &tokenizer.encode(text).unwrap());
        }
        // 你, then a byte that spoils it, with a special token in between.
        check(&tokenizer, &[1, 231, 192, 163, 2, 231, 400]);
    }

    /// Those of sentencepiece, where a run of bytes is one thing: `<0xE4>` is token 4.
    fn with_byte_tokens() -> Tokenizer {
        let bytes = ["<0xE4>", "<0xBD>", "<0xA0>", "<0x41>"];
        let tokens = ["<unk>", "<s>", "▁", "a", "▁a"].into_iter().chain(bytes);
        let vocab: serde_json::Map<_, _> =
            tokens.zip(0..).map(|(token, id)| (token.to_string(), id.into())).collect();
        let json = serde_json::json!({
            "version": "1.0", "truncation": null, "padding": null, "pre_tokenizer": null,
            "added_tokens": [{"id": 1, "content": "<s>", "single_word": false, "lstrip": false,
                "rstrip": false, "normalized": false, "special": true}],
            "normalizer": null, "post_processor": null,
            "decoder": {"type": "Sequence", "decoders": [
                {"type": "Replace", "pattern": {"String": "▁"}, "content": " "},
                {"type": "ByteFallback"}, {"type": "Fuse"},
                {"type": "Strip", "content": " ", "start": 1, "stop": 0},
            ]},
            "model": {"type": "BPE", "vocab": vocab, "merges": [["▁", "a"]], "unk_token": "<unk>",
                "byte_fallback": true, "fuse_unk": true},
        });
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("tokenizer.json");
        fs::write(&path, json.to_string()).unwrap();
        Tokenizer::read(&path).unwrap()
    }

    fn behind(tokenizer: &Tokenizer, before: &[u32], ids: &[u32]) -> String {
        let mut stream = tokenizer.decode_stream_after(before).unwrap();
        let pieces: String = ids.iter().map(|id| stream.push(*id).unwrap()).collect();
        pieces + &stream.finish()
    }

    /// Nothing of a prompt is said again, and no character is cut: `<0x41>` is A, 4 to 6 are 你.
    #[test]
    fn a_text_goes_on_where_another_ends() {
        let tokenizer = with_byte_tokens();
        let (a, byte, you) = (4, 8, [5, 6, 7]);
        assert_eq!(tokenizer.decode(&[you[0], you[1], you[2], byte]).unwrap(), "你A");
        for before in
            [vec![], vec![a], vec![a, byte], vec![byte; 12], [vec![a], you.repeat(9)].concat()]
        {
            for ids in
                [vec![a, a], vec![byte, a], [&you[..], &[byte]].concat(), [&[1][..], &you].concat()]
            {
                let (whole, first) =
                    ([&before[..], &ids].concat(), tokenizer.decode(&before).unwrap());
                let whole = tokenizer.decode(&whole).unwrap();
                assert_eq!(
                    first + &behind(&tokenizer, &before, &ids),
                    whole,
                    "{before:?}, {ids:?}"
                );
            }
        }
        // The end of a character whose beginning stands before.
        assert_eq!(behind(&tokenizer, &[a, you[0], you[1]], &[you[2], a]), "你 a");
    }

    #[test]
    fn whatever_stands_before_what_follows_is_the_rest_of_the_whole() {
        let tokenizer = embedded();
        for text in TEXTS {
            let ids = tokenizer.encode(text).unwrap();
            for cut in 0..=ids.len() {
                let (before, behind_it) = ids.split_at(cut);
                let first = tokenizer.decode(before).unwrap();
                if first.ends_with(char::REPLACEMENT_CHARACTER) {
                    continue;
                }
                assert_eq!(first + &behind(&tokenizer, before, behind_it), text);
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(256))]

        #[test]
        fn any_ids_make_up_what_they_decode_to(ids in prop::collection::vec(0_u32..2060, 0..24)) {
            check(&embedded(), &ids);
        }

        #[test]
        fn any_run_of_bytes_makes_up_what_it_decodes_to(
            ids in prop::collection::vec(0_u32..10, 0..16),
        ) {
            check(&with_byte_tokens(), &ids);
        }
    }
}
