//! From documents to token ids, and to what of them is learned.

use std::ops::Range;
use std::slice;

use rayon::prelude::*;

use crate::written::Written;
use crate::{
    ChatTemplate, Content, Corpus, DataError, Document, EncodingProblem, Instruction, Lesson,
    Message, Tokenizer,
};

/// What makes token ids of documents that are learned from.
#[derive(Clone, Debug)]
pub struct Encoder {
    /// The model's.
    pub tokenizer: Tokenizer,
    /// The model's, which writes conversations; models that were not made for them have none.
    pub template: Option<ChatTemplate>,
    /// Whether a text ends in the tokenizer's end-of-text token, as those that LongLoRA's `fine-tune.py` joins.
    pub append_eos: bool,
}

/// A corpus in token ids.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Encoded {
    /// Texts, and documents that were token ids already, in their order.
    pub texts: Vec<Vec<u32>>,
    /// Conversations and instructions, in their order.
    pub lessons: Vec<Lesson>,
}

/// A document in token ids.
enum Piece {
    Text(Vec<u32>),
    Lesson(Lesson),
}

impl Corpus {
    /// The token ids of every document, and what of conversations is learned; `encoder` may be absent if there are token
    /// ids alone.
    ///
    /// # Errors
    /// Text without an encoder, a conversation that the model has no way to write, and what tokenizer or chat template
    /// refuse.
    pub fn encode(&self, encoder: Option<&Encoder>) -> Result<Encoded, DataError> {
        let pieces: Vec<Piece> = self
            .documents
            .par_iter()
            .map(|document| Piece::of(document, encoder))
            .collect::<Result<_, DataError>>()?;
        let mut encoded = Encoded::default();
        for piece in pieces {
            match piece {
                Piece::Text(tokens) => encoded.texts.push(tokens),
                Piece::Lesson(lesson) => encoded.lessons.push(lesson),
            }
        }
        Ok(encoded)
    }
}

impl Piece {
    fn of(document: &Document, encoder: Option<&Encoder>) -> Result<Self, DataError> {
        match (&document.content, encoder) {
            (Content::Tokens(tokens), _) => Ok(Self::Text(tokens.clone())),
            (_, None) => Err(DataError::TokenizerNeeded { path: document.source.clone() }),
            (Content::Text(_), Some(encoder)) => encoder.text(document).map(Self::Text),
            (Content::Conversation(messages), Some(encoder)) => {
                encoder.conversation(messages, document).map(Self::Lesson)
            }
            (Content::Instruction(instruction), Some(encoder)) => {
                encoder.instruction(instruction, document).map(Self::Lesson)
            }
        }
    }
}

impl Encoder {
    fn text(&self, document: &Document) -> Result<Vec<u32>, DataError> {
        let mut tokens = document.tokenize(Some(&self.tokenizer))?;
        if self.append_eos {
            let eos = self.eos(document)?;
            // Some tokenizers put it there by themselves.
            if tokens.last() != Some(&eos) {
                tokens.push(eos);
            }
        }
        Ok(tokens)
    }

    fn conversation(&self, messages: &[Message], document: &Document) -> Result<Lesson, DataError> {
        let Some(template) = &self.template else {
            let problem = EncodingProblem::NoChatTemplate;
            return Err(DataError::NotEncoded { place: document.place(), problem });
        };
        let Written { text, answers } = Written::by(template, messages, document)?;
        // Its special tokens are written out.
        let tokens = self.tokens(&text, false, document)?;
        let answers: Vec<_> =
            answers.into_iter().map(|answer| self.to_its_end(answer, &text, &tokens)).collect();
        Ok(Lesson::of_answers(tokens, &answers))
    }

    /// By the chat template, if there is one; else in Alpaca's words, with the end-of-text token behind the answer.
    fn instruction(
        &self,
        instruction: &Instruction,
        document: &Document,
    ) -> Result<Lesson, DataError> {
        if self.template.is_some() {
            return self.conversation(&instruction.messages(), document);
        }
        let (mut text, eos) = (instruction.prompt(), self.eos(document)?);
        let begins = text.len();
        text += &instruction.output;
        let mut tokens = self.tokens(&text, true, document)?;
        // It is learned, whoever puts it there.
        tokens.pop_if(|(token, bytes)| *token == eos && bytes.start == bytes.end);
        let answer = begins..text.len();
        let mut lesson = Lesson::of_answers(tokens, slice::from_ref(&answer));
        lesson.push(eos, true);
        Ok(lesson)
    }

