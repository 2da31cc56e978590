"""Why a run's curves are not those of its recipe's reference runs.

First what is known to differ: learning rates, what is trained, texts, recordings, settings. Where nothing is, what the
curves themselves point to.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ttstrain.bands.band import LR, Band, Points
from ttstrain.bands.compare import Finding
from ttstrain.bands.facts import Facts

ANOTHER_LR = 1.5  # factor between two LRs that counts as a difference
SHOWN = 3  # settings that are named
VOCABULARY = "vocab"  # in the versions of a front end
SOUND_FAULT = 1.5  # factor of the first held-out loss that no text explains: a net hears silence without reading


def differences(facts: Facts, band: Band, lrs: Mapping[str, Points]) -> list[str]:
    """Say what differs from the reference runs beside the seed, what matters most first. `lrs`: as they were logged."""
    return [*told_even_inside(facts, band, lrs), *_settings(facts, band.facts)]


def told_even_inside(facts: Facts, band: Band, lrs: Mapping[str, Points]) -> list[str]:
    """Say what differs and is seldom meant: another LR, frozen parameters, other texts or sound, another vocabulary."""
    own, reference = facts, band.facts
    return [*_lrs(band, lrs), *_trained(own, reference), *_data(own, reference), *_vocabulary(own, reference)]


def _lrs(band: Band, lrs: Mapping[str, Points]) -> Iterator[str]:
    for key, reference in band.lrs.items():
        own = lrs.get(key, {})
        ratios = [own[step] / reference[step] for step in own if reference.get(step)]
        if not ratios:
            continue
        ratio, name = statistics.median(ratios), key.removeprefix(LR)
        if ratio == 0:
            yield f"group `{name}` is not trained: its LR is 0"
        elif ratio > ANOTHER_LR:
            yield f"the LR of `{name}` is {ratio:.3g} times that of the reference runs"
        elif ratio < 1 / ANOTHER_LR:
            yield f"the LR of `{name}` is a {1 / ratio:.3g}th of that of the reference runs"


def _trained(own: Facts, reference: Facts) -> Iterator[str]:
    if own.trained < reference.trained:
        yield (
            f"parameters are frozen: {own.trained:,} are trained, in the reference runs {reference.trained:,} "
            "(`frozen` in `optim.groups`)"
        )
    elif own.trained > reference.trained:
        yield f"more parameters are trained: {own.trained:,} instead of {reference.trained:,}"


def _data(own: Facts, reference: Facts) -> Iterator[str]:
    if own.pairs != reference.pairs:
        if own.texts == reference.texts:
            yield "the texts are shuffled: the same texts stand beside other clips than in the reference runs"
        else:
            yield "some clips have other texts than in the reference runs"
    if own.sounds != reference.sounds:
        yield "the recordings are other files than those of the reference runs, under the same names"


def _vocabulary(own: Facts, reference: Facts) -> Iterator[str]:
    if own.front_end.get(VOCABULARY) != reference.front_end.get(VOCABULARY):
        yield "the vocabulary is another, so texts may become other symbols"


def _settings(own: Facts, reference: Facts) -> Iterator[str]:
    versions = {key: value for key, value in own.front_end.items() if key != VOCABULARY}
    if changed := [key for key, value in versions.items() if reference.front_end.get(key) != value]:
        yield f"the text front end is another: {', '.join(f'`{key}`' for key in changed)} differ"
    keys = [key for key, value in own.settings.items() if reference.settings.get(key) != value]
    if keys:
        named = [
            f"`{key}` is {_shown(own.settings[key])}, not {_shown(reference.settings.get(key))}" for key in keys[:SHOWN]
        ]
        more = f"; {len(keys) - SHOWN} more settings differ" if len(keys) > SHOWN else ""
        yield f"{', '.join(named)}{more}"


def _shown(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def signs(findings: Sequence[Finding]) -> list[str]:
    """Say what the curves point to where nothing is known to differ."""
    outside = [finding for finding in findings if finding.place != "inside"]
    losses = [finding for finding in outside if finding.is_loss]
    norms = {finding.place for finding in outside if not finding.is_loss}
    if start := [finding for finding in losses if finding.last == 0 and finding.place == "above"]:
        return [_before_the_first_step(start[0])]
    if any(finding.place == "below" for finding in losses):
        return [
            "there is less to predict than in speech: silent or constant recordings, the same clip again and again, or "
            "frames that the loss leaves out"
        ]
    if losses and "below" not in norms:
        return ["the updates do not help: an LR that is too high or too low, or parameters that are not trained"]
    if losses:
        return ["the weights hardly move: parameters are frozen or have no gradient"]
    if "below" in norms:
        return ["gradients are smaller: parameters are frozen, or the recordings are silent"]
    return ["gradients are larger: an LR that is too high, or recordings and texts that do not fit each other"]


def _before_the_first_step(found: Finding) -> str:
    factor = found.value / found.high
    if factor > SOUND_FAULT:
        return (
            f"the held-out loss is {factor:.3g} times as high before the first step, which no text explains: silent "
            "or constant recordings, sound on another scale, or another base"
        )
    return (
        "the held-out loss is higher before the first step: another vocabulary, texts of other clips, or another base"
    )
