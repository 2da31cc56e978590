from __future__ import annotations

import json
import os
import pickle
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor

from ttstrain.errors import CheckpointError, DataError
from ttstrain.families.orpheus.codec import ALONE_BELOW, SAFE_GAP, Codec, digest_of, load_codec
from ttstrain.families.orpheus.codes import count_zeros
from ttstrain.families.orpheus.ids import SAMPLES_PER_FRAME
from ttstrain.families.orpheus.tokenizer import TOY
from ttstrain.families.orpheus.toy import CODEC


@pytest.fixture(scope="module")
def codec() -> Codec:
    return load_codec(TOY)


@pytest.fixture
def folder(codec: Codec, tmp_path: Path) -> Path:
    return written(codec, tmp_path / "codec")


def written(codec: Codec, folder: Path, **changes: Any) -> Path:
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(CODEC | changes))
    torch.save(codec.net.state_dict(), folder / "pytorch_model.bin")
    return folder


def noise(samples: int, *, seed: int = 0) -> Tensor:
    return torch.randn(samples, generator=torch.Generator().manual_seed(seed)) * 0.1


def one_by_one(codec: Codec, wavs: Sequence[Tensor]) -> list[Tensor]:
    return [codec.encode([wav])[0] for wav in wavs]


# ---------------------------------------------------------------- encoding


@pytest.mark.parametrize(("samples", "frames"), [(1, 1), (2048, 1), (2049, 2), (24_000, 12)])
def test_the_last_frame_is_filled_up(codec: Codec, samples: int, frames: int) -> None:
    codes = codec.encode([noise(samples)])[0]
    assert codes.shape == (frames, 7)
    assert codes.dtype == torch.int16


def test_a_batch_gives_the_codes_of_its_clips_alone(codec: Codec) -> None:
    frames = (1, 2, 3, 8, 9, 9, 9, 12, 12, 12, 12, 30)
    wavs = [noise(n * SAMPLES_PER_FRAME - 37 * i, seed=i) for i, n in enumerate(frames)]
    together = codec.encode(wavs, batch_frames=10_000)
    assert [torch.equal(a, b) for a, b in zip(together, one_by_one(codec, wavs), strict=True)] == [True] * len(wavs)
    assert all(len(codes.unique()) > 10 for codes in together[3:])  # equality says something


def test_a_clip_whose_codes_are_close_calls_is_encoded_again_alone(
    codec: Codec, monkeypatch: pytest.MonkeyPatch
) -> None:
    wavs = [noise(20 * SAMPLES_PER_FRAME, seed=seed) for seed in range(4)]
    sizes: list[int] = []
    latents = Codec.latents
    monkeypatch.setattr(Codec, "latents", lambda self, batch: (sizes.append(len(batch)), latents(self, batch))[1])
    codec.encode(wavs, batch_frames=10_000)
    assert sizes == [4]
    sizes.clear()
    monkeypatch.setattr("ttstrain.families.orpheus.codec.SAFE_GAP", 3.0)  # no two directions differ by more than 2
    assert all(map(torch.equal, codec.encode(wavs, batch_frames=10_000), one_by_one(codec, wavs)))
    assert sizes == [4, 1, 1, 1, 1, 1, 1, 1, 1]


@pytest.mark.parametrize("frames", [ALONE_BELOW, 25])
def test_what_is_quantised_differs_by_far_less_than_the_gap_that_decides(codec: Codec, frames: int) -> None:
    wavs = [noise(frames * SAMPLES_PER_FRAME - i, seed=i) for i in range(5)]
    together, alone = codec.latents(wavs), torch.cat([codec.latents([wav]) for wav in wavs])
    directions = [F.normalize(level.in_proj(z), dim=1) for z in (together, alone) for level in [first_level(codec)]]
    assert float((directions[0] - directions[1]).norm(dim=1).max()) < SAFE_GAP / 5


def first_level(codec: Codec) -> Any:
    net: Any = codec.net
    return net.quantizer.quantizers[0]


def test_padding_to_a_longer_clip_would_change_codes() -> None:
    codec = load_codec(TOY)
    with torch.no_grad():
        for name, parameter in codec.net.encoder.named_parameters():  # type: ignore[union-attr]
            if name.endswith("bias"):  # what makes silence sound like something to the layers above
                parameter.copy_(noise(len(parameter)) * 0.05)
    short = noise(10 * SAMPLES_PER_FRAME)
    padded = torch.cat([short, torch.zeros(20 * SAMPLES_PER_FRAME)])
    alone, in_padding = codec.encode([short])[0], codec.encode([padded])[0][:10]
    assert not torch.equal(alone, in_padding)  # why clips are bucketed by their number of frames
    assert torch.equal(alone[:6], in_padding[:6])


