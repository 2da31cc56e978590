"""The judge inside a run: it listens at every sampling step, keeps `judge.json`, and raises alarms while there is time.

Keys of the metrics are means over the sentences: `judge/<figure>`, `judge/ema_<figure>` and `judge/base_<figure>`,
with `judge/score`, `judge/ema_score` and `judge/base_score` by the rule of `rule`; `judge/chosen_score` is that of the
weights that the verdict names. Scores are over the sentences that are heard at every step, so that steps compare.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from time import perf_counter, process_time
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
    _unsaid: list[str] = field(default_factory=list)  # notes for the next listening
    _opening: tuple[float, float] = (0.0, 0.0)  # seconds of this listening, by the clock and of the processor

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

    def heard_between(self) -> int:
        """Return the fewest sentences that were heard at a step so far, if those are not all."""
        self._read()
        assert self._known is not None
        counts = [step.sentences for step in self._known.steps if 0 < step.sentences < len(self._sentences)]
        return min(counts, default=0)

    def listen(
        self, step: int, utterances: Sequence[Utterance], losses: Mapping[Speaker, float], *, compared: int
    ) -> Heard:
        """Listen to what the weights say after `step` updates, compare, and write the verdict down."""
        self._read()
        notes, self._unsaid = self._unsaid, []
        self._opening = (0.0, 0.0)
        if not utterances:
            return Heard(notes=[*notes, "no sentence was generated, so nothing is heard"])
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
        scores = self._scores(step, figures, losses, compared)
        values = _values(verdict, scores)
        if step > 0 or not self.has_base:
            self._note_down(step, verdict, scores, heard={one.sentence.name: one.sentence for one in utterances})
        elif verdict.standings:
            self._write(())
        assert self._ears is not None and self._wanted is not None
        return Heard(
            values=values,
            figures=_by_sentence(figures),
            alarms=alarms,
            notes=[*notes, *self._ears.notes, *self._wanted.notes, *_not_measured(figures)],
            opening_s=self._opening[0],
            opening_cpu_s=self._opening[1],
        )

    # ------------------------------------------------------------ hearing

    def _listen(self, utterance: Utterance) -> Figures:
        """Return the figures of an utterance; the recordings are measured when the first one is heard."""
        if self._ears is None or self._wanted is None:
            wall, cpu = perf_counter(), process_time()
            self._ears = Ears.open(language=self.language, transcribe=False)
            self._wanted = measure_wanted(
                self.clips,
                texts=[sentence.text for sentence in self._sentences],
                speakers=[sentence.speaker for sentence in self._sentences],
                ears=self._ears,
            )
            self._opening = (perf_counter() - wall, process_time() - cpu)
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

    def _scores(
        self, step: int, figures: Mapping[Speaker, By], losses: Mapping[Speaker, float], compared: int
    ) -> dict[str, float]:
        """Return each side's score over the sentences that are heard at every step."""
        names = {sentence.name for sentence in self._sentences[:compared]}
        own = {weights: {name: one for name, one in by.items() if name in names} for weights, by in figures.items()}
        verdict = _verdict(step, own, losses)
        return {one.side.key: one.score for one in _all_sides(verdict) if one.score is not None}

    # ------------------------------------------------------------ deciding

    def _alarm(self, verdict: Verdict) -> list[str]:
        raw = next((one for one in verdict.standings if one.side.key == "online"), None)
        return [] if raw is None else self._alarms.hear(raw, verdict.base)

    def _note_down(
        self, step: int, verdict: Verdict, scores: Mapping[str, float], *, heard: Mapping[str, Sentence]
    ) -> None:
        if verdict.winner is None:
            return
        now = JudgedStep(
            step=step,
            weights="ema" if verdict.winner.side.key == "ema" else "online",
            outcome=verdict.outcome,
            words=verdict.words,
            score=scores.get(verdict.winner.side.key),
            sentences=len(heard),
            trained=sum(sentence.trained for sentence in heard.values()),
            sides={one.side.key: _to_json(one, scores.get(one.side.key)) for one in _all_sides(verdict)},
            alarms=self._alarms.state_dict(),
        )
        before = self._known.steps if self._known is not None else ()
        self._write([*(one for one in before if one.step < step), now])

    def _write(self, steps: Sequence[JudgedStep]) -> None:
        self._known = Judged(steps, self._base)
        judged.write(self.folder, self._known)

    def _read(self) -> None:
        """Read what an earlier session of the run wrote; where that is damaged, a note says so."""
        if self._known is not None:
            return
        self._known = Judged()
        try:
            self._known = judged.read(self.folder)
        except CheckpointError as error:
            self._unsaid.append(f"{error.message}; the judge begins anew")
        self._base = dict(self._known.base)
        if self._known.steps:
            self._alarms.load_state_dict(self._known.steps[-1].alarms)


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


def _all_sides(verdict: Verdict) -> list[Standing]:
    return [*verdict.standings, *((verdict.base,) if verdict.base is not None else ())]


def _values(verdict: Verdict, scores: Mapping[str, float]) -> dict[str, float]:
    values: dict[str, float] = {}
    for one in _all_sides(verdict):
        prefix = next(prefix for weights, prefix in PREFIXES.items() if weights == one.side.key)
        values |= {f"judge/{prefix}{name}": interval.mean for name, interval in one.figures.items()}
        if one.side.key in scores:
            values[f"judge/{prefix}score"] = scores[one.side.key]
    if verdict.winner is not None and verdict.winner.side.key in scores:
        values[CHOSEN_SCORE] = scores[verdict.winner.side.key]
    return values


def _to_json(standing: Standing, score: float | None) -> dict[str, Any]:
    def intervals(found: Mapping[str, Interval]) -> dict[str, Any]:
        return {name: interval.to_json() for name, interval in found.items()}

    return {
        "usable": standing.usable,
        "words": standing.understanding,
        "faults": [fault.words for fault in standing.faults],
        "score": score,
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
