"""Texts as phonemes: the table of ids, five languages, what is told when something cannot be spoken."""

from __future__ import annotations

import csv
import hashlib
import json
import subprocess
import sys
from pathlib import Path

import pytest

from ttstrain.errors import DataError, RecipeError
from ttstrain.families.gpt_sovits.text import homographs, pinyin, reading, spelling
from ttstrain.families.gpt_sovits.text.cantonese import read as read_cantonese
from ttstrain.families.gpt_sovits.text.english import dictionary
from ttstrain.families.gpt_sovits.text.english_text import normalize
from ttstrain.families.gpt_sovits.text.front_end import (
    Phonemes,
    SovitsFrontEnd,
    detect_language,
    phonemize,
    versions,
)
from ttstrain.families.gpt_sovits.text.hangul import pronounced_letters
from ttstrain.families.gpt_sovits.text.japanese_dictionary import Dictionary, digest
from ttstrain.families.gpt_sovits.text.symbols import ARPABET, PAUSES, symbol_ids, symbols


def phones(text: str, language: str, version: str = "v2") -> str:
    return " ".join(phonemize(text, language, version=version).phones)


def in_words(text: str) -> str:
    return normalize(text, dictionary())


# ---------------------------------------------------------------- the table


def test_symbols_have_the_ids_of_the_published_weights() -> None:
    assert (len(symbols("v1")), len(symbols("v2"))) == (322, 732)
    assert symbols("v2")[:322] == symbols("v1")
    assert symbols("v2") == symbols("v2Pro") == symbols("v2ProPlus")
    assert len(set(symbols("v2"))) == 732
    ids = symbol_ids("v2")
    anchors = {"!": 0, ",": 1, "-": 2, ".": 3, "?": 4, "SP": 77, "SP2": 78, "SP3": 79, "UNK": 86, "_": 95, "…": 321}
    assert {symbol: ids[symbol] for symbol in anchors} == anchors
    assert (ids["["], ids["]"]) == (322, 323)
    # Of the list that GPT-SoVITS' text/symbols2.py makes at 48b1a016, one symbol a line.
    joined = "\n".join(symbols("v2")).encode()
    assert hashlib.sha256(joined).hexdigest() == "0771f6cd6f6201e8c2b0de921dc69cc04caf3f346c599d4a41413967d5674da7"


def test_symbols_are_those_of_the_fixture(fixtures_dir: Path) -> None:
    config = fixtures_dir / "sovits_data" / "config.json"
    if not config.is_file():
        pytest.skip("the compact fixtures have no sovits_data")
    assert list(symbols("v2")) == json.loads(config.read_text(encoding="utf-8"))["symbols"]
    for line in (config.parent / "exp" / "2-name2text.txt").read_text(encoding="utf-8").splitlines():
        if "\t" in line:
            assert set(line.split("\t")[1].split()) <= set(symbols("v2"))


def test_a_version_that_does_not_exist_is_refused() -> None:
    with pytest.raises(RecipeError, match="no version `v9`"):
        symbols("v9")


def test_ids_are_places_in_the_table() -> None:
    read = phonemize("你好, hello!", "zh", version="v2")
    assert [symbols("v2")[index] for index in read.ids] == list(read.phones)


# ---------------------------------------------------------------- English

# The first three are the examples of g2p_en's README.
EXAMPLES = {
    "I have $250 in my pocket.": "AY1 HH AE1 V T UW1 HH AH1 N D R AH0 D F IH1 F T IY0 D AA1 L ER0 Z IH0 N M AY1 "
    "P AA1 K AH0 T .",
    "I refuse to collect the refuse around here.": "AY1 R IH0 F Y UW1 Z T UW1 K AH0 L EH1 K T DH AH0 "
    "R EH1 F Y UW2 Z ER0 AW1 N D HH IY1 R .",
    "I'm an activationist.": "AY1 M AE1 N AE2 K T IH0 V EY1 SH AH0 N IH0 S T .",
    "Hello, world!": "HH AH0 L OW1 , W ER1 L D !",
    "They record the record; he records both records.": "DH EY1 R IH0 K AO1 R D DH AH0 R EH1 K ER0 D , HH IY1 "
    "R IH0 K AO1 R D Z B OW1 TH R EH1 K ER0 D Z .",
    "He read it and will read more.": "HH IY1 R EH1 D IH1 T AH0 N D W IH1 L R IY1 D M AO1 R .",
    "They live near a live wire.": "DH EY1 L IH1 V N IH1 R AH0 L AY1 V W AY1 ER0 .",
}


