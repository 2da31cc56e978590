"""Files of the F5-TTS project: what they hold, which net they are, and where their training stands.

Upstream writes training files of five entries and publishes EMA weights only; users prune or wrap either. A file does
not name its architecture. Most of it follows from shapes, but v0 and v1 nets have the same keys and shapes: for these,
file names and settings beside the file are read, and what stays unknown is reported.
"""

from __future__ import annotations

import glob
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ttstrain import documents
from ttstrain.contract.checkpoint import CheckpointKind, Label, OpenedCheckpoint, OptimizerGroup, SchedulePosition
from ttstrain.data.texts import VOCAB
from ttstrain.errors import CheckpointError, RecipeError
from ttstrain.families.flow import project_files
from ttstrain.families.flow.interpretations import VERSIONS
from ttstrain.families.flow.vocab import hash_of
from ttstrain.recipe import yaml12
from ttstrain.tensors.contents import Contents
from ttstrain.tensors.optimizer_state import counter, number, read_optimizer
from ttstrain.tensors.tensorfile import StoredTensor

METADATA_KEY = "ttstrain"  # of safetensors metadata: JSON with `task` and `model`, as our export writes it

_PREFIX = "transformer."
_SIGN = ("time_embed.time_mlp.0.weight", "text_embed.text_embed.weight", "proj_out.weight")
_LAYERS = (
    ("transformer_blocks.0.attn.to_q.weight", "transformer_blocks.0.ff.ff.0.0.weight"),
    ("layers.0.2.to_q.weight", "layers.0.4.ff.0.0.weight"),
)
_WRAPPERS = ("ema_model.", "module.", "_orig_mod.")  # EMA, DDP and torch.compile put these before a key
_RETIRED = "mel_spec.mel_stft."  # buffers of releases before 1.0, which the nets no longer have
BUFFERS = frozenset(["transformer.rotary_embed.inv_freq"])  # keys of a state dict that are not parameters
_NAMES_READ = 3  # parts of a path that may name the net: the file and two folders
_ADAMW = {"step", "exp_avg", "exp_avg_sq"}
_EMA_SCALARS = ("initted", "step", "update")
_MODEL, _EMA, _OPTIMIZER, _SCHEDULE = (
    "model_state_dict",
    "ema_model_state_dict",
    "optimizer_state_dict",
    "scheduler_state_dict",
)
# Settings that decide what the weights mean, rather than how they are trained or used.
_IDENTITY = (
    "backbone",
    "dim",
    "depth",
    "heads",
    "dim_head",
    "ff_mult",
    "text_dim",
    "conv_layers",
    "text_mask_padding",
    "pe_attn_head",
    "qk_norm",
    "long_skip_connection",
    "text_embedding_average_upsampling",
    "skip_connect_type",
    "mel",
    "n_mels",
)


@dataclass(frozen=True, slots=True)
class Preset:
    """A published net. v0 and v1 differ only in `flags`, not in shapes."""

    name: str
    version: str
    shape: Mapping[str, Any]
    flags: Mapping[str, Any]
    mel: str = "vocos"


_V1, _V0 = VERSIONS["v1"], VERSIONS["v0"]
_FLAGS = (*_V1, "mel")  # what shapes do not tell
_OPTIONS = ("text_embedding_average_upsampling",)  # neither do they tell these, which the published nets do not use
_DIT_BASE = {"backbone": "dit", "dim": 1024, "depth": 22, "heads": 16, "ff_mult": 2, "text_dim": 512, "conv_layers": 4}
_DIT_SMALL = {**_DIT_BASE, "dim": 768, "depth": 18, "heads": 12}
_UNETT_BASE = {
    "backbone": "unett",
    "dim": 1024,
    "depth": 24,
    "heads": 16,
    "ff_mult": 4,
    "text_dim": 100,
    "conv_layers": 0,
}
_UNETT_SMALL = {**_UNETT_BASE, "dim": 768, "depth": 20, "heads": 12}
PRESETS = (
    Preset("F5TTS_v1_Base", "v1", _DIT_BASE, _V1),
    Preset("F5TTS_Base", "v0", _DIT_BASE, _V0),
    Preset("F5TTS_Base_bigvgan", "v0", _DIT_BASE, _V0, mel="bigvgan"),
    Preset("F5TTS_v1_Small", "v1", _DIT_SMALL, _V1),
    Preset("F5TTS_Small", "v0", _DIT_SMALL, _V0),
    Preset("E2TTS_Base", "v0", _UNETT_BASE, _V0),
    Preset("E2TTS_Small", "v0", _UNETT_SMALL, _V0),
)


