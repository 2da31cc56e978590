"""From clips to batches, computed and ready-made."""

from __future__ import annotations

import pickle
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest
import soundfile
import sovits_toys
import torch
from small_runs import write_clips
from torch import Tensor

from ttstrain.contract.data import Clip
from ttstrain.data.audio import read_clip
from ttstrain.data.audit import audit
from ttstrain.data.cache import FeatureCache
from ttstrain.data.readers import read_rows
from ttstrain.errors import CheckpointError, DataError, RecipeError
from ttstrain.families.gpt_sovits.config import GptConfig, JointConfig, SovitsConfig, VaeConfig
from ttstrain.families.gpt_sovits.data import SovitsData
from ttstrain.families.gpt_sovits.features import toy
from ttstrain.families.gpt_sovits.features.encoders import Encoders, choose_device
from ttstrain.families.gpt_sovits.features.tokens import padded
from ttstrain.families.gpt_sovits.text.symbols import symbols
from ttstrain.families.gpt_sovits.vae.mel import Spectrograms
from ttstrain.recipe.schema import DataConfig

CHINESE = "我在这里说你的时候"


def joint(version: str = "v2", **changed: object) -> JointConfig:
    return JointConfig.model_validate({"version": version, "features": dict(sovits_toys.FEATURES), **changed})


