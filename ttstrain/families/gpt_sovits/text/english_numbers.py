"""Numbers of English texts in words: times, dates, telephone numbers, money, units, ordinals, fractions, versions."""

from __future__ import annotations

import re
from functools import cache
from typing import Any

from ttstrain.families.gpt_sovits.text.numerals import roman
from ttstrain.families.gpt_sovits.text.reading import load

_UNITS = {
    "km/h": ("kilometer per hour", "kilometers per hour"), "kph": ("kilometer per hour", "kilometers per hour"),
    "m/s": ("meter per second", "meters per second"), "mph": ("mile per hour", "miles per hour"),
    "km²": ("square kilometer", "square kilometers"), "m²": ("square meter", "square meters"),
    "m³": ("cubic meter", "cubic meters"), "sq ft": ("square foot", "square feet"),
    "km": ("kilometer", "kilometers"), "cm": ("centimeter", "centimeters"), "mm": ("millimeter", "millimeters"),
    "m": ("meter", "meters"), "mi": ("mile", "miles"), "kg": ("kilogram", "kilograms"), "g": ("gram", "grams"),
    "mg": ("milligram", "milligrams"), "ml": ("milliliter", "milliliters"), "mL": ("milliliter", "milliliters"),
    "L": ("liter", "liters"), "ft": ("foot", "feet"), "lbs": ("pound", "pounds"), "lb": ("pound", "pounds"),
    "oz": ("ounce", "ounces"), "hrs": ("hour", "hours"), "hr": ("hour", "hours"), "mins": ("minute", "minutes"),
    "min": ("minute", "minutes"), "secs": ("second", "seconds"), "sec": ("second", "seconds"),
    "h": ("hour", "hours"), "s": ("second", "seconds"), "yrs": ("year", "years"),
    "°C": ("degree celsius", "degrees celsius"), "℃": ("degree celsius", "degrees celsius"),
    "°F": ("degree fahrenheit", "degrees fahrenheit"), "℉": ("degree fahrenheit", "degrees fahrenheit"),
    "°": ("degree", "degrees"), "kHz": ("kilohertz", "kilohertz"), "Hz": ("hertz", "hertz"),
    "MHz": ("megahertz", "megahertz"), "GHz": ("gigahertz", "gigahertz"), "TB": ("terabyte", "terabytes"),
    "GB": ("gigabyte", "gigabytes"), "MB": ("megabyte", "megabytes"), "KB": ("kilobyte", "kilobytes"),
    "kW": ("kilowatt", "kilowatts"), "W": ("watt", "watts"), "V": ("volt", "volts"), "dB": ("decibel", "decibels"),
    "Mbps": ("megabit per second", "megabits per second"),
    "Gbps": ("gigabit per second", "gigabits per second"),
    "tsp": ("teaspoon", "teaspoons"), "tbsp": ("tablespoon", "tablespoons"),
    "Ω": ("ohm", "ohms"), "%": ("percent", "percent"), "‰": ("per thousand", "per thousand"),
}  # fmt: skip
_CURRENCIES = {
    "$": ("dollar", "dollars", "cent", "cents"),
    "£": ("pound", "pounds", "penny", "pence"),
    "€": ("euro", "euros", "cent", "cents"),
    "¥": ("yen", "yen", "sen", "sen"),
    "₹": ("rupee", "rupees", "paisa", "paise"),
    "₩": ("won", "won", "jeon", "jeon"),
}
CURRENCY_SIGNS = frozenset(_CURRENCIES)
_SCALES = {
    "k": "thousand", "m": "million", "mn": "million", "b": "billion", "bn": "billion", "t": "trillion",
    "tn": "trillion",
}  # fmt: skip
_MONTHS = (
    "January", "February", "March", "April", "May", "June", "July", "August", "September", "October", "November",
    "December",
)  # fmt: skip
_SHORT_MONTHS = {month[:3]: month for month in _MONTHS if month != "May"} | {"Sept": "September"}
_KINGS = (
    "Henry|Louis|Elizabeth|George|Charles|Edward|William|James|Richard|Philip|Napoleon|Catherine|Peter|Ivan|Nicholas|"
    "Alexander|Francis|Frederick|Leo|Pius|Benedict|Paul|Clement|Innocent|Gregory|Christian|Gustav|Ramses|Rameses"
)
_NUMBER = r"\d+(?:,\d{3})+(?:\.\d+)?|\d+(?:\.\d+)?"
_MONTH = "|".join(_MONTHS)
_PARTS = "Chapter|Part|Act|Scene|Volume|Book|Section|War|Phase|Type|Level|Stage|Class|Grade|Figure|Table|Bowl"
_NUMBERED = "Room|room|Flight|flight|Route|route|Highway|highway|Interstate|Area|Suite|suite|Apartment|apartment|Unit"


