"""Semantic tokens, prepared folders and speakers' descriptions against what upstream's code made of the same inputs."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import soundfile
import torch
from golden_weights import golden_weight
from safetensors.torch import load_file
from torch import Tensor

from ttstrain.contract.data import Clip
from ttstrain.data.audit import audit
from ttstrain.data.readers import read_rows
from ttstrain.families.gpt_sovits.config import GptConfig
from ttstrain.families.gpt_sovits.data import SovitsData, SovitsExample
from ttstrain.families.gpt_sovits.features.eres2net import SpeakerNet
from ttstrain.families.gpt_sovits.features.ready import read_ready, ready_values
from ttstrain.families.gpt_sovits.features.tokens import CODEBOOK, PARTS, from_weights, padded
from ttstrain.families.gpt_sovits.phonemes import read_clip
from ttstrain.families.gpt_sovits.review import review
from ttstrain.recipe.schema import DataConfig

TOY = dict.fromkeys(("hubert", "bert", "speaker", "quantizer"), "package:toy")


def folder_of(fixtures_dir: Path, name: str) -> Path:
    folder = fixtures_dir / name
    if not folder.is_dir():
        pytest.skip(f"needs the full set of fixtures: {name}")
    return folder


# ---------------------------------------------------------------- semantic tokens


@pytest.mark.parametrize("name", ["s2_v2", "s2_v2Pro"])
def test_tokens_are_those_of_upstream(fixtures_dir: Path, name: str) -> None:
    """The nearest other codeword is far enough away (codebook.json) that rounding cannot decide."""
    folder = folder_of(fixtures_dir, name)
    seed = json.loads((folder / "config.json").read_text())["recipe_seed_G"]
    parts = {key: golden_weight(fixtures_dir, key, shape, seed=seed) for key, shape in PARTS.items()}
    sums = json.loads((folder / "weights_check.json").read_text())["G"][CODEBOOK]
    assert float(parts[CODEBOOK].double().sum()) == pytest.approx(sums[1], rel=1e-9)
    quantizer = from_weights(parts, source=name)
    ssl = load_file(folder / "inputs.safetensors")["ssl"]  # (b, 768, 2 s)
    codes = load_file(folder / "expected.safetensors")["codes"]  # (b, 1, s)
    for clip, wanted in zip(ssl, codes, strict=True):
        assert quantizer.encode(clip[None]).tolist() == wanted[0].tolist()


def test_tokens_of_a_clip_alone_are_those_of_its_batch(fixtures_dir: Path) -> None:
    """Upstream's collate pads a batch to its longest clip; what a clip's tokens are must not depend on that."""
    folder = folder_of(fixtures_dir, "s2_v2")
    seed = json.loads((folder / "config.json").read_text())["recipe_seed_G"]
    parts = {key: golden_weight(fixtures_dir, key, shape, seed=seed) for key, shape in PARTS.items()}
    quantizer = from_weights(parts, source="s2_v2")
    inputs = load_file(folder / "inputs.safetensors")
    codes = load_file(folder / "expected.safetensors")["codes"]
    lengths = [int(n) for n in inputs["spec_lengths"]]
    assert len(set(lengths)) > 1
    for ssl, wanted, n in zip(inputs["ssl"], codes, lengths, strict=True):
        alone = quantizer.encode(padded(ssl[:, :n].T, n).T[None])
        assert alone.tolist() == wanted[0, : len(alone)].tolist()
        assert len(alone) == -(-n // 2)


# ---------------------------------------------------------------- a prepared folder


@pytest.fixture(scope="module")
def fixture(fixtures_dir: Path) -> Path:
    return folder_of(fixtures_dir, "sovits_data")


@pytest.fixture
def project(fixture: Path, tmp_path: Path) -> Path:
    """The fixture's folder, with recordings of the lengths that its tokens ask for."""
    folder = tmp_path / "exp"
    shutil.copytree(fixture / "exp", folder)
    folder.chmod(0o755)
    (folder / "5-wav32k").mkdir()
    generator = torch.Generator().manual_seed(0)
    for line in (folder / "6-name2semantic.tsv").read_text().splitlines()[1:]:
        name, codes = line.split("\t")
        samples = len(codes.split()) * 2 * 640
        envelope = torch.linspace(0, 40, samples).sin().square()  # loud and quiet parts, as in speech
        soundfile.write(
            folder / "5-wav32k" / name, (0.3 * envelope * torch.randn(samples, generator=generator)).numpy(), 32_000
        )
    return folder


