//! Which tasks there are.

use super::haystack::Haystack;
use super::niah::{Magic, Niah};
use crate::Scoring;

/// A task of RULER, with the settings of its `synthetic.yaml`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum RulerTask {
    /// One number in noise.
    NiahSingle1,
    /// One number in essays.
    NiahSingle2,
    /// One UUID in essays.
    NiahSingle3,
    /// One number of four with different keys, in essays.
    NiahMultikey1,
    /// One number among nothing but needles with other keys.
    NiahMultikey2,
    /// One UUID among nothing but needles with other keys, which are UUIDs, too.
    NiahMultikey3,
    /// Four numbers of one key, in essays.
    NiahMultivalue,
    /// Four keys, each with a number, in essays.
    NiahMultiquery,
    /// Variables that have a value, by four assignments from one to the next, in noise.
    Vt,
    /// The ten words that are the most common in a list.
    Cwe,
    /// The three coded words that are the most frequent in a text, by the zeta distribution.
    Fwe,
    /// Questions with one document that answers them, among others; SQuAD's in RULER.
    Qa1,
    /// Questions with several documents that answer them, among others; HotpotQA's in RULER.
    Qa2,
}

/// What a task is made of.
pub(super) enum Settings {
    Niah(Niah),
    VariableTracking,
    CommonWords,
    FrequentWords,
    Qa,
}

impl RulerTask {
    /// All thirteen, in RULER's order.
    pub fn all() -> [Self; 13] {
        [
            Self::NiahSingle1,
            Self::NiahSingle2,
            Self::NiahSingle3,
            Self::NiahMultikey1,
            Self::NiahMultikey2,
            Self::NiahMultikey3,
            Self::NiahMultivalue,
            Self::NiahMultiquery,
            Self::Vt,
            Self::Cwe,
            Self::Fwe,
            Self::Qa1,
            Self::Qa2,
        ]
    }

    /// The task of this name, if it is one.
    pub fn named(name: &str) -> Option<Self> {
        Self::all().into_iter().find(|task| task.name() == name)
    }

    /// RULER's name for it.
    pub fn name(self) -> &'static str {
        match self {
            Self::NiahSingle1 => "niah_single_1",
            Self::NiahSingle2 => "niah_single_2",
            Self::NiahSingle3 => "niah_single_3",
            Self::NiahMultikey1 => "niah_multikey_1",
            Self::NiahMultikey2 => "niah_multikey_2",
            Self::NiahMultikey3 => "niah_multikey_3",
            Self::NiahMultivalue => "niah_multivalue",
            Self::NiahMultiquery => "niah_multiquery",
            Self::Vt => "vt",
            Self::Cwe => "cwe",
            Self::Fwe => "fwe",
            Self::Qa1 => "qa_1",
            Self::Qa2 => "qa_2",
        }
    }

    /// Whether its questions come from a file.
    pub fn needs_qa(self) -> bool {
        matches!(self, Self::Qa1 | Self::Qa2)
    }

    /// RULER's `tokens_to_generate`.
    pub(super) fn max_new_tokens(self) -> usize {
        match self.settings() {
            Settings::Niah(_) => 128,
            Settings::VariableTracking => 30,
            Settings::CommonWords => 120,
            Settings::FrequentWords => 50,
            Settings::Qa => 32,
        }
    }

    pub(super) fn scoring(self) -> Scoring {
        if self.needs_qa() { Scoring::AnyOf } else { Scoring::AllOf }
    }

    pub(super) fn settings(self) -> Settings {
        let single = Niah {
            haystack: Haystack::Essay,
            key: Magic::Words,
            value: Magic::Numbers,
            keys: 1,
            values: 1,
            queries: 1,
        };
        let (needles, uuids) = (Haystack::Needles, Magic::Uuids);
        Settings::Niah(match self {
            Self::NiahSingle1 => Niah { haystack: Haystack::Noise, ..single },
            Self::NiahSingle2 => single,
            Self::NiahSingle3 => Niah { value: uuids, ..single },
            Self::NiahMultikey1 => Niah { keys: 4, ..single },
            Self::NiahMultikey2 => Niah { haystack: needles, ..single },
            Self::NiahMultikey3 => Niah { haystack: needles, key: uuids, value: uuids, ..single },
            Self::NiahMultivalue => Niah { values: 4, ..single },
            // RULER's one key becomes as many as are asked for.
            Self::NiahMultiquery => Niah { keys: 4, queries: 4, ..single },
            Self::Vt => return Settings::VariableTracking,
            Self::Cwe => return Settings::CommonWords,
            Self::Fwe => return Settings::FrequentWords,
            Self::Qa1 | Self::Qa2 => return Settings::Qa,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tasks_are_found_by_rulers_names() {
        let names: Vec<_> = RulerTask::all().iter().map(|task| task.name()).collect();
        let expected = "niah_single_1 niah_single_2 niah_single_3 niah_multikey_1 niah_multikey_2 niah_multikey_3 \
                        niah_multivalue niah_multiquery vt cwe fwe qa_1 qa_2";
        assert_eq!(names.join(" "), expected);
        for task in RulerTask::all() {
            assert_eq!(RulerTask::named(task.name()), Some(task));
        }
        assert_eq!(RulerTask::named("niah_single"), None);
    }

    #[test]
    fn an_answer_has_rulers_tokens_to_generate() {
        let tokens = RulerTask::all().map(RulerTask::max_new_tokens);
        assert_eq!(tokens, [128, 128, 128, 128, 128, 128, 128, 128, 30, 120, 50, 32, 32]);
    }

    #[test]
    fn only_questions_of_a_file_have_several_right_answers() {
        let named = |holds: fn(RulerTask) -> bool| {
            let tasks = RulerTask::all().into_iter().filter(|&task| holds(task));
            tasks.map(RulerTask::name).collect::<Vec<_>>()
        };
        assert_eq!(named(RulerTask::needs_qa), ["qa_1", "qa_2"]);
        assert_eq!(named(|task| task.scoring() == Scoring::AnyOf), ["qa_1", "qa_2"]);
        assert_eq!(named(|task| task.scoring() == Scoring::AllOf).len(), 11);
    }
}
