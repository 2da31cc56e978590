"""Write a small Orpheus: a Llama as a Hugging Face folder, its tokenizer and a codec. Nothing is downloaded.

usage: make_small_orpheus.py OUT [--hidden 64] [--layers 2]
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch

from ttstrain.families.orpheus.codec import load_codec
from ttstrain.families.orpheus.config import OrpheusConfig
from ttstrain.families.orpheus.data_config import RowsConfig
from ttstrain.families.orpheus.net import build_net
from ttstrain.families.orpheus.planner import OrpheusPlanner
from ttstrain.families.orpheus.tokenizer import TOY, load_tokenizer
from ttstrain.families.orpheus.toy import CODEC


def make(out: Path, *, hidden: int = 64, layers: int = 2, max_shard_size: str = "5GB") -> OrpheusConfig:
    """Write `out/model` and `out/codec`; return the `model:` section that describes them."""
    tokenizer = load_tokenizer(TOY)
    config = OrpheusConfig(
        hidden_size=hidden,
        intermediate_size=2 * hidden,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=hidden // 4,
        vocab_size=tokenizer.size,
        text_vocab_size=tokenizer.ids.first_custom,
        bos_token_id=tokenizer.ids.bos,
        eot_token_id=tokenizer.ids.eot,
        rows=RowsConfig(tokenizer=str(out / "model"), codec=str(out / "codec")),
    )
    torch.manual_seed(0)
    build_net(config).save_pretrained(out / "model", max_shard_size=max_shard_size)
    (out / "model" / "tokenizer.json").write_text(tokenizer.to_json(), encoding="utf-8")
    (out / "codec").mkdir(exist_ok=True)
    (out / "codec" / "config.json").write_text(json.dumps(CODEC), encoding="utf-8")
    torch.save(load_codec(TOY).net.state_dict(), out / "codec" / "pytorch_model.bin")
    return config


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--hidden", type=int, default=64)
    parser.add_argument("--layers", type=int, default=2)
    arguments = parser.parse_args()
    made = make(arguments.out, hidden=arguments.hidden, layers=arguments.layers)
    print(f"{OrpheusPlanner(made).num_parameters():,} parameters in {arguments.out}")
