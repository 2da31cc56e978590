"""Clips that a net cannot take are left out by name before anything is computed."""

from __future__ import annotations

from pathlib import Path

import pytest
import sovits_toys

from ttstrain.contract.data import Clip, Review, Treatment
from ttstrain.contract.model import ResolvedRecipe
from ttstrain.data.audit import AuditResult
from ttstrain.errors import DataError
from ttstrain.families.gpt_sovits.config import GptConfig, JointConfig, SovitsConfig, VaeConfig
from ttstrain.families.gpt_sovits.review import review as judged
from ttstrain.plan.facts import review_data
from ttstrain.recipe.schema import Recipe

SENTENCE = "The quick brown fox jumps over the lazy dog again."  # about 40 phonemes


def clip(seconds: float, text: str = SENTENCE, *, language: str = "en", tokens: tuple[str, ...] = ()) -> Clip:
    return Clip(
        id=f"{text[:8]}-{seconds:g}",
        path=Path("a.wav"),
        text=text,
        language=language,
        duration_s=seconds,
        sample_rate=32_000,
        treatment=Treatment(end=round(32_000 * seconds)),
        tokens=tokens,
    )


def config(task: str, version: str = "v2", language: str = "auto") -> SovitsConfig:
    classes: dict[str, type[SovitsConfig]] = {"gpt": GptConfig, "vae": VaeConfig, "joint": JointConfig}
    return classes[task].model_validate(
        {"version": version, "features": dict(sovits_toys.FEATURES), "text": {"language": language}}
    )


def reasons(review: Review) -> dict[str, str]:
    return {finding.clip.id: finding.reason for finding in review.findings if finding.action == "skip"}


# ---------------------------------------------------------------- lengths


@pytest.mark.parametrize(
    ("task", "seconds", "reason"),
    [
        ("vae", 0.64, "too_short"),
        ("vae", 0.66, None),
        ("vae", 38.0, None),
        ("vae", 38.02, "too_long"),
        ("gpt", 0.60, "too_short"),
        ("gpt", 54.0, None),
        ("gpt", 54.02, "too_long"),
        ("joint", 0.62, "too_short"),
        ("joint", 40.0, "too_long"),
    ],
)
def test_each_net_has_its_own_limits(task: str, seconds: float, reason: str | None) -> None:
    """0.64 to 38 s is what upstream's buckets of 32 to 1900 frames let through, 54 s its GPT's max_sec."""
    one = clip(seconds, tokens=("AA1",) * max(4, round(10 * seconds)))
    assert reasons(judged([one], config(task))).get(one.id) == reason


def test_what_the_other_net_would_refuse_is_said() -> None:
    long = clip(40.0, tokens=("AA1",) * 400)
    review = judged([long, clip(3.0)], config("gpt"))
    assert reasons(review) == {}
    assert any("the VAE would skip 1 of these clips: 1 too_long" in remark.text for remark in review.remarks)


@pytest.mark.parametrize(("phones", "fits"), [(8, False), (9, True), (75, True), (76, False)])
def test_the_gpt_wants_3_to_25_phonemes_a_second(phones: int, fits: bool) -> None:
    one = clip(3.0, tokens=("AA1",) * phones)
    assert reasons(judged([one], config("gpt"))) == ({} if fits else {one.id: "phonemes_per_s"})
    assert reasons(judged([one], config("vae"))) == {}


def test_more_than_540_phonemes_are_too_many_for_the_gpt() -> None:
    one = clip(50.0, tokens=("AA1",) * 541)
    assert reasons(judged([one], config("gpt"))) == {one.id: "too_many_phonemes"}


# ---------------------------------------------------------------- texts


def test_an_unknown_language_is_named() -> None:
    """Upstream fails with a bare AssertionError (issue 1099)."""
    one = clip(3.0, language="de")
    review = judged([one], config("gpt"))
    assert reasons(review) == {one.id: "unknown_language"}
    assert "`de`" in review.findings[0].why


@pytest.mark.parametrize("written", ["EN", "en-us", "en_GB", ""])
def test_languages_may_be_spelled_in_several_ways(written: str) -> None:
    assert reasons(judged([clip(3.0, language=written)], config("gpt"))) == {}


