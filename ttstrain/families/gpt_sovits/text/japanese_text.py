"""Numbers and signs of Japanese texts as OpenJTalk reads them rightly. It knows counters itself: 三本, 二十日.

Decimal points, thousands, times, dates, telephone numbers, ranges, fractions, money, minus, versions, and letters that
stand alone are written out here.
"""

from __future__ import annotations

import re
import unicodedata

from ttstrain.families.gpt_sovits.text.han_numbers import han_number
from ttstrain.families.gpt_sovits.text.numerals import roman

_HALF_WIDTH = {code: code - 0xFEE0 for code in range(0xFF01, 0xFF5F) if chr(code) not in "！（），：；？～"}
_WAVE = "~～〜"
_DASH = r"[-‐–−]"
_JAPANESE = r"[\u3040-\u30ff\u4e00-\u9fff々〆〇]"
_NUMBER = r"\d+(?:点\d+)*"
_COUNTED = r"[個人枚本冊匹頭羽台回度歳才年月日時分秒週円倍階章ページ名点位番キロメートルグラムヶかつ%％]"
_NAMES = (
    "エー ビー シー ディー イー エフ ジー エイチ アイ ジェー ケー エル エム エヌ オー ピー キュー アール "
    "エス ティー ユー ブイ ダブリュー エックス ワイ ゼット"
)
_LETTERS = dict(zip("ABCDEFGHIJKLMNOPQRSTUVWXYZ", _NAMES.split(), strict=True))
_SIGNS = {
    "%": "パーセント", "‰": "パーミル", "℃": "度", "°C": "度", "℉": "度", "°": "度", "㎡": "平方メートル",
    "m²": "平方メートル", "km²": "平方キロメートル", "m³": "立方メートル", "±": "プラスマイナス", "≒": "約", "≈": "約",
    "№": "ナンバー", "〒": "郵便番号", "km/h": "キロ", "m/s": "メートル", "π": "パイ", "√": "ルート", "∞": "無限大",
}  # fmt: skip
_MONEY = {"¥": "円", "￥": "円", "$": "ドル", "€": "ユーロ", "£": "ポンド", "₩": "ウォン"}
_ARITHMETIC = {"+": "足す", "-": "引く", "−": "引く", "×": "かける", "÷": "割る", "*": "かける", "=": "イコール"}
_BETWEEN_LETTERS = {"&": "アンド", "@": "アットマーク", "+": "プラス"}


def write_out(text: str) -> str:
    """Write out numbers and signs that OpenJTalk misreads; everything else is unchanged."""
    text = _plain(text.translate(_HALF_WIDTH))
    for rules in (_formulas, _dates, _times, _telephones, _numbers, _signs, _letters):
        text = rules(text)
    return text


def _plain(text: str) -> str:
    """Write ①, Ⅲ, ㎏ and half-width kana as plain characters."""
    composed = re.sub(r"[ｦ-ﾟ]+", lambda m: unicodedata.normalize("NFKC", m[0]), text)
    return "".join(
        _arabic(unicodedata.normalize("NFKC", c).replace("⁄", "/"))
        if unicodedata.category(c) in ("No", "Nl", "So") and c not in "²³℃℉㎡№°"
        else c
        for c in composed
    )


def _arabic(text: str) -> str:
    return str(roman(text.upper()) or text)


def _formulas(text: str) -> str:
    """Read 3×5=15; without a sign of equality only × and ÷ are sure to be one."""
    marks = re.escape("".join(_ARITHMETIC))
    found = rf"\d+(?:\.\d+)?(?:\s?[{marks}]\s?\d+(?:\.\d+)?)+"

    def formula(match: re.Match[str]) -> str:
        if not re.search("[=×÷]", match[0]):
            return match[0]
        return re.sub(rf"\s?([{marks}])\s?", lambda m: _ARITHMETIC[m[1]], match[0]).replace("イコール", "は")

    return re.sub(found, formula, text)


def _dates(text: str) -> str:
    text = re.sub(
        r"(?<!\d)(\d{4})([-/.])(0?[1-9]|1[0-2])\2(0?[1-9]|[12]\d|3[01])(?![\d/-])日?",
        lambda m: f"{m[1]}年{int(m[3])}月{int(m[4])}日",
        text,
    )
    text = re.sub(r"(?<![\d/])(\d+)/(\d+)(?![\d/])", _fraction_or_date, text)
    text = re.sub(r"(?<=日)[(（]([月火水木金土日])[)）]", r"\1曜", text)
    return re.sub(r"(?<!\d)0(\d)(?=[月日時分](?!間))", r"\1", text)


def _fraction_or_date(found: re.Match[str]) -> str:
    """Tell 1/2 of something from the fifth of June: a date has a month, and no small denominator under one."""
    first, second = int(found[1]), int(found[2])
    after = found.string[found.end() :]
    is_fraction = (first < second <= 10 and first < 5 and not after.startswith(("(", "（", "に"))) or first > 12
    if is_fraction or not 1 <= second <= 31:
        return f"{found[2]}分の{found[1]}"
    return f"{first}月{second}日"