@pytest.mark.parametrize("text", EXAMPLES)
def test_english_is_read_from_the_dictionary(text: str) -> None:
    assert phones(text, "en") == EXAMPLES[text]


def test_english_sounds_alike_in_all_versions() -> None:
    read = [phonemize("A quick brown fox.", "en", version=version).ids for version in ("v1", "v2", "v2Pro")]
    assert read[0] == read[1] == read[2]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("Dr. Smith paid $12.50 on May 5, 1998.", "doctor Smith paid twelve dollars and fifty cents on May fifth, "
         "nineteen ninety-eight."),
        ("The 3rd of 1,234 items at 4:30 p.m. or 7:00", "The third of one thousand two hundred thirty-four items at "
         "four thirty P M or seven o'clock"),
        ("In 1900 he was 25% older; in 2005, 50 km/h.", "In nineteen hundred he was twenty-five percent older, in two "
         "thousand five, fifty kilometers per hour."),
        ("1503, 1805 and 2024", "fifteen oh three, eighteen oh five and twenty twenty-four"),
        ("the 1960s and '80s", "the nineteen sixties and eighties"),
        ("1/2, 3/4 and 2/3 of -5 degrees", "one half, three quarters and two thirds of minus five degrees"),
        ("$3 million, £1 and €0.05", "three million dollars, one pound and five cents"),
        ("3.14 and 007", "three point one four and zero zero seven"),
        ("10-12 people, 1990–95", "ten to twelve people, nineteen ninety to ninety-five"),
        ("e.g. this, i.e. that", "for example this, that is that"),
        ("St. Mary lives at 5 Baker St.", "saint Mary lives at five Baker street."),
        ("in the U.S. and the FBI", "in the U S and the F B I"),
        ("NASA did NOT", "nasa did not"),
        ("THE END", "The end"),
        ("my iPad, McDonald's and YouTubeShorts", "my iPad, McDonald's and You Tube Shorts"),
        ("“Curly” ‘quotes’ and don’t—dash", "Curly quotes and don't, dash"),
        ("Ｆｕｌｌ ｗｉｄｔｈ，１２！", "Full width, twelve!"),
        ("café naïve", "cafe naive"),
        ("Well...  what?!", "Well. what?"),
        ("", ""),
    ],
)  # fmt: skip
def test_english_numbers_and_abbreviations_become_words(text: str, words: str) -> None:
    assert in_words(text) == words


def test_a_short_english_sentence_begins_with_a_comma() -> None:
    assert phones("Oh!", "en") == ", OW1 !"
    assert phones("Yes!", "en") == "Y EH1 S !"


def test_a_capital_a_is_a_letter_and_a_small_one_an_article() -> None:
    assert phones("Plan A is a plan", "en").split()[4] == "EY1"
    assert phones("Plan A is a plan", "en").split()[7] == "AH0"


def test_an_apostrophe_that_stands_alone_is_a_dash() -> None:
    assert phones("the 'end' of it", "en") == "DH AH0 - EH1 N D - AH1 V IH1 T"


@pytest.mark.parametrize(("owner", "ending"), [("Grok's", "S"), ("Zorbax's", "AH0 Z"), ("Blorvan's", "Z")])
def test_an_owner_that_no_dictionary_has_ends_by_its_last_sound(owner: str, ending: str) -> None:
    alone = phones(f"to {owner[:-2]}", "en")
    assert phones(f"to {owner}", "en") == f"{alone} {ending}"


def test_a_compound_is_read_as_its_words_and_a_name_from_its_letters() -> None:
    assert phones("a doorhinge", "en") == "AH0 " + " ".join((*dictionary()["door"], *dictionary()["hinge"]))
    assert phones("by Doorhinge", "en") == "B AY1 " + " ".join(spelling.guess("doorhinge"))


