"""Embedding transplant: rows go by token, new ones start from the nearest tokens, and no vocab size crashes it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from ttstrain.checkpoint.upstream import open_checkpoint
from ttstrain.contract.checkpoint import AdaptedWeights
from ttstrain.errors import CheckpointError
from ttstrain.families.flow.config import FlowConfig
from ttstrain.families.flow.interpretations import TABLE
from ttstrain.families.flow.nearest_tokens import Origins
from ttstrain.families.flow.task import FlowTask
from ttstrain.families.flow.transplant import transplant
from ttstrain.families.flow.vocab import load_vocab
from ttstrain.infer.load import load_model
from ttstrain.tensors.loading import load_weights

OLD = (" ", "a", "e", "S", "s", "ni2", "ni4", "lue4", "か", "б", "д")


def table(rows: int = len(OLD) + 1, *, width: int = 64) -> Tensor:
    return torch.randn(rows, width, generator=torch.Generator().manual_seed(1))


# ---------------------------------------------------------------- rows


def test_shared_tokens_and_the_filler_keep_their_rows_bit_for_bit() -> None:
    old = table().bfloat16()
    made = transplant(old, old=OLD, new=["s", " ", "z", "ni4"])
    assert made.table.dtype == torch.bfloat16
    for row, origin in ((0, 0), (1, 1 + OLD.index("s")), (2, 1), (4, 1 + OLD.index("ni4"))):
        assert torch.equal(made.table[row], old[origin])
    assert (made.kept, made.dropped, list(made.new)) == (3, len(OLD) - 3, ["z"])


@pytest.mark.parametrize(("token", "source"), [("é", "e"), ("Ş", "S"), ("Ａ", "a"), ("が", "か"), ("カ", "か")])
def test_a_new_row_is_close_to_its_source_and_not_the_same(token: str, source: str) -> None:
    old = table()
    made = transplant(old, old=OLD, new=[*OLD, token])
    new, origin = made.table[-1], old[1 + OLD.index(source)]
    assert made.sources[token] == (source,)
    assert torch.cosine_similarity(new, origin, dim=0) > 0.99
    assert not torch.equal(new, origin)
    assert new.norm() == pytest.approx(float(origin.norm()), rel=0.05)


def test_a_syllable_comes_from_its_other_tones_or_its_final() -> None:
    made = transplant(table(), old=OLD, new=[*OLD, "ni3", "que4"])
    assert made.sources == {"ni3": ("ni2", "ni4"), "que4": ("lue4",)}
    tones = table()[[1 + OLD.index("ni2"), 1 + OLD.index("ni4")]]
    assert torch.cosine_similarity(made.table[-2], tones.mean(dim=0), dim=0) > 0.99
    assert made.table[-2].norm() == pytest.approx(float(tones.norm(dim=1).mean()), rel=0.05)


def test_a_syllable_without_relatives_comes_from_its_letters() -> None:
    assert transplant(table(), old=OLD, new=[*OLD, "se1"]).sources == {"se1": ("s", "e")}


def test_rows_without_a_relative_have_the_length_of_the_others_and_differ() -> None:
    old = table()
    made = transplant(old, old=OLD, new=[*OLD, "ж", "अ", "ㅎ"])
    assert made.new == {"ж": "script", "अ": "mean", "ㅎ": "mean"}
    rows = made.table[-2:]
    lengths = old[1:].norm(dim=1)
    assert all(lengths.min() < row.norm() < 1.1 * lengths.max() for row in rows)
    assert torch.cosine_similarity(rows[0], rows[1], dim=0) < 0.99
    cyrillic = old[-2:].mean(dim=0)
    assert torch.cosine_similarity(made.table[-3], cyrillic, dim=0) > 0.9


def test_a_row_depends_on_its_token_and_not_on_the_order_or_the_random_state() -> None:
    first = transplant(table(), old=OLD, new=[*OLD, "é", "अ"]).table
    torch.manual_seed(99)
    second = transplant(table(), old=OLD, new=["अ", *OLD, "é"]).table
    assert torch.equal(first[-1], second[1])
    assert torch.equal(first[-2], second[-1])


@pytest.mark.parametrize(
    "new", [[" "], list(OLD[:3]), [*OLD, *map(chr, range(0x900, 0x980))], [chr(0x10FFFD), "\u0301"]]
)
def test_any_size_and_any_symbol_has_finite_rows(new: list[str]) -> None:
    made = transplant(table(), old=OLD, new=new)
    assert made.table.shape == (len(new) + 1, 64)
    assert bool(made.table.isfinite().all())
    assert made.kept + len(made.new) == len(new)


@pytest.mark.parametrize(
    ("token", "tokens"),
    [
        *(("Ğ", ("ğ",)), ("ẞ", ("ß",)), ("ẩ", ("â",)), ("Ø", ("ø",)), ("ґ", ("г",)), ("い", ("イ",)), ("ך", ("כ",))),
        *(("०", ("0",)), ("„", ('"',)), ("Ⅷ", ("V", "I")), ("뷁", ("ㅂ",)), ("lue4", ("jue4", "que4", "xue4", "yue4"))),
    ],
)
def test_relatives_in_the_published_vocab(token: str, tokens: tuple[str, ...]) -> None:
    published = set(load_vocab("package:emilia").tokens) - {token}
    found = Origins(sorted(published)).of(token)
    assert (found.kind, set(found.tokens)) == ("similar", set(tokens))


# ---------------------------------------------------------------- whose vocab


def write(path: Path, tokens: Sequence[str]) -> Path:
    path.write_text("".join(f"{token}\n" for token in tokens), encoding="utf-8")
    return path


def task(vocab: Path | str, **settings: Any) -> FlowTask:
    return FlowTask(
        FlowConfig(dim=16, depth=1, heads=1, dim_head=8, text_dim=16, conv_layers=1, vocab=str(vocab), **settings)
    )


@pytest.fixture
def base(tmp_path: Path) -> Path:
    """Write a net of the vocab `OLD`, without it, as upstream's pruned files are."""
    trained = task(write(tmp_path / "old.txt", OLD))
    (tmp_path / "base").mkdir()
    save_file(trained.state_dict(), tmp_path / "base" / "model.safetensors")
    return tmp_path / "base" / "model.safetensors"


