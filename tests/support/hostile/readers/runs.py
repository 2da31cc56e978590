"""Readers of the files that a run leaves in its folder, and of the folders that other trainers prepare."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from hostile.catalogue import Reader, Sample, files_in
from hostile.mutation import NO_FILE, NO_LINE, NOTHING, Edit, Files
from hostile.pickles import edit_zip
from hostile.pool import MAY_CHANGE, Seen
from hostile.readers.data import seen_rows, sound
from hostile.readers.lists import any_json
from hostile.readers.tensor_files import digest_of, saved, small_net
from hostile.sounds import edit_wav
from hostile.tables import edit_table
from hostile.trees import edit_json, edit_json_lines, edit_yaml
from ttstrain.bands.facts import Facts
from ttstrain.bands.outcome import Outcome, write_outcome
from ttstrain.checkpoint import base_record, judged, pointers, run_folder, store
from ttstrain.checkpoint.inspect import inspect
from ttstrain.checkpoint.judged import Judged, JudgedStep
from ttstrain.checkpoint.meta import Meta
from ttstrain.data.earlier import read_earlier
from ttstrain.data.readers import read_rows
from ttstrain.plan.resolve import parse
from ttstrain.recipe.compose import compose_run
from ttstrain.report.record import Reader as RunReader
from ttstrain.report.write import write_page
from ttstrain.runs import origin, sessions
from ttstrain.runs.folder import refuse_links
from ttstrain.tracking import jsonl, wandb_rows
from ttstrain.tracking.judged import read_verdicts
from ttstrain.tracking.tracker import RunInfo

RUN = "run"


def _edit_of(name: str) -> Edit:
    endings: dict[str, Edit] = {".jsonl": edit_json_lines, ".json": edit_json, ".yaml": edit_yaml, ".wav": edit_wav}
    return endings.get(Path(name).suffix, edit_table)


def _judged_step(step: int) -> JudgedStep:
    interval = {"mean": 0.1, "low": 0.05, "high": 0.15, "clips": 4}
    side = {"figures": {"voice": interval}, "faults": [], "score": 0.5, "against_base": {"voice": interval}}
    return JudgedStep(step, "online", "better", "closer to the voice", 0.5, {"online": side, "base": side}, {}, 4, 2)


def _run(folder: Path) -> Sequence[Sample]:
    """Write a run's folder with all that `report`, `watch` and `resume` read."""
    from run_folders import write_run

    run = write_run(folder / RUN, steps=20)
    _describe(run)
    for step in (10, 20):
        state = {"task": small_net().state_dict(), "progress": {"step": step, "owes_evaluation": False}}
        meta = Meta(family="flow", task="flow", model={"dim": 4}, recipe="made", step=step)
        store.save(run / "checkpoints" / f"step-{step:08d}", state, meta)
    for name in (pointers.LAST, pointers.BEST):
        pointers.write_pointer(run / "checkpoints" / name, "step-00000020")
    files = {f"{RUN}/{name}": content for name, content in files_in(run).items()}
    edited = [name for name in files if "/checkpoints/step-" not in name]
    return [Sample(files, name, _edit_of(name), allowed=NO_FILE) for name in edited]


def _describe(run: Path) -> None:
    """Write what `write_run` leaves out."""
    recipe = "task: flow\nname: made\nmodel: {dim: 32, depth: 1}\ndata: {path: 'package:demo'}\ntrain: {steps: 20}\n"
    (run / "recipe.yaml").write_text(recipe, encoding="utf-8")
    plan = json.loads((run / "plan.json").read_bytes())
    (run / "plan.json").write_bytes(any_json({**plan, "save_every": 10}))
    environment = {"run_id": "abcd", "directory": "/", "command": ["finetune", "r.yaml"], "goes_on_from": None}
    (run / "env.json").write_bytes(any_json({**environment, "packages": {"torch": "2"}, "cpu_kernels": True}))
    facts = Facts("flow", "", 4, "a", "b", "c", "d", {}, {}, 9, {}, {"optim.lr": 1e-3})
    write_outcome(run, Outcome("quickstart", facts, place="inside", step=20, sentences=("It lies inside.",)))
    judged.write(run, Judged([_judged_step(10), _judged_step(20)], {}))
    base_record.write(run, ["base.safetensors"], {})
    (run / "forecast.json").write_bytes(any_json({"took": {"total_s": 9.0}, "forecast": {"taken": {"total_s": 8.0}}}))
    names = {"data": ["id:clip-0"], "replay": []}
    (run / "data" / "split.json").write_bytes(any_json(names))
    wandb_rows.write(run, 5)
    wandb_rows.write_place(run, project="p", entity="e")
    for name in ("recipe.yaml", "plan.json", "env.json"):
        place = run / "sessions" / "0001" / name
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes((run / name).read_bytes())


def _read_report(folder: Path) -> Seen:
    """Write a run's page twice, as `report` does and as `watch` does when the files have changed."""
    reader = RunReader(folder / RUN)
    reader.read(status="running")
    record = reader.read()
    write_page([record], folder / "report.html")
    notes = [*record.notes, *record.data.notes, *record.grid.notes]
    return Seen(json.dumps(asdict(record), default=str), told=bool(notes) or record.events.left_out > 0)


