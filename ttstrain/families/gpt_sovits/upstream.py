"""Files of the GPT-SoVITS project: their net, version, weights and training state.

Names in them: "s1" is the GPT, "s2G" the VAE, "s2D" its discriminator. Published and exported files are
`{weight, config, info}`; the VAE's training writes `G_*.pth` and `D_*.pth`, the GPT's writes Lightning's `.ckpt`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from ttstrain.contract.checkpoint import Absent, CheckpointKind, Label, OpenedCheckpoint
from ttstrain.errors import CheckpointError
from ttstrain.families.gpt_sovits.architecture import discriminator_section, gpt_section, identity, vae_section
from ttstrain.families.gpt_sovits.project import notes_on
from ttstrain.families.gpt_sovits.training_state import TrainingState, lightning_state, pair_state
from ttstrain.families.gpt_sovits.versions import PRO, TRAINED, by_tensors, tell, with_symbols
from ttstrain.tensors.contents import Contents, read_contents
from ttstrain.tensors.pickle_machine import Record
from ttstrain.tensors.tensorfile import StoredTensor

GPT, VAE, DISCRIMINATOR = "gpt.", "vae.", "discriminator."
BUFFERS = frozenset(
    f"vae.quantizer.vq.layers.0._codebook.{name}" for name in ("inited", "cluster_size", "embed", "embed_avg")
)
POSTERIOR = "vae.enc_q."  # missing in upstream's exports: needed for training, not for inference
LORA = ".lora_"
PAIR = re.compile(r"^(.*?)([GD])_(\d+)\.pth$")

Net = Literal["s1", "s2G", "s2D"]

_SIGNS: Mapping[Net, tuple[tuple[str, ...], ...]] = {  # each net has a key of every tuple
    "s1": (("model.ar_text_embedding.word_embeddings.weight",), ("model.bert_proj.weight",)),
    "s2G": (("enc_p.ssl_proj.", "cfm."), ("dec.conv_pre.", "bridge.", "wns1.")),  # of v3's adapters enc_p is no part
    "s2D": (("discriminators.0.convs.0.",),),
}
_PREFIXES: Mapping[Net, tuple[str, str]] = {"s1": ("model.", GPT), "s2G": ("", VAE), "s2D": ("", DISCRIMINATOR)}
_WRAPPERS = ("module.", "_orig_mod.")  # DDP and torch.compile put these before a key
_WEIGHT, _MODEL, _STATE_DICT = "weight", "model", "state_dict"


class SovitsFormat:
    """Reads what GPT-SoVITS publishes, trains and exports."""

    name = "gpt-sovits"

    def sniff(self, contents: Contents) -> bool:
        """Tell by the keys of a GPT, a VAE or a discriminator."""
        return _find(contents.tree) is not None

    def read(self, contents: Contents) -> OpenedCheckpoint:
        """Translate to `gpt.*`, `vae.*` and `discriminator.*`."""
        found = _find(contents.tree)
        assert found is not None  # or `sniff` would have refused
        if found.net == "s1":
            return _read_gpt(contents, found)
        return _read_vae(contents, found) if found.net == "s2G" else _read_discriminator(contents, found)

    def label(self, model: Mapping[str, Any]) -> Label:
        """Name the nets that a complete `model:` section describes."""
        told = identity(model)
        version = str(model.get("version", ""))
        names = [name for key, name in (("gpt", "GPT"), ("vae", "VAE")) if key in told]
        buffers = BUFFERS if "vae" in told else frozenset[str]()
        return Label(f"GPT-SoVITS {' and '.join(names)}", version, told, buffers)


@dataclass(frozen=True, slots=True)
class _Found:
    """A file's state dict, under upstream's own keys, and what lies beside it."""

    net: Net
    place: str  # the entry that holds the state dict
    tensors: Mapping[str, StoredTensor]
    tree: Mapping[str, Any]
    config: Mapping[str, Any]
    info: str

    @property
    def shapes(self) -> Mapping[str, tuple[int, ...]]:
        return {key: stored.shape for key, stored in self.tensors.items()}

    def weights(self) -> dict[str, StoredTensor]:
        """Return the tensors under the task's keys."""
        old, new = _PREFIXES[self.net]
        return {new + key.removeprefix(old): stored for key, stored in self.tensors.items()}