    fn tokens(
        &self,
        text: &str,
        add_special_tokens: bool,
        document: &Document,
    ) -> Result<Vec<(u32, Range<usize>)>, DataError> {
        let tokens = self.tokenizer.encode_with_places(text, add_special_tokens);
        tokens.map_err(|error| DataError::Tokenize {
            path: document.source.clone(),
            source: Box::new(error),
        })
    }

    /// An answer without the blanks behind the special token that ends its turn: the template puts them there, after the
    /// model has stopped. Without such a token they may be what it stops by.
    fn to_its_end(
        &self,
        answer: Range<usize>,
        text: &str,
        tokens: &[(u32, Range<usize>)],
    ) -> Range<usize> {
        let first = tokens.partition_point(|(_, bytes)| bytes.end <= answer.start);
        let inside = tokens[first..].iter().take_while(|(_, bytes)| bytes.start < answer.end);
        let special = inside.filter(|(token, _)| self.tokenizer.is_special(*token)).last();
        let Some((_, Range { end, .. })) = special else { return answer };
        let is_blank = |rest: &str| rest.trim().is_empty();
        match text.get(*end..answer.end).is_some_and(is_blank) {
            true => answer.start..*end,
            false => answer,
        }
    }

    fn eos(&self, document: &Document) -> Result<u32, DataError> {
        let eos = self.tokenizer.special_tokens().eos.as_ref();
        let problem = EncodingProblem::NoEndOfText;
        let absent = || DataError::NotEncoded { place: document.place(), problem };
        eos.map(|token| token.id).ok_or_else(absent)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Position, train_byte_level_bpe};

    /// `<s>`, `</s>` and every byte.
    fn bytes() -> Tokenizer {
        train_byte_level_bpe(["abc"].into_iter(), 258).unwrap()
    }

    /// In the manner of ChatML, with the tokens that there are.
    const TEMPLATE: &str = "{{ bos_token }}{% for m in messages %}[{{ m.role }}]{{ m.content }}{{ eos_token }}{{ '\n' }}\
                            {% endfor %}{% if add_generation_prompt %}[assistant]{% endif %}";

    fn encoder(template: Option<&str>, append_eos: bool) -> Encoder {
        let tokens = [("bos_token", "<s>"), ("eos_token", "</s>")];
        let tokens = tokens.map(|(name, token)| (name.to_owned(), token.to_owned())).to_vec();
        let template = template.map(|source| {
            ChatTemplate::new("some/chat_template.jinja".into(), source, tokens).unwrap()
        });
        Encoder { tokenizer: bytes(), template, append_eos }
    }

    fn corpus(contents: impl IntoIterator<Item = Content>) -> Corpus {
        let document = |(line, content)| Document {
            source: "a.jsonl".into(),
            position: Some(Position::Line(line)),
            content,
        };
        Corpus { documents: (1..).zip(contents).map(document).collect(), files: vec![] }
    }

    fn talk(said: &[(&str, &str)]) -> Content {
        let messages = said.iter().map(|(role, text)| Message::new(*role, *text));
        Content::Conversation(messages.collect())
    }

    fn instruction() -> Content {
        let [instruction, input, output] = ["Add.", "1", "2"].map(str::to_owned);
        Content::Instruction(Instruction { instruction, input, output })
    }

    /// The only lesson: all of it, and what of it is learned.
    #[track_caller]
    fn spelled(encoder: &Encoder, content: Content) -> [String; 2] {
        let encoded = corpus([content]).encode(Some(encoder)).unwrap();
        assert!(encoded.texts.is_empty());
        let [Lesson { tokens, unlearned }] = &encoded.lessons[..] else { panic!("{encoded:?}") };
        let learned = |at: &usize| !unlearned.iter().any(|range| range.contains(at));
        let all: Vec<usize> = (0..tokens.len()).collect();
        let some: Vec<usize> = all.iter().copied().filter(learned).collect();
        // Byte-level vocabularies write a line's end and a blank so.
        [all, some].map(|at| {
            let tokens = at.into_iter().map(|at| encoder.tokenizer.token(tokens[at]).unwrap());
            tokens.collect::<String>().replace('Ċ', "\n").replace('Ġ', " ")
        })
    }

    #[test]
    fn what_the_assistant_says_is_learned_with_the_end_of_its_turn() {
        let said = [("user", "Hi"), ("assistant", "Yo !"), ("user", "So"), ("assistant", "No")];
        let [all, learned] = spelled(&encoder(Some(TEMPLATE), false), talk(&said));
        assert_eq!(all, "<s>[user]Hi</s>\n[assistant]Yo !</s>\n[user]So</s>\n[assistant]No</s>\n");
        assert_eq!(learned, "Yo !</s>No</s>");
    }

