from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from ttstrain.cli.main import app
from ttstrain.cli.recipes import _listing
from ttstrain.plan.resolve import parse
from ttstrain.recipe.compose import compose
from ttstrain.recipe.shipped import SCHEMA_LINE, find_recipe, list_recipes, schema_path

run = CliRunner().invoke


def test_recipes_alone_lists_them() -> None:
    for arguments in (["recipes"], ["recipes", "list"]):
        lines = run(app, arguments).stdout.splitlines()
        assert [line.split()[0] for line in lines] == [entry.name for entry in list_recipes()]


@pytest.mark.parametrize("width", [80, 200])
def test_on_a_terminal_recipes_stand_in_groups_within_its_width(width: int) -> None:
    lines = _listing(26, width)
    assert max(map(len, lines)) <= width
    listed = [line.split()[0] for line in lines if line.startswith("  ") and not line.startswith("   ")]
    assert sorted(listed) == sorted(entry.name for entry in list_recipes())
    titles = [line for line in lines if line and not line.startswith(" ")]
    assert any("nothing to download" in title for title in titles)


def test_a_recipe_is_shown_as_it_is() -> None:
    assert run(app, ["recipes", "show", "quickstart"]).stdout == find_recipe("quickstart").read_text(encoding="utf-8")


def test_a_copy_is_a_recipe_that_editors_check(tmp_path: Path) -> None:
    target = tmp_path / "deep" / "mine.yaml"
    target.parent.mkdir()
    assert run(app, ["recipes", "copy", "smoke/flow", str(target)]).stdout == f"{target}\n"
    first, *rest = target.read_text(encoding="utf-8").splitlines()
    assert (target.parent / first.removeprefix(SCHEMA_LINE)).resolve() == schema_path().resolve()
    assert rest == find_recipe("smoke/flow").read_text(encoding="utf-8").splitlines()[1:]
    assert parse(compose(target)) == parse(compose("smoke/flow"))


def test_a_copy_into_a_folder_keeps_its_name(tmp_path: Path) -> None:
    run(app, ["recipes", "copy", "quickstart", str(tmp_path)])
    assert (tmp_path / "quickstart.yaml").is_file()


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    mine = tmp_path / "quickstart.yaml"
    mine.write_text("mine", encoding="utf-8")
    shown = run(app, ["recipes", "copy", "quickstart", str(tmp_path)])
    assert shown.exit_code == 2
    assert "exists already" in shown.stderr
    assert mine.read_text(encoding="utf-8") == "mine"


def test_a_misspelt_recipe_is_told_its_nearest_name() -> None:
    shown = run(app, ["recipes", "show", "quickstrat"])
    assert shown.exit_code == 2
    assert "did you mean `quickstart`?" in shown.stderr
