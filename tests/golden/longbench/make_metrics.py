"""Writes the golden scores of LongBench's metrics: `python make_metrics.py LONGBENCH`.

LONGBENCH is the folder of LongBench (THUDM/LongBench, commit 2e00731) that holds `metrics.py`. It needs rouge 1.0.1 and
fuzzywuzzy 0.18.0, as its requirements.txt has them: without python-Levenshtein, with which `fuzz.ratio` would be another
number. `contains` is RULER's `string_match_all` and `string_match_part` for one reference. All texts are ours.
"""

import difflib
import json
import random
import re
import sys
import types
from pathlib import Path

from fuzzywuzzy import fuzz

# Chinese words, which are none of ours.
sys.modules["jieba"] = types.ModuleType("jieba")
sys.path.insert(0, sys.argv[1])
import metrics  # noqa: E402

assert fuzz.SequenceMatcher is difflib.SequenceMatcher, "uninstall python-Levenshtein"
GOLDEN = Path(__file__).resolve().parents[3] / "crates/longlora-eval/src/golden/metrics.json"

TEXTS = [
    ("", ""),
    ("", "the mill"),
    ("the mill", ""),
    (" \n\t", "the mill"),
    ("the mill", "  "),
    ("...", "the mill"),
    ("the mill", "..."),
    (" . . ", " . "),
    (" .a. ", "a . b"),
    ("a", "the"),
    ("an the a", "a"),
    ("the mill", "The Mill"),
    ("The mill.", "mill"),
    ("It was a mill, by the river.", "a mill by a river"),
    ("the-end", "the end"),
    ("the–end", "the end"),
    ("well–the–end", "well end"),
    ("A’s b", "s b"),
    ("the_mill an_oven", "the mill an oven"),
    ("theatre another ant", "atre other nt"),
    ("\"Yes,\" she said: (no).", "yes she said no"),
    ("U.S.A. and U.K.", "USA and UK"),
    ("3.14 or 2,718?", "314 or 2718"),
    ("$1,000.00", "1000.00"),
    ("rain rain rain", "rain"),
    ("rain", "rain rain rain"),
    ("rain snow rain hail rain", "snow rain rain wind"),
    ("one two three four five", "five four three two one"),
    ("one two three. four five six.", "four five six. one two three."),
    ("one two six seven eight. one three eight nine five.", "one two three four five."),
    ("The cat sat. The cat sat on it. The cat ran.", "The cat sat on the mat. Then the cat ran away."),
    ("no word in common", "something else entirely"),
    ("Café Müller öffnet", "café müller öffnet um acht"),
    ("CAFÉ MÜLLER", "café müller"),
    ("cafe\u0301 an\u0301 the", "café an the"),
    ("İstanbul ve Iğdır", "istanbul ve ığdır"),
    ("ΟΔΟΣ ΣΟΦΙΑΣ", "οδος σοφιας"),
    ("STRASSE Straße", "straße strasse"),
    ("日本 の 首都 は 東京 です。", "首都 は 東京"),
    ("Мельница у реки", "мельница стоит у реки"),
    ("the\u00a0mill\u2003by\u3000the river", "mill by river"),
    ("mill\x1cby\x1dthe\x1eriver\x1fbank", "mill by river bank"),
    ("mill\x85by\u200bthe river", "mill by river"),
    ("½ litre of ² and Ⅳ", "½ litre ² Ⅳ"),
    ("🙂 a smile 🙂", "smile 🙂"),
    ("Hans Petersen, the baker of Tondern", "Hans Petersen"),
    ("The answer is unanswerable.", "Unanswerable"),
    ("no", "No"),
    ("Yes. The paper compares three models", "yes"),
    ("In 1866 and again in 1871", "1871"),
    ("line one\nline two\nline three", "line two line three"),
    ("Title\n\nA man buys a mill.  He sells it.. Then he leaves!", "A man buys a mill. He then sells it and leaves."),
    (
        "The committee met on Monday to discuss the new bridge. Most members were in favour. The cost was said to be "
        "too high by two of them, and the vote was put off until the next meeting. The mayor was not there.",
        "The committee discussed the cost of the new bridge. Two members found it too high. The vote was put off. "
        "It will be held at the next meeting, when the mayor is there.",
    ),
    (
        "Anna asks Ben whether he has the keys. Ben has left them at the office. He will bring them tomorrow.",
        "Ben forgot Anna's keys at the office and will bring them tomorrow.",
    ),
]

