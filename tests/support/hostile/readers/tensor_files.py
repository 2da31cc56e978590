"""Readers of files with tensors: of torch, of safetensors, of upstream trainers, and our own checkpoints."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from pathlib import Path
from random import Random
from typing import Any

import safetensors.torch
import torch
from torch import nn

from hostile.catalogue import Reader, Sample
from hostile.mutation import NO_FILE, Edited, Files
from hostile.pickles import edit_bare, edit_legacy, edit_zip
from hostile.pool import Seen
from hostile.tables import edit_table
from hostile.tensors import edit_safetensors
from hostile.trees import Raw, edit_json, edit_tree, edit_yaml, written
from ttstrain.checkpoint.inspect import inspect
from ttstrain.checkpoint.upstream import open_checkpoint
from ttstrain.tensors import tensorfile, unpickle
from ttstrain.tensors.contents import read_contents, refuse_unsafe
from ttstrain.tensors.loading import load_weights
from ttstrain.tensors.tensorfile import StoredTensor, read_tree

TESTS = Path(__file__).resolve().parents[3]


def digest_of(tree: Any) -> str:
    """Hash a tree of plain values, tensors and what stands for them."""
    summed = hashlib.sha256()
    for path, leaf in unpickle.walk(tree):
        value = leaf.read() if isinstance(leaf, StoredTensor) else leaf
        if isinstance(value, torch.Tensor):
            flat = value.contiguous().reshape(-1)
            data = flat.view(torch.uint8).numpy().tobytes() if flat.numel() else b""
            summed.update(f"{path} {value.dtype} {tuple(value.shape)}".encode("utf-8", "surrogatepass") + data)
        else:
            summed.update(f"{path} {value!r}".encode("utf-8", "surrogatepass"))
    return summed.hexdigest()


def small_net() -> nn.Module:
    """Build a net with weights of several types and shapes."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = nn.Sequential(nn.Linear(6, 4), nn.BatchNorm1d(4), nn.Linear(4, 4).to(torch.bfloat16), nn.Embedding(5, 3))
    return net.requires_grad_(requires_grad=False)


# ---------------------------------------------------------------- plain files of tensors


def _safetensors(folder: Path) -> Sequence[Sample]:
    plain = safetensors.torch.save(small_net().state_dict(), metadata={"format": "pt"})
    tensorfile.write(folder / "own", small_net().state_dict(), metadata={"a": "b"})
    return [
        Sample({"w.safetensors": content}, "w.safetensors", edit_safetensors)
        for content in (plain, (folder / "own").read_bytes())
    ]


def _read_safetensors(folder: Path) -> Seen:
    """Load a file into the net that it is of; inspect it."""
    path = folder / "w.safetensors"
    net = small_net()
    contents = read_contents(path)
    load_weights(net, contents.tree, source="w.safetensors")
    tensorfile.read(path)
    inspect(path)
    return Seen(digest_of(net.state_dict()))


def _state() -> dict[str, Any]:
    """Make what a trainer saves: weights, an optimizer's state, settings, numbers."""
    net = small_net()
    optimizer = {
        "state": {0: {"step": torch.tensor(3.0), "exp_avg": torch.ones(4, 6), "exp_avg_sq": torch.ones(4, 6)}},
        "param_groups": [{"lr": 1e-4, "betas": (0.9, 0.999), "params": [0], "weight_decay": 0.01}],
    }
    weights = OrderedDict(net.state_dict())
    weights["tied"] = weights["0.weight"]
    weights["turned"] = weights["0.weight"].T
    return {"model": weights, "optimizer": optimizer, "step": 7, "config": {"dim": 4, "name": "é", "big": 1 << 70}}


def saved(value: Any, *, legacy: bool = False) -> bytes:
    """Write as `torch.save` does; `legacy`: as torch before 1.6."""
    target = io.BytesIO()
    torch.save(value, target, _use_new_zipfile_serialization=not legacy)
    return target.getvalue()