class F5Format:
    """Reads what F5-TTS trains, publishes and prunes."""

    name = "f5"

    def sniff(self, contents: Contents) -> bool:
        """Tell by the keys of a DiT or UNetT over text and mel."""
        return any(_is_net(_normalised(state).tensors) for state in _state_dicts(contents.tree).values())

    def read(self, contents: Contents) -> OpenedCheckpoint:
        """Translate to `transformer.*` keys: raw weights if the file has them, else EMA weights."""
        tree = contents.tree
        states = {name: _normalised(state) for name, state in _state_dicts(tree).items()}
        states = {name: state for name, state in states.items() if _is_net(state.tensors)}
        ema, raw = states.get(_EMA), states.get(_MODEL)
        used = raw or ema
        assert used is not None  # or `sniff` would have refused
        architecture = _architecture(contents, used)
        notes = [*used.notes, *architecture.notes]
        schedule = _schedule(tree.get(_SCHEDULE)) if isinstance(tree, Mapping) else None
        training = _Training.of(tree, used.tensors) if _OPTIMIZER in tree else _Training()
        notes += training.notes
        if schedule is None and isinstance(tree, Mapping) and tree.get(_SCHEDULE) is not None:
            notes.append(f"the position in its LR schedule is left out: `{_SCHEDULE}` is not the state of one")
        if schedule is not None and schedule.ended:
            notes.append(_ended(schedule, training.groups))
        if raw is None and ema is not None and ema.step is not None and ema.wrapped:
            notes.append(f"holds EMA weights only; its EMA step {ema.step:,} is ignored and EMA warm-up starts at 0")
        front_end = _front_end(contents)
        vocab, vocab_notes = _vocab_beside(contents.path, used.tensors, told=front_end.get(VOCAB))
        notes += _project_notes(contents.path)
        return OpenedCheckpoint(
            path=contents.path,
            family="flow",
            task="flow",
            kind=_kind(tree, ema),
            model=architecture.label.model,
            version=architecture.label.version,
            config=architecture.label.config,
            unknown=architecture.unknown,
            sources=architecture.sources,
            weights=used.tensors,
            ema=None if ema is None or not ema.wrapped else ema.tensors,
            ema_step=None if ema is None else ema.step,
            optimizer_state=training.optimizer_state,
            groups=training.groups,
            schedule=schedule,
            step=training.step if training.step is not None else used.update,
            buffers=BUFFERS,
            vocab=vocab,
            globals=contents.globals,
            front_end=front_end,
            notes=(*notes, *vocab_notes),
        )

    def label(self, model: Mapping[str, Any]) -> Label:
        """Name the published net that a `model:` section describes, or describe it."""
        config = {key: model[key] for key in _IDENTITY if key in model}
        for preset in PRESETS:
            same_mel = model.get("mel", preset.mel) == preset.mel
            if same_mel and _agrees(model, preset.shape) and _agrees(model, preset.flags):
                return Label(preset.name, preset.version, config, BUFFERS)
        version = next((version for version, flags in (("v1", _V1), ("v0", _V0)) if _agrees(model, flags)), "own flags")
        return Label(_describe(model), version, config, BUFFERS)


def _project_notes(path: Path) -> list[str]:
    try:
        return project_files.notes_on(path)
    except (RecipeError, CheckpointError) as error:  # a damaged project file does not make the checkpoint unusable
        return [error.message]


def _agrees(model: Mapping[str, Any], flags: Mapping[str, Any]) -> bool:
    return all(model.get(key) == value for key, value in flags.items())


def _describe(model: Mapping[str, Any]) -> str:
    kind = {"dit": "DiT", "unett": "UNetT"}.get(str(model.get("backbone")), "net")
    return f"{kind}, dim {model.get('dim')}, depth {model.get('depth')}, heads {model.get('heads')}"