def test_code_zero_can_be_avoided() -> None:
    codec = load_codec(TOY)
    wavs = [noise(30 * SAMPLES_PER_FRAME, seed=seed) for seed in range(3)]
    usual = torch.cat(codec.encode(wavs))[:, 2].mode().values
    with torch.no_grad():
        table = codec.net.quantizer.quantizers[2].codebook.weight  # type: ignore[union-attr, index]
        table[[0, int(usual)]] = table[[int(usual), 0]]  # make it code 0
    plain, safe = codec.encode(wavs), codec.encode(wavs, avoid_zero=True)
    assert int(count_zeros(torch.cat(plain))[2]) > 0
    assert count_zeros(torch.cat(safe)).tolist() == [0, 0, 0]
    differ = torch.cat(plain) != torch.cat(safe)
    assert torch.equal(differ, torch.cat(plain) == 0)  # the last level leaves nothing over: all others are the same


@pytest.mark.parametrize(("wav", "why"), [(torch.zeros(0), "no samples"), (torch.zeros(2, 9), "one channel")])
def test_what_is_no_waveform_is_refused(codec: Codec, wav: Tensor, why: str) -> None:
    with pytest.raises(DataError, match=why):
        codec.encode([wav])


# ---------------------------------------------------------------- decoding


def test_sound_is_whole_and_as_long_as_asked(codec: Codec) -> None:
    wav = noise(24_000)
    frames = codec.encode([wav])[0]
    whole = codec.decode(frames)
    assert len(whole) == 12 * SAMPLES_PER_FRAME
    assert torch.equal(codec.decode(frames, num_samples=24_000), whole[:24_000])
    with pytest.raises(ValueError, match="fewer than the requested 24577"):
        codec.decode(frames, num_samples=24_577)


def test_windows_join_without_a_seam(codec: Codec) -> None:
    frames = codec.encode([noise(40 * SAMPLES_PER_FRAME)])[0]
    whole = codec.decode(frames)
    for window in (1, 2, 7, 39):
        torch.testing.assert_close(codec.decode(frames, window=window), whole, atol=2e-6, rtol=0)


def test_the_noise_follows_from_the_seed(codec: Codec) -> None:
    frames = codec.encode([noise(24_000)])[0]
    assert torch.equal(codec.decode(frames, seed=3), codec.decode(frames, seed=3))
    assert not torch.equal(codec.decode(frames, seed=3), codec.decode(frames, seed=4))


def test_a_code_the_codec_lacks_is_refused(codec: Codec) -> None:
    with pytest.raises(ValueError, match="4096"):
        codec.decode(torch.full((2, 7), 4096))


def test_nothing_sounds_like_nothing(codec: Codec) -> None:
    assert codec.decode(torch.zeros(0, 7, dtype=torch.int16)).shape == (0,)


# ---------------------------------------------------------------- loading


def test_a_folder_is_loaded_key_by_key(codec: Codec, folder: Path) -> None:
    wav = noise(24_000)
    loaded = load_codec(str(folder))
    assert torch.equal(loaded.encode([wav])[0], codec.encode([wav])[0])
    save_file({k: v.contiguous() for k, v in codec.net.state_dict().items()}, folder / "model.safetensors")
    assert torch.equal(load_codec(str(folder)).encode([wav])[0], codec.encode([wav])[0])


def test_a_missing_tensor_is_named(codec: Codec, folder: Path) -> None:
    state = codec.net.state_dict()
    state.pop("quantizer.quantizers.1.codebook.weight")
    torch.save(state, folder / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match=r"quantizer\.quantizers\.1\.codebook\.weight"):
        load_codec(str(folder))


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"sampling_rate": 44_100}, "sampling_rate 44100"),
        ({"vq_strides": [8, 4, 2, 1]}, "vq_strides"),
        ({"codebook_size": 8192}, "8192 codes"),
        ({"encoder_rates": [2, 4, 8, 4]}, "1024 samples"),
        ({"layers": 3}, "is not a SNAC"),
    ],
)
def test_another_codec_is_refused(codec: Codec, tmp_path: Path, changes: dict[str, Any], why: str) -> None:
    with pytest.raises(CheckpointError, match=why):
        load_codec(str(written(codec, tmp_path / "other", **changes)))


def test_a_codec_that_is_not_there_is_an_error(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no codec at"):
        load_codec(str(tmp_path / "nowhere"))
    (folder / "pytorch_model.bin").unlink()
    with pytest.raises(CheckpointError, match="no weights"):
        load_codec(str(folder))


class Evil:
    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, ("echo executed",)


def test_weights_that_run_code_are_refused(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps({"a": Evil()}))
    with pytest.raises(CheckpointError, match="unsafe"):
        load_codec(str(folder))
    assert capfd.readouterr().out == ""


def test_the_digest_follows_the_weights(codec: Codec, folder: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(folder, tmp_path / "copy")
    assert digest_of(str(copy)) == digest_of(str(folder))
    state = codec.net.state_dict()
    state["quantizer.quantizers.1.codebook.weight"] = state["quantizer.quantizers.1.codebook.weight"] + 1
    torch.save(state, folder / "pytorch_model.bin")
    assert digest_of(str(copy)) != digest_of(str(folder))