def fitted(base: Path, new: Sequence[str], **settings: Any) -> tuple[FlowTask, AdaptedWeights]:
    mine = task(write(base.parent.parent / "new.txt", new), **settings)
    result = mine.fitted(open_checkpoint(base))
    load_weights(mine, result.weights, source="base")
    return mine, result


def test_the_vocab_beside_the_base_is_its_own(base: Path) -> None:
    write(base.parent / "vocab.txt", OLD)
    mine, result = fitted(base, ["é", *OLD], tokenizer="custom")
    rows, old = mine.state_dict()[TABLE], open_checkpoint(base).weights[TABLE].read()
    assert torch.equal(rows[0], old[0])
    assert torch.equal(rows[2:], old[1:])
    assert result.new_embeddings == {TABLE: (1,)}
    assert any("1 are new (1 from similar tokens): 'é' < 'e'" in note for note in result.notes)


def test_another_order_of_the_same_tokens_is_seen(base: Path) -> None:
    write(base.parent / "vocab.txt", OLD)
    mine, result = fitted(base, OLD[::-1], tokenizer="custom")
    assert torch.equal(mine.state_dict()[TABLE][1:], open_checkpoint(base).weights[TABLE].read()[1:].flip(0))
    assert result.new_embeddings == {}
    assert any("none is new" in note for note in result.notes)


def test_the_same_vocab_changes_nothing_and_says_nothing(base: Path) -> None:
    write(base.parent / "vocab.txt", OLD)
    mine, result = fitted(base, OLD)
    assert torch.equal(mine.state_dict()[TABLE], open_checkpoint(base).weights[TABLE].read())
    assert (result.notes, result.new_embeddings) == ((), {})


def test_a_named_vocab_goes_before_all_and_must_have_the_bases_size(base: Path, tmp_path: Path) -> None:
    write(base.parent / "vocab.txt", OLD[::-1])
    named = write(tmp_path / "named.txt", OLD)
    mine, _ = fitted(base, OLD[:4], base_vocab=str(named))
    assert torch.equal(mine.state_dict()[TABLE], open_checkpoint(base).weights[TABLE].read()[:5])
    with pytest.raises(CheckpointError, match=r"3 tokens, but `.*` has embeddings for 11"):
        fitted(base, OLD, base_vocab=str(write(tmp_path / "named.txt", OLD[:3])))


def test_a_base_of_unknown_vocab_is_refused_by_the_key_that_helps(base: Path) -> None:
    with pytest.raises(CheckpointError, match="embeddings for 11 tokens") as caught:
        fitted(base, OLD[:4])
    assert "model.base_vocab" in str(caught.value.hint)
    assert caught.value.exit_code == 4


def test_a_vocab_of_the_bases_size_is_taken_for_its_own_and_that_is_said(base: Path) -> None:
    mine, result = fitted(base, OLD)
    assert torch.equal(mine.state_dict()[TABLE], open_checkpoint(base).weights[TABLE].read())
    assert any("the base does not state its vocab" in note for note in result.notes)


# ---------------------------------------------------------------- a base that holds the hash of its vocab

MINE = ["x" if token == "e" else token for token in OLD]  # another token in the place of one, as many rows


