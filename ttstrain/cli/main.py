"""`ttstrain`: the list of commands, and the exit code and message of each error.

A command's module is imported when that command is called, so `ttstrain --help` stays fast.
"""

from __future__ import annotations

import difflib
import importlib
import os
import sys
import traceback
from collections.abc import Sequence
from contextlib import nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import typer
from typer.core import TyperGroup

import ttstrain
from ttstrain.data.pool import end_all
from ttstrain.errors import OutOfMemoryError, PeerError, UserError, first_line, is_out_of_memory
from ttstrain.logins import without_logins
from ttstrain.places import is_refusal, refusal
from ttstrain.terminal import escaped, on_one_line, protected
from ttstrain.train.launched import first_here
from ttstrain.train.signals import starting

INTERNAL_ERROR = 1
_LONGEST = 4000  # characters of an error that are shown: names in a file may be of any length
CTRL_C = 130  # 128 + SIGINT


@dataclass(frozen=True, slots=True)
class Command:
    """Where a command lives, and its line in `ttstrain --help`."""

    target: str  # "module:function", or a `typer.Typer` for a command that has sub-commands
    help: str


COMMANDS = {
    "finetune": Command("ttstrain.cli.finetune:finetune", "Fine-tune a model with a recipe."),
    "resume": Command("ttstrain.cli.resume:resume", "Continue a run exactly where it stopped."),
    "new": Command("ttstrain.cli.new:new", "Ask five questions and write a recipe for your data."),
    "plan": Command("ttstrain.cli.plan:plan", "Show everything a run would do, without running it."),
    "tune": Command("ttstrain.cli.tune:tune", "Measure the budget, workers and LRs that suit this machine."),
    "prove": Command("ttstrain.cli.prove:prove", "Check before a run that what is trained is what will speak."),
    "doctor": Command("ttstrain.cli.doctor:doctor", "Say what is wrong with the data, and what to do."),
    "prepare": Command("ttstrain.cli.prepare:prepare", "Check the data and cache its features."),
    "inspect-ckpt": Command(
        "ttstrain.cli.inspect_ckpt:inspect_ckpt", "Show what a checkpoint holds, executing nothing."
    ),
    "average": Command("ttstrain.cli.average:average", "Average the weights of several checkpoints."),
    "export": Command("ttstrain.cli.export:export", "Export a run's weights for upstream's tools, and verify them."),
    "eval": Command("ttstrain.cli.eval:evaluate", "Compare checkpoints and their base by what is heard."),
    "report": Command("ttstrain.cli.report:report", "Write a run's page: curves, samples, verdict, recipe, data."),
    "watch": Command("ttstrain.cli.watch:watch", "Show a run as a live page that can steer it."),
    "sample": Command("ttstrain.cli.sample:sample", "Generate speech with a checkpoint, as sound files."),
    "recipes": Command("ttstrain.cli.recipes:recipes", "List, show or copy the recipes that ship with ttstrain."),
    "schema": Command("ttstrain.cli.schema:schema", "Print the JSON Schema of a recipe, for editors."),
    "env": Command("ttstrain.cli.env:env", "Print versions, devices and threads, for a bug report."),
}


class CommandLine(TyperGroup):
    """The command group: imports commands when called and turns errors into exit codes."""

    # typer's click classes are private and moved between versions: hence the Any.
    def list_commands(self, ctx: Any) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        return load_command(cmd_name) if cmd_name in COMMANDS else None

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        if args[0] not in COMMANDS:
            near = difflib.get_close_matches(args[0], COMMANDS, n=1)
            hint = f"did you mean `{near[0]}`?" if near else "`ttstrain --help` lists the commands"
            raise UserError(f"there is no command `{args[0]}`", hint=hint)
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, command.help) for name, command in COMMANDS.items()])

    def invoke(self, ctx: Any) -> Any:
        command_line = [*getattr(ctx, "_protected_args", ()), *ctx.args]
        try:
            return super().invoke(ctx)
        except UserError as error:
            if not (isinstance(error, PeerError) and error.told):
                print_error(*error.lines, hint=error.hint)
            raise typer.Exit(error.exit_code) from error
        except OSError as error:
            if not is_refusal(error) or _is_ours(error):
                raise
            refused = refusal(error, UserError)
            print_error(*refused.lines, hint=refused.hint)
            raise typer.Exit(refused.exit_code) from error
        except KeyboardInterrupt as error:
            if first_here():
                print_error("interrupted")
            raise typer.Exit(CTRL_C) from error
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            print_error(
                f"memory ran out: {first_line(error)}",
                hint="stop other programs that use the device's memory, or use a device with more",
            )
            raise typer.Exit(OutOfMemoryError.exit_code) from error
        except Exception as error:
            if type(error).__name__ != "NoSuchOption":  # click's class, which typer does not export
                raise
            option = str(getattr(error, "option_name", ""))
            if (meant := _as_key(option, command_line)) is None:
                raise
            print_error(f"there is no option `{option}`", hint=f"recipe keys are set without dashes: `{meant}`")
            raise typer.Exit(UserError.exit_code) from error


