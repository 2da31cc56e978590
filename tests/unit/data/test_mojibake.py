from __future__ import annotations

import pytest

from ttstrain.data.mojibake import undo


def misread(text: str, encoding: str) -> str:
    """Read UTF-8 as another encoding does, bytes that it leaves out as controls."""
    return "".join(_character(bytes([byte]), encoding) for byte in text.encode())


def _character(byte: bytes, encoding: str) -> str:
    try:
        return byte.decode(encoding)
    except UnicodeDecodeError:
        return byte.decode("latin-1")


@pytest.mark.parametrize("encoding", ["latin-1", "cp1252", "cp1250", "cp1251"])
@pytest.mark.parametrize(
    "text",
    [
        "Schöne Grüße",
        "L’été était là.",
        "Zażółć gęślą jaźń",
        "привет, как дела",
        "Ελληνικά",
        "你好，世界",
        "हम बाहर",
        "It’s “quoted” — yes…",
    ],
)
def test_utf_8_that_was_read_as_another_encoding_is_read_back(text: str, encoding: str) -> None:
    undone = undo(misread(text, encoding))
    assert undone is not None
    assert undone.text == text
    assert undone.whole


def test_several_layers_are_read_back() -> None:
    undone = undo(misread(misread("Schöne Grüße", "cp1252"), "cp1252"))
    assert undone is not None
    assert undone.text == "Schöne Grüße"


def test_what_lost_bytes_is_said_to_be_spoiled() -> None:
    undone = undo("SchÃ¶ne GrÃ¼Ãe, lÃ  bas")
    assert undone is not None
    assert not undone.whole


@pytest.mark.parametrize(
    "text",
    [
        "CAFÉ…",
        "«\u00a0CAFÉ\u00a0» et l'été\u00a0»",
        "“Il a été…”",
        "VOILÀ\u00a0!",
        "ÇA—LÀ",
        "MANHÃ”, disse. NÃO!",
        "Úžasný",
        "Её дом, № 5",
        "Ні, дякую",
        "„NÖ“, JÄ…",
        "LES ÉLÈVÉ·E·S",
        "Â",
        "20 °C, 5 µm, ½, §3 ©, ¿Qué? ¡SÍ!",
    ],
)
def test_what_people_write_is_left_alone(text: str) -> None:
    assert undo(text) is None