def test_a_vowel_that_has_no_symbol_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ttstrain.families.gpt_sovits.text.english.guess", lambda word: ("Z", "UW", "<unk>", "G"))
    read = phonemize("to Zzyzxq", "en", version="v2")
    assert read.phones == ("T", "UW1", "Z", "UNK", "G")


def test_every_dictionary_phoneme_has_a_symbol() -> None:
    known = set(symbols("v1"))
    assert {phone for word in dictionary().values() for phone in word} <= known
    for entry in homographs.homographs().values():
        assert {*entry.marked, *entry.other} <= known
    assert set(ARPABET) <= known


# ---------------------------------------------------------------- Chinese

MANDARIN = {
    "你好，世界！": "n i2 h ao3 , sh ir4 j ie4 !",  # two third tones: the first rises
    "妈妈说她是中国人。": "m a1 m a5 sh uo1 t a1 sh ir4 zh ong1 g uo2 r en2 .",
    "一天，一段，第一，看一看": "y i4 t ian1 , y i2 d uan4 , d i4 y i1 , k an4 y i5 k an4",
    "不对，不好，看不懂": "b u2 d ui4 , b u4 h ao3 , k an4 b u5 d ong3",
    "纸老虎": "zh ir3 l ao2 h u3",
    "展览馆": "zh an2 l an2 g uan3",
    "银行行长长大了": "y in2 h ang2 h ang2 zh ang3 zh ang3 d a4 l e5",
    "重庆的重量": "ch ong2 q ing4 d e5 zh ong4 l iang4",
    "土地的目的": "t u3 d i4 d e5 m u4 d i4",
    "爱我们的朋友": "AA ai4 w o3 m en5 d e5 p eng2 y ou5",
    "女儿和一点儿": "n v3 EE er2 h e2 y i4 d ian3 EE er3",
    "圆月云鹅偶": "y van2 y ve4 y vn2 EE e2 OO ou3",
    "四十是死": "s i04 sh ir2 sh ir4 s i03",
    "绿略军学": "l v4 l ve4 j vn1 x ve2",
    "二十一天，一九九零年": "EE er4 sh ir2 y i1 t ian1 , y i1 j iu3 j iu3 l ing2 n ian2",
    "這個問題很難嗎？": "zh e4 g e5 w en4 t i2 h en3 n an2 m a5 ?",  # traditional
    "嗯": "EE en1",
    "开心地说，我去还钱，来得及": "k ai1 x in1 d e5 sh uo1 , w o3 q v4 h uan2 q ian2 , l ai2 d e5 j i2",
    "一只猫为了长城快乐": "y i4 zh ir1 m ao1 w ei4 l e5 ch ang2 ch eng2 k uai4 l e4",
}


@pytest.mark.parametrize("text", MANDARIN)
def test_mandarin_is_read_with_its_spoken_tones(text: str) -> None:
    assert phones(text, "zh") == MANDARIN[text]


@pytest.mark.parametrize(
    ("text", "written"),
    [
        ("2024年5月20日，气温-3℃。", "二零二四年五月二十日,气温负三摄氏度."),
        ("2011 年 8 月", "二零一一年八月"),
        ("涨了12.5%，3/4的人", "涨了百分之十二点五,四分之三的人"),
        ("我有2个苹果和3~5个梨", "我有两个苹果和三到五个梨"),
        ("１２３ＡＢＣ", "一百二十三ABC"),
        ("《原神》——“好”…（真的）?!", "原神,好…真的?"),
        ("——但是", "但是"),
        ("iPhone 15 Pro Max很好", "iPhone十五Pro Max很好"),
    ],
)
def test_chinese_numbers_and_marks_are_written_as_they_are_spoken(text: str, written: str) -> None:
    assert phonemize(text, "zh", version="v2").normalized == written


def test_latin_words_among_chinese_are_read_as_english() -> None:
    read = phonemize("我用 Hello World 和GPT", "zh", version="v2")
    assert read.normalized == "我用Hello World和GPT"
    assert " ".join(read.phones) == "w o3 y ong4 HH AH0 L OW1 W ER1 L D h e2 JH IY1 P IY1 T IY1"
    assert read.word2ph == (2, 2, 4, 0, 0, 0, 0, 0, 4, 0, 0, 0, 0, 2, 6, 0, 0)
    assert read.unknown == ()


