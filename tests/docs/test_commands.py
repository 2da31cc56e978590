"""Every command of the README and the guides is run in small, or checked as far as it can be without hub, GPU or hours.

`WAYS` says which: a command that matches none of its lines fails, and so does a line that matches no command.
"""

from __future__ import annotations

import json
import re
import shlex
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import documented_desk
import pytest
import small_orpheus
import sovits_toys
from documented import REPO, Shown, shown
from small_runs import ttstrain

from ttstrain.cli.main import load_command
from ttstrain.plan.resolve import parse
from ttstrain.recipe.compose import compose

RECIPES_OF_THE_READER = ("./my_recordings.yaml", "my_voice.yaml", "my_recipe.yaml")
LEFT_OUT = ("MissingParameter", "BadOptionUsage")  # errors about arguments that a span of code may leave out
ALSO_RUN = "docs/troubleshooting.md"  # spans of code in texts are checked; those of this guide are run too

# ---------------------------------------------------------------- what is set to make a run small

BRIEF = (
    "train.steps=2", "train.device=cpu", "train.precision=fp32", "train.early_stop=null", "data.workers=0",
    "optim.schedule.warmup_steps=1", "eval.every=2", "checkpoint.every=2", "checkpoint.best=eval/loss/total",
    "sample.every=null", "judge.enabled=false", "tracking.wandb=off",
)  # fmt: skip
F5 = (
    "extends=[hardware/cpu]", "base=null", "data.holdout=2", "data.batch_frames=300", "model.dim=32", "model.depth=1",
    "model.heads=1", "model.dim_head=32", "model.text_dim=16", "model.conv_layers=1", "model.tokenizer=char",
)  # fmt: skip
PUBLISHED = [f"pretrained_models/{name}" for name in ("s1v3.ckpt", "v2Pro/s2Gv2Pro.pth", "v2Pro/s2Dv2Pro.pth")]
SOVITS_NETS = sovits_toys.model_section("joint")
SOVITS = (
    "extends=[hardware/cpu]", f"base=[{','.join(PUBLISHED)}]", "data.holdout=1", "data.batch_frames=400",
    "model.version=v2", *(f"model.{net}={json.dumps(SOVITS_NETS[net])}" for net in ("gpt", "vae")),
    *(f"model.features.{name}=package:toy" for name in ("hubert", "bert", "speaker")),
    f"model.features.quantizer={PUBLISHED[1]}",
)  # fmt: skip
TOY_CODES = ("model.rows.tokenizer=package:toy", "model.rows.codec=package:toy")
LLAMA = (
    "extends=[hardware/cpu]", "base=null", "data.holdout=1", "data.batch_frames=400", "train.step_frames=400",
    *(f"model.{key}={value}" for key, value in small_orpheus.NET.items()), "model.rows.dedup=none",
)  # fmt: skip
STAY = "train.steps=6"  # of a run that stopped at step 4


def without(keys: Sequence[str], *dropped: str) -> tuple[str, ...]:
    """Leave out settings that a documented command gives itself."""
    return tuple(key for key in keys if key.partition("=")[0] not in dropped)


# ---------------------------------------------------------------- the table


@dataclass(frozen=True)
class Run:
    """Run the command in a copy of the desk, with `more` behind it."""

    more: tuple[str, ...] = ()
    replaced: tuple[str, ...] = ()  # files of the desk that the command writes itself
    stopped: tuple[str, ...] = ()  # its own settings that would make it long, which `more` sets instead

    instead: tuple[str, str] = ("", "")  # an argument, and what stands for it


@dataclass(frozen=True)
class Check:
    """Only check the command: options, recipe and keys. `why` it is not run here; a named test does it elsewhere."""

    why: str


