"""The base that ships: small, whole, of the settings that ship with it, and named wherever a checkpoint is."""

from __future__ import annotations

import json
from pathlib import Path

import soundfile
from small_runs import ttstrain

from ttstrain.checkpoint.upstream import open_checkpoint, resolve_base
from ttstrain.plan.resolve import parse
from ttstrain.recipe.compose import compose
from ttstrain.recipe.shipped import base_path

BASE = "package:small_f5"


def test_it_takes_at_most_six_megabytes_with_its_papers() -> None:
    folder = base_path(BASE)
    assert sum(file.stat().st_size for file in folder.rglob("*") if file.is_file()) <= 6_000_000
    for notice in ("README.md", "LICENSE.txt", "provenance.json"):
        assert (folder / notice).stat().st_size > 200


def test_it_is_the_net_of_the_recipes_that_start_from_it() -> None:
    opened = open_checkpoint(resolve_base(BASE))
    for name in ("quickstart", "f5_new_voice", "small_base"):
        recipe = parse(compose(name, []))
        assert recipe.base == (None if name == "small_base" else BASE)
        opened.check_model(recipe.section())
    assert opened.config["text_embedding_average_upsampling"] is True


def test_it_is_inspected_spoken_with_and_exported_by_its_name(tmp_path: Path) -> None:
    told = json.loads(ttstrain("inspect-ckpt", BASE, "--json").stdout)
    assert (told["family"], told["parameters"]) == ("flow", 2_748_196)
    assert set(told["dtypes"]) == {"float16", "float32"}
    spoken = ttstrain("sample", BASE, "--text", "Read me.", "model.sampling.steps=2", "-o", tmp_path / "out.wav")
    assert spoken.returncode == 0, spoken.stderr
    assert soundfile.info(tmp_path / "out.wav").frames > 2400
    exported = ttstrain("export", BASE, "--recipe", "quickstart", "--format", "half", "-o", tmp_path / "again")
    assert exported.returncode == 0, exported.stderr
    missing = ttstrain("sample", "package:large_f5", "--text", "Read me.", "-o", tmp_path / "out.wav")
    assert missing.returncode == 4
    assert "hint: there is package:small_f5" in missing.stderr
