"""Bases on the Hugging Face Hub, without a network: a cache as huggingface_hub keeps it, and every way to fail."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from small_runs import command

from ttstrain.checkpoint.upstream import resolve_base
from ttstrain.errors import CheckpointError
from ttstrain.tensors.hub import fetch_repository

huggingface_hub = pytest.importorskip("huggingface_hub")
constants = pytest.importorskip("huggingface_hub.constants")
pytest.importorskip("huggingface_hub.errors")
COMMIT = "84e5a410d9cead4de2f847e7c9369a6440bdfaca"
V1 = "hf://SWivid/F5-TTS/F5TTS_v1_Base"


# ---------------------------------------------------------------- what is cached


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Lay out a cache: blobs by hash, snapshots that link to them, and a ref."""
    repo = tmp_path / "hub" / "models--SWivid--F5-TTS"
    snapshot = repo / "snapshots" / COMMIT
    (repo / "refs").mkdir(parents=True)
    (repo / "blobs").mkdir()
    (repo / "refs" / "main").write_text(COMMIT)
    tensors = {"ema_model.transformer.proj_out.bias": torch.ones(1)}
    names = (
        "F5TTS_v1_Base/model_1250000.safetensors",
        "F5TTS_v1_Base/vocab.txt",
        "F5TTS_Base_bigvgan/model_1250000.pt",
    )
    for number, name in enumerate(names):
        blob = repo / "blobs" / f"{number:064d}"
        if name.endswith(".safetensors"):
            save_file(tensors, blob)
        elif name.endswith(".pt"):
            torch.save({"ema_model_state_dict": tensors}, blob)
        else:
            blob.write_text(" \n")
        (snapshot / name).parent.mkdir(parents=True, exist_ok=True)
        (snapshot / name).symlink_to(blob)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("huggingface_hub.file_download.HF_HUB_CACHE", str(tmp_path / "hub"), raising=False)
    return snapshot


def test_a_cached_folder_or_file_needs_no_connection(cache: Path) -> None:
    wanted = cache / "F5TTS_v1_Base" / "model_1250000.safetensors"
    assert resolve_base(V1) == resolve_base(f"{V1}/") == resolve_base(f"{V1}/{wanted.name}") == wanted
    assert resolve_base(f"hf://SWivid/F5-TTS@{COMMIT}/F5TTS_v1_Base") == wanted
    assert (wanted.parent / "vocab.txt").is_file()
    # The published bigvgan variant is a pickle only.
    bigvgan = cache / "F5TTS_Base_bigvgan" / "model_1250000.pt"
    assert resolve_base("hf://SWivid/F5-TTS/F5TTS_Base_bigvgan") == bigvgan


@pytest.mark.parametrize("inside", ["F5TTS_Base", "F5TTS_Base/model_1200000.safetensors"])
def test_offline_and_not_cached_says_so_and_where_it_looked(cache: Path, inside: str) -> None:
    with pytest.raises(CheckpointError, match="HF_HUB_OFFLINE is set") as caught:
        resolve_base(f"hf://SWivid/F5-TTS/{inside}")
    assert str(cache.parents[2]) in caught.value.message
    assert "give its path in place of `hf://...`" in str(caught.value.hint)


def test_hf_home_is_obeyed_by_the_command_line(cache: Path) -> None:
    wanted = cache / "F5TTS_v1_Base" / "model_1250000.safetensors"
    told = subprocess.run(  # a fresh interpreter: huggingface_hub reads its variables when it is imported
        command("finetune", "f5_v1_new_voice", "--data", "package:demo", "--base", V1, "train.device=cpu"),
        env=dict(os.environ) | {"HF_HOME": str(cache.parents[2].parent), "HF_HUB_OFFLINE": "1"},
        check=False,
        capture_output=True,
        text=True,
    )
    assert told.returncode == 4
    assert f"`{wanted}`" in told.stderr  # found: it is no whole net, as it holds one tensor
    assert "Fetching" not in told.stderr


# ---------------------------------------------------------------- what is asked for


@pytest.fixture
def asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """Stand in for the Hub: a local snapshot, and a record of what was asked for."""
    asked: list[dict[str, Any]] = []
    snapshot = tmp_path / "snapshot"
    for name in ("Both/a.safetensors", "Both/a.pt", "Both/vocab.txt", "Old/b.pt", "c.safetensors"):
        (snapshot / name).parent.mkdir(parents=True, exist_ok=True)
        (snapshot / name).write_bytes(b"x")

    def snapshot_download(repo: str, *, revision: str | None, allow_patterns: list[str]) -> str:
        asked.append({"repo": repo, "revision": revision, "patterns": allow_patterns})
        return str(snapshot)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    return asked


def test_a_file_brings_the_texts_beside_it(asked: list[dict[str, Any]], tmp_path: Path) -> None:
    assert resolve_base("hf://SWivid/F5-TTS/Both/a.pt") == tmp_path / "snapshot" / "Both" / "a.pt"
    assert resolve_base("hf://SWivid/F5-TTS@main/c.safetensors") == tmp_path / "snapshot" / "c.safetensors"
    first, second = asked
    assert (first["repo"], first["revision"]) == ("SWivid/F5-TTS", None)
    assert first["patterns"] == ["Both/a.pt", "Both/*.txt", "Both/*.json", "Both/*.yaml"]
    assert (second["revision"], second["patterns"][:2]) == ("main", ["c.safetensors", "*.txt"])


