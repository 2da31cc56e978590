from __future__ import annotations

import itertools
import pickle
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import tokenizers
import torch
from torch import Tensor

from ttstrain.contract.data import Clip
from ttstrain.data.audio import read_clip
from ttstrain.errors import CheckpointError, DataError, RecipeError
from ttstrain.families.orpheus.batch import EOS_SLOT, IGNORED, NO_SLOT, SPEECH, TEXT
from ttstrain.families.orpheus.codes import from_ids
from ttstrain.families.orpheus.config import OrpheusConfig
from ttstrain.families.orpheus.data import OrpheusData
from ttstrain.families.orpheus.divide import divide
from ttstrain.families.orpheus.ids import TokenIds
from ttstrain.families.orpheus.lint import misspelled_tags, review
from ttstrain.families.orpheus.rows import answer_row, pack, speech_row
from ttstrain.families.orpheus.tokenizer import TOY, load_tokenizer
from ttstrain.families.orpheus.toy import toy_tokenizer

IDS = TokenIds(first_custom=259, bos=256, eot=258)
TINY = {
    "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2,
    "num_key_value_heads": 1, "head_dim": 16, "vocab_size": 28_943, "text_vocab_size": 259, "bos_token_id": 256,
    "eot_token_id": 258,
}  # fmt: skip


def config(**rows: Any) -> OrpheusConfig:
    return OrpheusConfig.model_validate({**TINY, "rows": {"tokenizer": TOY, "codec": TOY, "dedup": "none", **rows}})


def frames(n: int, *, seed: int = 0) -> Tensor:
    return torch.randint(4096, (n, 7), generator=torch.Generator().manual_seed(seed))


def clip_of(seconds: float, *, text: str = "A few words.", speaker: str = "", name: str = "a") -> Clip:
    return Clip(id=name, path=Path("nowhere.wav"), text=text, speaker=speaker, duration_s=seconds, sample_rate=24_000)


# ---------------------------------------------------------------- rows


def test_a_row_is_a_text_and_its_speech() -> None:
    row = speech_row("a", [7, 8], frames(2), IDS)
    spelled = [IDS.describe(token) for token in row.tokens.tolist()]
    assert spelled[:8] == ["SOH", "BOS", "text 7", "text 8", "EOT", "EOH", "SOA", "SOS"]
    assert spelled[-2:] == ["EOS", "EOA"]
    assert torch.equal(from_ids(row.tokens[8:-2], IDS), frames(2))
    assert row.slots.tolist() == [NO_SLOT] * 8 + [0, 1, 2, 3, 4, 5, 6] * 2 + [EOS_SLOT, NO_SLOT]
    assert row.modality == SPEECH


def test_the_prompt_is_not_learned_and_everything_the_model_says_is() -> None:
    row = speech_row("a", [7, 8], frames(2), IDS)
    assert row.labels[:6].tolist() == [IGNORED] * 6
    assert torch.equal(row.labels[6:], row.tokens[6:])


def test_all_labels_leave_out_the_first_token_only() -> None:
    row = speech_row("a", [7, 8], frames(2), IDS, labels="all")
    assert row.labels[0] == IGNORED
    assert torch.equal(row.labels[1:], row.tokens[1:])


def test_an_answer_is_text() -> None:
    row = answer_row("q", [7], [8, 9], IDS, labels="speech")
    spelled = [IDS.describe(token) for token in row.tokens.tolist()]
    assert spelled == ["SOH", "BOS", "text 7", "EOT", "EOH", "SOA", "text 8", "text 9", "EOT", "EOA"]
    assert (row.labels != IGNORED).tolist() == [False] * 5 + [True] * 5
    assert row.modality == TEXT
    assert row.slots.unique().tolist() == [NO_SLOT]


def test_rows_are_laid_end_to_end() -> None:
    rows = [speech_row("a", [7], frames(1), IDS), answer_row("q", [7], [8], IDS, labels="all")]
    batch = pack(rows)
    lengths = [len(row.tokens) for row in rows]
    assert batch.ids == ["a", "q"]
    assert torch.equal(batch.input_ids[0], torch.cat([row.tokens for row in rows]))
    assert batch.position_ids[0].tolist() == [*range(lengths[0]), *range(lengths[1])]
    assert batch.documents[0].tolist() == [0] * lengths[0] + [1] * lengths[1]
    assert batch.cu_seqlens.tolist() == [0, lengths[0], sum(lengths)]
    assert batch.modality.tolist() == [SPEECH, TEXT]
    assert batch.num_frames == batch.num_padded == sum(lengths)
    assert batch.weight == 11 + lengths[1] - 1
    assert batch.max_length == max(lengths)
    assert (batch.input_ids.dtype, batch.documents.dtype, batch.cu_seqlens.dtype) == (
        torch.int64, torch.int32, torch.int32
    )  # fmt: skip


