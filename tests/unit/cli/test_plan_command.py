from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from ttstrain.cli.main import app
from ttstrain.recipe.yaml12 import read_document

PROGRAM = Path(sys.executable).with_name("ttstrain")
run = CliRunner().invoke


def test_a_plan_is_shown_on_one_screen() -> None:
    shown = subprocess.run([PROGRAM, "plan", "from_scratch"], check=False, capture_output=True, text=True)
    assert shown.returncode == 0, shown.stderr
    assert shown.stderr == ""
    lines = shown.stdout.splitlines()
    assert lines[0].startswith("plan      from_scratch · flow")
    assert max(map(len, lines)) <= 80
    assert "█" in shown.stdout
    assert "\x1b" not in shown.stdout


def test_planning_does_not_import_torch() -> None:
    code = (
        "import sys\nfrom ttstrain.cli.main import app\n"
        "try:\n    app(['plan', 'from_scratch'])\nexcept SystemExit as end:\n    assert not end.code, end.code\n"
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False, capture_output=True).returncode == 0


def test_json_is_one_document_and_nothing_else() -> None:
    shown = run(app, ["plan", "from_scratch", "train.steps=100", "--json"])
    plan = json.loads(shown.stdout)
    assert plan["steps"] == 100
    assert plan["origins"]["train.steps"] == "command line"
    assert plan["data"]["num_holdout"] == 5


def test_yaml_is_the_resolved_recipe() -> None:
    plan = json.loads(run(app, ["plan", "from_scratch", "train.epochs=2", "--json"]).stdout)
    shown = run(app, ["plan", "from_scratch", "train.epochs=2", "--yaml"])
    values = read_document(shown.stdout, source="stdout").values
    assert values["train"]["steps"] == plan["steps"] == 2 * plan["data"]["batches_per_epoch"]
    assert "# configs/models/f5_tiny" in shown.stdout
    assert run(app, ["plan", "from_scratch", "--yaml", "--json"]).exit_code == 2


def test_flags_set_what_they_are_called_after(tmp_path: Path) -> None:
    arguments = ["--data", "package:demo", "--base", "hf://owner/repo/some.safetensors", "--run-dir", str(tmp_path)]
    plan = json.loads(run(app, ["plan", "f5_v1_new_voice", *arguments, "--json"]).stdout)
    assert plan["recipe"]["data"]["path"] == "package:demo"
    assert plan["recipe"]["base"] == "hf://owner/repo/some.safetensors"
    assert plan["recipe"]["run_dir"] == str(tmp_path)
    assert {plan["origins"][key] for key in ("data.path", "base", "run_dir")} == {"command line"}


def test_options_and_overrides_come_in_any_order() -> None:
    shown = run(app, ["plan", "--json", "from_scratch", "--nproc", "2", "train.epochs=1", "optim.lr=2e-4"])
    plan = json.loads(shown.stdout)
    assert plan["world_size"] == 2
    assert plan["steps"] == -(-plan["data"]["batches_per_epoch"] // 2)
    assert plan["groups"][0]["lr"] == 2e-4


def test_an_override_that_starts_with_a_tilde_drops_a_key() -> None:
    plan = json.loads(run(app, ["plan", "from_scratch", "~optim.lr", "--json"]).stdout)
    assert plan["groups"][0]["lr"] == 1e-5
    assert plan["origins"]["optim.lr"] == "default"


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["quikstart"], 2, "error: no recipe `quikstart`"),
        (["from_scratch", "optim.lrr=1"], 2, "error: command line: unknown key `optim.lrr`"),
        (["from_scratch", "optim.lr"], 2, "error: `optim.lr` is not a `key=value`"),
        (["f5_new_voice"], 2, "error: `data.path` is not set"),
        (["from_scratch", "--data", "no/such/folder"], 3, "error: there is no `no/such/folder`"),
        (["from_scratch", "train.steps=500", "optim.schedule.warmup_steps=500"], 2, "the LR never reaches its peak"),
        (["from_scratch", "data.batch_frames=10"], 2, "no clip fits a micro-batch"),
        (["from_scratch", "ema.decay=0.9999"], 2, "averages over 10,000 steps"),
    ],
)
def test_what_cannot_be_planned_is_refused_with_a_hint(arguments: list[str], code: int, message: str) -> None:
    shown = run(app, ["plan", *arguments])
    assert shown.exit_code == code
    assert message in shown.stderr
    assert "\nhint: " in shown.stderr
    assert shown.stdout == ""


def test_real_recordings_are_planned(shared_data: Path) -> None:
    shown = run(app, ["plan", "f5_v1_new_voice", "--data", str(shared_data / "ljspeech-mini"), "--json"])
    plan = json.loads(shown.stdout)
    assert plan["data"]["num_clips"] + plan["data"]["num_holdout"] == 32
    assert plan["data"]["hours"] * 3600 == pytest.approx(222, rel=0.1)
    assert plan["data"]["skipped"] == {}


@pytest.mark.parametrize(
    "arguments",
    [
        ["plan", "from_scratch", "--data", ""],
        ["plan", "from_scratch", "--base", ""],
        ["plan", "from_scratch", "--run-dir", " "],
        ["prepare", ""],
        ["prepare", "package:demo", "-o", ""],
        ["finetune", "from_scratch", "--data", ""],
        ["resume", ""],
        ["sample", "", "--text", "Hello.", "-o", "a.wav"],
        ["export", "run", "-o", ""],
        ["inspect-ckpt", ""],
        ["recipes", "copy", "from_scratch", ""],
        ["schema", "-o", ""],
    ],
)
def test_an_empty_path_is_not_the_current_folder(
    arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    shown = run(app, arguments)
    assert shown.exit_code == 2
    assert "is empty" in shown.output
    assert list(tmp_path.iterdir()) == []
