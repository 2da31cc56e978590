"""Korean texts before they are pronounced: numbers, dates, times, units, signs and Latin letters in Hangul.

What is counted takes native numbers (세 개, 스무 살), what is numbered and measured Chinese ones (삼 층, 이십 퍼센트).
"""

from __future__ import annotations

import re
import unicodedata

from ttstrain.families.gpt_sovits.text.hangul import is_closed, native_number, sino_number
from ttstrain.families.gpt_sovits.text.numerals import roman

_NAMES = "에이 비 시 디 이 에프 지 에이치 아이 제이 케이 엘 엠 엔 오 피 큐 아르 에스 티 유 브이 더블유 엑스 와이 제트"
_LETTERS = dict(zip("abcdefghijklmnopqrstuvwxyz", _NAMES.split(), strict=True))
_HALF_WIDTH = {code: code - 0xFEE0 for code in range(0xFF01, 0xFF5F)}
_DASH = r"[-–—−]"
_NUMBER = r"\d+(?:\.\d+)?"
_COUNTERS = (
    r"개(?![월국년소비])|명|살|시간|번째|마리|권|대(?![학로])|병(?!원)|잔|그루|채(?!널)|켤레|가지|달(?!러)|사람|"
    r"송이|자루|벌|군데|척|통|모금|곳|배(?!럴)|줄|판|장(?!관)|조각|쌍|봉지|상자|그릇|포기|걸음|바퀴|끼|차례|"
    r"분(?=[이의은께과]|\s?계)"
)  # of what is counted with native numbers, up to 99
_NUMBERED = r"출구|문제|선수|버스|국도|타자|홈|트랙|손님|채널|방|좌석|교향곡|지|길|고객|승강장|게이트"
_MONTHS = {"6": "유", "10": "시"}
_UNITS = {
    "km/h": "킬로미터", "㎞/h": "킬로미터", "m/s": "미터", "km²": "제곱킬로미터", "m²": "제곱미터", "㎡": "제곱미터",
    "m³": "세제곱미터", "km": "킬로미터", "cm": "센티미터", "mm": "밀리미터", "kg": "킬로그램", "mg": "밀리그램",
    "ml": "밀리리터", "mL": "밀리리터", "GB": "기가바이트", "MB": "메가바이트", "TB": "테라바이트", "KB": "킬로바이트",
    "kHz": "킬로헤르츠", "Hz": "헤르츠", "%p": "퍼센트포인트", "m": "미터", "g": "그램", "l": "리터", "L": "리터",
    "t": "톤", "kW": "킬로와트", "W": "와트", "V": "볼트", "dB": "데시벨", "%": "퍼센트", "‰": "퍼밀", "℃": "도",
    "°C": "도", "℉": "도", "°": "도",
}  # fmt: skip
_PER = {"km/h": "시속 ", "㎞/h": "시속 ", "m/s": "초속 "}
_MONEY = {"$": "달러", "€": "유로", "£": "파운드", "¥": "엔", "￥": "엔", "₩": "원"}
_SIGNS = {
    "%": "퍼센트", "℃": "도", "&": "앤", "+": "더하기", "=": "는", "×": "곱하기", "÷": "나누기", "@": "골뱅이",
    "±": "플러스마이너스", "≈": "약", "№": "제", "π": "파이", "√": "루트", "∞": "무한대", "㎏": "킬로그램",
    "㎞": "킬로미터", "℉": "도", "°": "도",
}  # fmt: skip
_ARITHMETIC = {
    "+": " 더하기 ",
    "-": " 빼기 ",
    "−": " 빼기 ",
    "×": " 곱하기 ",
    "*": " 곱하기 ",
    "÷": " 나누기 ",
    "=": " 는 ",
}


