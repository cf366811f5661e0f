//! The tasks of LongBench, and how each of them asks.

use crate::Scoring;

/// A task of LongBench.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LongBenchTask {
    /// Its name, as the data has it.
    pub name: &'static str,
    /// What it asks for.
    pub kind: LongBenchKind,
    /// What the model reads: LongBench's own words, with `{context}` and mostly `{input}` where an item's go.
    pub template: &'static str,
    /// Tokens that an answer may have.
    pub max_new_tokens: usize,
    metric: Metric,
}

/// What a task asks for, by LongBench's groups.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LongBenchKind {
    /// An answer out of one document or several.
    QuestionAnswering,
    /// A summary.
    Summary,
    /// The rest: learning from examples, synthetic tasks, and code.
    Other,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Metric {
    TokenF1,
    TokenF1Zh,
    RougeL,
    RougeLZh,
    Class,
    Count,
    Paragraph,
    ParagraphZh,
    CodeLine,
}

static TASKS: [LongBenchTask; 21] = {
    use LongBenchKind::{Other, QuestionAnswering, Summary};
    use Metric::{
        Class, CodeLine, Count, Paragraph, ParagraphZh, RougeL, RougeLZh, TokenF1, TokenF1Zh,
    };
    [
        task("narrativeqa", QuestionAnswering, TokenF1, 128, NARRATIVEQA),
        task("qasper", QuestionAnswering, TokenF1, 128, QASPER),
        task("multifieldqa_en", QuestionAnswering, TokenF1, 64, MULTIFIELDQA),
        task("multifieldqa_zh", QuestionAnswering, TokenF1Zh, 64, MULTIFIELDQA_ZH),
        task("hotpotqa", QuestionAnswering, TokenF1, 32, PASSAGES),
        task("2wikimqa", QuestionAnswering, TokenF1, 32, PASSAGES),
        task("musique", QuestionAnswering, TokenF1, 32, PASSAGES),
        task("dureader", QuestionAnswering, RougeLZh, 128, DUREADER),
        task("gov_report", Summary, RougeL, 512, GOV_REPORT),
        task("qmsum", Summary, RougeL, 512, QMSUM),
        task("multi_news", Summary, RougeL, 512, MULTI_NEWS),
        task("vcsum", Summary, RougeLZh, 512, VCSUM),
        task("trec", Other, Class, 64, TREC),
        task("triviaqa", Other, TokenF1, 32, TRIVIAQA),
        task("samsum", Other, RougeL, 128, SAMSUM),
        task("lsht", Other, Class, 64, LSHT),
        task("passage_count", Other, Count, 32, PASSAGE_COUNT),
        task("passage_retrieval_en", Other, Paragraph, 32, PASSAGE_RETRIEVAL),
        task("passage_retrieval_zh", Other, ParagraphZh, 32, PASSAGE_RETRIEVAL_ZH),
        task("lcc", Other, CodeLine, 64, LCC),
        task("repobench-p", Other, CodeLine, 64, REPOBENCH),
    ]
};

const fn task(
    name: &'static str,
    kind: LongBenchKind,
    metric: Metric,
    max_new_tokens: usize,
    template: &'static str,
) -> LongBenchTask {
    LongBenchTask { name, kind, template, max_new_tokens, metric }
}

impl LongBenchTask {
    /// All of them, in the order of LongBench's `pred.py`.
    pub fn all() -> &'static [Self] {
        &TASKS
    }

    /// The task of this name. LongBench-E's are the same tasks, whether or not their names end in `_e`.
    pub fn named(name: &str) -> Option<&'static Self> {
        let name = name.strip_suffix("_e").unwrap_or(name);
        TASKS.iter().find(|task| task.name == name)
    }

    /// Whether a chat model is asked in the form of a chat. LongBench never does so where the model is to go on with
    /// examples or code: there, whoever asks gives a [`Prompter::text`](crate::Prompter::text) even for a chat model.
    pub fn wants_chat(&self) -> bool {
        !matches!(self.name, "trec" | "triviaqa" | "samsum" | "lsht" | "lcc" | "repobench-p")
    }

    /// How an answer is judged, as LongBench's `eval.py` has it; `classes` are those of an item of `trec`
    /// or `lsht`.
    ///
    /// Where examples come before the question, what follows the answer's first line is not judged: a model would go on
    /// with examples of its own.
    pub fn scoring(&self, classes: &[String]) -> Scoring {
        let scoring = match self.metric {
            Metric::TokenF1 => Scoring::TokenF1,
            Metric::TokenF1Zh => Scoring::TokenF1Zh,
            Metric::RougeL => Scoring::RougeL,
            Metric::RougeLZh => Scoring::RougeLZh,
            Metric::Class => Scoring::Class(classes.to_vec()),
            Metric::Count => Scoring::Count,
            Metric::Paragraph => Scoring::Paragraph,
            Metric::ParagraphZh => Scoring::ParagraphZh,
            Metric::CodeLine => Scoring::CodeLine,
        };
        match self.name {
            "trec" | "triviaqa" | "samsum" | "lsht" => Scoring::FirstLine(Box::new(scoring)),
            _ => scoring,
        }
    }

    /// Whether its items need classes.
    pub(super) fn has_classes(&self) -> bool {
        self.metric == Metric::Class
    }

    /// The template with an item's context and input in it.
    pub(super) fn prompt(&self, context: &str, input: &str) -> String {
        let (before, behind) = self.template.split_once("{context}").unwrap_or((self.template, ""));
        [before, context, &behind.replace("{input}", input)].concat()
    }
}