# ---------------------------------------------------------------- state dicts


@dataclass(frozen=True, slots=True)
class _State:
    """One state dict under our keys."""

    tensors: Mapping[str, StoredTensor]
    wrapped: bool  # keys had `ema_model.` or there was an EMA step: EMA weights, whatever entry they are in
    step: int | None  # updates counted by the EMA
    update: int | None
    notes: tuple[str, ...]


def _state_dicts(tree: Any) -> dict[str, Mapping[str, Any]]:
    """Find the state dicts of a file: by their entries in a .pt, or the file itself."""
    if not isinstance(tree, Mapping):
        return {}
    named = {name: tree[name] for name in (_MODEL, _EMA) if isinstance(tree.get(name), Mapping)}
    if named:
        return named
    is_ema = any(str(key).startswith(_WRAPPERS[0]) for key in tree) or "initted" in tree
    return {_EMA if is_ema else _MODEL: tree}


def _normalised(state: Mapping[str, Any]) -> _State:
    tensors: dict[str, StoredTensor] = {}
    scalars: dict[str, int | None] = {}
    stripped: set[str] = set()
    retired = 0
    for original, value in state.items():
        key = str(original)
        while wrapper := next((prefix for prefix in _WRAPPERS if key.startswith(prefix)), None):
            stripped.add(wrapper)
            key = key[len(wrapper) :]
        if key in _EMA_SCALARS:
            scalars[key] = counter(value)
        elif key.startswith(_RETIRED):
            retired += 1
        elif isinstance(value, StoredTensor):
            tensors[key] = value
    notes = [f"dropped {retired} mel buffers that nets no longer have ({_RETIRED}*)"] if retired else []
    notes += [f"removed the prefix `{prefix}` from keys" for prefix in _WRAPPERS[1:] if prefix in stripped]
    return _State(
        tensors=tensors,
        wrapped=_WRAPPERS[0] in stripped or "initted" in scalars,
        step=scalars.get("step"),
        update=scalars.get("update"),
        notes=tuple(notes),
    )


def _is_net(tensors: Mapping[str, Any]) -> bool:
    return all(_PREFIX + key in tensors for key in _SIGN) and any(
        all(_PREFIX + key in tensors for key in layer) for layer in _LAYERS
    )


def _kind(tree: Mapping[str, Any], ema: _State | None) -> CheckpointKind:
    if _OPTIMIZER in tree:
        return "training"
    return "base" if ema is not None and ema.wrapped else "export"


# ---------------------------------------------------------------- architecture


@dataclass(frozen=True, slots=True)
class _Architecture:
    label: Label
    unknown: tuple[str, ...]
    sources: Mapping[str, str]  # key of the section -> source of its value, if not the tensors
    notes: tuple[str, ...] = ()


def _architecture(contents: Contents, state: _State) -> _Architecture:
    config = _shape_config(state.tensors)
    told = _stated(contents, config)
    config.update(told.flags)
    if config["backbone"] == "unett":
        config = {**_V0, **config}  # upstream has trained no other UNetT
    unknown = tuple(key for key in _FLAGS if key not in config)
    notes = list(told.notes)
    if sources := ", ".join(dict.fromkeys(told.sources.values())):
        notes.append(f"{', '.join(told.flags)} taken from {sources}")
    if "mel" in unknown:
        notes.append("mel type unknown (vocos or bigvgan): tensors, file name and settings do not say")
    if not any(key in unknown for key in _V1):
        return _Architecture(F5Format().label(config), unknown, told.sources, tuple(notes))
    presets = [
        preset for preset in PRESETS if _agrees(config, preset.shape) and config.get("mel", "vocos") == preset.mel
    ]
    model = " or ".join(dict.fromkeys(preset.name for preset in presets)) or _describe(config)
    notes.append(
        "version unknown (v0 or v1): both have the same keys and shapes, and file name and settings do not say"
    )
    return _Architecture(Label(model, "v0 or v1", config, BUFFERS), unknown, told.sources, tuple(notes))