def expand_numbers(text: str) -> str:
    """Write the numbers of a text in words, the longest forms first."""
    for rules in (_clock_times, _digit_strings, _dates, _names, _signed, _money, _others):
        text = rules(text)
    return re.sub(rf"({_NUMBER})", lambda found: f" {_number(found[0])} ", text)


# ---------------------------------------------------------------- times, telephones, dates


def _clock_times(text: str) -> str:
    text = re.sub(
        r"\b(\d{1,2})(?:[:.](\d{2}))?\s?([ap])\.?\s?m\b\.?(?=(\s*$|\s+[A-Z])?)",
        lambda m: f"{_clock(m[1], m[2])} {m[3].upper()} M" + ("." if m[4] is not None and m[0][-1] == "." else ""),
        text,
        flags=re.I,
    )
    text = re.sub(
        r"\b([01]?\d|2[0-3]):([0-5]\d):([0-5]\d)\b",
        lambda m: f"{_clock(m[1], m[2])} and {_cardinal(int(m[3]))} seconds",
        text,
    )
    text = re.sub(r"\b([01]?\d|2[0-3]):([0-5]\d)\b", lambda m: _clock(m[1], m[2], whole=" o'clock"), text)
    return re.sub(r"(?<![\d:])(\d+):(\d+)(?![\d:])", r"\1 to \2", text)


def _clock(hour: str, minute: str | None, *, whole: str = "") -> str:
    if not int(minute or 0):
        return _cardinal(int(hour)) + (whole if int(hour) <= 12 else " hundred" if whole else "")
    assert minute is not None
    return f"{_cardinal(int(hour))} {'oh ' if int(minute) < 10 else ''}{_cardinal(int(minute))}"


def _digit_strings(text: str) -> str:
    """Read telephone numbers, codes and versions one digit or part after another."""
    text = re.sub(r"\b24/7\b", "twenty-four seven", text)
    text = re.sub(r"(\d)['′](\d{1,2})[\"″]", r"\1 foot \2", text)
    text = re.sub(r"\b9/11\b", "nine eleven", text)
    text = re.sub(r"\b(50)/(50)\b", "fifty fifty", text)
    date = r"(?!\d{4}-\d{1,2}-\d{1,2}\b)"
    phones = (
        r"\+\d{1,3}(?:[-. ]\(?\d{2,4}\)?){2,5}\b",
        rf"(?<![\w-]){date}(?:1[-. ])?(?:\(\d{{3}}\) ?|\d{{3}}[-.])\d{{3}}[-.]\d{{4}}\b",
        rf"(?<![\w-]){date}\d{{2,5}}(?:-\d{{2,4}}){{2,4}}\b",
        r"(?<![\w-])[2-9]\d{2}-\d{4}\b(?!\s?(?:people|years))",
    )
    for pattern in phones:
        text = re.sub(pattern, _telephone, text)
    text = re.sub(r"\b(call|dial|dialed|called|Call|Dial) (\d{3})\b", lambda m: f"{m[1]} {_digit_by_digit(m[2])}", text)
    text = re.sub(
        r"\b(code|Code|PIN|pin|password|number is|ZIP|zip|extension|ext\.?)( is| code)? (\d{3,})\b(?!,\d)",
        lambda m: f"{m[1]}{m[2] or ''} {_digit_by_digit(m[3])}",
        text,
    )
    text = re.sub(r"\b([A-Z]{2}) (\d{5})\b", lambda m: f"{m[1]} {_digit_by_digit(m[2])}", text)
    return re.sub(
        r"(?<![\d.])[vV]?\d+(?:\.\d+){2,}(?![\d.])",
        lambda m: " point ".join(_cardinal(int(part)) for part in m[0].lstrip("vV").split(".")),
        text,
    )


def _telephone(found: re.Match[str]) -> str:
    plus = "plus " if found[0].startswith("+") else ""
    return plus + ", ".join(_digit_by_digit(group) for group in re.findall(r"\d+", found[0]))


def _dates(text: str) -> str:
    text = re.sub(rf"\b({'|'.join(_SHORT_MONTHS)})\b\.?(?=\s\d)", lambda m: _SHORT_MONTHS[m[1]], text)
    text = re.sub(rf"(?<=\d\s)({'|'.join(_SHORT_MONTHS)})\b\.?(?=\s\d)", lambda m: _SHORT_MONTHS[m[1]], text)
    text = re.sub(
        r"(?<![\d/.-])(\d{4})([-/.])(\d{1,2})\2(\d{1,2})(?![\d/-])",
        lambda m: _date(m[0], year=m[1], month=m[3], day=m[4]),
        text,
    )
    text = re.sub(
        r"(?<![\d/.-])(\d{1,2})([/.-])(\d{1,2})\2(\d{4})(?![\d/-])",
        lambda m: (
            _date(m[0], year=m[4], month=m[3], day=m[1])
            if int(m[1]) > 12
            else _date(m[0], year=m[4], month=m[1], day=m[3])
        ),
        text,
    )
    text = re.sub(rf"\b({_MONTH}) (\d{{1,2}})(?![\d:.,]\d)\b", lambda m: f"{m[1]} {_ordinal(int(m[2]))}", text)
    text = re.sub(
        rf"(\bthe )?\b(\d{{1,2}})(?: of)? ({_MONTH})\b",
        lambda m: f"{m[1] or 'the '}{_ordinal(int(m[2]))} of {m[3]}",
        text,
    )
    return re.sub(r"(?<!\w)['’](\d{2})\b(?!['’]?s)", lambda m: _cardinal(int(m[1])), text)