def _zips(folder: Path) -> Sequence[Sample]:
    plain = saved(_state())
    return [Sample({"w.pt": content}, "w.pt", edit_zip) for content in (plain, b"05" + plain[2:])]


def _legacies(folder: Path) -> Sequence[Sample]:
    return [Sample({"w.pt": saved(_state(), legacy=True)}, "w.pt", edit_legacy)]


def _bare(folder: Path) -> Sequence[Sample]:
    import pickle

    tree = {"a": [1, 2.5, None, True, "é", b"xy", (1, 2), {"b": {3, 4}}], "c": bytearray(b"z"), 5: OrderedDict(x=1)}
    return [Sample({"w.pt": pickle.dumps(tree, protocol)}, "w.pt", edit_bare) for protocol in (0, 1, 2, 4, 5)]


def _read_pickled(folder: Path) -> Seen:
    """Open a file as weights would be, and inspect it as a stranger's."""
    path = folder / "w.pt"
    contents = read_contents(path)
    refuse_unsafe(contents)
    inspect(path)
    return Seen(digest_of(contents.tree))


# ---------------------------------------------------------------- upstream's files


def fixture(archive: str, name: str) -> bytes:
    """Read a file of the compact fixtures."""
    with tarfile.open(TESTS / "fixtures_compact" / f"{archive}.tar.xz") as tar:
        member = tar.extractfile(name)
        assert member is not None
        return member.read()


def _f5(folder: Path) -> Sequence[Sample]:
    names = ("model_10.pt", "old_step_style/model_10.pt", "ema_only/model_10.pt")
    files = [fixture("f5_ckpt_layouts", f"f5_ckpt_layouts/{name}") for name in names]
    weights = fixture("f5_ckpt_layouts", "f5_ckpt_layouts/ema_only/model_10.safetensors")
    vocab = b"a\nb\nc\n" * 9
    setting = b'{"exp_name": "F5TTS_Base", "learning_rate": 1e-5, "epochs": 3}'
    arch = b"model: {name: F5TTS_Base, arch: {dim: 32, depth: 1}, mel_spec: {mel_spec_type: vocos}}\n"
    beside: Files = {"vocab.txt": vocab, "setting.json": setting, "train.yaml": arch}
    return [
        *(Sample({"model_10.pt": content, **beside}, "model_10.pt", edit_zip) for content in files),
        Sample({"model_10.safetensors": weights, **beside}, "model_10.safetensors", edit_safetensors),
        Sample({"model_10.pt": files[0], **beside}, "setting.json", edit_json),
        Sample({"model_10.pt": files[0], **beside}, "train.yaml", edit_yaml),
        Sample({"model_10.pt": files[0], **beside}, "vocab.txt", edit_table),
    ]


def _llama() -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """Make a Llama with audio tokens and almost no width."""
    generator = torch.Generator().manual_seed(1)

    def random(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator).to(torch.bfloat16)

    layer = "model.layers.0."
    tensors = {
        "model.embed_tokens.weight": random(156_940, 4),
        "model.norm.weight": random(4),
        f"{layer}input_layernorm.weight": random(4),
        f"{layer}post_attention_layernorm.weight": random(4),
        f"{layer}self_attn.q_proj.weight": random(4, 4),
        f"{layer}self_attn.k_proj.weight": random(2, 4),
        f"{layer}self_attn.v_proj.weight": random(2, 4),
        f"{layer}self_attn.o_proj.weight": random(4, 4),
        f"{layer}mlp.gate_proj.weight": random(6, 4),
        f"{layer}mlp.up_proj.weight": random(6, 4),
        f"{layer}mlp.down_proj.weight": random(4, 6),
    }
    config = {
        "model_type": "llama",
        "hidden_size": 4,
        "intermediate_size": 6,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "head_dim": 2,
        "vocab_size": 156_940,
        "rms_norm_eps": 1e-5,
        "rope_theta": 500_000.0,
        "rope_scaling": {
            "factor": 32.0,
            "high_freq_factor": 4.0,
            "low_freq_factor": 1.0,
            "original_max_position_embeddings": 8192,
            "rope_type": "llama3",
        },
        "tie_word_embeddings": True,
    }
    return tensors, config