def _times(text: str) -> str:
    def clock(found: re.Match[str]) -> str:
        minutes = f"{int(found[2])}分" if int(found[2]) else ""
        return f"{int(found[1])}時{minutes}" + (f"{int(found[3])}秒" if found[3] else "")

    text = re.sub(r"(?<=\d)：(?=\d)", ":", text)
    text = re.sub(r"(?<![\d:])([01]?\d|2[0-4]):([0-5]\d)(?::([0-5]\d))?(?![\d:])", clock, text)
    return re.sub(r"(?<![\d:])(\d+):(\d+)(?![\d:])", _score, text)


def _telephones(text: str) -> str:
    """Leave telephone numbers to OpenJTalk with a hyphen that it knows; read the parts of addresses with の between."""
    text = re.sub(r"[(（](0\d{1,4})[)）]\s?(\d{1,4}-\d{4})", r"\1-\2", text)
    text = re.sub(r"(?<![\d-])(0\d{1,2})(\d{4})(\d{4})(?!\d)", r"\1-\2-\3", text)
    return re.sub(r"(?<![\d-])(?!0)(\d{1,3})-(\d{1,3})-(\d{1,4})(?![\d-])", r"\1の\2の\3", text)


def _numbers(text: str) -> str:
    """Read decimals, thousands, versions, ranges, minus."""
    text = re.sub(r"(?<=\d),(?=\d{3}(?!\d))", "", text)
    text = re.sub(r"(?<=\d)[,，](?=\d)", "、", text)
    text = re.sub(r"(?<=\d)\.(?=\d)", "点", text)
    text = re.sub(rf"(\d[年月日時分円%％度℃]?)\s?[{_WAVE}]\s?(?=[¥￥$]?\d)", r"\1から", text)
    text = re.sub(rf"(?<=[年月日時分曜前後駅京阪屋岡])[{_WAVE}](?={_JAPANESE})", "から", text)
    text = re.sub(r"(?<![\d-])(\d{1,2})-(\d{1,2})(?=で[勝負敗引]|のスコア)", _score, text)
    text = re.sub(rf"(?<![\d-])({_NUMBER}){_DASH}({_NUMBER})(?={_COUNTED})", _range, text)
    text = re.sub(r"(?<![\d-])(\d{1,3})-(\d{2,4})(?![\d-])", r"\1の\2", text)
    text = re.sub(rf"(?<![\w)）]){_DASH}(?=[¥￥$]?\d)|(?<={_JAPANESE})[-−](?=\d)", "マイナス", text)
    return re.sub(r"(?<![\w])\+(?=\d)", "プラス", text)


def _score(found: re.Match[str]) -> str:
    return f"{han_number(found[1])}タイ{han_number(found[2])}"  # OpenJTalk reads 対 as a pair


def _range(found: re.Match[str]) -> str:
    first, second = (float(part.replace("点", ".")) for part in found.groups())
    return f"{found[1]}から{found[2]}" if first < second else found[0]


def _signs(text: str) -> str:
    money = re.escape("".join(_MONEY))
    text = re.sub(rf"([{money}])\s?({_NUMBER})([万億兆千]?)", lambda m: m[2] + m[3] + _MONEY[m[1]], text)
    for sign in sorted(_SIGNS, key=len, reverse=True):
        text = text.replace(sign, _SIGNS[sign])
    text = re.sub(r"(?<=\d)\s?[×xX]\s?(?=\d)", "かける", text)
    text = re.sub(r"(?<=\d)L(?![A-Za-z])", "リットル", text)
    text = re.sub(r"\b(?:[Vv]er\.?|[Vv](?=\d+点))\s?(?=\d)", "バージョン", text, flags=re.A)
    return re.sub(r"#(?=\d)", "ナンバー", text)


def _letters(text: str) -> str:
    """Say signs between letters; read letters by their names beside them, and one that stands alone."""
    text = re.sub(
        r"\b([A-Za-z]{1,3})\s?&\s?([A-Za-z]{1,3})\b",
        lambda m: f"{_spelled(m[1])}アンド{_spelled(m[2])}",
        text,
        flags=re.A,
    )
    text = re.sub(r"(?<=[A-Za-z])\+\+", "プラスプラス", text)
    text = re.sub(r"(?<=\b[A-Z])#", "シャープ", text)
    text = re.sub(r"(?<=[\w])([&@+])(?=[\w])", lambda m: _BETWEEN_LETTERS[m[1]], text)
    text = re.sub(r"(?<=[A-Za-z])-(?=\d)", "", text)
    return re.sub(r"(?<![A-Za-z\d/])[a-z](?![A-Za-z])|(?<=\d)[a-fh-kn-su-z](?![A-Za-z])", lambda m: m[0].upper(), text)


def _spelled(letters: str) -> str:
    return "".join(_LETTERS[letter] for letter in letters.upper())