def _find(tree: Any) -> _Found | None:
    """Find the state dict of one of the nets in a file."""
    if not isinstance(tree, Mapping):
        return None
    for place in (_WEIGHT, _MODEL, _STATE_DICT, ""):
        state = tree.get(place) if place else tree
        if not isinstance(state, Mapping):
            continue
        tensors = {_bare(str(key)): value for key, value in state.items() if isinstance(value, StoredTensor)}
        net = next((net for net, signs in _SIGNS.items() if all(_any(tensors, sign) for sign in signs)), None)
        if net is None:
            continue
        config = plain(tree.get("config")) if place == _WEIGHT else plain(tree.get("hyper_parameters"))
        if place == _STATE_DICT and isinstance(config, Mapping):
            config = config.get("config")
        return _Found(
            net=net,
            place=place,
            tensors=tensors,
            tree=tree,
            config=config if isinstance(config, Mapping) else {},
            info=str(tree.get("info") or ""),
        )
    return None


def _bare(key: str) -> str:
    while wrapper := next((prefix for prefix in _WRAPPERS if key.startswith(prefix)), None):
        key = key[len(wrapper) :]
    return key


def _any(tensors: Mapping[str, Any], starts: tuple[str, ...]) -> bool:
    return any(key.startswith(starts) for key in tensors)


def plain(node: Any) -> Any:
    """Turn upstream's `HParams`, which a pickle holds as objects, into mappings."""
    if isinstance(node, Record):
        state = node.state if isinstance(node.state, Mapping) else node.entries
        return {str(key): plain(value) for key, value in state.items()} if state else _text(node)
    if isinstance(node, Mapping):
        return {str(key): plain(value) for key, value in node.items()}
    return [plain(value) for value in node] if isinstance(node, list | tuple) else node


def _text(node: Record) -> str:
    return "/".join(map(str, node.args)).replace("//", "/") if node.args else node.type


# ---------------------------------------------------------------- the GPT


def _read_gpt(contents: Contents, found: _Found) -> OpenedCheckpoint:
    section = gpt_section(found.shapes, found.config)
    rows = section["phoneme_vocab_size"]
    fits = with_symbols(rows)
    version = "v1" if fits == ("v1",) else "v2 and later" if fits else f"{rows} symbols"
    layers = f"{section['n_layer']} layer{'s' if section['n_layer'] != 1 else ''} of {section['hidden_dim']}"
    weights = found.weights()
    state = TrainingState()
    kind: CheckpointKind = "export" if found.info.startswith("GPT-e") else "base"
    notes = [f"info `{found.info}`"] if found.info else []
    if found.place == _STATE_DICT and "optimizer_states" in found.tree:
        kind = "training"
        state = lightning_state(found.tree, weights)
        notes += [*state.notes, *notes_on(contents.path)]
    return OpenedCheckpoint(
        path=contents.path,
        family="gpt_sovits",
        task="gpt_sovits/gpt",
        kind=kind,
        model=f"GPT-SoVITS GPT (s1), {layers}",
        version=version,
        config={"gpt": section},
        unknown=(),
        weights=weights,
        optimizer_state=state.optimizer_state,
        groups=state.groups,
        schedule=state.schedule,
        step=state.step,
        absent=_NO_VAE + _NO_DISCRIMINATOR,
        fits=frozenset(fits),
        globals=contents.globals,
        notes=tuple(notes),
    )


# ---------------------------------------------------------------- the VAE

_NO_GPT = (Absent("gpt.*", "the GPT is in another file", "add the GPT's file (`s1*.ckpt`)"),)
_NO_VAE = (Absent("vae.*", "the VAE is in another file", "add the VAE's file (`s2G*.pth`)"),)
_NO_DISCRIMINATOR = (
    Absent(
        "discriminator.*",
        "the discriminator is in another file",
        "add the published discriminator (`s2D*.pth`), or set `model.vae.discriminator=false`",
    ),
)
_NO_POSTERIOR = Absent(
    f"{POSTERIOR}*",
    "not in files for inference, as expected",
    "put the published `s2G*.pth` before it in `base:`; missing tensors are taken from there",
    f"no {POSTERIOR}*, as usual in files for inference; to train from it, put the published `s2G` before it in `base:`",
    to_train_only=True,
)