def _hf(folder: Path) -> Sequence[Sample]:
    """Make folders as transformers, its Trainer and peft write them."""
    tensors, config = _llama()
    names = list(tensors)
    shards = {
        "model-00001-of-00002.safetensors": {name: tensors[name] for name in names[:3]},
        "model-00002-of-00002.safetensors": {name: tensors[name] for name in names[3:]},
    }
    index = {
        "metadata": {"total_size": 1},
        "weight_map": {name: shard for shard, own in shards.items() for name in own},
    }
    settings = json.dumps(config).encode()
    sharded: dict[str, Any] = {"config.json": settings, "model.safetensors.index.json": json.dumps(index).encode()}
    sharded |= {shard: safetensors.torch.save(own) for shard, own in shards.items()}
    whole = {"config.json": settings, "model.safetensors": safetensors.torch.save(tensors)}
    trained = {**whole, **_trainer_files(tensors)}
    return [
        Sample(whole, "config.json", edit_json),
        Sample(whole, "model.safetensors", edit_safetensors),
        Sample(sharded, "model.safetensors.index.json", edit_json),
        Sample(sharded, "model-00002-of-00002.safetensors", edit_safetensors),
        Sample(trained, "trainer_state.json", edit_json, allowed=NO_FILE),
        Sample(trained, "optimizer.pt", edit_zip),
        Sample(trained, "scheduler.pt", edit_zip),
    ]


def _trainer_files(tensors: Mapping[str, torch.Tensor]) -> dict[str, bytes]:
    ordered = [name for name in tensors if "norm" not in name], [name for name in tensors if "norm" in name]
    sizes = [len(own) for own in ordered]
    indices = [list(range(sizes[0])), list(range(sizes[0], sum(sizes)))]
    groups = [
        {"lr": 1e-4, "weight_decay": decay, "params": own} for decay, own in zip((0.01, 0.0), indices, strict=True)
    ]
    state = {number: {"step": torch.tensor(3.0)} for number in range(1, sum(sizes))}
    schedule = {"base_lrs": [1e-4, 1e-4], "last_epoch": 7, "_step_count": 8, "_last_lr": [5e-5, 5e-5]}
    return {
        "trainer_state.json": json.dumps({"global_step": 7, "max_steps": 10, "log_history": [{"loss": 1.5}]}).encode(),
        "optimizer.pt": saved({"state": state, "param_groups": groups}),
        "scheduler.pt": saved(schedule),
    }


def _adapters(folder: Path) -> Sequence[Sample]:
    tensors, config = _llama()
    base: Files = {
        "base/config.json": json.dumps(config).encode(),
        "base/model.safetensors": safetensors.torch.save(tensors),
    }
    prefix = "base_model.model.model.layers.0.self_attn.q_proj"
    lora = {f"{prefix}.lora_A.weight": torch.ones(2, 4), f"{prefix}.lora_B.weight": torch.ones(4, 2)}
    settings = {
        "peft_type": "LORA",
        "r": 2,
        "lora_alpha": 4,
        "base_model_name_or_path": "../base",
        "target_modules": ["q_proj"],
        "use_rslora": False,
        "use_dora": False,
        "bias": "none",
    }
    files = {
        **base,
        "own/adapter_config.json": json.dumps(settings).encode(),
        "own/adapter_model.safetensors": safetensors.torch.save(lora),
    }
    return [
        Sample(files, "own/adapter_config.json", edit_json),
        Sample(files, "own/adapter_model.safetensors", edit_safetensors),
    ]