def test_no_document_predicts_the_next_ones_start() -> None:
    batch = pack([speech_row(str(i), [7], frames(1), IDS, labels="all") for i in range(3)])
    assert batch.labels[0, batch.cu_seqlens[:-1].long()].tolist() == [IGNORED] * 3


# ---------------------------------------------------------------- tokenizer


def test_a_real_tokenizers_ids_are_transformers_ids(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    toy_tokenizer(("hello there, hello you",), size=300).save(str(tmp_path / "tokenizer.json"))
    ours = load_tokenizer(str(tmp_path))
    theirs = transformers.PreTrainedTokenizerFast(tokenizer_file=str(tmp_path / "tokenizer.json"))
    text = "tara: hello <laugh> wörld, 日本"
    assert [ours.ids.bos, *ours.encode(text)] == theirs(text).input_ids
    assert ours.size == len(theirs)
    assert theirs.convert_tokens_to_ids("<custom_token_10>") == ours.ids.first_audio


def test_a_tokenizer_without_audio_tokens_is_refused(tmp_path: Path) -> None:
    plain = tokenizers.Tokenizer(tokenizers.models.BPE())
    plain.add_special_tokens(["<|begin_of_text|>", "<|eot_id|>"])
    plain.save(str(tmp_path / "tokenizer.json"))
    with pytest.raises(CheckpointError, match="has no audio tokens"):
        load_tokenizer(str(tmp_path))


def test_audio_tokens_out_of_order_are_refused(tmp_path: Path) -> None:
    odd = tokenizers.Tokenizer(tokenizers.models.BPE())
    odd.add_special_tokens(["<|begin_of_text|>", "<|eot_id|>"])
    odd.add_tokens([f"<custom_token_{n}>" for n in range(50)])
    odd.save(str(tmp_path / "tokenizer.json"))
    with pytest.raises(CheckpointError, match=r"`<custom_token_50>` of the tokenizer .* is missing"):
        load_tokenizer(str(tmp_path))


@pytest.mark.parametrize("content", [None, "{}"])
def test_what_is_no_tokenizer_is_refused(content: str | None, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / "tokenizer.json").write_text(content)
    with pytest.raises(CheckpointError, match=r"no tokenizer at|is not a tokenizer"):
        load_tokenizer(str(tmp_path))


@pytest.mark.parametrize("text", ["now <custom_token_2> stop", "<|eot_id|>"])
def test_a_text_cannot_spell_control_tokens(text: str) -> None:
    with pytest.raises(DataError, match="control token"):
        load_tokenizer(TOY).encode(text)


# ---------------------------------------------------------------- from clips to batches


@pytest.fixture(scope="module")
def demo() -> Sequence[Clip]:
    from ttstrain.data.audit import audit
    from ttstrain.data.readers import read_rows
    from ttstrain.recipe.schema import DataConfig

    return audit(read_rows("package:demo"), DataConfig(path="package:demo")).clips[:3]


def examples_of(data: OrpheusData, clips: Sequence[Clip]) -> list[Any]:
    return [data.example(clip, data.features(read_clip(clip, data.sample_rate), clip)) for clip in clips]


def test_a_row_is_as_long_as_planned_and_says_who_speaks(demo: Sequence[Clip]) -> None:
    data = OrpheusData(config())
    assert [clip.speaker for clip in demo]
    for clip, example in zip(demo, examples_of(data, demo), strict=True):
        (row,) = example.rows
        assert len(row.tokens) == data.length(clip)
        assert data.tokenizer.decode(row.tokens[2:].tolist()).startswith(f"{clip.speaker}: {clip.text}<|eot_id|>")


def test_voices_may_be_left_out_or_fixed(demo: Sequence[Clip]) -> None:
    for voice, expected in ((None, demo[0].text), ("tara", f"tara: {demo[0].text}")):
        data = OrpheusData(config(voice=voice))
        row = examples_of(data, demo[:1])[0].rows[0]
        assert data.tokenizer.decode(row.tokens[2:].tolist()).startswith(f"{expected}<|eot_id|>")


def test_repeats_are_left_out_of_rows_alone(demo: Sequence[Clip]) -> None:
    clip = demo[0]
    codes = frames(6).to(torch.int16)
    codes[3, 0] = codes[2, 0]
    features = {"codes": codes, "loudness": torch.ones(6)}
    lengths = {how: len(OrpheusData(config(dedup=how)).example(clip, features).rows[0].tokens) for how in
               ("none", "exact7", "slot0")}  # fmt: skip
    assert lengths["none"] == lengths["exact7"] == lengths["slot0"] + 7


def test_the_codec_is_loaded_late_and_stays_behind_when_pickled(demo: Sequence[Clip]) -> None:
    data = OrpheusData(config())
    assert data._codec is None
    features = data.features(read_clip(demo[0], 24_000), demo[0])
    copy = pickle.loads(pickle.dumps(data))
    assert copy._codec is None
    assert torch.equal(copy.features(read_clip(demo[0], 24_000), demo[0])["codes"], features["codes"])
    assert len(pickle.dumps(data)) < 20_000


def test_the_fingerprint_follows_what_decides_on_codes() -> None:
    plain, safe = OrpheusData(config()), OrpheusData(config(upstream_decoder_safe=True))
    assert plain.fingerprint != safe.fingerprint
    assert plain.fingerprint == OrpheusData(config(voice=None, dedup="slot0")).fingerprint  # codes are the same


def test_a_tokenizer_of_another_net_is_refused() -> None:
    other = OrpheusConfig.model_validate({"rows": {"tokenizer": TOY, "codec": TOY}})
    with pytest.raises(RecipeError, match="text_vocab_size 259 and 128256"):
        OrpheusData(other)


# ---------------------------------------------------------------- too long


def speech_with_pauses(*seconds: float) -> Tensor:
    """Return the loudness of stretches of speech with a pause of two frames after each."""
    parts = [torch.cat([torch.full((round(s * 11.72),), 0.1), torch.full((2,), 0.001)]) for s in seconds]
    return torch.cat(parts)


def at_most(limit: int) -> Any:
    return lambda text, num_frames: num_frames <= limit


SENTENCES = "One two three four. Five six seven eight. Nine ten eleven twelve."


def test_a_long_recording_is_divided_at_pauses_where_sentences_end() -> None:
    loudness = speech_with_pauses(4, 4.3, 4.6)
    pieces = divide(SENTENCES, loudness, fits=at_most(60), loudest_pause=0.1)
    assert pieces is not None
    assert [piece.text for piece in pieces] == SENTENCES.replace(". ", ".|").split("|")
    assert pieces[0].start == 0
    assert pieces[-1].end == len(loudness)
    for before, after in itertools.pairwise(pieces):
        assert before.end == after.start
        assert float(loudness[before.end]) < 0.01


def test_pieces_are_as_few_as_fit() -> None:
    pieces = divide(SENTENCES, speech_with_pauses(4, 4, 4), fits=at_most(110), loudest_pause=0.1)
    assert pieces is not None
    assert [len(piece.text.split()) for piece in pieces] == [8, 4]


def test_without_a_pause_nothing_is_cut() -> None:
    assert divide(SENTENCES, torch.full((150,), 0.1), fits=at_most(60), loudest_pause=0.1) is None
    assert divide("no sentence ends here", speech_with_pauses(4, 4, 4), fits=at_most(60), loudest_pause=0.1) is None


def test_commas_serve_where_sentences_are_too_long() -> None:
    text = SENTENCES.replace(".", ",")
    pieces = divide(text, speech_with_pauses(4, 4, 4), fits=at_most(60), loudest_pause=0.1)
    assert pieces is not None
    assert " ".join(piece.text for piece in pieces) == text


def test_divided_rows_keep_text_codes_and_ends() -> None:
    loudness = speech_with_pauses(4, 4, 4)
    data = OrpheusData(config(max_tokens=500, too_long="split"))
    clip = clip_of(len(loudness) * 2048 / 24_000, text=SENTENCES, speaker="leo")
    codes = frames(len(loudness)).to(torch.int16)
    rows = data.example(clip, {"codes": codes, "loudness": loudness}).rows
    assert len(rows) == 3
    assert all(len(row.tokens) <= 500 and row.tokens[-2] == data.ids.eos for row in rows)
    audio = [row.tokens[(row.slots >= 0) & (row.slots < 7)] for row in rows]
    assert torch.equal(torch.cat([from_ids(part, data.ids) for part in audio]), codes.long())
    assert sum(len(row.tokens) for row in rows) <= data.length(clip)
    assert all(data.tokenizer.decode(row.tokens[2:7].tolist()).startswith("leo: ") for row in rows)


def test_what_cannot_be_divided_is_left_out_with_a_reason() -> None:
    data = OrpheusData(config(max_tokens=500, too_long="split"))
    clip = clip_of(12.8, text=SENTENCES)
    features = {"codes": frames(150).to(torch.int16), "loudness": torch.ones(150)}
    (finding,) = data.review_features([clip], lambda _: features).findings
    assert (finding.action, finding.reason) == ("skip", "no_pause")
    with pytest.raises(DataError, match="no pause at the end of a sentence"):
        data.example(clip, features)


def test_repeats_and_zeros_are_reported() -> None:
    data = OrpheusData(config(dedup="slot0"))
    codes = frames(12).to(torch.int16) | 1
    codes[5, 0] = codes[4, 0]
    codes[7, 3] = 0
    features = {"codes": codes, "loudness": torch.ones(12)}
    told = {remark.label: remark.text for remark in data.review_features([clip_of(1)], lambda _: features).remarks}
    assert "leaves out 1 frames, 0.1 s of sound (8.3 %)" in told["repeats"]
    assert told["zeros"].startswith("1 codes are 0")


# ---------------------------------------------------------------- the linter


def reasons(*clips: Clip, **rows: Any) -> list[tuple[str, str]]:
    return [(finding.action, finding.reason) for finding in review(clips, config(**rows).rows).findings]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Well <laugh> yes.", []),
        ("Well <laughs> yes.", [("<laughs>", "laugh")]),
        ("Well <Laugh> yes.", [("<Laugh>", "laugh")]),
        ("Well < laugh > yes.", [("< laugh >", "laugh")]),
        ("Well [laughing] yes.", [("[laughing]", "laugh")]),
        ("Well *sighs* yes (long ago).", [("*sighs*", "sigh")]),
        ("Well <dance> yes.", [("<dance>", None)]),
    ],
)
def test_tags_are_checked_for_their_spelling(text: str, expected: list[tuple[str, str | None]]) -> None:
    assert misspelled_tags(text, config().rows.tags) == expected


