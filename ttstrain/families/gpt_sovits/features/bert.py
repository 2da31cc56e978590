"""BERT: Chinese texts to 1024 features a phoneme, each character's repeated for its phonemes.

Upstream reads the third hidden layer from the end, so that the last two layers need not be computed.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

import torch
from torch import Tensor

from ttstrain.errors import CheckpointError, DataError
from ttstrain.families.gpt_sovits.features.files import digest_of_folder, find_folder
from ttstrain.families.gpt_sovits.features.toy import TOY, toy_bert
from ttstrain.families.gpt_sovits.features.transformer import import_transformers, load_encoder
from ttstrain.modules.full_precision import full_precision
from ttstrain.places import expanded
from ttstrain.tensors.hub import HUB

if TYPE_CHECKING:
    from transformers import BertModel

WIDTH: Final = 1024
UNUSED_LAYERS: Final = 2  # GPT-SoVITS prepare_datasets/1-get-text.py: hidden_states[-3:-2]
MOST_CHARACTERS: Final = 510  # with [CLS] and [SEP] its 512 positions; more fail upstream too (issue 1152)

_LATIN = re.compile("[A-Za-z]+(?:[' -][A-Za-z]+)*")  # words that the Chinese front end reads as English


class Bert:
    """BERT up to the layer that is read, with its tokenizer."""

    def __init__(self, net: BertModel, tokenizer: Any, device: torch.device) -> None:
        self.net = net.to(device)
        self.tokenizer = tokenizer
        self.device = device

    def encode(self, text: str, word2ph: Sequence[int]) -> Tensor:
        """Return the features (p, 1024) of the phonemes of a text; `word2ph` says how many each character has.

        BERT hears the text without its Latin words; their phonemes have zeros, as English ones have at inference.
        Raises DataError where the tokenizer does not read one token a character, as upstream's assertions do.
        """
        if len(word2ph) != len(text):
            raise DataError(f"{len(word2ph)} counts of phonemes for {len(text)} characters of `{text[:40]}`")
        is_heard = torch.ones(len(text), dtype=torch.bool)
        for words in _LATIN.finditer(text):
            is_heard[words.start() : words.end()] = False
        heard = _LATIN.sub("", text)
        counts = torch.tensor(word2ph)
        features = torch.zeros(int(counts.sum()), WIDTH)
        features[is_heard.repeat_interleave(counts)] = self._encode(heard).repeat_interleave(counts[is_heard], dim=0)
        if not bool(torch.isfinite(features).all()):
            raise DataError("BERT's features are not finite; the model file may be damaged")
        return features

    def _encode(self, text: str) -> Tensor:
        """Return the features (c, 1024) of the characters of a text."""
        if not text:
            return torch.zeros(0, WIDTH)
        if len(text) > MOST_CHARACTERS:
            raise DataError(f"{len(text)} characters are too many for BERT (limit {MOST_CHARACTERS}): split the clip")
        tokens = self.tokenizer(text, return_tensors="pt")
        if tokens["input_ids"].shape[1] != len(text) + 2:
            raise DataError(
                f"BERT reads {tokens['input_ids'].shape[1] - 2} tokens in {len(text)} characters of `{text[:40]}`: "
                "the normalised text should be Chinese and Latin alone"
            )
        with torch.inference_mode(), full_precision():
            hidden: Tensor = self.net(**tokens.to(self.device)).last_hidden_state[0, 1:-1].cpu()
        return hidden.clone()


def load_bert(spec: str, device: torch.device) -> Bert:
    """Load BERT and its tokenizer from a folder or `hf://`. Raises CheckpointError when it is none, or too narrow."""
    if spec == TOY:
        net, tokenizer = toy_bert()
        return Bert(_cut(copy.deepcopy(net)), tokenizer, device)
    folder = find_folder(spec, what="BERT")
    net = load_encoder("BertModel", folder, spare=("pooler.",))
    if net.config.hidden_size != WIDTH:
        raise CheckpointError(
            f"the BERT `{spec}` has {net.config.hidden_size} features, {WIDTH} needed",
            hint="the published models were trained on hf://lj1995/GPT-SoVITS/chinese-roberta-wwm-ext-large",
        )
    try:
        tokenizer = import_transformers().AutoTokenizer.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError, KeyError) as error:
        raise CheckpointError(f"`{folder}` has no tokenizer: {str(error).splitlines()[0]}") from error
    return Bert(_cut(net), tokenizer, device)


def bert_digest(spec: str) -> str:
    """Return a hash of the model's files, or say where it comes from.

    What lies on the Hub is not fetched for its hash: it is large, and of use for Chinese alone. So is what is absent.
    """
    if spec == TOY or spec.startswith(HUB):
        return spec
    return digest_of_folder(find_folder(spec, what="BERT")) if expanded(spec).is_dir() else "absent"


def _cut(net: BertModel) -> BertModel:
    """Take out the layers after the one that is read."""
    net.encoder.layer = net.encoder.layer[:-UNUSED_LAYERS]
    net.pooler = None
    return net