def _read_resumed(folder: Path) -> Seen:
    """Read a run's folder as `resume` does before it trains, and as commands do that take a run."""
    run = folder / RUN
    if origin.run_of(run) is None:
        return Seen("no run", told=True)
    refuse_links(run)
    begun = not origin.not_begun(run)
    found = origin.find(run, run=run, checkpoint=None, recipe=None) if begun else None
    recipe = parse(compose_run(run, [], origins=run_folder.origins(run)))
    warnings = run_folder.damage(run)
    before, notes = read_earlier(run)
    facts = [run_folder.name(run), run_folder.identity(run), run_folder.directory(run), run_folder.is_mute(run)]
    facts += [
        wandb_rows.read(run),
        wandb_rows.read_place(run),
        base_record.read(run),
        sessions.began_from_elsewhere(run),
    ]
    facts += [jsonl.last_step(run / jsonl.FILE_NAME), len(jsonl.read(run / jsonl.FILE_NAME))]
    verdicts = read_verdicts(run)
    inspect(run)
    clips = None if before is None else [clip.id for clip in before.data.train]
    return Seen(repr([found, recipe.model_dump(), facts, clips]), told=bool(warnings or notes or verdicts.sentences))


def _metrics(folder: Path) -> Sequence[Sample]:
    from run_folders import row

    name = f"{MAY_CHANGE}/{jsonl.FILE_NAME}"
    text = "".join(json.dumps(row(step)) + "\n" for step in range(10))
    return [Sample({name: text.encode()}, name, edit_json_lines, allowed=(*NO_LINE, NOTHING, "a link to nothing"))]


def _read_metrics(folder: Path) -> Seen:
    """Read the metrics of a run, keep its course, and go on with the file, as a resume does."""
    run = folder / MAY_CHANGE
    path = run / jsonl.FILE_NAME
    rows = jsonl.read(path) if path.exists() else []
    jsonl.keep_course(path, 5)
    tracker = jsonl.JsonlTracker(warn=lambda line: None)
    tracker.start(RunInfo("made", run, "abcd", True, {}, (), 20, 5, 4.0))
    tracker.log(6, {"train/loss/total": 0.5})
    tracker.finish("finished")
    return Seen(f"{rows} {jsonl.last_step(path)}")


# ---------------------------------------------------------------- folders of GPT-SoVITS


def _prepared(folder: Path) -> Sequence[Sample]:
    texts = "a.wav\tHH AH0 L\t[1, 2]\tfirst words\nb.wav\tW ER1\tNone\tsecond words\n"
    codes = "item_name\tsemantic_audio\na.wav\t1 2 3\nb.wav\t4 5\n"
    files: Files = {
        "2-name2text.txt": texts.encode(),
        "6-name2semantic.tsv": codes.encode(),
        "5-wav32k/a.wav": sound("WAV", "PCM_16"),
        "5-wav32k/b.wav": sound("WAV", "PCM_16"),
        "4-cnhubert/a.wav.pt": saved(torch.ones(1, 768, 4)),
        "3-bert/a.wav.pt": saved(torch.ones(1024, 3)),
        "7-sv_cn/a.wav.pt": saved(torch.ones(1, 20_480)),
    }
    features = [Sample(files, name, edit_zip, allowed=NO_FILE) for name in files if name.endswith(".pt")]
    return [
        Sample(files, "2-name2text.txt", edit_table),
        Sample(files, "2-name2text.txt", edit_table),
        Sample(files, "6-name2semantic.tsv", edit_table, allowed=NO_FILE),
        *features,
    ]


def _read_prepared(folder: Path) -> Seen:
    """Read the table, and every feature that lies ready."""
    from ttstrain.contract.data import Clip
    from ttstrain.families.gpt_sovits.features.ready import read_ready, ready_values

    table = read_rows(folder, cache_dir=str(folder / "cache"))
    seen = seen_rows(table)
    read: list[Any] = []
    for row in table.rows:
        assert row.audio is not None
        clip = Clip(
            id=row.id,
            path=row.audio,
            text=row.text,
            duration_s=0.6,
            sample_rate=16_000,
            tokens=row.tokens,
            ready=row.ready,
        )
        read += [ready_values(clip, "codes"), ready_values(clip, "word2ph")]
        read += [read_ready(clip, name) for name in ("ssl", "bert", "speaker")]
    meaning = digest_of(read)
    rows = [(row.id, row.text, row.tokens) for row in table.rows]
    return Seen(f"{rows} {meaning}", told=seen.told)


READERS = (
    Reader("run folders, for report and watch", _run, _read_report, 150),
    Reader("run folders, for resume", _run, _read_resumed, 100),
    Reader("metrics.jsonl", _metrics, _read_metrics, 300),
    Reader("folders that GPT-SoVITS prepared", _prepared, _read_prepared, 120),
)