def test_a_row_that_is_too_long_is_left_out_or_divided_never_cut() -> None:
    assert reasons(clip_of(30)) == [("skip", "too_many_tokens")]
    assert reasons(clip_of(30), too_long="split") == [("accept", "divided")]
    assert reasons(clip_of(20)) == []


def test_texts_that_spell_control_tokens_are_left_out() -> None:
    assert reasons(clip_of(2, text="say <custom_token_2> now")) == [("skip", "control_token")]


def test_rows_without_a_voice_among_rows_with_one_are_noted() -> None:
    named = clip_of(2, speaker="leo", name="b")
    assert reasons(named, clip_of(2)) == [("accept", "no_voice")]
    assert reasons(named, clip_of(2), voice=None) == []


def test_a_row_of_nothing_but_a_tag_is_noted() -> None:
    assert reasons(clip_of(2, text="<laugh>.")) == [("accept", "tag_only")]


def test_a_row_with_far_too_little_sound_for_its_text_is_noted() -> None:
    usual = [clip_of(2, name=f"c{i}", text="about thirty letters of words.") for i in range(25)]
    odd = replace(usual[0], id="odd", duration_s=0.3)
    assert reasons(*usual, odd) == [("accept", "token_pace")]


def test_tags_voices_and_lengths_are_told() -> None:
    clips = [clip_of(2, text="Ha <laugh> ha <sigh> ha <laugh>.", speaker="leo"), clip_of(3, speaker="tara", name="b")]
    told = {remark.label: remark.text for remark in review(clips, config().rows).remarks}
    assert told["tags"].startswith("<laugh> 2, <sigh> 1 · a tag wants 100")
    assert told["voices"] == "leo (1), tara (1)"
    assert "at most 2,048 (about 25 s)" in told["tokens"]