@pytest.fixture
def told(tmp_path: Path) -> Path:
    """Write a net of the vocab `OLD` that says so, as our exports do, and without the vocab beside it."""
    vocab = load_vocab(str(write(tmp_path / "old.txt", OLD)), space_first=False)
    says = {
        "model": {"dim": 16, "text_mask_padding": True, "pe_attn_head": None, "mel": "vocos"},
        "vocab": {"tokens": len(OLD), "sha256": vocab.sha256},
    }
    path = tmp_path / "alone" / "model.safetensors"
    path.parent.mkdir()
    save_file(task(tmp_path / "old.txt").state_dict(), path, metadata={"ttstrain": json.dumps(says)})
    return path


def test_a_vocab_of_equal_size_and_another_hash_is_not_taken_for_the_bases_own(told: Path) -> None:
    with pytest.raises(CheckpointError, match=r"trained with another vocab than `model.vocab`") as caught:
        fitted(told, MINE, tokenizer="custom")
    assert "model.base_vocab" in str(caught.value.hint)
    assert caught.value.exit_code == 4


def test_a_vocab_beside_is_the_bases_own_by_its_hash(told: Path) -> None:
    write(told.parent / "vocab.txt", MINE)
    with pytest.raises(CheckpointError, match="trained with another vocab"):
        fitted(told, MINE, tokenizer="custom")
    assert open_checkpoint(told).vocab is None
    write(told.parent / "my_vocab.txt", OLD)
    mine, _ = fitted(told, MINE, tokenizer="custom")
    old = open_checkpoint(told).weights[TABLE].read()
    same = [row for row, token in enumerate(MINE, start=1) if token in OLD]
    assert len(same) == len(OLD) - 1
    assert torch.equal(mine.state_dict()[TABLE][same], old[same])


def test_a_named_vocab_must_have_the_hash_that_the_base_says(told: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"`model.base_vocab` \(.*\) is not the vocab that"):
        fitted(told, OLD[:4], base_vocab=str(write(tmp_path / "named.txt", MINE)))
    mine, _ = fitted(told, OLD[:4], base_vocab=str(write(tmp_path / "named.txt", OLD)))
    assert torch.equal(mine.state_dict()[TABLE], open_checkpoint(told).weights[TABLE].read()[:5])


def test_the_recipes_vocab_is_the_bases_own_where_the_hash_says_so(told: Path) -> None:
    _, result = fitted(told, OLD)
    assert (result.notes, result.new_embeddings) == ((), {})


def test_speech_is_not_made_with_another_vocab_than_the_weights_were_trained_with(told: Path) -> None:
    mine = write(told.parents[1] / "mine.txt", MINE)
    sizes = ["model.depth=1", "model.heads=1", "model.dim_head=8", "model.text_dim=16", "model.conv_layers=1"]
    settings = [*sizes, "model.tokenizer=custom", "train.device=cpu"]
    with pytest.raises(CheckpointError, match="was trained with another vocab") as caught:
        load_model(str(told), [*settings, f"model.vocab={mine}"])
    assert "`model.vocab`" in str(caught.value.hint)
    assert load_model(str(told), [*settings, f"model.vocab={told.parents[1] / 'old.txt'}"]).task


def test_a_base_of_the_published_size_has_the_published_vocab(tmp_path: Path) -> None:
    published = task("package:emilia")
    (tmp_path / "base").mkdir()
    save_file(published.state_dict(), tmp_path / "base" / "model.safetensors")
    mine, result = fitted(tmp_path / "base" / "model.safetensors", [" ", "a", "Ğ"])
    index = load_vocab("package:emilia").index
    rows, old = mine.state_dict()[TABLE], published.state_dict()[TABLE]
    assert torch.equal(rows[:3], old[[0, 1, 1 + index["a"]]])
    assert any("'Ğ' < 'ğ'" in note for note in result.notes)


def test_the_vocab_of_an_upstream_project_is_found_in_its_data(base: Path, tmp_path: Path) -> None:
    project = tmp_path / "ckpts" / "mine"
    project.mkdir(parents=True)
    base.rename(project / "model_last.safetensors")
    (tmp_path / "data" / "mine_char").mkdir(parents=True)
    own = write(tmp_path / "data" / "mine_char" / "vocab.txt", OLD)
    assert open_checkpoint(project / "model_last.safetensors").vocab == own


@pytest.mark.parametrize("end", ["\n", "\r\n", ""])
def test_line_ends_do_not_hide_a_vocab_beside_the_file(base: Path, end: str) -> None:
    joined = ("\r\n" if end == "\r\n" else "\n").join(OLD) + end
    (base.parent / "vocab.txt").write_bytes(joined.encode())
    opened = open_checkpoint(base)
    assert opened.vocab == base.parent / "vocab.txt"
    assert any("newline" in note for note in opened.notes) == (end == "")