def _sovits(folder: Path) -> Sequence[Sample]:
    """Make files of GPT-SoVITS: published, exported under its own first bytes, and of its training."""
    from sovits_toys import write_s1, write_s2d

    s1 = write_s1(folder / "s1.ckpt").read_bytes()
    s2d = write_s2d(folder / "D_3.pth", layout="training").read_bytes()
    config = {"model": {"version": "v2Pro", "inter_channels": 8}, "data": {"sampling_rate": 32_000}}
    export = {
        "weight": OrderedDict(
            (key, torch.ones(shape, dtype=torch.float16))
            for key, shape in {
                "enc_p.ssl_proj.weight": (8, 8, 1),
                "enc_p.text_embedding.weight": (732, 4),
                "dec.conv_pre.weight": (512, 4, 1),
                "sv_emb.weight": (4, 4),
                "ref_enc.spectral.0.fc.weight": (4, 704),
            }.items()
        ),
        "config": config,
        "info": "8epoch_200iteration",
    }
    lightning = {
        "state_dict": OrderedDict((key, value) for key, value in torch.load(folder / "s1.ckpt")["weight"].items()),
        "optimizer_states": [{"state": {}, "param_groups": [{"lr": 0.01, "params": [0, 1]}]}],
        "global_step": 20,
        "epoch": 2,
        "hyper_parameters": {"config": torch.load(folder / "s1.ckpt")["config"]},
    }
    training = torch.load(folder / "D_3.pth")
    count = len(training["model"])
    first = next(iter(training["model"].values()))
    training["optimizer"] = {
        "state": {
            0: {"step": torch.tensor(4.0), "exp_avg": torch.zeros_like(first), "exp_avg_sq": torch.zeros_like(first)}
        },
        "param_groups": [{"lr": 9e-5, "initial_lr": 1e-4, "weight_decay": 0.01, "params": list(range(count))}],
    }
    files = {
        "s1.ckpt": s1,
        "D_3.pth": s2d,
        "e8.pth": b"05" + saved(export)[2:],
        "gpt.ckpt": saved(lightning),
        "D_7.pth": saved(training),
    }
    return [Sample({name: content}, name, edit_zip) for name, content in files.items()]


def read_weights(folder: Path) -> Seen:
    """Open the one checkpoint of a folder as a base is opened, inspect it, and read every number of it."""
    own = folder / "own" if (folder / "own").is_dir() else folder
    path = next((own / name for name in _NAMED if (own / name).exists()), own)
    inspection = inspect(path)
    opened = open_checkpoint(path)
    facts = (opened.task, opened.kind, opened.config, opened.section, opened.step, opened.groups, opened.schedule)
    trees: list[Any] = [opened.weights, opened.ema, opened.optimizer_state, opened.adapters]
    read = [read_tree(tree) for tree in trees]
    told = bool(inspection.nonfinite or inspection.zero) or any(word in repr(opened.notes) for word in _TOLD)
    outline = repr(sorted((name, one.shape, one.dtype.is_floating_point) for name, one in opened.weights.items()))
    return Seen(" ".join(map(digest_of, read)) + repr(facts) + repr(opened.notes), told=told, outline=outline)


_TOLD = (
    "left out",
    "starts empty",
    "unknown",
    "cannot be read",
    "is not its vocab",
    "contradict",
    "ignored",
)  # of notes
_NAMED = ("model_10.pt", "model_10.safetensors", "s1.ckpt", "D_3.pth", "e8.pth", "gpt.ckpt", "D_7.pth")


# ---------------------------------------------------------------- folders that upstream's nets lie in


