use crate::Message;

/// A task and its answer, as Alpaca and LongAlpaca write them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Instruction {
    /// What is asked.
    pub instruction: String,
    /// What it is asked of; empty, if that is said already.
    pub input: String,
    /// The answer.
    pub output: String,
}

impl Instruction {
    /// As a conversation, for models that have a way to write one.
    pub(crate) fn messages(&self) -> [Message; 2] {
        let Self { instruction, input, output } = self;
        let question = match input.trim() {
            "" => instruction.clone(),
            _ => format!("{instruction}\n{input}"),
        };
        [Message::new("user", question), Message::new("assistant", output.clone())]
    }

    /// All but the answer, for models that have no way to write conversations: Stanford Alpaca's words, which are
    /// `prompt_input` and `prompt_no_input` of `PROMPT_DICT` in LongLoRA's `supervised-fine-tune.py`. That script knows
    /// LLaMA-2-chat's `[INST]`, too; models that were made for it have a chat template that writes it.
    pub(crate) fn prompt(&self) -> String {
        let Self { instruction, input, .. } = self;
        match input.trim() {
            "" => format!(
                "Below is an instruction that describes a task. Write a response that appropriately completes the \
                 request.\n\n### Instruction:\n{instruction}\n\n### Response:"
            ),
            _ => format!(
                "Below is an instruction that describes a task, paired with an input that provides further context. \
                 Write a response that appropriately completes the request.\n\n### Instruction:\n{instruction}\n\n\
                 ### Input:\n{input}\n\n### Response:"
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn instruction(input: &str) -> Instruction {
        let text = |text: &str| text.to_owned();
        Instruction { instruction: text("Add."), input: text(input), output: text("3") }
    }

    #[test]
    fn a_prompt_is_alpacas_with_and_without_an_input() {
        assert_eq!(
            instruction("").prompt(),
            "Below is an instruction that describes a task. Write a response that appropriately completes the request.\
             \n\n### Instruction:\nAdd.\n\n### Response:"
        );
        assert_eq!(
            instruction("1, 2").prompt(),
            "Below is an instruction that describes a task, paired with an input that provides further context. Write a \
             response that appropriately completes the request.\n\n### Instruction:\nAdd.\n\n### Input:\n1, 2\n\n\
             ### Response:"
        );
    }

    #[test]
    fn an_input_stands_behind_its_question() {
        let answer = Message::new("assistant", "3");
        assert_eq!(instruction(" ").messages(), [Message::new("user", "Add."), answer.clone()]);
        assert_eq!(instruction("1, 2").messages(), [Message::new("user", "Add.\n1, 2"), answer]);
    }
}
