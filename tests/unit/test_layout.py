"""Text beside its label, in lines of 80 characters."""

from __future__ import annotations

from ttstrain.layout import WIDTH, labelled


def test_text_stands_beside_its_label_and_continues_under_itself() -> None:
    lines = labelled("data", "word " * 40)
    assert lines[0].startswith("data      word")
    assert len(lines) > 1
    assert all(line.startswith(" " * 10 + "word") for line in lines[1:])
    assert max(map(len, lines)) <= WIDTH
    assert labelled("", "word " * 40, hang=2)[1].startswith(" " * 12 + "word")
    assert labelled("- ", "word " * 40, column=2)[1].startswith("  word")


def test_a_path_stays_whole_unless_it_may_be_broken() -> None:
    path = "/a-b/" * 30
    assert labelled("to", f"{path} is full")[0].endswith(path)
    broken = labelled("to", path, break_words=True)
    assert max(map(len, broken)) == WIDTH
    assert "".join(line[10:] for line in broken) == path


def test_what_other_people_named_cannot_begin_a_line_of_its_own() -> None:
    assert labelled("name", "a\nb\x1b[31m") == ["name      a\\nb\\u001b[31m"]