def _vocoders(folder: Path) -> Sequence[Sample]:
    import yaml
    from vocoders import recipes

    from ttstrain.modules.vocoder.load import _bigvgan, _vocos

    small = json.loads(json.dumps(recipes().VOCOS))
    small["backbone"]["init_args"] |= {"dim": 8, "intermediate_dim": 8, "num_layers": 1}
    small["head"]["init_args"] |= {"dim": 8}
    big = {**recipes().BIGVGAN, "upsample_initial_channel": 64}
    vocos: Files = {
        "config.yaml": yaml.safe_dump(small).encode(),
        "pytorch_model.bin": saved(_vocos(small, 100).state_dict()),
    }
    bigvgan: Files = {
        "config.json": json.dumps(big).encode(),
        "bigvgan_generator.pt": saved({"generator": _bigvgan(big, 100).state_dict()}),
    }
    return [
        Sample(vocos, "config.yaml", edit_yaml),
        Sample(vocos, "pytorch_model.bin", edit_zip),
        Sample(bigvgan, "config.json", edit_json),
    ]


def _read_vocoder(folder: Path) -> Seen:
    from ttstrain.modules.vocoder.load import load_vocoder

    is_vocos = any((folder / name).exists() for name in ("config.yaml", "pytorch_model.bin"))
    vocoder = load_vocoder(str(folder), mel="vocos" if is_vocos else "bigvgan")
    return Seen(digest_of(vocoder.net.state_dict()))


def _codecs(folder: Path) -> Sequence[Sample]:
    from ttstrain.families.orpheus.codec import TOY, load_codec
    from ttstrain.families.orpheus.toy import CODEC

    files = {"config.json": json.dumps(CODEC).encode(), "pytorch_model.bin": saved(load_codec(TOY).net.state_dict())}
    return [Sample(files, "config.json", edit_json), Sample(files, "pytorch_model.bin", edit_zip)]


def _read_codec(folder: Path) -> Seen:
    from ttstrain.families.orpheus.codec import load_codec

    return Seen(digest_of(load_codec(str(folder)).net.state_dict()))


def _tokenizers(folder: Path) -> Sequence[Sample]:
    from ttstrain.families.orpheus.tokenizer import TOY, load_tokenizer

    return [Sample({"tokenizer.json": load_tokenizer(TOY).to_json().encode()}, "tokenizer.json", _edit_tokenizer)]


def _edit_tokenizer(rng: Random, content: bytes) -> Edited:
    """Edit a tokenizer as a tree; of its thousands of added tokens only a few are looked at."""
    tree = json.loads(content)
    tokens = tree["added_tokens"]
    few = set(rng.sample(range(len(tokens)), 5))
    edited, how = edit_tree(rng, {**tree, "added_tokens": [tokens[number] for number in few]})
    if isinstance(edited, dict) and isinstance(edited.get("added_tokens"), list):
        rest = json.dumps([token for number, token in enumerate(tokens) if number not in few])[1:-1]
        edited["added_tokens"] = [Raw(rest), *edited["added_tokens"]]
    return Edited(written(edited).encode("utf-8", "surrogatepass"), how, plain=True)


def _read_tokenizer(folder: Path) -> Seen:
    from ttstrain.families.orpheus.tokenizer import load_tokenizer

    load_tokenizer.cache_clear()
    tokenizer = load_tokenizer(str(folder))
    return Seen(f"{tokenizer.ids} {tokenizer.size} {tokenizer.encode('Some words, 3 of them.')}")


READERS = (
    Reader("safetensors", _safetensors, _read_safetensors, 600),
    Reader("pt (zip)", _zips, _read_pickled, 500),
    Reader("pt (legacy)", _legacies, _read_pickled, 300),
    Reader("bare pickles", _bare, _read_pickled, 300),
    Reader("F5's training files", _f5, read_weights, 80),
    Reader("GPT-SoVITS' files", _sovits, read_weights, 200),
    Reader("Hugging Face folders", _hf, read_weights, 100),
    Reader("adapters of peft", _adapters, read_weights, 120),
    Reader("vocoders", _vocoders, _read_vocoder, 60),
    Reader("codecs (SNAC)", _codecs, _read_codec, 80),
    Reader("tokenizer.json", _tokenizers, _read_tokenizer, 20),
)