PLANNED = ("--dry-run",)
ELSEWHERE = "tests/integration/"
WAYS: Sequence[tuple[str, Run | Check]] = (
    # ------------------------------------------------ the same for every family
    (r"--(install|show)-completion", Check("changes the shell: tests/unit/cli/test_completion.py")),
    (r"(recipes|schema|env)$", Run()),
    (r"recipes copy", Run()),
    (r"recipes migrate", Run(replaced=("my_voice.yaml",))),
    (r"new my_voice.yaml", Run(replaced=("my_voice.yaml",))),
    (r"new --data", Run(("--yes",), replaced=("my_recordings.yaml",))),
    (r"doctor my_recordings", Run(instead=("my_recordings", "package:voice"))),
    (r"doctor ", Run(instead=("one_minute", "package:voice"))),
    (r"report ", Run()),
    (r"watch ", Check("serves a page until it is stopped: tests/browser/test_report.py")),
    (r"average ", Run()),
    (r"sample mean", Check("speaks from what `average` has made: tests/integration/test_export.py")),
    (r"prove ", Check(f"takes a minute: {ELSEWHERE}test_prove.py")),
    (r"eval runs/my_run --blend|eval .*--data", Check(f"listens for a minute: {ELSEWHERE}test_blend.py")),
    (r"eval runs/my_run$", Run(("--sentences", "2"))),
    (r"eval ", Check("as `eval runs/my_run`")),
    # ------------------------------------------------ checkpoints
    (r"inspect-ckpt checkpoint-1000", Check(f"of transformers' Trainer: {ELSEWHERE}test_orpheus_trainer_folder.py")),
    (r"inspect-ckpt logs/", Check(f"of GPT-SoVITS' training: {ELSEWHERE}test_sovits_resume.py")),
    (r"inspect-ckpt .*--probe", Check(f"builds two nets of full size: {ELSEWHERE}test_probe.py")),
    (r"inspect-ckpt ", Run()),
    (r"export .*--blend", Check(f"needs a run with a base: {ELSEWHERE}test_blend.py")),
    (r"export .*--format adapter", Check(f"needs a LoRA run of Orpheus: {ELSEWHERE}test_orpheus_export.py")),
    (r"export runs/my_run$", Check("a span without its folder")),
    (r"export ", Run()),
    (r"sample .*vocoder=hf://", Check("downloads a vocoder: tests/parity/test_vocoders.py")),
    (r"sample SoVITS_weights", Check(f"reads sound by a downloaded net: {ELSEWHERE}test_sovits_run.py")),
    (r"sample .*sampling.voice=tara", Check(f"a run of Orpheus: {ELSEWHERE}test_orpheus_cli.py")),
    (r"sample ", Run()),
    # ------------------------------------------------ resume
    (r"resume .*--nproc", Check(f"starts a process for each GPU: {ELSEWHERE}test_distributed.py")),
    (r"resume .*stages\.", Check(f"needs a run in stages: {ELSEWHERE}test_stages.py")),
    (r"resume (logs/|checkpoint-1000)", Check(f"another trainer's state: {ELSEWHERE}test_sovits_resume.py")),
    (r"resume (model_last.pt|ckpts/)", Run((*F5, *BRIEF, "train.steps=10"), stopped=("train.steps",))),
    (r"resume runs/my_run --reset-step$", Check("as with another learning rate")),
    (r"resume runs/my_run --reset-step", Run((STAY,))),
    (r"resume runs/my_(voice$|run (train.steps=2000|--from best))", Check("as `resume runs/my_run`")),
    (r"resume runs/", Run((STAY,), stopped=("train.steps",))),
    # ------------------------------------------------ data
    (r"prepare .*(--cut|--review)", Check(f"needs the extra `raw`: {ELSEWHERE}test_recordings.py")),
    (r"prepare logs/", Check(f"a folder of upstream's tools: {ELSEWHERE}test_sovits_prepare.py")),
    (r"prepare .*--recipe gpt_sovits", Run(SOVITS)),
    (r"prepare .*--recipe orpheus_new_voice_lora", Check("as with `orpheus_new_voice_full`")),
    (r"prepare .*--recipe orpheus", Run((*LLAMA, *TOY_CODES))),
    (r"prepare .*--vocab-out my_vocab", Run(replaced=("my_vocab.txt",))),
    (r"prepare ", Run()),
    # ------------------------------------------------ plans of full size
    (r"(plan|tune) .*--(trial|fit)", Check(f"measures for a minute: {ELSEWHERE}test_trial.py")),
    (r"plan .*--rehearse", Check("rehearses a net of full size: tests/rehearsal/test_plan_rehearse.py")),
    (r"plan f5_new_voice --data my_recordings$", Check("as with `--yaml`")),
    (r"plan .*--nproc 4$", Check("as with `train.step_frames`")),
    (r"plan orpheus", Run(TOY_CODES)),
    (r"plan ", Run()),
    # ------------------------------------------------ training
    (r"finetune .*s3://", Check("reads from a store: tests/unit/data/test_webdataset.py")),
    (r"finetune .*--nproc", Check(f"starts a process for each GPU: {ELSEWHERE}test_distributed.py")),
    (r"finetune (quickstart|f5_lora .*package:small_f5)", Run(BRIEF)),
    (r"finetune f5_new_voice --data one_minute", Check("as with `my_clips`")),
    (r"finetune f5_(new_voice --data my_clips|one_minute .*package:small_f5)", Run((*BRIEF, *PLANNED))),
    (r"finetune f5_(new_voice|v1_new_voice) .*--base [Fm]", Run((*without(F5, "base"), *BRIEF))),
    (r"finetune f5_v1_new_voice .*--base", Run((*without(F5, "base"), *BRIEF, *PLANNED))),
    (r"finetune f5_v1_new_voice .*name=", Check("as without a name")),
    (r"finetune f5_v1_new_voice .*optim", Run((*F5, *without(BRIEF, "train.steps"), *PLANNED))),
    (r"finetune small_base", Check(f"trains for an hour; its recipe: {ELSEWHERE}test_small_base.py")),
    (r"finetune small_orpheus", Check("trains for ten minutes, on speech and a codec that scripts make")),
    (r"finetune f5_new_language", Run((*F5, *BRIEF, "model.first_new_rows=0"))),
    (r"finetune my_voice.yaml", Run((*without(F5, "base"), *BRIEF))),
    (r"finetune (f5_one_minute --data one_minute$|from_scratch)", Run((*F5, *BRIEF, *PLANNED))),
    (r"finetune f5_", Run((*F5, *BRIEF))),
    (r"finetune \./my_recordings.yaml", Run(("name=fresh",))),
    (r"finetune gpt_sovits_vae .*logs/", Check(f"a folder of upstream's tools: {ELSEWHERE}test_sovits_resume.py")),
    (r"finetune gpt_sovits_\w+ .*--base", Run((*without(SOVITS, "base"), *BRIEF, *PLANNED))),
    (r"finetune gpt_sovits_one_minute --data one_minute$", Check("as with replay")),
    (r"finetune gpt_sovits_one_minute", Run((*SOVITS, *BRIEF, *PLANNED))),
    (r"finetune gpt_sovits", Run((*SOVITS, *BRIEF))),
    (r"finetune orpheus_pretrain", Check(f"thousands of hours and questions: {ELSEWHERE}test_texts.py")),
    (r"finetune orpheus_\w+ .*--base", Run((*without(LLAMA, "base"), *BRIEF, *PLANNED))),
    (r"finetune orpheus_new_voice_lora", Check(f"adapters over three billion weights: {ELSEWHERE}test_lora.py")),
    (r"finetune orpheus", Run((*LLAMA, *TOY_CODES, *BRIEF))),
)  # fmt: skip