def write_out(text: str) -> str:
    """Write numbers, signs and Latin letters in Hangul; of marks in a row the first stays."""
    text = _plain(text.translate(_HALF_WIDTH))
    text = re.sub(r"(?<=\d),(?=\d{3}(?!\d))", "", text)
    text = re.sub(r"(?<=\d),(?=\d)", ", ", text)
    for rules in (_formulas, _dates, _times, _digit_strings, _signed, _ranges, _money_and_units, _counted):
        text = rules(text)
    text = re.sub(rf"({_NUMBER})", lambda m: _number(m[1]), text)
    text = re.sub(r"(?<=[A-Za-z])\+\+", " 플러스 플러스", text)
    text = "".join(_SIGNS.get(character) or _LETTERS.get(character.lower()) or character for character in text)
    text = re.sub(r"\.{2,}", "…", re.sub(r"\s+", " ", text)).strip()
    return re.sub(r"([!?…,.])[!?…,.]+", r"\1", text)


def _plain(text: str) -> str:
    """Compose Hangul, and write ½, ① and Ⅲ as plain characters."""
    text = re.sub(r"(\d)([¼-¾⅐-⅞])", r"\1과 \2", unicodedata.normalize("NFC", text))
    plain = (
        unicodedata.normalize("NFKC", c).replace("⁄", "/")
        if unicodedata.category(c) in ("No", "Nl") and c not in "²³"
        else c
        for c in text
    )
    text = "".join(str(roman(part) or part) if len(part) > 1 else part for part in plain)
    return re.sub(r"(?<=\d)G(?![A-Za-z])", "지", text)


def _formulas(text: str) -> str:
    marks = re.escape("".join(_ARITHMETIC))

    def formula(found: re.Match[str]) -> str:
        if not re.search("[=×÷+*]", found[0]):
            return found[0]
        left, _, right = re.sub(_NUMBER, lambda m: _number(m[0]), found[0]).partition("=")
        topic = "은" if left and is_closed(left.rstrip()[-1]) else "는"
        written = f"{left.rstrip()}{topic} {right.lstrip()}" if right else left
        return re.sub(rf"\s?([{marks}])\s?", lambda m: _ARITHMETIC[m[1]], written)

    return re.sub(rf"{_NUMBER}(?:\s?[{marks}]\s?{_NUMBER})+(?![\d-])", formula, text)


def _dates(text: str) -> str:
    """Read dates of numbers, and the two months with readings of their own: 유월, 시월."""
    text = re.sub(
        r"(?<![\d.])(\d{4})([-/.])\s?(0?[1-9]|1[0-2])\2\s?(0?[1-9]|[12]\d|3[01])(?![\d/-])\.?(?:일)?",
        lambda m: f"{m[1]}년 {int(m[3])}월 {int(m[4])}일",
        text,
    )
    text = re.sub(
        r"(?<![\d/])(\d{1,3})/(\d{1,3})(?![\d/])", lambda m: f"{sino_number(m[2])}분의 {sino_number(m[1])}", text
    )
    text = re.sub(r"(?<![\d.])0?(\d{1,2})월", lambda m: f"{_MONTHS.get(m[1]) or sino_number(m[1])}월", text)
    return re.sub(r"(?<!\d)0(\d)(?=[일시분])", r"\1", text)


def _times(text: str) -> str:
    """Read hours up to twelve with native numbers, 세 시; 3:2 as a score."""
    text = re.sub(
        r"(?<![\d:])([01]?\d|2[0-4]):([0-5]\d)(?![\d:])",
        lambda m: f"{int(m[1])}시" + (f" {int(m[2])}분" if int(m[2]) else ""),
        text,
    )
    text = re.sub(r"(?<![\d:])(\d+):(\d+)(?![\d:])", lambda m: f"{sino_number(m[1])} 대 {sino_number(m[2])}", text)
    return re.sub(
        r"(?<![\d.])(\d{1,2})(?=\s?시(?!간|속|즌))",
        lambda m: native_number(int(m[1])) if 1 <= int(m[1]) <= 12 else sino_number(m[1]),
        text,
    )


def _digit_strings(text: str) -> str:
    """Read telephone numbers, versions and codes digit by digit."""
    text = re.sub(r"(?<![\d-])\+?\d{2,4}(?:-\d{3,4}){1,3}(?![\d-])", lambda m: _telephone(m[0]), text)
    text = re.sub(r"(?<!\d)01\d{8,9}(?!\d)", lambda m: _digits(m[0]), text)
    text = re.sub(
        r"((?:우편번호|비밀번호|번호|코드)[는은가:이]?\s?)(\d{3,})(?!\s?[개명번])", lambda m: m[1] + _digits(m[2]), text
    )
    return re.sub(
        r"(?<![\d.])\d+(?:\.\d+){2,}(?![\d.])", lambda m: "점".join(sino_number(part) for part in m[0].split(".")), text
    )


