"""Measure how well `ttstrain prepare --score` finds wrong transcripts: see docs/suspicious_transcripts.md.

python scripts/suspicious_transcripts.py exchange DATA OUT     a table whose texts are exchanged among five clips
python scripts/suspicious_transcripts.py measure DATA CKPT     ROC AUC, and how many of five are among the first five
"""

from __future__ import annotations

import argparse
import random
from collections.abc import Sequence
from pathlib import Path

from ttstrain.contract.data import Clip
from ttstrain.judge.score import load_scorer, open_scorer, score_texts
from ttstrain.plan.facts import audit_data
from ttstrain.plan.resolve import parse
from ttstrain.recipe.compose import compose, with_flags
from ttstrain.recipe.schema import Recipe
from ttstrain.train.prepare import open_cache

NEIGHBOURS = 4  # texts that a clip may get instead of its own: those of the most similar length in symbols
DRAWS = 5000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    exchange = commands.add_parser("exchange")
    exchange.add_argument("data", type=Path)
    exchange.add_argument("out", type=Path, help="folder for metadata.csv")
    measure = commands.add_parser("measure")
    measure.add_argument("data", type=Path)
    measure.add_argument("checkpoint")
    measure.add_argument("--clips", type=Path, help="only the clips whose ids are in this file, one a line")
    for command in (exchange, measure):
        command.add_argument("--recipe", default="f5_new_voice")
        command.add_argument("--count", type=int, default=5)
        command.add_argument("--seed", type=int, default=0)
        command.add_argument("overrides", nargs="*", metavar="KEY=VALUE")
    arguments = parser.parse_args()
    {"exchange": write_exchanged, "measure": print_measure}[arguments.command](arguments)


def write_exchanged(arguments: argparse.Namespace) -> None:
    """Let `count` clips say what the next of them in length says, so that the lengths give nothing away."""
    clips = _clips(arguments)
    order = sorted(range(len(clips)), key=lambda i: (len(clips[i].text), clips[i].id))
    first = random.Random(arguments.seed).randrange(len(clips) - arguments.count + 1)
    chosen = order[first : first + arguments.count]
    texts = {clip.id: clip.text for clip in clips}
    for i, j in zip(chosen, [*chosen[1:], chosen[0]], strict=True):
        texts[clips[i].id] = clips[j].text
    rows = ["audio_file|text", *(f"{clip.path.resolve()}|{texts[clip.id]}" for clip in clips)]
    arguments.out.mkdir(parents=True, exist_ok=True)
    (arguments.out / "metadata.csv").write_text("\n".join(rows) + "\n", encoding="utf-8")
    print("exchanged:", ", ".join(sorted(clips[i].id for i in chosen)))


def print_measure(arguments: argparse.Namespace) -> None:
    clips = _clips(arguments)
    if arguments.clips is not None:
        wanted = set(arguments.clips.read_text(encoding="utf-8").split())
        clips = [clip for clip in clips if clip.id in wanted]
    recipe = _recipe(arguments)
    cache = open_cache(recipe, place="memory")
    cache.build(clips)
    scorer = load_scorer(recipe, open_scorer(recipe, arguments.checkpoint), cache)
    own = score_texts(scorer, clips, clips)
    wrong = [score_texts(scorer, clips, _neighbours(clips, number)) for number in range(NEIGHBOURS)]
    pairs = [(own[a.id], values[b.id]) for a in clips for values in wrong for b in clips]
    auc = sum((right > false) + (right == false) / 2 for right, false in pairs) / len(pairs)
    rng = random.Random(arguments.seed)
    found = [_found(own, wrong, rng, count=arguments.count) for _ in range(DRAWS)]
    print(f"{len(clips)} clips: ROC AUC {auc:.3f}")
    print(f"{arguments.count} exchanged, {DRAWS} draws: {sum(found) / DRAWS:.2f} of them among the first on average,")
    print(f"all of them in {100 * sum(n == arguments.count for n in found) / DRAWS:.0f} % of the draws")


def _found(own: dict[str, float], wrong: Sequence[dict[str, float]], rng: random.Random, *, count: int) -> int:
    """Exchange some texts at random and count how many of those clips are among the lowest scores."""
    scores = dict(own)
    chosen = rng.sample(sorted(own), count)
    for name in chosen:
        scores[name] = rng.choice(wrong)[name]
    return len(set(sorted(scores, key=scores.__getitem__)[:count]).intersection(chosen))


def _neighbours(clips: Sequence[Clip], number: int) -> list[Clip]:
    """Give every clip the text of the clip that is `number` places from the most similar in length."""
    return [
        sorted(
            (other for other in clips if other.text != clip.text),
            key=lambda other: (abs(len(other.text) - len(clip.text)), other.id),
        )[number]
        for clip in clips
    ]


def _recipe(arguments: argparse.Namespace) -> Recipe:
    return parse(with_flags(compose(arguments.recipe, arguments.overrides), data=arguments.data))


def _clips(arguments: argparse.Namespace) -> list[Clip]:
    return list(audit_data(_recipe(arguments)).clips)


if __name__ == "__main__":
    main()
