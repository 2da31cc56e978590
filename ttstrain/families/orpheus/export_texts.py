"""The texts of an export: settings as every reader spells them, the facts an engine needs, and a README."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from ttstrain.contract.export import FOLDER, Source
from ttstrain.families.orpheus.config import OrpheusConfig
from ttstrain.families.orpheus.ids import (
    CODEBOOK_SIZE,
    NUM_SLOTS,
    SAMPLE_RATE,
    SAMPLES_PER_FRAME,
    TOKENS_PER_S,
)
from ttstrain.families.orpheus.layout import said
from ttstrain.families.orpheus.rows import prompt_ids
from ttstrain.families.orpheus.tokenizer import RowTokenizer
from ttstrain.shell import quoted

FACTS: Final = "orpheus.json"
SENTENCE: Final = "Hello there, how are you today?"
_TYPES: Final = {"bf16": "bfloat16", "fp32": "float32"}


def config_json(config: OrpheusConfig, *, dtype: str) -> dict[str, Any]:
    """Return config.json. A reader of transformers 4 ignores `rope_parameters`, one of transformers 5 the other two."""
    scaling = None if config.rope_scaling is None else {"rope_type": "llama3", **config.rope_scaling.model_dump()}
    rotary = {"rope_type": "default"} if scaling is None else scaling
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": config.vocab_size,
        "hidden_size": config.hidden_size,
        "intermediate_size": config.intermediate_size,
        "num_hidden_layers": config.num_hidden_layers,
        "num_attention_heads": config.num_attention_heads,
        "num_key_value_heads": config.num_key_value_heads,
        "head_dim": config.head_dim,
        "hidden_act": "silu",
        "rms_norm_eps": config.rms_norm_eps,
        "max_position_embeddings": config.max_position_embeddings,
        "rope_theta": config.rope_theta,
        "rope_scaling": scaling,
        "rope_parameters": {"rope_theta": config.rope_theta, **rotary},
        "attention_bias": False,
        "attention_dropout": 0.0,
        "mlp_bias": False,
        "initializer_range": 0.02,
        "pretraining_tp": 1,
        "tie_word_embeddings": config.tie_word_embeddings,
        "use_cache": True,
        "bos_token_id": config.ids.bos,
        "eos_token_id": config.ids.eos,
        "pad_token_id": config.ids.pad,
        "dtype": _TYPES[dtype],
        "torch_dtype": _TYPES[dtype],
    }


def generation_json(config: OrpheusConfig) -> dict[str, Any]:
    """Return generation_config.json: the published way to sample, and the two tokens that end a turn."""
    return {
        "bos_token_id": config.ids.bos,
        "eos_token_id": stop_ids(config),
        "pad_token_id": config.ids.pad,
        "do_sample": True,
        "temperature": config.sampling.temperature,
        "top_p": config.sampling.top_p,
        "repetition_penalty": config.sampling.repetition_penalty,
        "max_new_tokens": longest(config),
    }


def tokenizer_config_json(config: OrpheusConfig) -> dict[str, Any]:
    """Return the least that transformers needs beside a tokenizer.json."""
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": "<|begin_of_text|>",
        "eos_token": stop_token(config),
        "pad_token": "<custom_token_7>",
        "clean_up_tokenization_spaces": False,
        "model_max_length": config.max_position_embeddings,
    }


def stop_token(config: OrpheusConfig) -> str:
    """Return the token that ends speech, as the tokenizer spells it.

    llama.cpp's converter takes the stop token from the tokenizer's settings and not from config.json; a Llama's own,
    `<|eot_id|>`, ends a text, and so generation would not stop after speech.
    """
    return f"<custom_token_{config.ids.eos - config.ids.first_custom}>"


def stop_ids(config: OrpheusConfig) -> list[int]:
    """Return what ends generation: the end of speech, and the end of the turn for a model that skips it."""
    return [config.ids.eos, config.ids.eoa]


def longest(config: OrpheusConfig) -> int:
    """Return how many tokens may be generated: a whole row's, since a smaller limit cuts speech off."""
    return max(config.sampling.max_tokens, config.rows.max_tokens)


def voice_of(config: OrpheusConfig) -> str | None:
    """Return the name that stands before a text; None where the caller chooses it, or there is none."""
    return config.sampling.voice if config.rows.voice == "auto" else config.rows.voice


def engine_facts(config: OrpheusConfig, tokenizer: RowTokenizer) -> dict[str, Any]:
    """Return what an engine that knows nothing of Orpheus needs: ids around a text, stops, and what codes mean."""
    ids, voice = config.ids, voice_of(config)
    text = said(SENTENCE, voice or "", config.rows.voice)
    encoded = tokenizer.encode(text)
    before, after = [ids.soh, ids.bos], [ids.eot, ids.eoh, ids.soa, ids.sos]
    return {
        "prompt": {
            "before_text": before,
            "after_text": after,
            "text": "voice: text" if config.rows.voice is not None else "text",
            "voice": voice,
            "add_special_tokens": False,
            "example": {"text": text, "ids": prompt_ids(encoded, ids)},
        },
        "stop_token_ids": stop_ids(config),
        "sampling": {
            "temperature": config.sampling.temperature,
            "top_p": config.sampling.top_p,
            "repetition_penalty": config.sampling.repetition_penalty,
            "max_tokens": longest(config),
        },
        "max_model_len": context(config),
        "audio": {
            "codec": "SNAC 24 kHz",
            "sample_rate": SAMPLE_RATE,
            "samples_per_frame": SAMPLES_PER_FRAME,
            "tokens_per_s": round(TOKENS_PER_S, 2),
            "slots": NUM_SLOTS,
            "codes_per_slot": CODEBOOK_SIZE,
            "first_id": ids.first_audio,
            "level_of_slot": [0, 1, 2, 2, 1, 2, 2],
        },
        "special_ids": {
            name: getattr(ids, name) for name in ("bos", "eot", "sos", "eos", "soh", "eoh", "soa", "eoa", "pad")
        },
        "vocab_size": config.vocab_size,
        "tokenizer_size": tokenizer.size,
        "ttstrain": {
            "rows": config.rows.model_dump(mode="json", exclude={"tokenizer", "text_mix"}),
            "sampling": config.sampling.model_dump(mode="json"),
        },
    }