def _telephone(written: str) -> str:
    """Read groups of digits, with a pause between them; rooms of one or two have a 다시."""
    return " ".join(_digits(group) for group in re.findall(r"\d+", written))


def _signed(text: str) -> str:
    """Say below zero of temperatures, minus of all else; drop a hyphen between a name and its number."""
    text = re.sub(rf"(?<=[A-Za-z]){_DASH}(?=\d)", " ", text)
    text = re.sub(rf"(?<![\w.)]){_DASH}(?={_NUMBER}\s?(?:℃|°C|도(?!시|서|면)))", "영하 ", text)
    text = re.sub(rf"(?<![\w.)]){_DASH}(?=[$€£¥₩]?\d)", "마이너스 ", text)
    return re.sub(r"(?<!\w)\+(?=\d)", "플러스 ", text)


def _ranges(text: str) -> str:
    counted = rf"(?<![\d.])([1-9]\d?)\s?[~～〜-]\s?([1-9]\d?)(\s?(?:{_COUNTERS}))"
    text = re.sub(counted, r"\1\3에서 \2\3", text)
    unit = r"(?:[가-힣]{1,2}|%|℃|km|kg|cm|m)?"
    text = re.sub(rf"(\d{unit})\s?[~～〜]\s?(?=[$€£¥₩]?\d)", r"\1에서 ", text)
    text = re.sub(r"(?<=[가-힣])\s?[~～〜]\s?(?=[가-힣])", "에서 ", text)
    text = re.sub(rf"(?<![\d-])(\d{{1,3}}){_DASH}(\d{{3,4}})(?=호)", r"\1다시 \2", text)
    return re.sub(
        rf"(?<![\d.-])({_NUMBER}){_DASH}({_NUMBER})(?=\s?(?:[가-힣%℃]|km|kg|cm|m))",
        lambda m: f"{m[1]}에서 {m[2]}" if float(m[1]) < float(m[2]) else f"{m[1]} 대 {m[2]}",
        text,
    )


def _money_and_units(text: str) -> str:
    money = re.escape("".join(_MONEY))
    text = re.sub(rf"([{money}])\s?({_NUMBER})([만억천]?)", lambda m: f"{m[2]}{m[3]}{_MONEY[m[1]]}", text)
    units = "|".join(map(re.escape, sorted(_UNITS, key=len, reverse=True)))
    return re.sub(rf"({_NUMBER})\s?({units})(?![A-Za-z/])", lambda m: f"{_PER.get(m[2], '')}{m[1]}{_UNITS[m[2]]}", text)


def _counted(text: str) -> str:
    """Use native numbers for what is counted; decades of age and numbered things keep Chinese ones."""
    text = re.sub(r"(?<![\d.])([1-9]0)(?=대(?!의 차))", lambda m: sino_number(m[1]), text)
    text = re.sub(rf"(?<![\d.])(\d+)(?=번\s?(?:{_NUMBERED}))", lambda m: sino_number(m[1]), text)
    text = re.sub(
        r"((?:버스|노선|국도|문제|번호|선수)[^.,!?]{0,8}?)(\d+)(?=번)", lambda m: m[1] + sino_number(m[2]), text
    )
    text = re.sub(r"(?<![\d.])([2-9]\d)(?=번(?!째))", lambda m: sino_number(m[1]), text)
    text = re.sub(r"(?<=제)\s?(\d+)", lambda m: sino_number(m[1]), text)
    return re.sub(rf"(?<![\d.])([1-9]\d?)(?=\s?(?:{_COUNTERS}|번(?!지|호)))", lambda m: native_number(int(m[1])), text)


def _number(written: str) -> str:
    whole, _, part = written.partition(".")
    return f"{sino_number(whole)}점{_digits(part).replace('공', '영')}" if part else sino_number(whole)


def _digits(digits: str) -> str:
    return "".join(sino_number(digit) for digit in digits).replace("영", "공")
