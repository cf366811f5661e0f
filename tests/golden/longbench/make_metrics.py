"""Writes the golden scores of LongBench's metrics: `python make_metrics.py LONGBENCH`.

LONGBENCH is the folder of LongBench (THUDM/LongBench, commit 2e00731) that holds `metrics.py`. It needs rouge 1.0.1,
jieba 0.42.1 and fuzzywuzzy 0.18.0, as its requirements.txt has them: without python-Levenshtein, with which
`fuzz.ratio` would be another number. `contains` is RULER's `string_match_all` and `string_match_part` for one reference.
All texts are ours.
"""

import difflib
import json
import random
import re
import sys
from pathlib import Path

import jieba
from fuzzywuzzy import fuzz

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

CHINESE = [
    ("", ""),
    ("", "北京"),
    ("北京", ""),
    (" \n\t\u3000", "北京"),
    ("。", "北京"),
    ("，。！？", "。"),
    ("...", "北京"),
    ("北京", "北京"),
    ("北京。", "北京"),
    ("上海", "北京"),
    ("北京上海", "上海北京"),
    ("答案是北京。", "北京"),
    ("磨坊在河边。", "河边的磨坊"),
    ("首都是北京市", "中国的首都是北京。"),
    ("对", "是的"),
    ("是的，他去了。", "是"),
    ("根据文章无法回答该问题。", "无法回答"),
    ("下雨下雨下雨", "下雨"),
    ("下雨", "下雨，下雨，还是下雨"),
    ("先下雨后下雪再下雨", "下雪下雨刮风"),
    ("他在1998年出生于杭州。", "1998年"),
    ("2019-05-01", "2019年5月1日"),
    ("二〇一九年五月一日", "2019年5月1日"),
    ("2019/5/1 08:30", "8:30"),
    ("3.14和2,718", "3.14"),
    ("增长了12.5%，而不是8%。", "12.5%"),
    ("共花费￥1,000.00元（约合$140）", "1000元"),
    ("版本1.2.3以及v2.0-rc.1", "1.2"),
    ("1.2a和1.2%b以及a%.5", "1.2"),
    ("GPT-4与BERT_base的比较", "gpt 4"),
    ("BERT_base_v1.0-zh--", "bert base"),
    ("请访问www.example.com/a-b.html或写信给li_ming@example.org。", "www.example.com"),
    ("C++和c#语言", "c++语言"),
    ("AT&T公司的T恤", "AT&T"),
    ("A型血", "a型血"),
    ("U盘和4S店", "u盘"),
    ("α射线与γ射线", "γ射线"),
    ("The mill was sold to 王明 in 1866.", "王明 1866"),
    ("the-end and the end", "The End"),
    ("《河边的磨坊》的作者是林小雨。", "《河边的磨坊》"),
    ("“好的”，她说：“明天见！”", "好的，明天见"),
    ("！？｡。＂＃＄％＆＇（）＊＋，－／：；＜＝＞＠［＼］＾＿｀｛｜｝～｟｠｢｣､、〃》「」『』【】〔〕〖〗〘〙〚〛〜〝〞〟〰〾〿–—‘’‛“”„‟…‧﹏.", "标点"),
    ("〈一〉《二》〇￥·—", "一二"),
    ("ＡＢＣ１２３", "abc123"),
    ("ＡＢＣ１２３", "ａｂｃ１２３"),
    ("台灣的首都在臺北", "台湾的首都在台北"),
    ("㐀㐁是罕用字，我㐀你们", "㐀㐁罕用字"),
    ("𠮷野先生住在𠮷野町", "吉野先生"),
    ("鿕鿖鿿三个字", "三个字"),
    ("龘龘龘龘", "龘龘"),
    ("日本の首都は東京です。", "東京"),
    ("서울은 수도입니다", "서울"),
    ("Мельница стоит у реки", "мельница у реки"),
    ("İstanbul和Straße", "istanbul strasse"),
    ("好的🙂🙂", "好的🙂"),
    ("北京 上海\t广州\u3000深圳\u00a0成都", "北京上海广州深圳成都"),
    ("北京\x1c上海\x85广州\u200b深圳", "北京 上海 广州 深圳"),
    ("第一行\n第二行\n\n第三行", "第二行第三行"),
    ("一.二.三", "二.一"),
    ("磨坊.卖了.他走了", "他走了。磨坊卖了。"),
    ("欧阳明月和诸葛小亮去了图书馆", "诸葛小亮"),
    ("赵铁柱、钱多多与孙晓丽", "孙晓丽和赵铁柱"),
    ("雷克斯顿伯爵住在特罗维尔堡", "特罗维尔堡"),
    ("研究生正在研究生物的起源", "研究生物起源"),
    ("武汉市长江边的大桥修好了", "长江大桥"),
    ("羽毛球拍卖光了才开拍卖会", "球拍卖光"),
    ("那件事的确实行起来很难", "的确难实行"),
    ("混合成分数相同的液体", "成分相同的液体"),
    ("他画的确实像真马", "确实像"),
    (
        "会议讨论了新桥的费用，多数委员表示赞成。两位委员认为费用过高，表决推迟到下次会议。市长没有出席。",
        "委员会讨论新桥的费用。两位委员认为太高，表决被推迟，将在下次市长出席的会议上进行。",
    ),
    (
        "首先，需要准备身份证和户口本；其次，到当地派出所填写申请表，交费20元；最后等待15个工作日即可领取。",
        "带上身份证、户口本到派出所填表，费用为20元，15个工作日后领取新证。",
    ),
    (
        "本次会议由张主任主持，主要讨论三个问题：一是第三季度销售额比去年同期增长8.6%；二是新产品X-200的上市时间推迟到11月；"
        "三是各部门要控制成本.\n会上，李经理汇报了客户的意见，王工程师解释了延期的原因。",
        "会议讨论第三季度销售情况、新产品X-200的上市时间以及成本控制。李经理和王工程师分别汇报了客户意见和延期原因。",
    ),
    (
        "感冒了可以多喝热水，注意休息，如果发烧超过38.5℃，建议服用退烧药并及时去医院就诊。",
        "多喝水、多休息；体温高于38.5度时应服药并就医。",
    ),
]
CHINESE_WORDS = ["磨坊", "河边", "卖", "的", "了", "在", "，", "。", "委员会", "2019", "年", "-", ".", "3.5", "%", "GPT", "_", "小雨"]
CHINESE_PARAGRAPHS = [
    ("段落3", "段落3"),
    ("段落 3", "段落3"),
    ("答案是：段落3。", "段落3"),
    ("第3段", "段落3"),
    ("第三段", "段落3"),
    ("段落3和段落4", "段落3"),
    ("段落3", "段落 段落3"),
    ("4", "段落段落4"),
    ("4", "段落四，段落4，段落5"),
    ("12", "见段落12，而非段落3"),
    ("段落３", "段落3"),
    ("段落３", "段落３"),
    ("Paragraph 3", "段落3"),
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
chinese = CHINESE + drawn(20, CHINESE_WORDS, (1, 20), "", 5)
# Characters that seldom stand beside each other: the hidden Markov model cuts them.
chinese += drawn(20, list("磨坊河边卖的了在委员会议桥梁明月诸葛亮研究生命起源市长江大"), (2, 24), "", 6)
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
    "words_zh": [[text, list(jieba.cut(text, cut_all=False))] for pair in chinese for text in pair if text],
    "f1_zh": scored(chinese, metrics.qa_f1_zh_score),
    "rouge_zh": scored(chinese, metrics.rouge_zh_score),
    "paragraph_zh": scored([(out, f"段落{n}") for out, n in COUNTED if n.isdigit()] + CHINESE_PARAGRAPHS,
                           metrics.retrieval_zh_score),
}
GOLDEN.parent.mkdir(exist_ok=True)
lines = [f'"{family}": [\n' + ",\n".join(json.dumps(case) for case in cases) + "\n]" for family, cases in golden.items()]
GOLDEN.write_text("{\n" + ",\n".join(lines) + "\n}\n")
