//! What a model is asked, and what came of it.

use serde::{Deserialize, Serialize};

use crate::Scoring;

/// A question to a model: a text, what a right continuation says, and how that is judged.
#[derive(Debug, Clone, PartialEq)]
pub struct Question {
    /// The task that it belongs to, as results name it: `passkey`, `niah_single_1`, `qasper`.
    pub task: String,
    /// Which of the task's questions it is.
    pub id: String,
    /// What the model reads; a user's turn, in the form of a chat.
    pub text: String,
    /// How the answer begins: read after the text, and not judged. A chat's answer begins with it, too.
    pub opening: String,
    /// What is right: one of them or all, as `scoring` has it.
    pub answers: Vec<String>,
    /// How an answer is judged.
    pub scoring: Scoring,
    /// Context length that it was made for, in tokens; 0 if its text is as long as it is.
    pub length: usize,
    /// Where in the text the answer stands, from 0 (its beginning) to 1, if it stands in one place.
    pub depth: Option<f64>,
    /// Tokens that the answer may have.
    pub max_new_tokens: usize,
}

/// A model's answer to a [`Question`]: one line of a results file.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Answer {
    /// SHA-256 of the model, what it read and how much it may write: an answer is the same wherever this is.
    pub key: String,
    /// Who wrote it, as [`Examinee::name`](crate::Examinee::name) has it; empty in files of before it was noted.
    #[serde(default)]
    pub model: String,
    /// How its matrices were kept, `f32`, `bf16` or `nf4`; absent where that was not noted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub weights: Option<String>,
    /// The first digits of a hash of its adapter; absent without one, and where that was not noted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub adapter: Option<String>,
    /// As in the question.
    pub task: String,
    /// As in the question.
    pub id: String,
    /// As in the question.
    pub length: usize,
    /// As in the question.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub depth: Option<f64>,
    /// Tokens that the model read.
    pub prompt_tokens: usize,
    /// What it wrote.
    pub output: String,
    /// What would have been right.
    pub answers: Vec<String>,
    /// From 0 to 1.
    pub score: f64,
}
