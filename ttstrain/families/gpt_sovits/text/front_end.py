"""From a text to the ids that GPT and VAE read. Imports no torch.

A phoneme that the symbol table lacks becomes `UNK`, as in upstream, and is reported, except for the border of Japanese
accent phrases, `#`, which no table has: the published weights have learned `UNK` for it.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import import_module, metadata
from typing import cast

from ttstrain.contract.data import Token
from ttstrain.data.texts import VOCAB
from ttstrain.digest import sha256
from ttstrain.errors import DataError
from ttstrain.families.gpt_sovits.text.japanese_dictionary import OWN, Dictionary, digest
from ttstrain.families.gpt_sovits.text.reading import Reading
from ttstrain.families.gpt_sovits.text.symbols import (
    KOREAN_SPACE,
    KOREAN_STOP,
    PAUSES,
    UNKNOWN,
    symbol_ids,
    symbols,
)

LANGUAGES = ("zh", "en", "ja", "ko", "yue")
AUTO, AUTO_CANTONESE = "auto", "auto_yue"
_SPELLINGS: Mapping[str, str] = {
    "zh": "zh zho chi cmn cn all_zh chinese mandarin 中文 汉语 普通话 国语",
    "en": "en eng english 英文 英语",
    "ja": "ja jp jpn all_ja japanese 日文 日语 日本語",
    "ko": "ko kor kr all_ko korean 韩文 韩语 한국어",
    "yue": "yue all_yue cantonese 粤语 粵語 广东话 廣東話",
    AUTO: "auto multilingual",
    AUTO_CANTONESE: "auto_yue",
}
_LANGUAGE_OF = {spelling: code for code, spellings in _SPELLINGS.items() for spelling in spellings.split()}

# The module of each language and the packages that decide on its phonemes.
_PACKAGE = "ttstrain.families.gpt_sovits.text"
_MODULES = {"zh": "chinese", "en": "english", "ja": "japanese", "ko": "korean", "yue": "cantonese"}
_LIBRARIES = ("inflect", "wordsegment", "wetext", "pypinyin", "rjieba", "pyopenjtalk-plus", "onnxruntime", "ToJyutping")
_RULES = "3"
"""Version of our own rules: raise it when some texts give other phonemes."""
ACCENT_BORDER = "#"
_SILENT = {*PAUSES, UNKNOWN, KOREAN_SPACE, KOREAN_STOP}


@dataclass(frozen=True, slots=True)
class Phonemes:
    """A sentence as GPT and VAE read it.

    `word2ph` counts the phonemes of each character of `normalized`, for BERT's features; only Chinese and Cantonese
    have it. `unknown` holds phonemes that became `UNK`, and letters and signs of the text that are dropped.
    """

    phones: tuple[str, ...]
    ids: tuple[int, ...]
    word2ph: tuple[int, ...] | None
    normalized: str
    unknown: tuple[str, ...]


def phonemize(text: str, language: str, *, version: str, dictionary: Dictionary = OWN) -> Phonemes:
    """Read a text; `dictionary` is that of Japanese.

    Raises DataError where there is nothing to speak, or for a language that the version has no symbols for; RecipeError
    where a library is missing, with the command that installs it.
    """
    if language not in _MODULES:
        raise DataError(f"GPT-SoVITS does not support `{language}`", hint=f"languages: {', '.join(LANGUAGES)}")
    if version == "v1" and language in ("ko", "yue"):
        raise DataError(f"v1 has no phonemes for `{language}`", hint="`model.version=v2` or later")
    read = _reader(language)
    reading = read(text, version, dictionary) if language == "ja" else read(text, version)
    table = symbol_ids(version)
    phones = tuple(phone if phone in table else UNKNOWN for phone in reading.phones)
    if all(phone in _SILENT for phone in phones):
        raise DataError(f"the text has nothing to pronounce: `{text}`", hint=f"it was read as `{language}`")
    missing = [phone for phone in reading.phones if phone not in table and phone != ACCENT_BORDER]
    return Phonemes(
        phones=phones,
        ids=tuple(table[phone] for phone in phones),
        word2ph=reading.word2ph,
        normalized=reading.normalized,
        unknown=tuple(dict.fromkeys((*missing, *reading.dropped))),
    )


def spoken_language(written: str, text: str) -> str:
    """Return the language code for a list's language column: a code, a name, or `auto` (detected from the script).

    Upstream's own codes, such as `all_zh` and `auto_yue`, are accepted. Raises DataError for an unsupported language.
    """
    plain = written.strip().casefold()
    stem, *region = plain.replace("_", "-").split("-", maxsplit=1)
    code = _LANGUAGE_OF.get(plain) or _LANGUAGE_OF.get(stem)
    if code is None or (region and plain != code and code == AUTO):
        raise DataError(f"GPT-SoVITS has no language `{written}`", hint=f"known: {', '.join(LANGUAGES)}, and `auto`")
    if code not in (AUTO, AUTO_CANTONESE):
        return "yue" if code == "zh" and region == ["yue"] else code
    told = detect_language(text)
    return "yue" if code == AUTO_CANTONESE and told == "zh" else told


def detect_language(text: str) -> str:
    """Detect a text's language by its script: kana is Japanese, Hangul Korean, other Chinese characters Chinese.

    Cantonese is detected by characters that only Cantonese uses. A text with none of these is English.
    """
    if any("\u3041" <= c <= "\u30ff" or "\uff66" <= c <= "\uff9f" for c in text if c not in "・ー"):
        return "ja"
    if any("HANGUL" in unicodedata.name(c, "") for c in text):
        return "ko"
    if any(c in _CANTONESE_ONLY for c in text):
        return "yue"
    return "zh" if any("\u4e00" <= c <= "\u9fff" for c in text) else "en"


_CANTONESE_ONLY = frozenset("嘅咗喺冇唔佢啲嚟咁嗰哋瞓搵攞睇嘢乜嘥啱")


def versions() -> Mapping[str, str]:
    """Return the versions of our rules and of the libraries that determine phonemes; checkpoints store them."""
    return {"rules": _RULES, **{name: metadata.version(name) for name in _LIBRARIES if _is_installed(name)}}


class SovitsFrontEnd:
    """The front ends of all languages and one table, as `ttstrain.contract.data.FrontEnd`.

    `default_language` is that of texts whose rows name none; `auto` goes by the script.
    """

    def __init__(self, *, version: str, default_language: str, dictionary: Dictionary = OWN) -> None:
        self.name: str = "phonemes"
        self.version = version
        self.default_language = default_language
        self.dictionary = dictionary
        self.vocab: Sequence[str] = symbols(version)
        self.vocab_source = f"GPT-SoVITS {version}"
        self.max_unknown = 1.0  # the table cannot grow: unknown phonemes are reported and never refused
        self.unknown_as = "`UNK`, or not at all"
        self.separator = " "
        self.by_word = False  # a word's phonemes may depend on its neighbours
        table = sha256("\n".join(self.vocab))
        own = {} if dictionary.is_own else {"japanese dictionary": digest(dictionary)}
        self.versions: Mapping[str, str] = {"tokenizer": "phonemes", **versions(), **own, VOCAB: f"sha256:{table}"}

    def tokens(self, text: str, language: str = "") -> list[Token]:
        """Read one text into phonemes; letters and signs that are dropped follow at the end, as unknown.

        If nothing in a text can be spoken, every character is unknown.
        """
        try:
            spoken = spoken_language(language or self.default_language, text)
            read = phonemize(text, spoken, version=self.version, dictionary=self.dictionary)
        except DataError:
            return [Token(character, "unknown") for character in text if not character.isspace()]
        return [*map(Token, read.phones), *(Token(symbol, "unknown") for symbol in read.unknown)]


def _is_installed(name: str) -> bool:
    try:
        metadata.version(name)
    except metadata.PackageNotFoundError:
        return False
    return True


@cache
def _reader(language: str) -> Callable[..., Reading]:
    read = import_module(f"{_PACKAGE}.{_MODULES[language]}").read
    return cast("Callable[..., Reading]", read)