@pytest.mark.parametrize(
    ("written", "text", "read_as"),
    [
        ("auto", "今天天气真的非常不错，我们去公园吧", "zh"),
        ("AUTO", "今日の天気はとてもいいですね、公園へ行きましょう", "ja"),
        ("auto", SENTENCE, "en"),
        ("auto_yue", "今天天气真的非常不错，我们去公园吧", "yue"),
        ("all_zh", "今天天气真的非常不错，我们去公园吧", "zh"),
        ("all_yue", "今天天气真的非常不错，我们去公园吧", "yue"),
        ("all_ja", "今日の天気はとてもいいですね、公園へ行きましょう", "ja"),
        ("all_ko", "오늘은 날씨가 정말 좋아서 공원에 갑니다", "ko"),
        ("Chinese", "今天天气真的非常不错，我们去公园吧", "zh"),
        ("粤语", "今天天气真的非常不错，我们去公园吧", "yue"),
        ("zh-CN", "今天天气真的非常不错，我们去公园吧", "zh"),
        ("zh_yue", "今天天气真的非常不错，我们去公园吧", "yue"),
        ("jpn", "今日の天気はとてもいいですね、公園へ行きましょう", "ja"),
    ],
)
def test_a_language_goes_by_upstreams_codes_and_by_its_name(written: str, text: str, read_as: str) -> None:
    review = judged([clip(4.0, text, language=written)], config("gpt"))
    assert reasons(review) == {}
    assert f"read as {read_as} (1)" in {remark.label: remark.text for remark in review.remarks}["phonemes"]


@pytest.mark.parametrize("written", ["all_de", "zhuang", "auto_de", "klingon"])
def test_a_language_that_only_looks_like_one_is_unknown(written: str) -> None:
    one = clip(3.0, language=written)
    assert reasons(judged([one], config("gpt"))) == {one.id: "unknown_language"}


def test_the_recipe_names_the_language_of_rows_without_one() -> None:
    one = clip(3.0, "123 456", language="")
    remarks = {remark.label: remark.text for remark in judged([one], config("gpt", language="zh")).remarks}
    assert "zh (1)" in remarks["phonemes"]


def test_a_text_without_anything_to_say_is_named() -> None:
    one = clip(3.0, "…!")
    assert reasons(judged([one], config("gpt"))) == {one.id: "no_phonemes"}


def test_phonemes_of_another_version_are_named() -> None:
    """Cantonese came with v2; upstream leaves such lines out without a word."""
    one = clip(3.0, tokens=("Yaa1",) * 20)
    assert reasons(judged([one], config("gpt", "v1"))) == {one.id: "no_phonemes"}
    assert reasons(judged([one], config("gpt", "v2"))) == {}


def test_nothing_left_is_bad_data() -> None:
    """Upstream's trainers divide by zero."""
    recipe = ResolvedRecipe.of(Recipe.model_validate(sovits_toys.recipe("joint")), config("joint"))
    result = AuditResult("jsonl", Path(), 1, [clip(60.0)], [], [])
    with pytest.raises(DataError, match="none of the 1 clips") as error:
        review_data(recipe, result)
    assert error.value.exit_code == 3


def test_what_nobody_will_speak_is_noted() -> None:
    """English words in Chinese clips vanish upstream (issue 870)."""
    clips = [clip(3.0, "我们今天去买一个 → 苹果", language="zh"), clip(3.0)]
    noted = [finding for finding in judged(clips, config("gpt")).findings if finding.action == "accept"]
    assert [(finding.clip.id, finding.reason) for finding in noted] == [(clips[0].id, "not_spoken")]
    assert "→" in noted[0].why


def test_japanese_pitch_says_which_dictionary_it_comes_from() -> None:
    """Upstream's is another: words that both know may have their pitch elsewhere."""
    one = clip(3.0, "今日はとてもいい天気ですね、散歩に行きましょう", language="ja")
    remarks = {remark.label: remark.text for remark in judged([one], config("gpt")).remarks}
    assert "pyopenjtalk-plus" in remarks["pitch"]
    assert "model.text.japanese_dictionary" in remarks["pitch"]
    assert "pitch" not in {remark.label for remark in judged([clip(3.0)], config("gpt")).remarks}
    assert "pitch" not in {remark.label for remark in judged([one], config("gpt", "v1")).remarks}