def test_a_folder_prefers_safetensors(asked: list[dict[str, Any]], tmp_path: Path) -> None:
    assert resolve_base("hf://SWivid/F5-TTS/Both") == tmp_path / "snapshot" / "Both" / "a.safetensors"
    assert len(asked) == 1
    assert resolve_base("hf://SWivid/F5-TTS/Old/") == tmp_path / "snapshot" / "Old" / "b.pt"
    assert not any(".pt" in pattern for pattern in asked[0]["patterns"])


def test_a_repository_that_is_one_model_needs_no_path(asked: list[dict[str, Any]], tmp_path: Path) -> None:
    snapshot = tmp_path / "snapshot"
    with pytest.raises(CheckpointError, match="name one of its files"):
        resolve_base("hf://SWivid/F5-TTS")
    assert not any("safetensors" in pattern for pattern in asked[0]["patterns"])  # nothing large was fetched
    (snapshot / "c.safetensors").unlink()
    for name in ("config.json", "model-00001-of-00001.safetensors", "model.safetensors.index.json"):
        (snapshot / name).write_text("{}")
    assert resolve_base("hf://owner/model@main") == snapshot / "model.safetensors.index.json"
    assert "model*.safetensors" in asked[-1]["patterns"]


def test_a_name_that_the_repository_lacks(asked: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    for inside in ("F5TTS_v2_Base", "Both/b.pt"):
        with pytest.raises(CheckpointError, match="holds no") as caught:
            resolve_base(f"hf://SWivid/F5-TTS/{inside}")
        assert "huggingface.co/SWivid/F5-TTS/tree/main" in str(caught.value.hint)


def test_a_malformed_address_is_refused() -> None:
    for spec in ("hf://SWivid", "hf://a/b/../../c@d@e"):
        with pytest.raises(CheckpointError, match="hf://owner/repo/path"):
            resolve_base(spec)
    with pytest.raises(CheckpointError, match="is not hf://owner/repo"):
        fetch_repository("hf://charactr", ["*.yaml"])


# ---------------------------------------------------------------- what is in the way


def _failing(monkeypatch: pytest.MonkeyPatch, error: Exception) -> CheckpointError:
    def refuse(*_: Any, **__: Any) -> str:
        raise error

    monkeypatch.setattr(huggingface_hub, "snapshot_download", refuse)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    with pytest.raises(CheckpointError) as caught:
        resolve_base("hf://a/b@c/d/e.pt")
    assert "\n" not in caught.value.message
    return caught.value


@pytest.mark.parametrize(
    ("kind", "said", "hinted"),
    [
        ("GatedRepoError", "is gated", "accept them at https://huggingface.co/a/b"),
        ("RepositoryNotFoundError", "the repository `a/b` does not exist", "private"),
        ("RevisionNotFoundError", "no revision `c`", "@revision"),
        ("HfHubHTTPError", "could not be downloaded: 503", "the next attempt continues it"),
    ],
)
def test_each_refusal_of_the_hub_has_its_own_words(
    monkeypatch: pytest.MonkeyPatch, kind: str, said: str, hinted: str
) -> None:
    response = SimpleNamespace(headers={}, request=None, status_code=503, history=[])
    error = _failing(monkeypatch, getattr(huggingface_hub.errors, kind)("503\nand more", response=response))
    assert said in error.message
    assert hinted in str(error.hint)


def test_a_lost_connection_and_a_full_disk_name_their_cause(monkeypatch: pytest.MonkeyPatch) -> None:
    lost = huggingface_hub.errors.LocalEntryNotFoundError("nothing cached")
    lost.__cause__ = ConnectionError("no route to host")
    assert "cannot be reached (no route to host)" in _failing(monkeypatch, lost).message
    transport = huggingface_hub.errors.HfHubHTTPError.__mro__[1]
    assert "peer closed" in _failing(monkeypatch, transport("peer closed connection")).message
    assert "No space left" in _failing(monkeypatch, OSError(28, "No space left on device")).message


@pytest.mark.parametrize("error", [KeyError("id"), TypeError("string indices must be integers")])
def test_a_server_that_is_not_the_hub_is_told(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    told = _failing(monkeypatch, error)
    assert "what answers is not the Hub" in told.message
    assert "$HF_ENDPOINT" in str(told.hint)


def test_a_file_that_is_cached_alone_is_enough_without_a_connection(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """huggingface_hub refuses a snapshot whose other wanted files, here texts, were never fetched."""

    def incomplete(*_: Any, **__: Any) -> str:
        raise huggingface_hub.errors.LocalEntryNotFoundError("1 file is missing")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", incomplete)
    path = cache / "F5TTS_Base_bigvgan" / "model_1250000.pt"
    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", lambda *_, **__: str(path))
    assert resolve_base("hf://SWivid/F5-TTS/F5TTS_Base_bigvgan/model_1250000.pt") == path


@pytest.mark.parametrize("terminal", [True, False])
def test_progress_is_shown_on_a_terminal_only(
    asked: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch, terminal: bool
) -> None:
    hidden = []
    inner = huggingface_hub.snapshot_download

    def spy(*arguments: Any, **keywords: Any) -> Any:
        hidden.append(huggingface_hub.utils.are_progress_bars_disabled())
        return inner(*arguments, **keywords)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", spy)
    monkeypatch.delenv("HF_HUB_DISABLE_PROGRESS_BARS", raising=False)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: terminal)
    resolve_base("hf://SWivid/F5-TTS/Both/a.pt")
    assert hidden == [not terminal]
    assert not huggingface_hub.utils.are_progress_bars_disabled()


def test_without_the_extra_the_way_out_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(CheckpointError) as caught:
        resolve_base("hf://a/b/c.pt")
    assert caught.value.hint == "pip install 'ttstrain[hub]'"