def _date(written: str, *, year: str, month: str, day: str) -> str:
    if not (1 <= int(month) <= 12 and 1 <= int(day) <= 31):
        return written
    return f"{_MONTHS[int(month) - 1]} {_ordinal(int(day))}, {_year(year) if 1000 < int(year) < 3000 else year}"


# ---------------------------------------------------------------- names with numbers


def _names(text: str) -> str:
    """Read the numbers of kings, rooms, flights and houses, and hyphens between a number and a word."""
    text = re.sub(
        rf"\b({_KINGS}) ([IVXL]{{2,6}}|[VX])\b",
        lambda m: f"{m[1]} the {_ordinal(roman(m[2])).capitalize()}" if roman(m[2]) else m[0],
        text,
    )
    text = re.sub(
        rf"\b({_PARTS}) ([IVXL]+)\b",
        lambda m: f"{m[1]} {_cardinal(roman(m[2]))}" if roman(m[2]) else m[0],
        text,
    )
    text = re.sub(rf"\b({_NUMBERED}) (\d{{3,4}})\b", lambda m: f"{m[1]} {_in_pairs(m[2])}", text)
    text = re.sub(r"\b([1-9]\d{2})([A-Z])\b(?= [A-Z])", lambda m: f"{_in_pairs(m[1])} {m[2]}", text)
    text = re.sub(r"\b([A-Z]{2})(\d{3,4})\b", lambda m: f"{m[1]} {_in_pairs(m[2])}", text)
    return re.sub(r"(?<=[A-Za-z])-(?=\d)|(?<=\d)-(?=[A-Za-z])", " ", text)


def _in_pairs(digits: str) -> str:
    """Read 370 as three seventy, 101 as one oh one, 2490 as twenty-four ninety."""
    if digits[-2:] == "00":
        return _cardinal(int(digits))
    tail = int(digits[-2:])
    return f"{_cardinal(int(digits[:-2]))} {'oh ' if tail < 10 else ''}{_cardinal(tail)}"


# ---------------------------------------------------------------- signs, money, units


def _signed(text: str) -> str:
    """Say minus, plus, about and point before a number."""
    text = re.sub(rf"(?<![\w.,)%])[-\u2212](?=\.?\d|[{_signs()}]\d)", "minus ", text)
    text = re.sub(r"(?<!\w)\+(?=\d)", "plus ", text)
    text = re.sub(r"(?<!\w)[~≈](?=\s?[\d$€£])", "about ", text)
    text = re.sub(r"±\s?(?=\d)", "plus or minus ", text)
    return re.sub(r"(?<![\w.])\.(?=\d)", " point ", text)


def _signs() -> str:
    return "".join(map(re.escape, _CURRENCIES))


def _money(text: str) -> str:
    scales = "hundred|thousand|million|billion|trillion"
    text = re.sub(rf"\b(US|HK|NT|AU|CA)\$\s?({_NUMBER})", lambda m: f"{_plain(m[2])} {' '.join(m[1])} dollars", text)
    text = re.sub(
        rf"([{_signs()}])\s?({_NUMBER})(?:(\s(?:{scales})\b)|({'|'.join(sorted(_SCALES, key=len, reverse=True))})\b)?",
        _amount,
        text,
        flags=re.I,
    )
    text = re.sub(rf"({_NUMBER})\s?([{_signs()}])(?!\d)", lambda m: f"{_number(m[1])} {_CURRENCIES[m[2]][1]}", text)
    return re.sub(rf"({_NUMBER})\s?¢", lambda m: f"{_number(m[1])} cents", text)


def _amount(found: re.Match[str]) -> str:
    one, many, small_one, small_many = _CURRENCIES[found[1]]
    amount = found[2].replace(",", "")
    if found[3] or found[4]:
        return f"{_plain(amount)}{found[3] or ' ' + _SCALES[found[4].lower()]} {many}"
    whole, _, part = amount.partition(".")
    if part and len(part) != 2:
        return f"{_plain(amount)} {many}"
    spoken = f"{_cardinal(int(whole))} {one if int(whole) == 1 else many}" if int(whole) or not int(part or 0) else ""
    if part and int(part):
        small = f"{_cardinal(int(part))} {small_one if int(part) == 1 else small_many}"
        return f"{spoken} and {small}" if spoken else small
    return spoken