CLASSES = ["Number of something", "Number", "Date", "Other number", "Person", "Group of persons", "person", "City"]
NAMED = [
    ("", "Date"),
    ("Date", "Date"),
    ("date", "Date"),
    ("Type: Date", "Date"),
    ("Date or City", "Date"),
    ("Date or City", "City"),
    ("Date, City, Person", "Person"),
    ("Number", "Number"),
    ("Number", "Number of something"),
    ("Number of something", "Number of something"),
    ("Number of something", "Number"),
    ("Other number", "Other number"),
    ("Other number, Number", "Other number"),
    ("Number of something and Number", "Number of something"),
    ("Person", "person"),
    ("person", "Person"),
    ("Group of persons", "Group of persons"),
    ("Group of persons", "person"),
    ("Group of persons, Person", "Group of persons"),
    ("City", "Village"),
    ("Nothing of it", "City"),
    ("CityCityCity", "City"),
    ("City\nDate", "City"),
    ("The type is City.", "City"),
]
# Classes within classes: the list shrinks while it is walked through.
NESTED = ["a", "b", "c", "ab", "bc", "abc", "abcd", ""]
WITHIN = ["a", "ab", "abc", "abcd", "bc", "c b a", "d", "", "ab bc", "bcd abc"]
TWICE = ["x", "xy", "x", "xyz", "y", "xy"]

COUNTED = [
    ("", "3"),
    ("none", "3"),
    ("3", "3"),
    ("03", "3"),
    ("3.", "3"),
    ("3.5", "3"),
    ("-3", "3"),
    ("33", "3"),
    ("3 3 3", "3"),
    ("3 4", "3"),
    ("4 3", "3"),
    ("There are 3 paragraphs, 5 of them twice.", "3"),
    ("1, 2, 3, and so on", "3"),
    ("x3y3z", "3"),
    ("three", "3"),
    ("1,000", "1000"),
    ("1000", "1000"),
    ("３", "3"),
    ("3 ３", "3"),
    ("٣ 3", "3"),
    ("３３3", "3"),
    ("²3", "3"),
    ("½ 3", "3"),
    ("Ⅲ 3", "3"),
    ("3️⃣", "3"),
    ("𝟑 3", "3"),
    ("3", ""),
    ("3", "3 "),
    ("12\n12\n13", "12"),
    ("12e12", "12"),
    ("1e-12", "12"),
    ("0x12", "12"),
    ("twelve (12)", "12"),
    ("12 12 12 7 7", "12"),
    ("7/12/2019", "12"),
    ("A12 B12 C13 D14 E15 F16 G17", "12"),
    ("00", "0"),
    ("0", "0"),
    ("1 2 3 4 5 6 7 8 9 10 11", "11"),
    ("99999999999999999999999", "99999999999999999999999"),
    ("3 ③ ３ 3", "3"),
    ("৩ ৩ 3", "3"),
]
PARAGRAPHS = [
    ("Paragraph 3", "Paragraph 3"),
    ("paragraph 3", "Paragraph 3"),
    ("Paragraph 3", "Paragraph  3 Paragraph 4"),
    ("4", "Paragraph Paragraph 4"),
    ("4", "Paragraph x, Paragraph 4, Paragraph 5"),
    ("12", "see Paragraph 12, not Paragraph 3"),
]