def clips_of(project: Path) -> list[Clip]:
    config = DataConfig(path=str(project), min_s=0.1, max_s=60)
    return audit(read_rows(project, "auto"), config).clips


def test_the_clips_that_upstream_keeps_are_kept(project: Path, fixture: Path) -> None:
    """Upstream's Text2SemanticDataset repeats the list when it is short; ours does not."""
    expected = json.loads((fixture / "s1.json").read_text())
    upstream = list(dict.fromkeys(expected["item_names"]))
    clips = clips_of(project)
    found = review(clips, GptConfig(features=TOY))
    left_out = {finding.clip.id: finding.reason for finding in found.findings if finding.action == "skip"}
    kept = [clip for clip in clips if clip.id not in left_out]
    assert [clip.id for clip in kept] == upstream
    assert set(left_out.values()) == {"phonemes_per_s"}
    for clip, (codes, phones) in zip(kept, expected["semantic_phoneme"], strict=False):
        assert list(ready_values(clip, "codes")) == codes
        assert list(read_clip(clip, default_language="auto", version="v2").ids) == phones


def test_a_batch_is_padded_as_upstream_pads_it(project: Path, fixture: Path) -> None:
    expected: dict[str, Any] = json.loads((fixture / "s1.json").read_text())
    wanted = load_file(fixture / "expected.safetensors")
    clips = {clip.id: clip for clip in clips_of(project)}
    every = list(dict.fromkeys(expected["item_names"]))
    names = [every[i % len(every)] for i in expected["first_batch_ids"]]
    data = SovitsData(GptConfig(features=TOY))
    batch = data.collate([example(clips[name]) for name in names])
    assert torch.equal(batch.phones, wanted["phoneme_ids"])
    assert list(batch.phone_lengths) == wanted["phoneme_ids_len"].tolist()
    assert list(batch.code_lengths) == wanted["semantic_ids_len"].tolist()
    end = torch.arange(batch.codes.shape[1]) >= torch.tensor(batch.code_lengths)[:, None]
    assert torch.equal(batch.codes.masked_fill(end, 1024), wanted["semantic_ids"])  # upstream pads with EOS
    assert batch.bert is not None
    bert = batch.bert.mT  # (b, 1024, p), as upstream has it
    assert list(bert.shape) == wanted["bert_shape"].tolist()
    torch.testing.assert_close(
        bert.abs().sum(dim=(1, 2)).double(), wanted["bert_row_abs_sum"].double(), rtol=1e-4, atol=1e-3
    )


def example(clip: Clip) -> SovitsExample:
    """Take a clip's phonemes, tokens and BERT features as the folder has them."""
    ready = read_ready(clip, "bert")
    codes = ready_values(clip, "codes")
    said = read_clip(clip, default_language="auto", version="v2")
    return SovitsExample(
        id=clip.id,
        num_frames=2 * len(codes),
        phones=torch.tensor(said.ids),
        bert=None if ready is None else ready.T,
        codes=torch.tensor(codes),
        wav=None,
        ssl=None,
        speaker=None,
    )


# ---------------------------------------------------------------- speakers


def test_a_speaker_is_described_as_3d_speakers_own_net_does(fixtures_dir: Path) -> None:
    """The numbers were computed once with the ERes2NetV2 of GPT-SoVITS 48b1a016 in float64 on these weights."""
    net = SpeakerNet()
    weights: dict[str, Tensor] = {}
    for key, tensor in net.state_dict().items():
        if key.endswith("num_batches_tracked"):
            weights[key] = tensor
            continue
        weight = golden_weight(fixtures_dir, key, tuple(tensor.shape), seed=7)
        if key.endswith("running_var"):
            weight = weight.abs() + 1
        elif key.endswith(".weight") and weight.ndim == 1:
            weight = 1 + weight
        weights[key] = weight
    assert len(weights) == 1001
    net.load_state_dict(weights)
    # numpy's frozen stream, which the numbers were made with
    import numpy as np

    mel = torch.from_numpy(np.random.RandomState(0).standard_normal((1, 60, 80)).astype("float32"))
    with torch.no_grad():
        described = net.double().eval()(mel.double())[0]
    assert described.shape == (20_480,)
    chosen = described[[0, 7777, 20_479]]
    wanted = torch.tensor([0.9355729356522164, -2.5927780301923136, 0.9686977802804957], dtype=torch.float64)
    torch.testing.assert_close(chosen, wanted, rtol=1e-10, atol=1e-10)
    assert float(described.sum()) == pytest.approx(31483.535172635195, rel=1e-10)
    assert float(described.abs().sum()) == pytest.approx(53810.55358076552, rel=1e-10)