const NARRATIVEQA: &str = "\
    You are given a story, which can be either a novel or a movie script, and a question. \
    Answer the question asconcisely as you can, using a single phrase if possible. Do not \
    provide any explanation.\n\nStory: {context}\n\nNow, answer the question based on the story \
    asconcisely as you can, using a single phrase if possible. Do not provide any \
    explanation.\n\nQuestion: {input}\n\nAnswer:";

const QASPER: &str = "\
    You are given a scientific article and a question. Answer the question as concisely as you \
    can, using a single phrase or sentence if possible. If the question cannot be answered \
    based on the information in the article, write \"unanswerable\". If the question is a \
    yes/no question, answer \"yes\", \"no\", or \"unanswerable\". Do not provide any \
    explanation.\n\nArticle: {context}\n\n Answer the question based on the above article as \
    concisely as you can, using a single phrase or sentence if possible. If the question cannot \
    be answered based on the information in the article, write \"unanswerable\". If the \
    question is a yes/no question, answer \"yes\", \"no\", or \"unanswerable\". Do not provide \
    any explanation.\n\nQuestion: {input}\n\nAnswer:";

const MULTIFIELDQA: &str = "\
    Read the following text and answer briefly.\n\n{context}\n\nNow, answer the following \
    question based on the above text, only give me the answer and do not output any other \
    words.\n\nQuestion: {input}\nAnswer:";

const MULTIFIELDQA_ZH: &str = "\
    阅读以下文字并用中文简短回答：\n\n{context}\n\n\
    现在请基于上面的文章回答下面的问题，只告诉我答案，不要输出任何其他字词。\n\n\
    问题：{input}\n回答：";

const PASSAGES: &str = "\
    Answer the question based on the given passages. Only give me the answer and do not output \
    any other words.\n\nThe following are given passages.\n{context}\n\nAnswer the question \
    based on the given passages. Only give me the answer and do not output any other \
    words.\n\nQuestion: {input}\nAnswer:";

const DUREADER: &str = "\
    请基于给定的文章回答下述问题。\n\n文章：{context}\n\n\
    请基于上述文章回答下面的问题。\n\n问题：{input}\n回答：";

const GOV_REPORT: &str = "\
    You are given a report by a government agency. Write a one-page summary of the \
    report.\n\nReport:\n{context}\n\nNow, write a one-page summary of the report.\n\nSummary:";

const QMSUM: &str = "\
    You are given a meeting transcript and a query containing a question or instruction. Answer \
    the query in one or more sentences.\n\nTranscript:\n{context}\n\nNow, answer the query \
    based on the above meeting transcript in one or more sentences.\n\nQuery: {input}\nAnswer:";

const MULTI_NEWS: &str = "\
    You are given several news passages. Write a one-page summary of all news. \
    \n\nNews:\n{context}\n\nNow, write a one-page summary of all the news.\n\nSummary:";

const VCSUM: &str = "\
    下面有一段会议记录，请你阅读后，写一段总结，总结会议的内容。\n\
    会议记录：\n{context}\n\n会议总结：";

const TREC: &str = "\
    Please determine the type of the question below. Here are some examples of \
    questions.\n\n{context}\n{input}";

const TRIVIAQA: &str = "\
    Answer the question based on the given passage. Only give me the answer and do not output \
    any other words. The following are some examples.\n\n{context}\n\n{input}";

const SAMSUM: &str = "\
    Summarize the dialogue into a few short sentences. The following are some \
    examples.\n\n{context}\n\n{input}";

const LSHT: &str = "\
    请判断给定新闻的类别，下面是一些例子。\n\n{context}\n{input}";

const PASSAGE_COUNT: &str = "\
    There are some paragraphs below sourced from Wikipedia. Some of them may be duplicates. \
    Please carefully read these paragraphs and determine how many unique paragraphs there are \
    after removing duplicates. In other words, how many non-repeating paragraphs are there in \
    total?\n\n{context}\n\nPlease enter the final count of unique paragraphs after removing \
    duplicates. The output format should only contain the number, such as 1, 2, 3, and so \
    on.\n\nThe final answer is: ";