CODE = [
    ("", ""),
    ("", "return x"),
    ("return x", ""),
    ("return x", "return x"),
    ("return x\n", "return x"),
    ("\n\nreturn x", "return x"),
    ("    return x", "        return x"),
    ("return x", "return y"),
    ("return self.x", "return self.y + 1"),
    ("# a comment\nreturn x", "return x"),
    ("// a comment\nreturn x;", "return x;"),
    ("```python\nreturn x\n```", "return x"),
    ("x = 1  # one", "x = 1"),
    ("# one\n// two\n`three`", "x = 1"),
    ("# one\n\nx = 1", "x = 1"),
    (" \nx = 1", "x = 1"),
    ("\r\nx = 1", "x = 1"),
    ("url = \"http://example.org\"\nx = 1", "x = 1"),
    ("for i in range(10):", "for index in range(0, 10):"),
    ("if (a == b) {", "if (b == a) {"),
    ("abcdefgh", "hgfedcba"),
    ("aaaa", "aaaaaaaa"),
    ("abab", "baba"),
    ("ab", "ba"),
    ("abc", "xyz"),
    ("a", "a "),
    ("public static void main(String[] args) {", "public static int main(String args) {"),
    ("self.assertEqual(result, expected)", "self.assertEqual(expected, result)"),
    ("var größe = 3;", "var groesse = 3;"),
    ("名前 = 'x'", "名 = 'x'"),
    ("private final Map<String, List<Integer>> counts = new HashMap<>();", "private Map<String, Integer> count;"),
    ("abxcd", "abcd"),
    ("qabxcd", "abycdf"),
    ("private Thread currentThread;", "private volatile Thread currentThread;"),
    ("ab" * 40, "ba" * 40),
    # From 200 characters on, difflib leaves out those that are frequent in the second.
    ("x = [" + "1, " * 60 + "]", "x = [" + "1, " * 70 + "]"),
    ("1, " * 66, "x = [" + "1, " * 66 + "]"),
    ("1, " * 65 + "2", "2" + "1, " * 66),
    ("private int a;", "private int " + "a" * 200 + ";"),
    ("word " * 50 + "end", "start " + "word " * 45 + "end"),
    ("".join(map(chr, range(200, 460))), "".join(map(chr, range(210, 470)))),
]


def drawn(count, words, lengths, joint, seed):
    """Pairs of texts of some of these words, for what nobody thinks of."""
    draw = random.Random(seed)
    text = lambda: joint.join(draw.choices(words, k=draw.randrange(*lengths)))
    return [(text(), text()) for _ in range(count)]


def scored(cases, score, *rest):
    return [[output, answer, float(score(output, answer, *rest))] for output, answer in cases]


def classified(cases, classes):
    score = metrics.classification_score
    scores = [[output, answer, float(score(output, answer, all_classes=classes))] for output, answer in cases]
    return {"classes": classes, "cases": scores}


texts = TEXTS + drawn(12, ["a", "the", "Mill", "mill.", "by", "river", ".", "1866,"], (1, 30), " ", 1)
long = drawn(4, [f"w{n}" for n in range(90)] + ["w1.", "w2.", "."], (60, 120), " ", 2)
code = CODE + drawn(12, list("ab c=()"), (1, 40), "", 3) + drawn(4, list("abcdefgh ij"), (190, 260), "", 4)
nested = [(output, answer) for output in WITHIN for answer in WITHIN[:5]]
found = lambda output, answer: 1.0 if answer.lower() in output.lower() else 0.0

golden = {
    "numbers": [[text, re.findall(r"\d+", text)] for text, _ in COUNTED],
    "contains": scored(TEXTS + [(answer, output) for output, answer in TEXTS], found),
    "token_f1": scored(texts + long, metrics.qa_f1_score),
    "rouge_l": scored(texts + long, metrics.rouge_score),
    "class": [classified(NAMED, CLASSES), classified(nested, NESTED), classified([("xyz", "xyz"), ("xy", "xy")], TWICE)],
    "paragraph": scored([(out, f"Paragraph {n}") for out, n in COUNTED if n.isdigit()] + PARAGRAPHS,
                        metrics.retrieval_score),
    "count": scored(COUNTED, metrics.count_score),
    "code_line": scored(code, metrics.code_sim_score),
}
GOLDEN.parent.mkdir(exist_ok=True)
lines = [f'"{family}": [\n' + ",\n".join(json.dumps(case) for case in cases) + "\n]" for family, cases in golden.items()]
GOLDEN.write_text("{\n" + ",\n".join(lines) + "\n}\n")