def context(config: OrpheusConfig) -> int:
    """Return how long a context an engine should plan for: a prompt and the longest speech."""
    return min(2 * longest(config), config.max_position_embeddings)


def use(config: OrpheusConfig, places: Mapping[str, Path], root: Path) -> list[list[str]]:
    """Return commands that use the folders."""
    commands = []
    for name, inside in places.items():
        folder = FOLDER if inside == root else f"{FOLDER}/{name}"
        commands.append(["ttstrain", "sample", folder, "--text", SENTENCE, "-o", "hello.wav"])
        if name != "adapter":
            commands.append(["vllm", "serve", folder, "--max-model-len", str(context(config))])
    return commands


# ---------------------------------------------------------------- README


def readme(source: Source, config: OrpheusConfig, name: str, proven: Sequence[str]) -> str:
    """Return the folder's README."""
    sections = [
        f"# {source.name}",
        _what(source, config, name, proven),
        _use_adapter(source) if name == "adapter" else _use(config),
        _engines(config),
        "## Licence\n\n" + _licence(source),
    ]
    return "\n\n".join(sections) + "\n"


def _what(source: Source, config: OrpheusConfig, name: str, proven: Sequence[str]) -> str:
    losses = "".join(f"| held-out loss, {kind} | {value:.4f} |\n" for kind, value in source.losses.items())
    kind = "Adapters for a" if name == "adapter" else "A"
    return (
        f"{kind} Llama that writes SNAC codes (Orpheus), fine-tuned with ttstrain.\n\n"
        "| | |\n|---|---|\n"
        f"| run | {source.name} |\n| step | {source.step:,} |\n| weights | {source.chosen}: "
        f"{'; '.join(source.reasons)} |\n{losses}"
        f"| base | {source.base or 'none: trained from scratch'} |\n"
        f"| vocabulary | {config.vocab_size:,} rows, head and embedding "
        f"{'one matrix' if config.tie_word_embeddings else 'two matrices'} |\n"
        f"| rows | repeated frames: `{config.rows.dedup}`; at most {config.rows.max_tokens:,} tokens |\n\n"
        "Read back before this folder was made: " + "; ".join(proven) + "."
    )


def _use(config: OrpheusConfig) -> str:
    return (
        "## Use\n\n```bash\n"
        f"{quoted('ttstrain', 'sample', '.', '--text', SENTENCE, '-o', 'hello.wav')}\n"
        f"vllm serve . --max-model-len {context(config)}\n"
        "```\n\n"
        "The folder is also a base: `base: PATH` in a recipe. llama.cpp: `convert_hf_to_gguf.py .`; the vocabulary is "
        "padded as the converter wants it. Quantization below 8 bits reportedly breaks the order of slots."
    )


def _use_adapter(source: Source) -> str:
    return (
        "## Use\n\n```python\n"
        "from peft import PeftModel\n"
        "from transformers import AutoModelForCausalLM\n\n"
        f"model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained({str(source.base)!r}), '.')\n"
        "```\n\n"
        "Merge it in float32 into the unquantized base; `ttstrain export RUN` "
        "does. The folder is also a base for ttstrain where `base_model_name_or_path` names a folder of this machine."
    )


def _engines(config: OrpheusConfig) -> str:
    ids, prefix = config.ids, "" if config.rows.voice is None else "`voice: text` or "
    return (
        "## Prompts in other engines\n\n"
        f"`{FACTS}` holds this for programs. Give token ids, not a string: engines that tokenize a string add another "
        f"`<|begin_of_text|>`.\n\n"
        f"`[{ids.soh}, {ids.bos}] + text + [{ids.eot}, {ids.eoh}, {ids.soa}, {ids.sos}]`, where text is {prefix}`text` "
        "tokenized without special tokens.\n\n"
        f"Stop at {ids.eos} or {ids.eoa}; the limit of new tokens is {longest(config):,}, about "
        f"{longest(config) / TOKENS_PER_S:.0f} s. Sample with temperature {config.sampling.temperature:g}, top-p "
        f"{config.sampling.top_p:g}, repetition penalty {config.sampling.repetition_penalty:g}: near-greedy sampling "
        f"loops. Token `t` of a speech is code `(t - {ids.first_audio}) % {CODEBOOK_SIZE}` of slot "
        f"`(t - {ids.first_audio}) // {CODEBOOK_SIZE}`; code 0 is legal, {NUM_SLOTS} tokens are "
        f"{SAMPLES_PER_FRAME} samples, and decoding a window needs 3 frames on either side."
    )


def _licence(source: Source) -> str:
    if source.base is None:
        return "Trained from scratch: its permitted uses depend on the recordings it was trained on."
    named = Path(source.base).name if "://" not in source.base else source.base
    return (
        f"Fine-tuned from `{named}`. Orpheus is Apache-2.0 and built on Llama 3.2, whose community licence applies to "
        "derived models. Using a cloned voice also needs its speaker's consent."
    )