const PASSAGE_RETRIEVAL: &str = "\
    Here are 30 paragraphs from Wikipedia, along with an abstract. Please determine which \
    paragraph the abstract is from.\n\n{context}\n\nThe following is an \
    abstract.\n\n{input}\n\nPlease enter the number of the paragraph that the abstract is from. \
    The answer format must be like \"Paragraph 1\", \"Paragraph 2\", etc.\n\nThe answer is: ";

const PASSAGE_RETRIEVAL_ZH: &str = "\
    以下是若干段落文字，以及其中一个段落的摘要。请确定给定的摘要出自哪一段。\n\n{context}\n\n\
    下面是一个摘要\n\n{input}\n\n\
    请输入摘要所属段落的编号。答案格式必须是\"段落1\"，\"段落2\"等格式\n\n答案是：";

const LCC: &str = "\
    Please complete the code given below. \n{context}Next line of code:\n";

const REPOBENCH: &str = "\
    Please complete the code given below. \n{context}{input}Next line of code:\n";

#[cfg(test)]
mod tests {
    use sha2::{Digest, Sha256};

    use super::*;

    /// Names, lengths and templates as `config/dataset2maxlen.json` and `config/dataset2prompt.json` have them, hashed.
    #[test]
    fn every_word_is_long_benchs() {
        let mut hash = Sha256::new();
        for LongBenchTask { name, max_new_tokens, template, .. } in LongBenchTask::all() {
            hash.update(format!("{name}\n{max_new_tokens}\n{template}\n"));
        }
        let hash: String = hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(hash, "16bc8592e42fe6c5026a0d614d560b324680679dff5d71a85ecaebfb9d2a2d82");
    }

    #[test]
    fn tasks_are_found_by_their_names() {
        for task in LongBenchTask::all() {
            assert_eq!(LongBenchTask::named(task.name), Some(task));
        }
        assert_eq!(LongBenchTask::named("lcc_e"), LongBenchTask::named("lcc"));
        assert_eq!(LongBenchTask::named("quality"), None);
    }

    #[test]
    fn all_stand_in_the_order_of_long_bench() {
        let names: Vec<_> = LongBenchTask::all().iter().map(|task| task.name).collect();
        let expected = "narrativeqa qasper multifieldqa_en multifieldqa_zh hotpotqa 2wikimqa \
            musique dureader gov_report qmsum multi_news vcsum trec triviaqa samsum lsht \
            passage_count passage_retrieval_en passage_retrieval_zh lcc repobench-p";
        assert_eq!(names.join(" "), expected);
    }

    #[test]
    fn context_and_input_stand_where_the_template_says() {
        let lcc = LongBenchTask::named("lcc").unwrap();
        let expected = "Please complete the code given below. \nx = {input}\nNext line of code:\n";
        assert_eq!(lcc.prompt("x = {input}\n", "y"), expected);
        let trec = LongBenchTask::named("trec").unwrap();
        assert!(trec.prompt("Examples", "A {context}?").ends_with(".\n\nExamples\nA {context}?"));
        for task in LongBenchTask::all() {
            assert_eq!(task.template.matches("{context}").count(), 1);
        }
    }

    #[test]
    fn examples_are_answered_in_one_line() {
        let score = |name: &str, output: &str| {
            let classes = ["Date", "City"].map(str::to_owned);
            let scoring = LongBenchTask::named(name).unwrap().scoring(&classes);
            scoring.score(output, &["City".to_owned()])
        };
        for name in ["trec", "triviaqa", "samsum", "lsht"] {
            assert!(score(name, "\nCity\nQuestion: When was it?\nType: Date") > 0.99, "{name}");
        }
        assert!(score("hotpotqa", "City\nDate") < 0.99);
        assert_eq!(score("trec", "City or Date"), 0.5);
    }

    #[test]
    fn chinese_answers_are_judged_in_chinese() {
        let scoring = |name: &str| LongBenchTask::named(name).unwrap().scoring(&[]);
        assert_eq!(scoring("multifieldqa_zh"), Scoring::TokenF1Zh);
        assert_eq!(scoring("dureader"), Scoring::RougeLZh);
        assert_eq!(scoring("vcsum"), Scoring::RougeLZh);
        assert_eq!(scoring("passage_retrieval_zh"), Scoring::ParagraphZh);
        let news = ["体育", "经济"].map(str::to_owned);
        let scoring = LongBenchTask::named("lsht").unwrap().scoring(&news);
        assert_eq!(scoring.score("类别：体育\n新闻：股市\n类别：经济", &news[..1]), 1.0);
    }

    #[test]
    fn what_goes_on_with_a_text_is_no_chat() {
        let no_chat = LongBenchTask::all().iter().filter(|task| !task.wants_chat());
        let names: Vec<_> = no_chat.map(|task| task.name).collect();
        assert_eq!(names, ["trec", "triviaqa", "samsum", "lsht", "lcc", "repobench-p"]);
    }
}
