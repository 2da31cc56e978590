"""The command line itself, through typer's runner and through the installed program."""

from __future__ import annotations

import importlib
import importlib.util
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
import typer
from typer.testing import CliRunner

import ttstrain
from ttstrain import errors
from ttstrain.cli import main

PROGRAM = Path(sys.executable).with_name("ttstrain")
MOST_MODULES = 250  # 195 with Python 3.11
run = CliRunner().invoke


def program(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([PROGRAM, *arguments], check=False, capture_output=True, text=True, timeout=60)


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """Register `ttstrain try`, which calls whatever the test puts into this module's `action`."""
    module = ModuleType("ttstrain_try_command")

    def attempt(argument: str = typer.Argument("")) -> None:
        """Try something."""
        module.action(argument)

    module.attempt = attempt  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setitem(main.COMMANDS, "try", main.Command(f"{module.__name__}:attempt", "Try something."))
    return module


def test_help_lists_every_command_and_what_it_does() -> None:
    shown = program("--help")
    assert shown.returncode == 0
    for name, entry in main.COMMANDS.items():
        assert f"\n  {name:12}  {entry.help}" in shown.stdout


def test_nothing_is_advertised_that_does_not_exist() -> None:
    for entry in main.COMMANDS.values():
        module, _, name = entry.target.partition(":")
        assert callable(getattr(importlib.import_module(module), name))


@pytest.mark.parametrize("name", main.COMMANDS)
def test_every_command_explains_itself_without_torch(name: str) -> None:
    code = (
        "import sys\nfrom ttstrain.cli.main import app\n"
        f"try:\n    app([{name!r}, '--help'])\nexcept SystemExit as end:\n    code = end.code\n"
        "sys.exit(code or ('torch' in sys.modules))"
    )
    shown = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True)
    assert shown.returncode == 0, shown.stderr
    assert "Usage:" in shown.stdout
    assert main.COMMANDS[name].help.split()[0]


@pytest.fixture(scope="module")
def loaded_for_help() -> list[str]:
    """The modules that a process has loaded once it has shown the help."""
    code = (
        "import sys\nfrom ttstrain.cli.main import app\n"
        "try:\n    app(['--help'])\nexcept SystemExit:\n    pass\n"
        "print(*sys.modules)"
    )
    shown = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    return shown.stdout.splitlines()[-1].split()


def test_help_comes_at_once(loaded_for_help: list[str]) -> None:
    """Some 0.2 s on an idle core. Modules are counted, because a busy machine says nothing of a time."""
    assert len(loaded_for_help) < MOST_MODULES


def test_help_imports_neither_the_schema_nor_rich(loaded_for_help: list[str]) -> None:
    assert [name for name in ("torch", "numpy", "pydantic", "rich", "yaml") if name in loaded_for_help] == []


def test_no_arguments_show_the_help() -> None:
    assert "Commands:" in program().stdout + program().stderr


def test_the_version_is_the_packages() -> None:
    assert program("--version").stdout == f"ttstrain {ttstrain.__version__}\n"


def test_it_runs_as_a_module() -> None:
    shown = subprocess.run([sys.executable, "-m", "ttstrain", "--version"], check=True, capture_output=True, text=True)
    assert ttstrain.__version__ in shown.stdout


def test_a_misspelt_command_is_a_usage_error() -> None:
    shown = program("finetun")
    assert shown.returncode == 2
    assert shown.stderr == "error: there is no command `finetun`\nhint: did you mean `finetune`?\n"


@pytest.mark.parametrize(
    "arguments", [["plan"], ["plan", "from_scratch", "--nope"], ["plan", "from_scratch", "--nproc", "0"]]
)
def test_wrong_usage_leaves_with_2(arguments: list[str]) -> None:
    shown = run(main.app, arguments)
    assert shown.exit_code == 2
    assert shown.stdout == ""


USER_ERRORS = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, errors.UserError)]


@pytest.mark.parametrize("kind", USER_ERRORS, ids=lambda kind: kind.__name__)
def test_a_users_error_is_said_in_two_lines_and_leaves_with_its_code(
    command: ModuleType, kind: type[errors.UserError]
) -> None:
    def action(argument: str) -> None:
        raise kind("it went wrong", hint="do this")

    command.action = action  # type: ignore[attr-defined]
    shown = run(main.app, ["try"])
    assert shown.exit_code == kind.exit_code
    assert shown.stdout == ""
    assert shown.stderr == "error: it went wrong\nhint: do this\n"


def test_exit_codes_are_those_that_scripts_rely_on() -> None:
    codes = {kind.__name__: kind.exit_code for kind in USER_ERRORS}
    assert codes == {
        "UserError": 2,
        "RecipeError": 2,
        "DataError": 3,
        "NoSpeechError": 3,
        "CheckpointError": 4,
        "FolderLostError": 4,
        "DivergedError": 5,
        "OutOfMemoryError": 6,
        "Preempted": 75,
        "Interrupted": 130,
        "UnprovenError": 1,
        "PeerError": 1,  # or that of the process that failed
        "RepeatedError": 1,  # or that of the last attempt
    }