def _shape_config(tensors: Mapping[str, StoredTensor]) -> dict[str, Any]:
    """Derive settings from tensor shapes."""
    net = {key[len(_PREFIX) :]: stored.shape for key, stored in tensors.items() if key.startswith(_PREFIX)}
    backbone = "dit" if any(key.startswith("transformer_blocks.") for key in net) else "unett"
    stem, attention = ("transformer_blocks", "attn") if backbone == "dit" else ("layers", "2")
    dim, inner = net["proj_out.weight"][1], net[f"{stem}.0.{attention}.to_q.weight"][0]
    dim_head = 2 * net["rotary_embed.inv_freq"][0] if "rotary_embed.inv_freq" in net else 64
    feed_forward = "ff.ff.0.0.weight" if backbone == "dit" else "4.ff.0.0.weight"
    config: dict[str, Any] = {
        "backbone": backbone,
        "dim": dim,
        "depth": _count(net, stem),
        "heads": inner // dim_head,
        "dim_head": dim_head,
        "ff_mult": net[f"{stem}.0.{feed_forward}"][0] // dim,
        "text_dim": net["text_embed.text_embed.weight"][1],
        "conv_layers": _count(net, "text_embed.text_blocks"),
        "qk_norm": "rms_norm" if f"{stem}.0.{attention}.q_norm.weight" in net else None,
        "n_mels": net["proj_out.weight"][0],
    }
    if backbone == "dit":
        config["long_skip_connection"] = "long_skip_connection.weight" in net
    return config


def _count(net: Mapping[str, Any], stem: str) -> int:
    return len({key[len(stem) + 1 :].partition(".")[0] for key in net if key.startswith(f"{stem}.")})


@dataclass(frozen=True, slots=True)
class _Flags:
    """Flags that do not follow from shapes, and the source of each."""

    flags: Mapping[str, Any]
    sources: Mapping[str, str]
    notes: tuple[str, ...] = ()


def _stated(contents: Contents, shape: Mapping[str, Any]) -> _Flags:
    """Read flags from our metadata, else from settings beside the file and published names in its path.

    Flags on which these sources disagree are left out, with a note."""
    if contents.metadata and METADATA_KEY in contents.metadata:
        try:
            model = documents.parse(contents.metadata[METADATA_KEY])["model"]
            own = {key: model[key] for key in (*_FLAGS, *_OPTIONS) if key in model}
        except (ValueError, KeyError, TypeError) as error:
            raise CheckpointError(f"the metadata of `{contents.path}` cannot be read: {error}") from error
        return _Flags(own, dict.fromkeys(own, "the file's own metadata"))
    flags: dict[str, Any] = {}
    sources: dict[str, str] = {}
    disputed: dict[str, str] = {}
    for source, said in _flag_sources(contents.path, shape):
        for key, value in said.items():
            if key in flags and flags[key] != value:
                disputed[key] = (
                    f"conflicting `{key}`: {flags[key]} ({sources[key]}) and {value} ({source}); both ignored"
                )
            flags.setdefault(key, value)
            sources.setdefault(key, source)
    for key in disputed:
        del flags[key], sources[key]
    return _Flags(flags, sources, tuple(disputed.values()))