def test_every_character_has_its_count_of_phonemes() -> None:
    texts = [
        *MANDARIN,
        "A股上涨，GPT-SoVITS很好",
        "Don't你好",
        "😀嗯…呣 한 вот",
        "𠮷野家",
        "「引号」和  空格",
        "100%的1,234,567人，电话010-12345678",
        "儿儿儿不不一一一",
        "!!!好???",
    ]
    for text in texts:
        for version in ("v1", "v2"):
            counted(phonemize(text, "zh", version=version))


def counted(read: Phonemes) -> None:
    assert read.word2ph is not None
    assert sum(read.word2ph) == len(read.phones)
    assert len(read.word2ph) == len(read.normalized)


def test_syllables_with_initials_have_symbols_in_all_tones() -> None:
    from pypinyin import Style, lazy_pinyin

    known = set(symbols("v1"))
    unread = set()
    characters = [chr(code) for code in range(0x4E00, 0x9FA6)]
    for syllable in set(lazy_pinyin(characters, style=Style.NORMAL)):
        parts = pinyin.split_syllable(syllable.replace("ü", "v"))
        if parts is None:
            unread.add(syllable)
        else:
            assert {parts[0], *(parts[1] + tone for tone in "12345")} <= known, syllable
    assert {syllable for syllable in unread if syllable.isascii()} == {"m", "n", "hm"}


def test_a_rhotic_ending_takes_the_tone_before_it_from_v2_on() -> None:
    assert phones("一点儿", "zh", "v2").endswith("d ian3 EE er3")
    assert phones("一点儿", "zh", "v1").endswith("d ian3 EE er2")


# ---------------------------------------------------------------- Japanese


def test_japanese_has_marks_of_pitch() -> None:
    # ESPnet's example of its pyopenjtalk_g2p_prosody, without the marks of start and end.
    assert phones("こんにちは。", "ja") == "k o [ N n i ch i w a ."
    assert phones("こんにちは。", "ja", "v1") == "k o N n i ch i w a ."


def test_borders_of_accent_phrases_are_unknown_from_v2_on_and_absent_in_v1() -> None:
    read = phonemize("東京都に行きました", "ja", version="v2")
    assert read.phones.count("UNK") == 1
    assert read.unknown == ()
    assert "UNK" not in phonemize("東京都に行きました", "ja", version="v1").phones


def test_japanese_accents_fall_where_the_dictionary_says() -> None:
    assert phones("箸", "ja") == "h a ] sh i"
    assert phones("橋が", "ja") == "h a [ sh i ] g a"
    assert phones("端が", "ja") == "h a [ sh i g a"


def test_japanese_quotation_marks_are_unknown_and_told() -> None:
    read = phonemize("「はい」と１２３ＡＢＣ！", "ja", version="v2")
    assert read.unknown == ("「", "」")
    assert read.phones[0] == "UNK"
    assert read.phones[-1] == "!"


def test_what_openjtalk_has_no_phoneme_for_is_told() -> None:
    read = phonemize("はい、ー、・", "ja", version="v2")
    assert read.phones == (*phonemize("はい", "ja", version="v2").phones, ",", ",")
    assert read.unknown == ("ー",)


def test_devoiced_vowels_are_read_as_the_others() -> None:
    assert "I" not in phonemize("きしゃです", "ja", version="v2").phones
    assert "U" not in phonemize("きしゃです", "ja", version="v2").phones


def _user_words(folder: Path, *, surface: str, reading: str, accent: int, moras: int) -> Path:
    """Write one word as OpenJTalk's user dictionaries have it, with a cost that beats every other."""
    path = folder / "words.csv"
    fields = f"{surface},1348,1348,-9000,名詞,固有名詞,一般,*,*,*,{surface},{reading},{reading},{accent}/{moras},*"
    path.write_text(fields + "\n", encoding="utf-8")
    return path