def _is_ours(error: OSError) -> bool:
    """Tell whether an OS error concerns a file of this installation: that is a bug, not a path that the user gave."""
    return os.path.realpath(os.fsdecode(error.filename)).startswith(str(Path(ttstrain.__file__).resolve().parent))


def _as_key(option: str, command_line: list[str]) -> str | None:
    """Write an unknown option as the key of the recipe that it names, for commands that take keys."""
    from ttstrain.cli.options import TAKE_KEYS, as_override

    if not command_line or command_line[0] not in TAKE_KEYS:
        return None
    return as_override(option, command_line)


def load_command(name: str) -> Any:
    """Import one command and build what parses its arguments."""
    module, _, attribute = COMMANDS[name].target.partition(":")
    target = getattr(importlib.import_module(module), attribute)
    if not isinstance(target, typer.Typer):
        single = new_app()
        single.command(name)(target)
        target = single
    return typer.main.get_command(target)


def new_app(*, completes: bool = False, **options: Any) -> typer.Typer:
    """Make a typer app in the house style: plain help, Python's own tracebacks; `completes` for the program's own."""
    return typer.Typer(
        add_completion=completes,
        rich_markup_mode=None,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
        **options,
    )


def print_error(*lines: str, hint: str | None = None) -> None:
    """Print an error and its hint on stderr; a closed stream raises no second error."""
    with suppress(OSError):
        sys.stdout.flush()
    with suppress(OSError):
        message = without_logins("\n".join(on_one_line(line) for line in lines))
        cut = message if len(message) <= _LONGEST else f"{message[:_LONGEST]}…"
        print(f"error: {cut}", file=sys.stderr)
        if hint:
            print(f"hint: {without_logins(on_one_line(hint))}", file=sys.stderr)


app = new_app(cls=CommandLine, no_args_is_help=True, completes=True)


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"ttstrain {ttstrain.__version__}")
        raise typer.Exit


@app.callback()
def ttstrain_command(
    version: bool = typer.Option(False, "--version", help="Print the version.", is_eager=True, callback=_print_version),
) -> None:
    """Fine-tune text-to-speech models from one YAML recipe.

    Start with `ttstrain finetune quickstart`, which needs nothing; for your own recordings with `ttstrain new`.
    `ttstrain recipes` lists what can be trained.
    """


def main() -> None:
    """Run the command line; the program's entry point."""
    with protected(), starting(speak=first_here()) if _trains(sys.argv[1:]) else nullcontext():
        try:
            app(prog_name="ttstrain")
        except Exception:  # any other error is a bug of ours: show the whole traceback and say so
            with suppress(OSError):
                print(without_logins(escaped(traceback.format_exc())), end="", file=sys.stderr)
            print_error(
                "internal error: this is a bug in ttstrain",
                hint="please report the lines above together with the output of `ttstrain env`",
            )
            sys.exit(INTERNAL_ERROR)
        finally:
            ended = end_all()
            _let_go_of_lost_streams()
            if not ended:  # Python would wait for it for ever
                os._exit(_exit_code(sys.exc_info()[1]))


def _trains(arguments: Sequence[str]) -> bool:
    return bool(arguments) and arguments[0] in ("finetune", "resume")


def _exit_code(error: BaseException | None) -> int:
    if isinstance(error, SystemExit):
        return error.code if isinstance(error.code, int) else int(error.code is not None)
    return 0 if error is None else CTRL_C if isinstance(error, KeyboardInterrupt) else INTERNAL_ERROR


def _let_go_of_lost_streams() -> None:
    """Discard output that a closed pipe or a full disk refused: Python would end with exit code 120 because of it."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError):
            with suppress(OSError, ValueError):
                nowhere = os.open(os.devnull, os.O_WRONLY)
                os.dup2(nowhere, stream.fileno())
                os.close(nowhere)