def _others(text: str) -> str:
    """Read ordinals, fractions, ranges, decades and quantities."""
    text = re.sub(r"\b([\d,]*\d)(?:st|nd|rd|th)\b", lambda m: _ordinal(int(m[1].replace(",", ""))), text, flags=re.I)
    text = re.sub(r"(?<=\d)in\b", " inches", text)
    text = re.sub(r"(?<=\d)x\b(?!\s?\d)", " times", text)
    text = re.sub(r"\b(\d+)/100\b", r"\1 out of 100", text)
    text = re.sub(r"(?<=\d)\s/\s(?=\d)", " divided by ", text)
    text = re.sub(
        r"(?<![\d/.])(?:(\d+)\s)?(\d+)/(\d+)(?![\d/])",
        lambda m: f"{_cardinal(int(m[1]))} and {_article(_fraction(m[2], m[3]))}" if m[1] else _fraction(m[2], m[3]),
        text,
    )
    text = re.sub(r"(?<=\d)\s?[–—-]\s?(?=\d)|(?<=\d%)\s?[–—-]\s?(?=\d)", " to ", text)
    text = re.sub(r"(?<![\w.])['’]?(\d{2}|\d{4})['’]?s\b", _decade, text)
    units = "|".join(map(re.escape, sorted(_UNITS, key=len, reverse=True)))
    text = re.sub(rf"(?<=\d)(\s?(?:{units}))?\s?[x×]\s?(?=\d)(?!.*=)", r"\1 by ", text)
    text = re.sub(rf"(?<![A-Za-z])({_NUMBER})\s?({units})(?![\w/])", _quantity, text)
    return re.sub(r"(?<=\d)k\b", " thousand", text)


def _article(fraction: str) -> str:
    """Say `a half`, not `one half`, after a whole number."""
    return re.sub("^one ", "a ", fraction)


def _fraction(above: str, below: str) -> str:
    upper, lower = int(above), int(below)
    if lower == 2:
        return f"{_cardinal(upper)} {'half' if upper == 1 else 'halves'}"
    if lower == 4:
        return f"{_cardinal(upper)} {'quarter' if upper == 1 else 'quarters'}"
    if lower < 2 or lower > 100:
        return f"{_cardinal(upper)} over {_cardinal(lower)}"
    return f"{_cardinal(upper)} {_ordinal(lower)}{'' if upper == 1 else 's'}"


def _decade(found: re.Match[str]) -> str:
    spoken = _year(found[1]) if len(found[1]) == 4 else _cardinal(int(found[1]))
    return f"{spoken[:-1]}ies" if spoken.endswith("y") else f"{spoken}s"


def _quantity(found: re.Match[str]) -> str:
    one, many = _UNITS[found[2]]
    return f"{_plain(found[1])} {one if found[1] == '1' else many}"


# ---------------------------------------------------------------- plain numbers


def _number(digits: str) -> str:
    """Read a number: four digits without a comma as a year, leading zeros and long numbers digit by digit."""
    if digits.isdecimal() and len(digits) == 4 and 1000 < int(digits) < 3000:
        return _year(digits)
    return _plain(digits)


def _plain(digits: str) -> str:
    """Read a number that is no year."""
    whole, _, part = digits.replace(",", "").partition(".")
    if part:
        return f"{_cardinal(int(whole))} point {_digit_by_digit(part)}"
    if (len(whole) > 1 and whole[0] == "0") or len(whole) > 15:
        return _digit_by_digit(whole)
    return _cardinal(int(whole))


def _year(digits: str) -> str:
    """Read 1984 in pairs, 1900 in hundreds, 2005 as a number, 1805 with an `oh`; as upstream does."""
    value = int(digits)
    century, rest = divmod(value, 100)
    if value % 1000 == 0 or 2000 < value < 2010:
        return _cardinal(value)
    if rest == 0:
        return f"{_cardinal(century)} hundred"
    return f"{_cardinal(century)} {'oh ' if rest < 10 else ''}{_cardinal(rest)}"


def _digit_by_digit(digits: str) -> str:
    return " ".join(_cardinal(int(digit)) for digit in digits)


def _cardinal(value: int) -> str:
    spoken: str = _engine().number_to_words(value, andword="")
    return spoken.replace(",", "")


def _ordinal(value: int) -> str:
    spoken: str = _engine().number_to_words(_engine().ordinal(value), andword="")
    return spoken.replace(",", "")


@cache
def _engine() -> Any:
    return load("inflect", language="en").engine()