def test_words_of_a_recipe_change_reading_and_pitch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("TTSTRAIN_CACHE", str(tmp_path / "cache"))
    words = Dictionary(words=str(_user_words(tmp_path, surface="箸", reading="ハシ", accent=2, moras=2)))
    read = phonemize("箸が", "ja", version="v2", dictionary=words).phones
    assert " ".join(read) == "h a [ sh i ] g a"
    assert capfd.readouterr().out == ""
    assert phones("箸が", "ja") == "h a ] sh i g a"  # and without them it is as before
    assert phonemize("橋が", "ja", version="v2", dictionary=words).phones == tuple(phones("橋が", "ja").split())


def test_a_dictionary_of_a_recipe_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The only compiled dictionary that every machine has is pyopenjtalk-plus's own, under another name."""
    import pyopenjtalk

    monkeypatch.setenv("TTSTRAIN_CACHE", str(tmp_path / "cache"))
    (tmp_path / "dictionary").symlink_to(pyopenjtalk.OPEN_JTALK_DICT_DIR.decode())
    named = Dictionary(system=str(tmp_path / "dictionary"))
    assert phonemize("橋が", "ja", version="v2", dictionary=named).phones == ("h", "a", "[", "sh", "i", "]", "g", "a")
    front_end = SovitsFrontEnd(version="v2", default_language="ja", dictionary=named)
    assert front_end.versions["japanese dictionary"] == digest(named)
    assert "japanese dictionary" not in SovitsFrontEnd(version="v2", default_language="ja").versions


@pytest.mark.parametrize(
    ("dictionary", "said"),
    [
        (Dictionary(system="nowhere"), "`nowhere` has no sys.dic, matrix.bin, char.bin, unk.dic"),
        (Dictionary(words="nowhere.csv"), "there is no file `nowhere.csv`"),
    ],
)
def test_a_dictionary_that_is_not_there_is_named(dictionary: Dictionary, said: str) -> None:
    with pytest.raises(RecipeError, match=said):
        phonemize("橋", "ja", version="v2", dictionary=dictionary)


def test_what_is_no_dictionary_is_refused(tmp_path: Path) -> None:
    (tmp_path / "words.dic").write_bytes(b"no dictionary")
    with pytest.raises(RecipeError, match="cannot read the Japanese dictionary"):
        phonemize("橋", "ja", version="v2", dictionary=Dictionary(words=str(tmp_path / "words.dic")))


# ---------------------------------------------------------------- Cantonese


def test_cantonese_is_read_in_two_parts_a_syllable() -> None:
    assert phones("佢個鋤頭太短啦。", "yue") == "Yk Yeoi5 Yg Yo3 Yc Yo4 Yt Yau2 Yt Yaai3 Yd Yyun2 Yl Yaa1 ."
    assert phones("唔該", "yue").startswith("Ym Ym4")  # a syllable that is no longer than its initial
    counted(phonemize("我有5個ABC㗎，好！", "yue", version="v2"))


def test_cantonese_keeps_its_characters() -> None:
    assert read_cantonese("我哋喺邊度？", "v2").normalized == "我哋喺邊度?"


# ---------------------------------------------------------------- Korean

# Spelling and pronunciation, from the examples of 표준 발음법 under the rules named.
STANDARD = {
    "5": "다쳐 다처, 희망 히망, 가져 가저",
    "9": "닦다 닥따, 키읔과 키윽꽈, 옷 옫, 있다 읻따, 빚다 빋따, 솥 솓, 앞 압",
    "10": "넋과 넉꽈, 앉다 안따, 여덟 여덜, 외곬 외골, 없다 업따, 밟다 밥따, 밟는 밤는, 넓둥글다 넙뚱글다",
    "11": "닭 닥, 흙과 흑꽈, 맑다 막따, 젊다 점따, 읊고 읍꼬, 맑게 말께",
    "12": "놓고 노코, 많고 만코, 각하 가카, 밝히다 발키다, 맏형 마텽, 앉히다 안치다, 닿소 다쏘, 놓는 논는, "
    "뚫네 뚤레, 낳은 나은, 않은 아는, 싫어도 시러도",
    "13": "깎아 까까, 옷이 오시, 있어 이써, 앞으로 아프로",
    "14": "넋이 넉씨, 닭을 달글, 핥아 할타, 값을 갑쓸",
    "17": "굳이 구지, 땀받이 땀바지, 밭이 바치, 벼훑이 벼훌치, 굳히다 구치다, 묻히다 무치다",
    "18": "국물 궁물, 몫몫이 몽목씨, 흙만 흥만, 짓는 진는, 꽃망울 꼰망울, 밥물 밤물, 없는 엄는",
    "19": "담력 담녁, 강릉 강능, 막론 망논, 협력 혐녁",
    "20": "난로 날로, 신라 실라, 칼날 칼랄, 줄넘기 줄럼기, 닳는 달른",
    "23": "국밥 국빱, 넋받이 넉빠지, 꽃다발 꼳따발, 밭갈이 받까리, 옆집 엽찝",
    "25": "넓게 널께, 핥다 할따, 훑소 훌쏘, 떫지 떨찌",
}