SHOWN = shown()


def way_of(command: Shown) -> Run | Check | None:
    return next((way for pattern, way in WAYS if re.match(pattern, str(command))), None)


def is_run(command: Shown) -> bool:
    complete = command.whole or command.guide == ALSO_RUN
    return complete and isinstance(way_of(command), Run)


# ---------------------------------------------------------------- the tests


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return documented_desk.lay_out(tmp_path_factory.mktemp("docs") / "desk")


@pytest.fixture
def here(desk: Path) -> Iterator[Path]:
    """Return an empty folder, always the same: what was measured of recordings at a place is then known."""
    place = desk.with_name("here")
    place.mkdir()
    yield place
    shutil.rmtree(place)


def copy_named(desk: Path, here: Path, words: Sequence[str], *, but: Sequence[str]) -> None:
    """Copy what the words of a command name from the desk: a run, another folder, a file."""
    named = " ".join(words)
    for source in [*(desk / "runs").iterdir(), *(path for path in desk.iterdir() if path.name != "runs")]:
        name = source.relative_to(desk)
        if name.as_posix() not in but and re.search(rf"(?<![\w-]){re.escape(name.as_posix())}(?![\w-])", named):
            (here / name).parent.mkdir(exist_ok=True)
            (shutil.copytree if source.is_dir() else shutil.copy2)(source, here / name)