def _read_vae(contents: Contents, found: _Found) -> OpenedCheckpoint:
    training = found.place == _MODEL and "optimizer" in found.tree
    weights = found.weights()
    whole = any(key.startswith(POSTERIOR) for key in weights)
    exported = not training and not whole
    version = tell(found.shapes, found.config, path=contents.path, head=contents.head, exported=exported)
    absent = [*_NO_GPT, *_NO_DISCRIMINATOR]
    notes = [*_told_by_info(found.info), *version.notes]
    kind: CheckpointKind = "base" if whole else "export"
    pair = _Pair()
    step = _step_of(found.info)
    state = TrainingState()
    if training:
        kind = "training"
        state = pair_state(found.tree, weights, parameters=[key for key in weights if key not in BUFFERS])
        pair = _pair(contents.path, found)
        notes += [*state.notes, *pair.notes, *notes_on(contents.path)]
        step = state.step
    elif not whole and version.name in TRAINED:
        absent.append(_NO_POSTERIOR)
    rank = found.tree.get("lora_rank")
    if rank is not None or any(LORA in key for key in weights):
        kind = "adapter"
        notes.append(f"adapters of rank {rank}: inference needs the published {version.title} VAE too")
    if contents.head not in (b"PK", b"") and contents.container == "zip":
        notes.append(f"its first bytes are `{contents.head.decode('latin1')}`: other zip readers will not open it")
    refusal = ""
    if version.name not in TRAINED:
        refusal = f"is GPT-SoVITS {version.title}; ttstrain cannot train its flow-matching VAE yet"
        notes.append(f"ttstrain reads {version.title} but cannot train it yet")
    section = {} if refusal else vae_section(found.shapes, found.config)
    return OpenedCheckpoint(
        path=contents.path,
        family="gpt_sovits",
        task="gpt_sovits/vae",
        kind=kind,
        model="GPT-SoVITS VAE (s2G)",
        version=version.title,
        config={"vae": section} if version.open else {"version": version.name, "vae": section},
        unknown=("version",) if version.open and not refusal else (),
        weights=weights,
        optimizer_state=state.optimizer_state,
        groups=state.groups,
        schedule=state.schedule,
        step=step,
        buffers=BUFFERS,
        absent=tuple(absent),
        partners=pair.files,
        fits=frozenset(by_tensors(found.shapes)),
        refusal=refusal,
        globals=contents.globals,
        notes=tuple(notes),
        guesses=(version.guess,) if version.guess else (),
    )


def _read_discriminator(contents: Contents, found: _Found) -> OpenedCheckpoint:
    weights = found.weights()
    folds = len({key.split(".")[2] for key in weights}) - 1
    kind: CheckpointKind = "base"
    pair = _Pair()
    state, notes = TrainingState(), _told_by_info(found.info)
    if found.place == _MODEL and "optimizer" in found.tree:
        kind = "training"
        state = pair_state(found.tree, weights, parameters=list(weights))
        pair = _pair(contents.path, found)
        notes = [*state.notes, *pair.notes]
    return OpenedCheckpoint(
        path=contents.path,
        family="gpt_sovits",
        task="gpt_sovits/vae",
        kind=kind,
        model=f"GPT-SoVITS discriminator (s2D), {folds} periods",
        version=" or ".join(PRO) if folds > 5 else "v1 or v2",
        config={"vae": discriminator_section(found.shapes)},
        unknown=(),
        weights=weights,
        optimizer_state=state.optimizer_state,
        groups=state.groups,
        schedule=state.schedule,
        step=state.step,
        absent=_NO_GPT + _NO_VAE,
        partners=pair.files,
        fits=frozenset(by_tensors(found.shapes)),
        globals=contents.globals,
        notes=tuple(notes),
    )


_INFO = re.compile(r"(\d+)epoch_(\d+)iteration")


def _step_of(info: str) -> int | None:
    found = _INFO.fullmatch(info)
    return int(found[2]) if found else None


def _told_by_info(info: str) -> list[str]:
    found = _INFO.fullmatch(info)
    if found:
        return [f"exported after epoch {found[1]}"]
    return [f"info `{info}`"] if info else []


# ---------------------------------------------------------------- pairs of training files


@dataclass(frozen=True, slots=True)
class _Pair:
    """The other file of a VAE's training."""

    files: tuple[Path, ...] = ()
    notes: tuple[str, ...] = ()


def _pair(path: Path, found: _Found) -> _Pair:
    """Find the file that holds the other half: `D_7.pth` beside `G_7.pth`, and the reverse, of the same epoch."""
    named = PAIR.match(path.name)
    if named is None:
        return _Pair()
    what = "the discriminator" if named[2] == "G" else "the VAE"
    other = path.with_name(f"{named[1]}{'D' if named[2] == 'G' else 'G'}_{named[3]}.pth")
    if not other.is_file():
        lacking = f"{what} of this run is not beside it; resuming needs both"
        return _Pair(notes=(lacking,))
    try:
        tree = read_contents(other).tree
    except CheckpointError as error:
        return _Pair(notes=(f"{what} of this run cannot be read: {error.message}",))
    epoch, own = (tree.get("iteration") if isinstance(tree, Mapping) else None), found.tree.get("iteration")
    if epoch != own:
        return _Pair(notes=(f"`{other.name}` beside it is of epoch {epoch}, but this file is of epoch {own}",))
    return _Pair((other,), (f"{what} of this run is beside it, in `{other.name}`",))