    /// `<|end|>` is no token here but seven letters, and the line's end may be what the model stops by.
    #[test]
    fn blanks_behind_an_end_that_is_no_token_are_learned() {
        let template = TEMPLATE.replace("{{ eos_token }}", "<|end|>");
        let said = [("user", "Hi"), ("assistant", "Yo")];
        let [_, learned] = spelled(&encoder(Some(&template), false), talk(&said));
        assert_eq!(learned, "Yo<|end|>\n");
    }

    #[test]
    fn letters_of_many_bytes_are_learned_whole() {
        let said = [("user", "é"), ("assistant", "é🙂")];
        let encoder = encoder(Some(TEMPLATE), false);
        let encoded = corpus([talk(&said)]).encode(Some(&encoder)).unwrap();
        assert_eq!(encoded.lessons[0].targets(), 2 + 4 + 1);
    }

    #[test]
    fn an_instruction_is_written_as_the_model_does() {
        let [all, learned] = spelled(&encoder(Some(TEMPLATE), false), instruction());
        assert_eq!(all, "<s>[user]Add.\n1</s>\n[assistant]2</s>\n");
        assert_eq!(learned, "2</s>");
    }

    #[test]
    fn an_instruction_of_a_model_without_a_template_is_alpacas() {
        let [all, learned] = spelled(&encoder(None, false), instruction());
        assert!(all.starts_with("<s>Below is an instruction"), "{all}");
        assert!(all.ends_with("### Input:\n1\n\n### Response:2</s>"), "{all}");
        assert_eq!(learned, "2</s>");
    }

    #[test]
    fn texts_stay_as_they_are_unless_their_end_is_asked_for() {
        let documents = || corpus([Content::Text("ab".into()), Content::Tokens(vec![7, 8])]);
        let texts =
            |append_eos| documents().encode(Some(&encoder(None, append_eos))).unwrap().texts;
        assert_eq!(texts(false), documents().tokenize(Some(&bytes())).unwrap());
        let mut ending = texts(false);
        ending[0].push(1);
        assert_eq!(texts(true), ending);
        // It is not put there twice.
        let ends = corpus([Content::Text("ab</s>".into())]);
        assert_eq!(ends.encode(Some(&encoder(None, true))).unwrap().texts, ending[..1]);
    }

    #[test]
    fn kinds_are_kept_apart_in_their_order() {
        let said = [("user", "Hi"), ("assistant", "Yo")];
        let all =
            [Content::Text("a".into()), talk(&said), Content::Text("b".into()), instruction()];
        let encoded = corpus(all).encode(Some(&encoder(Some(TEMPLATE), false))).unwrap();
        assert_eq!(encoded.texts, ["a", "b"].map(|text| bytes().encode(text).unwrap()));
        assert_eq!(encoded.lessons.len(), 2);
    }

    #[test]
    fn what_cannot_be_encoded_is_told_with_file_and_line() {
        let said = [("user", "Hi"), ("assistant", "Yo")];
        let chats = corpus([Content::Text("a".into()), talk(&said)]);
        let check = |error: DataError, parts: &[&str]| {
            let said = error.to_string();
            assert!(parts.iter().all(|part| said.contains(part)), "{said}");
            assert!(!said.contains('\n') && !said.ends_with('.'), "{said}");
        };
        let place = "`a.jsonl` line `2`";
        check(
            chats.encode(Some(&encoder(None, false))).unwrap_err(),
            &[place, "no chat template", "`instruction`"],
        );
        check(chats.tokenize(Some(&bytes())).unwrap_err(), &[place, "is a conversation", "text"]);
        check(chats.encode(None).unwrap_err(), &["a.jsonl", "tokenizer"]);

        let endless = Encoder { tokenizer: without_eos(), template: None, append_eos: true };
        let text = corpus([Content::Text("a".into())]).encode(Some(&endless)).unwrap_err();
        check(text, &["`a.jsonl` line `1`", "`eos_token`"]);
        let asked = corpus([instruction()]).encode(Some(&endless)).unwrap_err();
        check(asked, &["`a.jsonl` line `1`", "`eos_token`"]);
    }

    fn without_eos() -> Tokenizer {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("tokenizer.json");
        std::fs::write(folder.path().join("tokenizer_config.json"), "{}").unwrap();
        bytes().save(&file).unwrap();
        Tokenizer::read(&file).unwrap()
    }
}