def test_every_command_is_known_and_every_line_of_the_table_is_needed() -> None:
    assert [str(command) for command in SHOWN if command.whole and way_of(command) is None] == []
    used = {next((pattern for pattern, _way in WAYS if re.match(pattern, str(command))), "") for command in SHOWN}
    assert [pattern for pattern, _way in WAYS if pattern not in used] == []


def test_the_tests_that_the_table_names_exist() -> None:
    named = [path for _pattern, way in WAYS if isinstance(way, Check) for path in re.findall(r"tests/\S+\.py", way.why)]
    assert [path for path in named if not (REPO / path).is_file()] == []


def test_the_readme_shows_the_quickstart_and_the_tests() -> None:
    readme = (REPO / "README.md").read_text(encoding="utf-8")
    assert ("finetune", "quickstart") in [command.arguments for command in SHOWN if command.guide == "README.md"]
    assert ".venv/bin/python -m pytest -n 2\n" in readme
    assert len(readme.split()) < 1600


@pytest.mark.parametrize("command", SHOWN, ids=lambda command: f"{command.guide}: {command}")
def test_a_command_takes_its_options_and_names_recipes_and_keys_that_exist(command: Shown) -> None:
    verb, *rest = command.arguments
    if verb.startswith("-"):
        return
    parser = load_command(verb)
    if hasattr(parser, "commands") and rest and not rest[0].startswith("-"):
        parser, rest = parser.commands[rest[0]], rest[1:]
    try:
        context = parser.make_context(verb, list(rest))  # raises on an unknown option or key, or a bad value
    except Exception as error:  # of click's own classes, which typer does not export
        if command.whole or type(error).__name__ not in LEFT_OUT:
            raise
        return
    recipe = context.params.get("recipe")
    of_the_reader = str(recipe) in RECIPES_OF_THE_READER or str(recipe).startswith("runs/")
    if recipe and not of_the_reader and "overrides" in context.params:
        parse(compose(context.params["recipe"], context.params["overrides"] or []))


@pytest.mark.parametrize("command", [command for command in SHOWN if is_run(command)], ids=str)
def test_a_command_runs(command: Shown, desk: Path, here: Path) -> None:
    way = way_of(command)
    assert isinstance(way, Run)
    kept = [word for word in command.arguments if word.partition("=")[0] not in way.stopped]
    given = [way.instead[1] if word == way.instead[0] else word for word in kept]
    copy_named(desk, here, [*given, *way.more], but=way.replaced)
    done = ttstrain(*given, *way.more, cwd=here)
    assert done.returncode == 0, f"ttstrain {shlex.join([*given, *way.more])}\n{done.stderr[-3000:]}"
    assert "Traceback" not in done.stderr