def test_ctrl_c_leaves_with_130(command: ModuleType) -> None:
    def action(argument: str) -> None:
        raise KeyboardInterrupt

    command.action = action  # type: ignore[attr-defined]
    shown = run(main.app, ["try"])
    assert shown.exit_code == 130
    assert shown.stderr == "error: interrupted\n"


@pytest.mark.parametrize("error", [RuntimeError("CUDA out of memory. Tried to allocate\nadvice"), MemoryError()])
def test_memory_that_runs_out_anywhere_is_said_and_leaves_with_6(command: ModuleType, error: Exception) -> None:
    def action(argument: str) -> None:
        raise error

    command.action = action  # type: ignore[attr-defined]
    shown = run(main.app, ["try"])
    assert shown.exit_code == 6
    said = str(error).partition("\n")[0] or "MemoryError"
    assert shown.stderr.startswith(f"error: memory ran out: {said}\nhint: ")


def test_a_defect_of_ours_shows_its_traceback_and_leaves_with_1(
    command: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def action(argument: str) -> None:
        raise ZeroDivisionError("ours")

    command.action = action  # type: ignore[attr-defined]
    monkeypatch.setattr(sys, "argv", ["ttstrain", "try"])
    with pytest.raises(SystemExit) as caught:
        main.main()
    assert caught.value.code == 1
    said = capsys.readouterr().err
    assert "ZeroDivisionError: ours" in said
    assert "ttstrain env" in said


def test_a_command_whose_module_is_missing_fails_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(main.COMMANDS, "broken", main.Command("ttstrain.cli.no_such_module:broken", "Broken."))
    assert "broken" in run(main.app, ["--help"]).stdout
    assert run(main.app, ["recipes"]).exit_code == 0
    assert isinstance(run(main.app, ["broken"]).exception, ModuleNotFoundError)


@pytest.mark.skipif(os.name != "posix", reason="sends SIGINT")
def test_a_real_ctrl_c_while_data_are_checked(tmp_path: Path) -> None:
    shutil.copytree(Path(ttstrain.__file__).parent / "_demo", tmp_path / "data")
    code = (
        "import time, ttstrain.plan.facts as facts\n"
        "def gather_facts(*arguments):\n    print('waiting', flush=True)\n    time.sleep(30)\n"
        "facts.gather_facts = gather_facts\n"
        "from ttstrain.cli.main import main\nimport sys\nsys.argv = ['ttstrain', 'plan', 'from_scratch']\nmain()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == "waiting\n"
        child.send_signal(signal.SIGINT)
        _, said = child.communicate(timeout=30)
    assert child.returncode == 130
    assert said == "error: interrupted\n"


@pytest.mark.skipif(os.name != "posix", reason="pipes as POSIX has them")
@pytest.mark.parametrize("stream", ["stdout", "stderr"])
def test_a_stream_that_is_gone_leaves_the_exit_code_alone(stream: str) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    code = (
        "from ttstrain.cli.main import main\nimport sys\nsys.argv = ['ttstrain', 'no-such-command']\n"
        "print('lost')\nmain()"
    )
    other = {"stdout": "stderr", "stderr": "stdout"}[stream]
    streams = {stream: writer, other: subprocess.DEVNULL}
    buffered = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    done = subprocess.run([sys.executable, "-c", code], env=buffered, timeout=60, check=False, **streams)
    os.close(writer)
    assert done.returncode == 2


@pytest.mark.parametrize(
    ("arguments", "meant"),
    [
        (["finetune", "from_scratch", "--lr", "1e-5"], "optim.lr=1e-5"),
        (["plan", "from_scratch", "--lr=1e-5"], "optim.lr=1e-5"),
        (["plan", "from_scratch", "--learning-rate", "1e-5"], "optim.lr=1e-5"),
        (["plan", "from_scratch", "--lr", "75"], "optim.lr=VALUE"),  # a value that would be refused is not proposed
        (["plan", "from_scratch", "--batch-size", "4"], "data.batch_frames=VALUE"),  # clips there, frames here
        (["resume", "runs/a", "--steps", "5"], "train.steps=5"),
        (["plan", "from_scratch", "--name", "my voice"], "'name=my voice'"),
    ],
)
def test_an_option_that_is_a_key_of_the_recipe_is_answered_with_it(arguments: list[str], meant: str) -> None:
    shown = CliRunner().invoke(main.app, arguments)
    assert shown.exit_code == 2
    assert shown.stderr.splitlines()[1] == f"hint: recipe keys are set without dashes: `{meant}`"


@pytest.mark.parametrize(
    "arguments", [["plan", "from_scratch", "--foo"], ["plan", "from_scratch", "--base"], ["env", "--lr"]]
)
def test_other_options_are_left_to_the_parser(arguments: list[str]) -> None:
    shown = CliRunner().invoke(main.app, arguments)
    assert shown.exit_code == 2
    assert "keys of the recipe" not in shown.stderr
    assert "option" in shown.stderr.lower()
