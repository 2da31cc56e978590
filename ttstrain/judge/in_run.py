"""The judge inside a run: it listens at every sampling step, keeps `judge.json`, and raises alarms while there is time.

Keys of the metrics are means over the sentences: `judge/<figure>`, `judge/ema_<figure>` and `judge/base_<figure>`,
with `judge/score`, `judge/ema_score` and `judge/base_score` by the rule of `rule`; `judge/chosen_score` is that of the
weights that the verdict names.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ttstrain.checkpoint import judged
from ttstrain.checkpoint.judged import Judged, JudgedStep
from ttstrain.contract.data import Clip
from ttstrain.contract.listening import CHOSEN_SCORE, Heard, Sentence, Speaker, Utterance
from ttstrain.contract.model import ResolvedRecipe
from ttstrain.errors import CheckpointError
from ttstrain.judge.alarms import Alarms
from ttstrain.judge.figures import Figures, Interval
from ttstrain.judge.listen import Ears, listen
from ttstrain.judge.rule import Side, Standing
from ttstrain.judge.verdict import Verdict, decide
from ttstrain.judge.wanted import Wanted, measure_wanted

PREFIXES: Mapping[Speaker, str] = {"online": "", "ema": "ema_", "base": "base_"}
TITLES: Mapping[Speaker, str] = {"online": "raw weights", "ema": "EMA"}
By = dict[str, Figures]  # name of a sentence -> what was heard


@dataclass(slots=True)
class RunJudge:
    """Listens to one run, in its main process."""

    folder: Path
    clips: Sequence[Clip]  # held-out ones first
    language: str = ""
    has_base: bool = True
    _sentences: Sequence[Sentence] = ()
    _ears: Ears | None = None
    _wanted: Wanted | None = None
    _known: Judged | None = None  # what is written
    _base: dict[str, Any] = field(default_factory=dict)  # name of a sentence -> what was heard of the base
    _alarms: Alarms = field(default_factory=Alarms)

    def expect(self, sentences: Sequence[Sentence]) -> None:
        """Take in which sentences there will be."""
        self._sentences = tuple(sentences)

    def lacks_base(self, sentence: Sentence) -> bool:
        """Tell whether what the base says of a sentence was not heard yet."""
        self._read()
        return self.has_base and _entry(self._base.get(sentence.name), sentence) is None

    def hear_base(self, utterances: Sequence[Utterance]) -> None:
        """Take in what the base says, apart from a sampling step."""
        self._read()
        for utterance in utterances:
            self._take_base(utterance, self._listen(utterance))
        self._write(self._known.steps if self._known is not None else ())

    def listen(self, step: int, utterances: Sequence[Utterance], losses: Mapping[Speaker, float]) -> Heard:
        """Listen to what the weights say after `step` updates, compare, and write the verdict down."""
        notes = self._read()
        figures: dict[Speaker, By] = {}
        for utterance in utterances:
            found = self._listen(utterance)
            figures.setdefault(utterance.weights, {})[utterance.sentence.name] = found
            if step == 0 and self.has_base and utterance.weights == "online":
                self._take_base(utterance, found)
        base = self._heard_of_base(utterances)
        if base and step > 0:
            figures["base"] = base
        verdict = _verdict(step, figures, losses)
        alarms = self._alarm(verdict)
        offset = self._offset(base)
        values = _values(verdict, offset)
        if step > 0 or not self.has_base:
            self._note_down(step, verdict, offset)
        elif verdict.standings:
            self._write(())
        assert self._ears is not None and self._wanted is not None
        return Heard(
            values=values,
            figures=_by_sentence(figures),
            alarms=alarms,
            notes=[*notes, *self._ears.notes, *self._wanted.notes, *_not_measured(figures)],
        )

    # ------------------------------------------------------------ hearing

    def _listen(self, utterance: Utterance) -> Figures:
        """Return the figures of an utterance; the recordings are measured when the first one is heard."""
        if self._ears is None:
            self._ears = Ears.open(language=self.language, transcribe=False)
        if self._wanted is None:
            self._wanted = measure_wanted(
                self.clips,
                texts=[sentence.text for sentence in self._sentences],
                speakers=[sentence.speaker for sentence in self._sentences],
                ears=self._ears,
            )
        target = self._wanted.targets[utterance.sentence.speaker]
        return listen(utterance.audio, utterance.sentence.text, target=target, ears=self._ears)

    def _take_base(self, utterance: Utterance, figures: Figures) -> None:
        sentence = utterance.sentence
        self._base[sentence.name] = {
            "text": sentence.text,
            "voice": sentence.voice,
            "vocoder": utterance.vocoder,
            "figures": figures.to_json(),
        }

    def _heard_of_base(self, utterances: Sequence[Utterance]) -> By:
        """Return what was heard of the base, of the sentences as they are said now."""
        found: By = {}
        for one in utterances:
            entry = _entry(self._base.get(one.sentence.name), one.sentence)
            if entry is not None and entry["vocoder"] == one.vocoder:
                found[one.sentence.name] = Figures.of_json(entry["figures"])
        return found

    def _offset(self, heard: By) -> float:
        """Return how much closer the base is over all sentences than over those that were heard now.

        Between the first and the last step fewer sentences are heard. With this their scores compare with those of all.
        """
        every = [entry["figures"].get("voice") for entry in self._base.values()]
        own = [one.voice for one in heard.values() if one.voice is not None]
        known = [voice for voice in every if voice is not None]
        return sum(known) / len(known) - sum(own) / len(own) if known and own else 0.0

    # ------------------------------------------------------------ deciding

    def _alarm(self, verdict: Verdict) -> list[str]:
        raw = next((one for one in verdict.standings if one.side.key == "online"), None)
        return [] if raw is None else self._alarms.hear(raw, verdict.base)

    def _note_down(self, step: int, verdict: Verdict, offset: float) -> None:
        if verdict.winner is None:
            return
        sides = [*verdict.standings, *((verdict.base,) if verdict.base is not None else ())]
        now = JudgedStep(
            step=step,
            weights="ema" if verdict.winner.side.key == "ema" else "online",
            outcome=verdict.outcome,
            words=verdict.words,
            score=_plus(verdict.winner.score, offset),
            sides={one.side.key: _to_json(one, offset) for one in sides},
            alarms=self._alarms.state_dict(),
        )
        before = self._known.steps if self._known is not None else ()
        self._write([*(one for one in before if one.step < step), now])

    def _write(self, steps: Sequence[JudgedStep]) -> None:
        self._known = Judged(steps, self._base)
        judged.write(self.folder, self._known)

    def _read(self) -> list[str]:
        """Read what an earlier session of the run wrote; return a warning where that is damaged."""
        if self._known is not None:
            return []
        self._known = Judged()
        try:
            self._known = judged.read(self.folder)
        except CheckpointError as error:
            return [f"{error.message}; the judge begins anew"]
        self._base = dict(self._known.base)
        if self._known.steps:
            self._alarms.load_state_dict(self._known.steps[-1].alarms)
        return []


def make(recipe: ResolvedRecipe, clips: Sequence[Clip], *, folder: Path) -> RunJudge | None:
    """Make the judge of a run; None where its recipe switches it off."""
    if recipe.judge.enabled is False:
        return None
    languages = {clip.language for clip in clips}
    language = next(iter(languages)) if len(languages) == 1 else ""
    return RunJudge(folder, clips, language=language or recipe.data.language or "", has_base=recipe.base is not None)


def _entry(entry: Any, sentence: Sentence) -> Mapping[str, Any] | None:
    """Return what was heard of the base if it was the same text in the same voice."""
    if not isinstance(entry, dict) or (entry.get("text"), entry.get("voice")) != (sentence.text, sentence.voice):
        return None
    return entry


def _verdict(step: int, figures: Mapping[Speaker, By], losses: Mapping[Speaker, float]) -> Verdict:
    """Compare the weights of a step, sentence by sentence."""
    names = list(dict.fromkeys(name for heard in figures.values() for name in heard))

    def side(weights: Speaker, title: str) -> Side:
        return Side(weights, title, [figures[weights].get(name, Figures()) for name in names], losses.get(weights))

    sides = [side(weights, f"{title} of step {step:,}") for weights, title in TITLES.items() if weights in figures]
    return decide(sides, side("base", "the base") if "base" in figures else None)


def _plus(score: float | None, offset: float) -> float | None:
    return None if score is None else score + offset


def _values(verdict: Verdict, offset: float) -> dict[str, float]:
    values: dict[str, float] = {}
    for one in (*verdict.standings, *((verdict.base,) if verdict.base is not None else ())):
        prefix = next(prefix for weights, prefix in PREFIXES.items() if weights == one.side.key)
        values |= {f"judge/{prefix}{name}": interval.mean for name, interval in one.figures.items()}
        if one.score is not None:
            values[f"judge/{prefix}score"] = one.score + offset
    if verdict.winner is not None and verdict.winner.score is not None:
        values[CHOSEN_SCORE] = verdict.winner.score + offset
    return values


def _to_json(standing: Standing, offset: float) -> dict[str, Any]:
    def intervals(found: Mapping[str, Interval]) -> dict[str, Any]:
        return {name: interval.to_json() for name, interval in found.items()}

    return {
        "usable": standing.usable,
        "faults": [fault.words for fault in standing.faults],
        "score": _plus(standing.score, offset),
        "held_out_loss": standing.side.loss,
        "figures": intervals(standing.figures),
        "against_base": intervals(standing.against_base),
    }


def _by_sentence(figures: Mapping[Speaker, By]) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = {}
    for weights, heard in figures.items():
        for name, one in heard.items():
            found.setdefault(name, {})[weights] = one.to_json()
    return found


def _not_measured(figures: Mapping[Speaker, By]) -> list[str]:
    """Say once what of the clips could not be measured."""
    return list(dict.fromkeys(note for heard in figures.values() for one in heard.values() for note in one.notes))
