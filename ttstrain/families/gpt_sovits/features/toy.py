"""The smallest encoders of the right classes, `package:toy`: nothing to download; their tokens still tell sounds apart.

Their weights are random but always the same, to rounding. A random convolution keeps much of what it hears, so a
codebook made of its own outputs on the demo speech divides sounds into 1024 kinds, as the published one does better.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final

import torch
from torch import Tensor

if TYPE_CHECKING:
    from transformers import BertModel, HubertModel

    from ttstrain.families.gpt_sovits.features.eres2net import SpeakerNet

TOY: Final = "package:toy"
NUM_CODES: Final = 1024
WIDTH: Final = 768  # of HuBERT's features; the quantizer's shapes depend on it
_SEED: Final = 20_250_607
_SPOKEN: Final = 12  # demo clips the codebook is drawn from: about 40 s
_CHARACTERS: Final = "的一是不了在人有我他这中大来上个国和也子时道说出而要于就下得可你年生"


@lru_cache(maxsize=1)
def toy_hubert() -> HubertModel:
    """Return a HuBERT of one narrow layer, 50 frames of 768 a second."""
    from transformers import HubertConfig, HubertModel

    config = HubertConfig(
        hidden_size=WIDTH,
        num_hidden_layers=1,
        num_attention_heads=4,
        intermediate_size=64,
        conv_dim=(32,) * 7,
        num_conv_pos_embeddings=16,
        num_conv_pos_embedding_groups=4,
    )
    with _seeded():
        return HubertModel(config).eval()


@lru_cache(maxsize=1)
def toy_bert() -> tuple[BertModel, Any]:
    """Return a BERT of three narrow layers with 1024 features a character, and its tokenizer."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *_CHARACTERS]
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split("", "isolated")  # type: ignore[no-untyped-call, unused-ignore]
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    config = BertConfig(
        vocab_size=len(words), hidden_size=1024, num_hidden_layers=3, num_attention_heads=4, intermediate_size=32
    )
    with _seeded():
        return BertModel(config).eval(), PreTrainedTokenizerFast(
            tokenizer_object=tokenizer, unk_token="[UNK]", pad_token="[PAD]", cls_token="[CLS]", sep_token="[SEP]"
        )


@lru_cache(maxsize=1)
def toy_speaker() -> SpeakerNet:
    """Return an ERes2NetV2 of one narrow block a stage that describes speakers in 20480 numbers."""
    from ttstrain.families.gpt_sovits.features.eres2net import SpeakerNet

    with _seeded():
        return SpeakerNet(num_blocks=(1, 1, 1, 1), channels=8, expansion=32, embedding_size=8).eval()


@lru_cache(maxsize=1)
def toy_quantizer() -> dict[str, Tensor]:
    """Return `ssl_proj` and a codebook of the demo speech's own frames, under the keys of an `s2G`."""
    from ttstrain.data.audio import read_clip
    from ttstrain.data.audit import audit
    from ttstrain.data.readers import read_rows
    from ttstrain.recipe.schema import DataConfig

    hubert = toy_hubert()
    with _seeded():
        weight = torch.nn.init.orthogonal_(torch.empty(WIDTH, 2 * WIDTH)).view(WIDTH, WIDTH, 2).contiguous()
        bias = torch.zeros(WIDTH)
        table = read_rows("package:demo")
        clips = audit(replace(table, rows=table.rows[:_SPOKEN]), DataConfig(path="package:demo")).clips
        with torch.inference_mode():
            heard = [hubert(read_clip(clip, 16_000)[None]).last_hidden_state[0].T for clip in clips]  # (768, n)
            frames = torch.cat([torch.nn.functional.conv1d(one, weight, bias, stride=2) for one in heard], dim=1).T
        chosen = frames[torch.randperm(len(frames))[:NUM_CODES]].clone()  # (1024, 768)
        spread = frames.std(dim=0)
        missing = NUM_CODES - len(chosen)
        chosen = torch.cat([chosen, chosen[:missing] + 0.3 * spread * torch.randn(missing, WIDTH)])
        sizes, inited = torch.ones(NUM_CODES), torch.ones(1)
    codebook = "quantizer.vq.layers.0._codebook."
    return {
        "ssl_proj.weight": weight,
        "ssl_proj.bias": bias,
        f"{codebook}inited": inited,
        f"{codebook}cluster_size": sizes,
        f"{codebook}embed": chosen,
        f"{codebook}embed_avg": chosen.clone(),
    }


@contextmanager
def _seeded() -> Iterator[None]:
    """Draw the same numbers in every process, and leave everybody else's as they were.

    On the CPU, also where a plan builds its nets without storage: what is made here is kept and used again.
    """
    with torch.device("cpu"), torch.random.fork_rng(devices=[]):
        torch.manual_seed(_SEED)
        yield