def _flag_sources(path: Path, shape: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield sources of a file's flags and their values: settings beside it, then names."""
    for file in sorted(path.parent.glob("*.y*ml")):
        if said := _flags_in_yaml(file, shape):
            yield f"`{file.name}`", said
    if said := _flags_in_gui(path.parent / "setting.json", shape):
        yield "`setting.json`", said
    for part in _names(path):
        if said := _flags_in_name(part, shape):
            yield f"the name `{part}`", said
            break


def _names(path: Path) -> list[str]:
    """List the parts of a path that may name the net, the file's own first; a Hub snapshot's hash is none."""
    parts = list(path.absolute().parts[::-1])
    if "snapshots" in parts[: _NAMES_READ + 2]:
        number = parts.index("snapshots")
        del parts[number - 1 : number + 1]
    return parts[:_NAMES_READ]


def _flags_in_name(name: str, shape: Mapping[str, Any]) -> dict[str, Any]:
    for preset in PRESETS:
        # `F5TTS_Base` is not part of `F5TTS_v1_Base`; what follows may be `_bigvgan`, `_no_zero_init`, ...
        if re.search(rf"(?<![A-Za-z0-9]){preset.name}(?![A-Za-z0-9])", name) and _agrees(shape, preset.shape):
            return {**preset.flags, "mel": "bigvgan" if "bigvgan" in name else "vocos"}
    return {}


def _flags_in_yaml(path: Path, shape: Mapping[str, Any]) -> dict[str, Any]:
    """Read a training configuration of upstream; empty when it is none, or of another net.

    Early ones leave the flags out of `model.arch`: then `model.name` tells.
    """
    try:
        model = yaml12.read_file(path, error=CheckpointError)["model"]
        arch = dict(model["arch"])
        mel = dict(model.get("mel_spec") or {}).get("mel_spec_type")
        named = _flags_in_name(str(model.get("name", "")), shape)
    except (CheckpointError, KeyError, TypeError, ValueError, AttributeError):
        return {}
    if any(key in shape and shape[key] != value for key, value in arch.items()):
        return {}
    said = (
        {key: arch[key] for key in _V1}
        if all(key in arch for key in _V1)
        else {key: named[key] for key in _V1 if named}
    )
    said |= {key: arch[key] for key in _OPTIONS if key in arch}
    return {**said, "mel": mel} if mel in ("vocos", "bigvgan") else said


def _flags_in_gui(path: Path, shape: Mapping[str, Any]) -> dict[str, Any]:
    """Read what upstream's finetuning page keeps of a project; it trains published nets, on vocos mels."""
    try:
        name = documents.read_object(path, error=CheckpointError, keys={"exp_name": str})["exp_name"]
    except CheckpointError:
        return {}
    return _flags_in_name(name, shape)


# ---------------------------------------------------------------- training state


@dataclass(frozen=True, slots=True)
class _Training:
    """Training state of an upstream run."""

    optimizer_state: Mapping[str, Mapping[str, Any]] | None = None
    groups: tuple[OptimizerGroup, ...] = ()
    step: int | None = None
    notes: tuple[str, ...] = ()

    @classmethod
    def of(cls, tree: Mapping[str, Any], weights: Mapping[str, StoredTensor]) -> _Training:
        """Map the optimizer's numbered states to parameter names; both are in registration order."""
        optimizer = read_optimizer(tree[_OPTIMIZER])
        if optimizer is None:
            return cls(notes=(f"optimizer state left out: `{_OPTIMIZER}` is not the state of a torch optimizer",))
        names = [key for key in weights if key not in BUFFERS]
        indices = [index for group in optimizer.groups for index in group.params]
        notes: list[str] = []
        optimizer_state: dict[str, Mapping[str, Any]] | None = None
        if len(indices) != len(names):
            notes.append(f"optimizer state left out: it has {len(indices)} parameters, the net {len(names)}")
        else:
            optimizer_state = {name: optimizer.of(index) for name, index in zip(names, indices, strict=True)}
            if misfit := next((name for name in names if not _fits(optimizer_state[name], weights[name])), None):
                notes.append(f"optimizer state left out: `{misfit}` has no AdamW state of its shape")
                optimizer_state = None
        # Where the two differ in number, as noted above, the rest stays unpaired and is not counted.
        by_index = dict(zip(indices, names, strict=False))
        groups = tuple(
            OptimizerGroup(
                name="default" if len(optimizer.groups) == 1 else f"group-{place}",
                lr=group.lr,
                weight_decay=group.weight_decay,
                parameters=sum(weights[by_index[index]].numel for index in group.params if index in by_index),
            )
            for place, group in enumerate(optimizer.groups)
        )
        step, step_notes = _updates(tree, optimizer.states)
        return cls(optimizer_state=optimizer_state, groups=groups, step=step, notes=(*notes, *step_notes))


def _fits(state: Mapping[str, Any], weight: StoredTensor) -> bool:
    return set(state) <= _ADAMW and all(
        isinstance(value, StoredTensor) and value.shape == weight.shape for key, value in state.items() if key != "step"
    )


def _updates(tree: Mapping[str, Any], states: Mapping[int, Mapping[str, Any]]) -> tuple[int | None, list[str]]:
    """Return the number of updates. Files before 0.4.0 count micro-batches as `step`; the optimizer knows better."""
    if "update" in tree:
        updates = counter(tree["update"])
        return updates, [] if updates is not None else ["its number of updates is no number: left out"]
    micro_batches = counter(tree.get("step"))
    if micro_batches is None:
        return None, ["its step is no number: left out"] if "step" in tree else []
    counted = [found for state in list(states.values())[:1] if (found := counter(state.get("step"))) is not None]
    if not counted:
        return micro_batches, [f"an old file: its step {micro_batches:,} may count micro-batches instead of updates"]
    return counted[0], [
        f"an old file: its step {micro_batches:,} counts micro-batches; the optimizer counted {counted[0]:,} updates"
    ]


def _schedule(state: Any) -> SchedulePosition | None:
    """Read a SequentialLR of two linear parts, which is what upstream's trainer makes; None for anything else."""
    position = counter(state.get("last_epoch")) if isinstance(state, Mapping) else None
    if position is None:
        return None
    (last,) = _items(state.get("_schedulers"))[-1:] or [state]
    milestones = [counter(milestone) for milestone in _items(state.get("_milestones"))[-1:]]
    length = counter(last.get("total_iters")) if isinstance(last, Mapping) else None
    total = None if length is None else sum(milestone or 0 for milestone in milestones) + length
    lrs = [lr for lr in map(number, _items(state.get("_last_lr"))) if lr is not None]
    return SchedulePosition(
        position=position,
        total=total,
        ended=total is not None and position >= total,
        lr_next=max(lrs, default=None),
    )


def _items(value: Any) -> Sequence[Any]:
    return value if isinstance(value, list | tuple) else ()


def _ended(schedule: SchedulePosition, groups: Sequence[OptimizerGroup]) -> str:
    lr = schedule.lr_next if schedule.lr_next is not None else max((group.lr for group in groups), default=math.nan)
    return f"upstream's LR schedule ended at step {schedule.total:,}; upstream would continue at LR {lr:.3g}"


# ---------------------------------------------------------------- vocab


def _front_end(contents: Contents) -> dict[str, str]:
    """Read from our metadata what decided on tokens in training; empty in another trainer's file."""
    try:
        told = documents.parse((contents.metadata or {})[METADATA_KEY])
        versions = {str(name): str(version) for name, version in told.get("front_end", {}).items()}
        return {**({VOCAB: f"sha256:{told['vocab']['sha256']}"} if "vocab" in told else {}), **versions}
    except (ValueError, KeyError, TypeError, AttributeError):
        return {}


def _vocab_beside(
    path: Path, tensors: Mapping[str, StoredTensor], *, told: str | None
) -> tuple[Path | None, list[str]]:
    """Find the vocab that a file was trained with, and report problems with it.

    It is identified by its hash where the file states one (`told`), else by its number of lines.
    """
    wanted = tensors[f"{_PREFIX}text_embed.text_embed.weight"].shape[0] - 1
    notes = []
    for vocab in _vocab_places(path):
        content = documents.read_bytes(vocab, error=CheckpointError)
        whole = content.endswith(b"\n")
        count = content.count(b"\n") + (0 if whole else 1)
        if count != wanted:
            notes.append(f"`{vocab.name}` beside it is not its vocab: {count:,} tokens, the net has {wanted:,}")
        elif told is not None and hash_of(str(vocab)) != told:
            notes.append(f"`{vocab.name}` beside it is not its vocab: same number of tokens, but another hash")
        else:
            if not whole:
                notes.append(f"`{vocab.name}` does not end with a newline: upstream would cut its last token short")
            return vocab, notes
    return None, notes


def _vocab_places(path: Path) -> list[Path]:
    """List vocabs beside a file, then those of the data that an upstream project of this name was trained on."""
    folder = path.absolute().parent
    beside = [folder / "vocab.txt", *sorted(set(folder.glob("*vocab*.txt")) - {folder / "vocab.txt"})]
    prepared = sorted((folder.parent.parent / "data").glob(f"{glob.escape(folder.name)}_*/vocab.txt"))
    return [place for place in (*beside, *prepared) if place.is_file()]