def features_of(data: SovitsData, clip: Clip) -> dict[str, Tensor]:
    return data.features(read_clip(clip, data.sample_rate), clip)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four short clips, one of them with a Chinese text."""
    folder = write_clips(tmp_path_factory.mktemp("data") / "clips", count=4)
    rows = [line.split("|") for line in (folder / "metadata.csv").read_text().splitlines()]
    (folder / "metadata.csv").unlink()
    lines = [f"{folder}/wavs/{name}.wav|ada|EN|{text}" for name, text in rows[:3]]
    lines.append(f"{folder}/wavs/{rows[3][0]}.wav|ada|ZH|{CHINESE}")
    (folder / "ada.list").write_text("\n".join(lines), encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def clips(folder: Path) -> list[Clip]:
    return audit(read_rows(folder), DataConfig(path=str(folder), min_s=0.1)).clips


# ---------------------------------------------------------------- computed


def test_a_clip_becomes_what_both_nets_read(clips: list[Clip]) -> None:
    data = SovitsData(joint("v2Pro"))
    for clip in clips:
        features = features_of(data, clip)
        frames = data.length(clip)
        assert features["wav"].dtype == torch.int16
        assert len(features["wav"]) // 640 == frames
        assert len(features["codes"]) == -(-frames // 2)
        assert features["speaker"].shape == (20_480,)
        assert "ssl" not in features
        if clip.language == "zh":
            assert features["bert"].shape == (len(features["phones"]), 1024)
            assert features["bert"].dtype == torch.float16
        else:
            assert "bert" not in features


def test_tokens_in_the_cache_are_those_the_vae_would_make(clips: list[Clip]) -> None:
    """Of HuBERT's features padded together, as upstream's collate pads them: 2 (longest // 2 + 1) frames."""
    data = SovitsData(joint())
    encoders = Encoders(data.config.features)
    vae = sovits_toys.small_vae()
    ssl = []
    for clip in clips:
        from ttstrain.families.gpt_sovits.features.sound import mix_gain

        wav = read_clip(clip, 32_000)
        heard = encoders.hear(wav, mix_gain(wav))
        n = data.length(clip)
        ssl.append(torch.cat([heard, heard[-1:]])[:n] if len(heard) < n else heard[:n])
    width = 2 * (max(len(one) for one in ssl) // 2 + 1)
    together = torch.stack([torch.nn.functional.pad(one.T, (0, width - len(one))) for one in ssl])
    codes = vae.encode(together)  # type: ignore[operator]
    with torch.no_grad():
        heard = vae.eval().quantize(together).vectors  # type: ignore[operator]
        torch.testing.assert_close(vae.quantizer.decode(codes), heard)  # type: ignore[operator, union-attr]
    for clip, row in zip(clips, codes, strict=True):
        own = features_of(data, clip)["codes"]
        assert own.tolist() == row[: len(own)].tolist()


def test_equal_file_names_in_two_folders_stay_apart(folder: Path, tmp_path: Path) -> None:
    """Upstream knows recordings by their base names: one would overwrite the other."""
    sources = sorted((folder / "wavs").iterdir())[:2]
    for name, source in zip("xy", sources, strict=True):
        (tmp_path / name).mkdir()
        shutil.copy(source, tmp_path / name / "001.wav")
    (tmp_path / "two.list").write_text("x/001.wav|a|EN|What they say.\ny/001.wav|b|EN|What she said.\n")
    clips = audit(read_rows(tmp_path), DataConfig(path=str(tmp_path), min_s=0.1)).clips
    assert [clip.id for clip in clips] == ["x/001", "y/001"]
    cache = FeatureCache(tmp_path / "cache", SovitsData(joint()))
    assert cache.build(clips).computed == 2
    one, other = (cache.get(clip) for clip in clips)
    assert not torch.equal(one["phones"], other["phones"])
    assert len(one["wav"]) != len(other["wav"])


def test_a_batch_is_padded_with_zeros_and_knows_its_lengths(clips: list[Clip]) -> None:
    data = SovitsData(joint("v2Pro"))
    features = [features_of(data, clip) for clip in clips]
    batch = data.collate([data.example(clip, one) for clip, one in zip(clips, features, strict=True)])
    assert batch.ids == tuple(clip.id for clip in clips)
    assert batch.weight == len(clips)
    assert batch.frame_lengths == tuple(data.length(clip) for clip in clips)
    assert batch.num_frames == sum(batch.frame_lengths)
    assert batch.num_padded == len(clips) * max(batch.frame_lengths)
    assert batch.codes.shape == (len(clips), max(batch.code_lengths))
    assert batch.bert is not None
    assert batch.wav is not None
    assert batch.speaker is not None
    for i, one in enumerate(features):
        p, s, t = batch.phone_lengths[i], batch.code_lengths[i], batch.wav_lengths[i]
        assert torch.equal(batch.phones[i, :p], one["phones"].long())
        assert torch.equal(batch.codes[i, :s], one["codes"].long())
        assert torch.equal(batch.wav[i, :t], one["wav"].float() / 32_768)
        assert not batch.phones[i, p:].any()
        assert not batch.codes[i, s:].any()
        assert not batch.wav[i, t:].any()
        assert bool(batch.bert[i].any()) == ("bert" in one)
    assert batch.wav.abs().max() <= 1


def test_a_task_is_given_what_it_reads(clips: list[Clip]) -> None:
    section = {"features": dict(sovits_toys.FEATURES), "version": "v2"}
    chinese = clips[-1]
    gpt = SovitsData(GptConfig.model_validate(section))
    batch = gpt.collate([gpt.example(chinese, features_of(gpt, chinese))])
    assert batch.wav is None
    assert batch.bert is not None
    vae = SovitsData(VaeConfig.model_validate(section))
    batch = vae.collate([vae.example(chinese, features_of(vae, chinese))])
    assert batch.wav is not None
    assert batch.bert is None
    free = SovitsData(VaeConfig.model_validate({**section, "vae": {"freeze_quantizer": False}}))
    batch = free.collate([free.example(clip, features_of(free, clip)) for clip in clips])
    assert batch.ssl is not None
    assert batch.ssl.shape == (len(clips), 768, 2 * batch.codes.shape[1])


def test_a_sample_is_compared_with_the_recording_itself(clips: list[Clip]) -> None:
    """As `Sample.mel` is made of its sound: the same sound is at no distance."""
    data = SovitsData(joint())
    features = features_of(data, clips[0])
    mel = data.reference(features)
    assert mel.shape == (data.length(clips[0]), 128)
    batch = data.collate([data.example(clips[0], features)])
    assert batch.wav is not None
    torch.testing.assert_close(mel, Spectrograms().mel(batch.wav)[0].T)


def test_english_alone_needs_no_bert(clips: list[Clip], tmp_path: Path) -> None:
    features = {**sovits_toys.FEATURES, "bert": str(tmp_path / "nowhere")}
    data = SovitsData(joint(features=features))
    features_of(data, clips[0])
    with pytest.raises(CheckpointError, match="nowhere"):
        features_of(data, clips[-1])


# ---------------------------------------------------------------- the cache


def test_other_encoders_make_other_features(tmp_path: Path) -> None:
    """Upstream's steps skip what is there, whatever made it."""

    def fingerprint(config: SovitsConfig) -> str:
        return SovitsData(config).fingerprint

    plain = fingerprint(joint())
    folder = sovits_toys.write_hubert(tmp_path / "hubert")
    own = fingerprint(joint(features={**sovits_toys.FEATURES, "hubert": str(folder)}))
    with (folder / "model.safetensors").open("ab") as file:
        file.write(b" ")
    changed = fingerprint(joint(features={**sovits_toys.FEATURES, "hubert": str(folder)}))
    assert len({plain, own, changed, fingerprint(joint("v2Pro")), fingerprint(joint("v1"))}) == 5
    assert fingerprint(joint()) == plain


def test_a_second_build_computes_nothing(clips: list[Clip], tmp_path: Path) -> None:
    done: list[tuple[int, int]] = []
    report = FeatureCache(tmp_path, SovitsData(joint())).build(clips, progress=lambda *step: done.append(step))
    assert (report.computed, report.reused, report.failed) == (len(clips), 0, {})
    assert done[-1] == (len(clips), len(clips))
    again = FeatureCache(tmp_path, SovitsData(joint())).build(clips)
    assert (again.computed, again.reused) == (0, len(clips))


def test_encoders_do_not_travel_to_workers_and_are_freed(clips: list[Clip]) -> None:
    data = SovitsData(joint())
    features = {clip.id: features_of(data, clip) for clip in clips}
    assert data.encoders._hubert is not None
    assert pickle.loads(pickle.dumps(data)).encoders._hubert is None
    review = data.review_features(clips, lambda clip: features[clip.id])
    assert data.encoders._hubert is None
    assert f"{sum(len(one['codes']) for one in features.values()):,} semantic tokens" in review.remarks[0].text


def test_a_gpu_that_is_not_there_is_refused() -> None:
    if torch.cuda.is_available():
        pytest.skip("there is one")
    with pytest.raises(RecipeError, match="cuda"):
        choose_device("cuda")


# ---------------------------------------------------------------- prepared folders


def prepared(
    tmp_path: Path,
    clips: list[Clip],
    *,
    without: tuple[str, ...] = (),
    changed: Mapping[str, Tensor] | None = None,
    codes_of: Mapping[str, list[int]] | None = None,
) -> list[Clip]:
    """Write what upstream's steps would leave of clips, with the toy encoders, and read it."""
    data = SovitsData(joint("v2Pro"))
    names = {f"{clip.id}.wav": clip for clip in clips}
    tensors: dict[str, dict[str, Tensor]] = {"3-bert": {}, "4-cnhubert": {}, "7-sv_cn": {}}
    phones: dict[str, tuple[str, ...]] = {}
    codes: dict[str, list[int]] = {}
    recordings: dict[str, Path] = {}
    table = symbols("v2Pro")
    for name, clip in names.items():
        features = features_of(data, clip)
        wav = features["wav"]
        recordings[name] = tmp_path / f"made-{name}"
        soundfile.write(recordings[name], wav.numpy(), 32_000, subtype="PCM_16", format="WAV")
        phones[name] = tuple(table[i] for i in features["phones"].tolist())
        ssl = data.encoders.hear(wav.float() / 32_768)
        tensors["4-cnhubert"][name] = ssl.T[None].half()
        tensors["7-sv_cn"][name] = features["speaker"][None]
        if "bert" in features:
            tensors["3-bert"][name] = features["bert"].T
        codes[name] = features["codes"].tolist()
    for path, tensor in (changed or {}).items():
        below, _, name = path.partition("/")
        tensors[below][name] = tensor
    project = sovits_toys.write_project(
        tmp_path / "exp",
        recordings,
        phones,
        codes={**codes, **(codes_of or {})},
        tensors={below: named for below, named in tensors.items() if below not in without},
        texts={name: clip.text for name, clip in names.items()},
    )
    return audit(read_rows(project), DataConfig(path=str(project), min_s=0.1)).clips


def test_a_prepared_folder_gives_what_was_prepared(tmp_path: Path, clips: list[Clip]) -> None:
    own = SovitsData(joint("v2Pro"))
    read = prepared(tmp_path, clips)
    data = SovitsData(joint("v2Pro"))
    for clip, original in zip(read, clips, strict=True):
        features, wanted = features_of(data, clip), features_of(own, original)
        assert features.keys() == wanted.keys()
        assert torch.equal(features["wav"], wanted["wav"])  # not made louder a second time
        for name in ("phones", "codes", "speaker"):
            assert torch.equal(features[name], wanted[name])
        if "bert" in wanted:
            assert torch.equal(features["bert"], wanted["bert"])
    assert data.encoders._hubert is None  # nothing had to be computed
    assert data.encoders._bert is None
    assert data.encoders._speaker is None


def test_what_a_prepared_folder_lacks_is_computed(tmp_path: Path, clips: list[Clip]) -> None:
    read = prepared(tmp_path, clips, without=("4-cnhubert", "7-sv_cn"))
    data = SovitsData(joint("v2Pro"))
    own = SovitsData(joint("v2Pro"))
    for clip, original in zip(read, clips, strict=True):
        features, wanted = features_of(data, clip), features_of(own, original)
        same = (features["codes"] == wanted["codes"]).float().mean()
        assert same > 0.9  # 16 bits of the recording were rounded off
        torch.testing.assert_close(features["speaker"], wanted["speaker"])


def first(clips: list[Clip]) -> str:
    return f"{clips[0].id}.wav"


def test_parts_that_do_not_belong_together_are_named(tmp_path: Path, clips: list[Clip]) -> None:
    name = first(clips)
    cases: list[tuple[str, dict[str, Tensor], str]] = [
        ("a", {f"4-cnhubert/{name}": torch.zeros(1, 768, 7)}, r"HuBERT features \(7 frames\)"),
        ("b", {f"3-bert/{name}": torch.zeros(1024, 3)}, "BERT features for 3 phonemes"),
        ("c", {f"4-cnhubert/{name}": torch.zeros(768, 7)}, "the shape"),
        ("d", {f"7-sv_cn/{name}": torch.full((1, 20_480), torch.nan)}, "not finite"),
    ]
    data = SovitsData(joint("v2Pro"))
    for label, changed, why in cases:
        (tmp_path / label).mkdir()
        clip = prepared(tmp_path / label, clips[:1], changed=changed)[0]
        with pytest.raises(DataError, match=why):
            features_of(data, clip)


def test_tokens_of_another_quantizer_are_refused(tmp_path: Path, clips: list[Clip]) -> None:
    """The GPT would learn words of another language (issues 747, 953, 1178 of RVC-Boss/GPT-SoVITS)."""
    codes = features_of(SovitsData(joint()), clips[0])["codes"].tolist()
    clip = prepared(tmp_path, clips[:1], codes_of={first(clips): [(code + 1) % 1024 for code in codes]})[0]
    with pytest.raises(DataError, match="semantic tokens match this quantizer's"):
        features_of(SovitsData(joint()), clip)


def test_features_of_a_whole_recording_are_not_used_for_a_part(tmp_path: Path, clips: list[Clip]) -> None:
    clip = prepared(tmp_path, clips[:1])[0]
    part = replace(clip, treatment=replace(clip.treatment, start=3200), duration_s=clip.duration_s - 0.1)
    data = SovitsData(joint())
    features = features_of(data, part)
    assert len(features["codes"]) == -(-data.length(part) // 2)
    assert data.encoders._hubert is not None


@pytest.mark.parametrize(("below", "kept"), [("bert", 0.5), ("ssl", 0.99), ("speaker", 0)])
def test_a_file_that_is_cut_short_costs_its_own_clip_alone(
    tmp_path: Path, clips: list[Clip], below: str, kept: float
) -> None:
    read = prepared(tmp_path, clips)
    spoiled = next(clip for clip in read if any(one.name == below for one in clip.ready))
    path = Path(next(one.path for one in spoiled.ready if one.name == below))
    content = path.read_bytes()
    path.write_bytes(content[: round(kept * len(content))])
    built = FeatureCache(tmp_path / "cache", SovitsData(joint("v2Pro"))).build(read)
    assert list(built.failed) == [spoiled.id]
    assert path.name in built.failed[spoiled.id]
    assert "delete it; ttstrain then computes it" in built.failed[spoiled.id]


def test_a_pickle_that_would_run_code_is_refused(tmp_path: Path, clips: list[Clip]) -> None:
    class Harmful:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return shutil.rmtree, (str(tmp_path / "precious"),)

    (tmp_path / "precious").mkdir()
    clip = prepared(tmp_path, clips[:1])[0]
    path = next(one.path for one in clip.ready if one.name == "ssl")
    torch.save(Harmful(), path)
    with pytest.raises(CheckpointError, match="unsafe"):
        features_of(SovitsData(joint()), clip)
    assert (tmp_path / "precious").is_dir()


def test_the_last_frame_is_repeated_where_hubert_gives_one_less() -> None:
    ssl = toy.toy_hubert()(torch.randn(1, 16_000)).last_hidden_state[0].detach()
    assert len(ssl) == 49
    assert torch.equal(padded(ssl, 50)[-1], ssl[-1])
