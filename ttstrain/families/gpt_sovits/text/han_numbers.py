"""Numbers and signs in Chinese texts, written out where wetext reads them wrongly or not at all.

Dates and ordinals (二月二日, 第二名), ranges, hyphens that are no minus (COVID-19), rooms, telephone and other numbers
that are said digit by digit, versions, two of something (两点), powers, fractions and marks of arithmetic. What is left
goes to wetext.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable

from ttstrain.families.gpt_sovits.text.numerals import roman

_DIGITS = "零一二三四五六七八九"
_DASH = r"[-–—－~～〜]"
_NUMBER = r"\d+(?:\.\d+)?"
_HALF_WIDTH = {code: code - 0xFEE0 for code in range(0xFF01, 0xFF5F) if chr(code) not in "！（），：；？～"}
_HAN = r"[\u4e00-\u9fff]"

# What may follow a number that counts something; 二 is 两 before these.
_COUNTED = (
    "年(?!代|级|[前后]生)|个|個|点|點|次|倍|岁|歲|位|天|周|小时|小時|人|元|块|塊|蚊|斤|公斤|米|公里|里|层|層|条|條|"
    "件|只|隻|本|张|張|间|間|架|辆|輛|杯|瓶|碗|家|名|场|場|遍|趟|种|種|份|套|双|雙|对|對|支|枝|台|臺|部|首|篇|头|頭|"
    "匹|棵|朵|颗|顆|座|栋|棟|盒|包|袋|箱|群|项|項|句|段|页|頁|章|节|節|步|分钟|分鐘|秒|刻|晚|夜|季|期|批|代|人"
)
_UNITS = (
    f"{_COUNTED}|月|日|号|號|楼|樓|课|課|集|卷|册|冊|季度|成|折|度|级|級|年级|班|组|組|题|題|排|分|万|萬|亿|億|%|％"
)
_SPELLED = (
    "邮编|邮政编码|郵編|编号|編號|学号|工号|账号|帳號|賬號|卡号|密码|密碼|验证码|驗證碼|QQ|qq|微信|单号|尾号|代码|区号|"
    "身份证|号码|號碼|热线|熱線|电话|電話|手机|传真|拨打|致电|车牌|航班|房间号|房号"
)
_WEEKDAYS = r"(?:周|星期|礼拜|禮拜|週)[一二三四五六日天]|[一二三四五六七八九十]+[月日号點点]"
_BEFORE_MINUS = "是为到至达低约了于在有从温度幅值率差额量数高跌降升得即分"  # a hyphen after these is no part of a name
_FULL_STOP = "点"
_UNIT_OF = {"kg": "公斤", "g": "克", "Hz": "赫兹", "kHz": "千赫兹", "V": "伏", "W": "瓦", "GB": "G B", "dB": "分贝"}
_ARITHMETIC = {"÷": "除以", "×": "乘以", "*": "乘以", "+": "加", "=": "等于", "-": "减", "−": "减", "/": "除以"}
_SIGNS = {
    "≈": "约等于", "≠": "不等于", "√": "根号", "π": "派", "∞": "无穷大", "₩": "韩元", "€": "欧元", "№": "第", "−": "-",
    "㎡": "平方米", "‰": "千分号", "＃": "#",
}  # fmt: skip


def write_out(text: str, *, cantonese: bool) -> str:
    """Write numbers and signs that wetext misreads in characters; everything else is unchanged."""
    text = _plain_signs(text.translate(_HALF_WIDTH))
    text = re.sub(r"(?<=\d)：(?=\d)", ":", text)
    text = re.sub(r"(?<=\d)，(?=\d)", "、", text)  # a pause between two numbers, never thousands
    if cantonese:
        text = re.sub(rf"(?<![A-Z])\$\s?({_NUMBER})", r"\1蚊", text)  # of Hong Kong
    for rules in (_addresses, _dates, _digit_by_digit, _ordinals, _ranges, _hyphens, _quantities, _formulas):
        text = rules(text)
    return text.replace("幺", "一") if cantonese else text


def han_number(digits: str) -> str:
    """Read a number below ten thousand, 二百零二; a longer one, or one that begins with 0, digit by digit."""
    if len(digits) > 4 or (len(digits) > 1 and digits[0] == "0"):
        return by_digits(digits)
    if digits == "0":
        return "零"
    spoken = ""
    for digit, unit in zip(digits, ("千", "百", "十", "")[-len(digits) :], strict=True):
        spoken += "零" if digit == "0" else _DIGITS[int(digit)] + unit
    spoken = re.sub("零+", "零", spoken).rstrip("零")
    return re.sub("^一十", "十", spoken)


def by_digits(digits: str, *, one: str = "一") -> str:
    """Read the digits of a number one by one; `one` is 幺 where it must not be mistaken for seven."""
    return "".join(one if digit == "1" else _DIGITS[int(digit)] for digit in digits if digit.isdecimal())


# ---------------------------------------------------------------- signs


def _plain_signs(text: str) -> str:
    """Write ½ as 1/2, ① and Ⅲ as numbers, ㎞ as km, accents as plain letters, signs that wetext leaves in words."""
    text = re.sub(r"(\d)([¼-¾⅐-⅞])", lambda found: f"{found[1]}又{found[2]}", text)
    plain = []
    for character in text:
        if character in _SIGNS:
            plain.append(_SIGNS[character])
        elif character in "²³℃℉" or character.isascii() or "\u3400" <= character <= "\u9fff":
            plain.append(character)
        elif unicodedata.category(character) in ("No", "Nl", "So", "Lm"):
            plain.append(_arabic(unicodedata.normalize("NFKC", character).replace("⁄", "/")))
        elif unicodedata.name(character, "").startswith("LATIN"):
            plain.append(unicodedata.normalize("NFD", character)[0])
        else:
            plain.append(character)
    return "".join(plain)


def _arabic(text: str) -> str:
    """Write a Roman number with digits."""
    return str(roman(text.upper()) or text)


# ---------------------------------------------------------------- rules, in the order of their use


def _addresses(text: str) -> str:
    """Say 点 and 艾特 in addresses of pages and letters."""
    dotted = r"[A-Za-z0-9-]+(?:\.[A-Za-z0-9-]+)*\.[A-Za-z]{2,}"
    text = re.sub(r"https?://", "", text)
    text = re.sub(rf"([\w.]+)@({dotted})", lambda m: f"{m[1]}艾特{m[2]}".replace(".", _FULL_STOP), text, flags=re.ASCII)
    return re.sub(rf"(?<![\w.]){dotted}(?![\w])", lambda m: m[0].replace(".", _FULL_STOP), text, flags=re.ASCII)


def _dates(text: str) -> str:
    """Read dates of numbers, and months and days as ordinals: 二月二日, where wetext says 两日."""
    text = re.sub(
        r"(?<!\d)(?P<year>\d{4})([-/.])(?P<month>0?[1-9]|1[0-2])\2(?P<day>0?[1-9]|[12]\d|3[01])(?![\d.])[日号號]?",
        lambda m: f"{by_digits(m['year'])}年{_ordinal(m['month'])}月{_ordinal(m['day'])}日",
        text,
    )
    text = re.sub(
        rf"(?<!\d)(\d{{4}})年?{_DASH}(\d{{4}})(?=年)", lambda m: f"{by_digits(m[1])}到{by_digits(m[2])}", text
    )
    text = re.sub(
        rf"(?<!\d)((?:19|20)\d\d)\s?{_DASH}\s?((?:19|20)\d\d)(?![\d-])",
        lambda m: f"{by_digits(m[1])}到{by_digits(m[2])}",
        text,
    )
    text = re.sub(r"(?<![\d.])(\d[05])(?=[后後](?!来|天|面|续|續))", lambda m: by_digits(m[1]), text)
    text = re.sub(r"(?<!\d)(\d{4})s(?![a-z])", lambda m: f"{by_digits(m[1])}年代", text)
    text = re.sub(rf"(\d{{2}}){_DASH}(\d{{2}})(?=年代)", lambda m: f"{han_number(m[1])}到{han_number(m[2])}", text)
    text = re.sub(r"(?<!\d)([12]\d{3})(?=[年级級])", lambda m: by_digits(m[1]), text)
    text = re.sub(r"(?<![\d.])(\d{1,2})月(\d{1,2})(?=[日号號])", lambda m: f"{_ordinal(m[1])}月{_ordinal(m[2])}", text)
    return re.sub(r"(?<![\d.])(1?\d)(?=月(?!\d))", lambda m: _ordinal(m[1]), text)


def _ordinal(digits: str) -> str:
    return han_number(str(int(digits)))


def _digit_by_digit(text: str) -> str:
    """Read telephone numbers, codes, rooms, versions and models one digit after another."""
    text = re.sub(r"\+(\d{1,3})[ -]?(?=1\d{10})", lambda m: f"加{by_digits(m[1])},", text)
    text = re.sub(r"(?<![\d-])[(（]?(0\d{2,3})[)）]?[ -]?(\d{3,4})[ -]?(\d{4})(?!\d)", lambda m: by_digits(m[0]), text)
    text = re.sub(r"(?<![\d-])[2-9]\d{3}[ -]\d{4}(?![\d年-])", lambda m: by_digits(m[0]), text)
    text = re.sub(r"(?<![\d-])([48]00)-?(\d{3,4})-?(\d{3,4})(?!\d)", lambda m: by_digits(m[0]), text)
    text = re.sub(r"(?<![\d-])1[3-9]\d[ -]?\d{4}[ -]?\d{4}(?!\d)", lambda m: by_digits(m[0], one="幺"), text)
    text = re.sub(
        rf"((?:{_SPELLED})(?:码|号码|号)?[是为係為：:\s]{{0,2}}[A-Za-z]{{0,2}})(\d{{3,}})(?![\d.]*[{_UNITS_OF_CODES}])",
        lambda m: m[1] + by_digits(m[2]),
        text,
    )
    rooms = rf"(?<!\d)\d{{1,3}}(?:[-–]\d{{1,3}})?[-–]\d{{3,4}}(?=[号號]?(?:房|室|单元|門|门|{_HAN}?室)|[号號])"
    text = re.sub(rooms, lambda m: "杠".join(by_digits(part) for part in re.split("[-–]", m[0])), text)
    text = re.sub(r"(?<![\d.])\d{3,4}(?=[号號]?(?:房间?|室)|路公交|路车)", lambda m: by_digits(m[0]), text)
    text = re.sub(r"(?<![\d.])24/7(?![\d/])", "二十四七", text)
    text = re.sub(r"(?<![\d.])\d+(?:\.\d+){2,}(?![\d.])", lambda m: _FULL_STOP.join(map(_part, m[0].split("."))), text)
    text = re.sub(r"(?<=单元)\d{3,4}(?!\d)", lambda m: by_digits(m[0]), text)
    text = re.sub(r"(?<![\d·])(\d{1,2})·(\d{1,2})(?![\d·])", lambda m: by_digits(m[0]), text)
    text = re.sub(r"(?<=[A-Z])·(?=\d)", "", text)
    text = re.sub(r"(?<=[A-Za-z])\d{3,}(?![\d.])", lambda m: by_digits(m[0]), text)
    text = re.sub(r"(?<![\d.,])\d{3,4}(?=[pP](?![A-Za-z]))", lambda m: by_digits(m[0]), text)
    return re.sub(r"(?<![\d.:,-])0\d+(?![\d.:])", lambda m: by_digits(m[0]), text)


_UNITS_OF_CODES = "个位人元块年月日次"


def _part(digits: str) -> str:
    return by_digits(digits) if len(digits) > 2 or digits[0] == "0" else han_number(digits)


def _ordinals(text: str) -> str:
    """Read 第2名 as 第二名, where wetext counts two, 2单元 as 二单元, and 第1-3章 as a range."""
    text = re.sub(r"(?<![\d.])(\d{1,2})(?=单元|單元|号楼|號樓|栋|棟|幢)", lambda m: han_number(m[1]), text)
    text = re.sub(rf"第\s?(\d+)\s?{_DASH}\s?第?(\d+)", lambda m: f"第{han_number(m[1])}到{han_number(m[2])}", text)
    return re.sub(r"第\s?(\d{1,4})(?!\d)", lambda m: f"第{han_number(m[1])}", text)


def _ranges(text: str) -> str:
    """Say 到 between two numbers that rise and count something, and between days and months; 比 between scores."""
    text = re.sub(rf"({_WEEKDAYS}){_DASH}(?={_WEEKDAYS})", r"\1到", text)
    text = re.sub(rf"(?<=\d)%\s?{_DASH}\s?(?={_NUMBER}%)", "%到", text)
    text = re.sub(rf"(?<=[\d])(万|亿|元|岁|年|月|日|号|天|℃|°C|°|kg|km|cm|米|点)\s?{_DASH}\s?(?=\d)", r"\1到", text)
    text = re.sub(rf"(比分|结果|战胜|击败|[以])([是为]?)\s?(\d{{1,3}}){_DASH}(\d{{1,3}})(?!\d)", r"\1\2\3比\4", text)

    def rising(found: re.Match[str]) -> str:
        return f"{found[1]}到{found[2]}" if float(found[1]) < float(found[2]) else found[0]

    units = rf"\s?(?:{_UNITS}|{_HAN}|℃|°|[kcm]?m|kg|g|ml|[GM]B|k|K)"
    return re.sub(rf"(?<![\d.\w/+*×÷=-])({_NUMBER})\s?{_DASH}\s?({_NUMBER})(?={units})", rising, text)


def _hyphens(text: str) -> str:
    """Keep a hyphen between a name and its number from being a minus; between characters it is a pause."""
    text = re.sub(r"(?<=[A-Za-z])[-–](?=\d)", " ", text)
    text = re.sub(rf"(?<![{_BEFORE_MINUS}])(?<={_HAN})[-–](?=\d+(?![\d.]*(?:[%％℃°度元分.到至])))", "", text)
    text = re.sub(r"(?<=\d)[-–](?=[A-Za-z])", " ", text)
    text = re.sub(rf"(?<={_HAN})[-–](?={_HAN})", "，", text)
    text = re.sub(r"(?<![\d.)）=])[-–](?=\d)", "负", text) if "=" not in text else text
    return re.sub(r"负(\d+(?:\.\d+)?)[%％]", r"负百分之\1", text)


def _quantities(text: str) -> str:
    """Read 1v1; count two of something with 两; say promille, powers, foreign money and units that wetext spells."""
    text = re.sub(
        r"(?<![\d.])(\d{1,2})\s?[vV](?:[sS]\.?)?\s?(\d{1,2})(?![\d.])",
        lambda m: f"{han_number(m[1])} V {han_number(m[2])}",
        text,
    )
    text = re.sub(rf"({_NUMBER})‰|({_NUMBER})千分号", lambda m: f"千分之{m[1] or m[2]}", text)
    text = re.sub(rf"(?<![\d.第百千万月年])2(?=\s?(?:{_COUNTED}))", "两", text)
    text = re.sub(r"(?<![\d.])2(?=℃|°)", "二", text)
    text = re.sub(r"(?<=[A-Za-z\d])²(?![A-Za-z])", _power("平方"), text)
    text = re.sub(r"(?<=\d)³", "的三次方", text)
    text = re.sub(r"(?<![\d\s])[℃°]C?", "摄氏度", text)
    text = re.sub(r"(?<![\d\s])%", "百分号", text)
    text = re.sub(rf"(?:HK\$|港币)\s?({_NUMBER})", r"\1港元", text)
    text = re.sub(rf"(?:NT\$)\s?({_NUMBER})", r"\1新台币", text)
    text = re.sub(rf"(欧元|韩元)\s?({_NUMBER})([万亿]?)", r"\2\3\1", text)
    text = re.sub(rf"(?<=\d)(?:{'|'.join(_UNIT_OF)})(?![A-Za-z/])", lambda m: _UNIT_OF[m[0]], text)
    text = re.sub(rf"~\s?(?={_NUMBER})(?<!\d~)", "约", text)
    return re.sub(rf"({_NUMBER}[万亿]?)\+(?![\d+=])", r"\1加", text)


def _power(word: str) -> Callable[[re.Match[str]], str]:
    def read(found: re.Match[str]) -> str:
        before = found.string[: found.start()]
        is_unit = re.search(r"(?:^|[\d\s])(?:[kcdm]?m|in|ft)$", before)
        return found[0] if is_unit else f"的{word}" if before[-1].isdigit() else word

    return read


def _formulas(text: str) -> str:
    """Read marks of arithmetic between numbers and letters, C++ and @."""
    text = re.sub(r"(?<=[A-Za-z])\+\+", "加加", text)
    text = re.sub(r"(?<=\b[A-Z])#", " sharp ", text)
    text = re.sub(r"(?<=[A-Za-z])\s?&\s?(?=[A-Za-z])", " and ", text)
    text = re.sub(r"@", "艾特", text)
    value, mark = rf"\(?(?:负?{_NUMBER}|(?<![A-Za-z])[a-zA-Z](?![A-Za-z]))\)?", f"[{re.escape(''.join(_ARITHMETIC))}]"
    text = re.sub(rf"(?<![\d:.]){value}(?:\s?{mark}\s?{value})+(?![\d:])", _formula, text)
    return re.sub(r"(?<=\w)\s?([+=])\s?(?=\w)", lambda m: _ARITHMETIC[m[1]], text)


def _formula(found: re.Match[str]) -> str:
    """Read one formula; a single dash, slash or x between numbers may be something else."""
    if not re.search(r"[÷×*=]|[a-z]\)?\s?\+|\+\s?\(?[a-z\d]", found[0]):
        return found[0]
    return re.sub(r"\s?([÷×*+=−/-])\s?", lambda m: _ARITHMETIC[m[1]], found[0])