@pytest.mark.parametrize("rule", STANDARD)
def test_korean_is_read_by_the_rules_of_its_standard_pronunciation(rule: str) -> None:
    for pair in STANDARD[rule].split(", "):
        spelled, spoken = pair.split()
        assert pronounced_letters([spelled]) == [_simple_letters(spoken)], spelled


def _simple_letters(spoken: str) -> list[str]:
    """Take each syllable apart by its Unicode name, without letting them meet."""
    return [letter for syllable in spoken for letter in pronounced_letters([syllable])[0]]


def test_korean_spaces_and_marks_have_their_own_symbols() -> None:
    assert phones("책 만드는 것을 놓고, “왜”?", "ko") == (
        "ㅊ ㅐ ㅇ 空 ㅁ ㅏ ㄴ ㄷ ㅡ ㄴ ㅡ ㄴ 空 ㄱ ㅓ ㅅ ㅡ ㄹ 空 ㄴ ㅗ ㅋ ㅗ , 空 停 ㅇ ㅗ ㅐ 停 ?"
    )
    assert phones("안녕하세요", "ko") == "ㅇ ㅏ ㄴ ㄴ ㅣ ㅓ ㅇ ㅎ ㅏ ㅅ ㅔ ㅇ ㅣ ㅗ ."


@pytest.mark.parametrize(
    ("text", "written"),
    [
        ("3개와 20명, 21살", "세개와 스무명, 스물한살"),
        ("2024년 5월", "이천이십사년 오월"),
        ("10,000원 12.5%", "만원 십이점오퍼센트"),
        ("010-1234-5678", "공일공 일이삼사 오육칠팔"),
        ("KBS", "케이비에스"),
        ("１２월…정말?!", "십이월…정말?"),
    ],
)
def test_korean_numbers_and_letters_are_written_in_hangul(text: str, written: str) -> None:
    assert phonemize(text, "ko", version="v2").normalized == written


# ---------------------------------------------------------------- what cannot be spoken


@pytest.mark.parametrize("language", ["zh", "en", "ja", "ko", "yue"])
@pytest.mark.parametrize("text", ["", "   ", "!!!", "……，。", "😀"])
def test_a_text_with_nothing_to_speak_is_refused(text: str, language: str) -> None:
    with pytest.raises(DataError, match="nothing to pronounce"):
        phonemize(text, language, version="v2")


@pytest.mark.parametrize(
    ("text", "language", "unknown"),
    [
        ("hello 你好 😀", "en", ("你", "好", "😀")),
        ("你好 😀 한 вот", "zh", ("😀", "한", "в", "о", "т")),
        ("你好，“世界”（100%）℃", "zh", ()),
        ("𠮷野家", "zh", ("𠮷",)),
        ("はい😀", "ja", ("😀",)),
    ],
)
def test_what_is_not_spoken_is_told(text: str, language: str, unknown: tuple[str, ...]) -> None:
    assert phonemize(text, language, version="v2").unknown == unknown


def test_a_language_without_symbols_is_refused() -> None:
    with pytest.raises(DataError, match="does not support `de`"):
        phonemize("Guten Tag", "de", version="v2")
    with pytest.raises(DataError, match="v1 has no phonemes for `yue`"):
        phonemize("你好", "yue", version="v1")


@pytest.mark.parametrize(
    ("text", "language"),
    [
        ("Hello!", "en"),
        ("你好 hello", "zh"),
        ("漢字とかな", "ja"),
        ("カタカナ", "ja"),
        ("안녕 hello", "ko"),
        ("我哋喺邊度", "yue"),
        ("中国・日本", "zh"),
        ("123", "en"),
        ("", "en"),
    ],
)
def test_scripts_tell_languages(text: str, language: str) -> None:
    assert detect_language(text) == language


def test_a_missing_library_is_named_with_the_way_to_install_it() -> None:
    with pytest.raises(RecipeError, match="reading `xx` texts needs `no_such_library`") as caught:
        reading.load("no_such_library", language="xx")
    assert caught.value.hint == 'pip install "ttstrain[gpt_sovits]"'


def test_texts_are_read_without_network_torch_or_output() -> None:
    script = """
import socket, sys
def refuse(*_args, **_kwargs):
    raise AssertionError("a connection was tried")
socket.socket.connect = socket.create_connection = socket.getaddrinfo = refuse
from ttstrain.families.gpt_sovits.text.front_end import phonemize
texts = {"en": "Zzyzx doorhinge, 1990.", "zh": "你好hello", "ja": "何ですか", "yue": "你好", "ko": "안녕"}
for language, text in texts.items():
    phonemize(text, language, version="v2")
assert "torch" not in sys.modules
"""
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False, timeout=120)
    assert (run.returncode, run.stdout, run.stderr) == (0, "", "")


# ---------------------------------------------------------------- the report


def test_the_front_end_shows_phonemes_and_then_what_is_unknown() -> None:
    front_end = SovitsFrontEnd(version="v2", default_language="auto")
    shown = [(token.text, token.kind) for token in front_end.tokens("你好😀")]
    assert shown == [("n", "known"), ("i2", "known"), ("h", "known"), ("ao3", "known"), ("😀", "unknown")]
    assert {token.kind for token in front_end.tokens("!😀")} == {"unknown"}


def test_the_row_s_language_goes_before_the_recipe_s() -> None:
    front_end = SovitsFrontEnd(version="v2", default_language="ja")
    assert [token.text for token in front_end.tokens("你好", "zh-CN")] == ["n", "i2", "h", "ao3"]
    assert front_end.tokens("橋") == SovitsFrontEnd(version="v2", default_language="auto").tokens("橋", "ja")


def test_a_checkpoint_can_tell_what_read_its_texts() -> None:
    assert {"rules", "pypinyin", "rjieba", "wetext", "pyopenjtalk-plus"} <= set(versions())
    old, new = (SovitsFrontEnd(version=version, default_language="auto").versions for version in ("v1", "v2"))
    assert old["vocab"] != new["vocab"]


# ---------------------------------------------------------------- recordings


def test_recorded_english_has_no_unknown_phoneme(shared_data: Path) -> None:
    rows = _rows(shared_data / "ljspeech-mini")
    assert len(rows) == 32
    for text in rows:
        read = phonemize(text, "en", version="v2")
        assert "UNK" not in read.phones
        assert read.unknown == ()


def test_recorded_chinese_has_no_unknown_phoneme(shared_data: Path) -> None:
    for text in _rows(shared_data / "zh-fleurs"):
        read = phonemize(text, "zh", version="v2")
        counted(read)
        assert "UNK" not in read.phones
        assert read.unknown == ()


def test_recorded_japanese_has_unknown_borders_and_quotation_marks_alone(shared_data: Path) -> None:
    for text in _rows(shared_data / "ja-commonvoice"):
        assert set(phonemize(text, "ja", version="v2").unknown) <= {"「", "」"}
        quoted = sum(text.count(mark) for mark in "「」")
        assert phonemize(text, "ja", version="v1").phones.count("UNK") == quoted


def _rows(folder: Path) -> list[str]:
    with (folder / "metadata.csv").open(encoding="utf-8", newline="") as table:
        return [row[1] for row in csv.reader(table, delimiter="|", quoting=csv.QUOTE_NONE)]


def test_pauses_are_symbols() -> None:
    assert set(PAUSES) <= set(symbols("v1"))
