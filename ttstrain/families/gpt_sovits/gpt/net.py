"""Text2SemanticDecoder: phonemes and the tokens so far in, the next token out. Names are upstream's.

Legend: n rows, d width, h heads, c channels of a head, x phonemes, y tokens.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ttstrain.families.gpt_sovits.config import GptNetConfig
from ttstrain.families.gpt_sovits.gpt.attention import Attend, Packed
from ttstrain.families.gpt_sovits.gpt.documents import Documents
from ttstrain.modules.dropout import Dropout
from ttstrain.modules.transfer import to_device

BERT_CHANNELS = 1024


class Text2SemanticDecoder(nn.Module):
    """A post-norm transformer over rows (n, d) of any layout; what a row may see is the caller's to say."""

    def __init__(self, config: GptNetConfig) -> None:
        super().__init__()
        width = config.hidden_dim
        self.eos = config.vocab_size - 1
        self.num_layers = config.n_layer
        self.bert_proj = nn.Linear(BERT_CHANNELS, width)
        self.ar_text_embedding = TokenEmbedding(config.phoneme_vocab_size, width)
        self.ar_text_position = SinePositionalEmbedding(width, dropout=config.dropout)
        self.ar_audio_embedding = TokenEmbedding(config.vocab_size, width)
        self.ar_audio_position = SinePositionalEmbedding(width, dropout=config.dropout)
        self.h = TransformerEncoder(config)
        self.ar_predict_layer = nn.Linear(width, config.vocab_size, bias=False)

    def embed_text(self, phones: Tensor, bert: Tensor | None, positions: Tensor, *, longest: int) -> Tensor:
        """Embed phonemes (x,) and BERT's features (x, 1024); without any, the bias of their projection stays.

        `longest` is an upper bound of the positions, known on the host.
        """
        rows: Tensor = self.ar_text_embedding.word_embeddings(phones)
        rows = rows + (self.bert_proj.bias if bert is None else self.bert_proj(bert))
        embedded: Tensor = self.ar_text_position(rows, positions, longest)
        return embedded

    def embed_audio(self, codes: Tensor, positions: Tensor, *, longest: int) -> Tensor:
        """Embed semantic tokens (y,)."""
        embedded: Tensor = self.ar_audio_position(self.ar_audio_embedding.word_embeddings(codes), positions, longest)
        return embedded

    def forward(self, phones: Tensor, bert: Tensor | None, codes: Tensor, documents: Documents) -> Tensor:
        """Return the last layer's rows (n, d) of documents that lie end to end.

        `phones` (x,), `bert` (x, 1024) and `codes` (y,) are in the documents' order.
        """
        text = self.embed_text(phones, bert, documents.text_position, longest=max(documents.text_lengths))
        audio = self.embed_audio(codes, documents.audio_position, longest=max(documents.audio_lengths))
        hidden: Tensor = self.h(torch.cat([text, audio]), Packed(documents))
        return hidden


class TokenEmbedding(nn.Module):
    def __init__(self, num_tokens: int, width: int) -> None:
        super().__init__()
        self.word_embeddings = nn.Embedding(num_tokens, width)


class SinePositionalEmbedding(nn.Module):
    """Add `alpha` times sines and cosines of the position, which take turns along the width; then drop."""

    def __init__(self, width: int, *, dropout: float) -> None:
        super().__init__()
        self.alpha = nn.Parameter(torch.ones(1))
        self.dropout = Dropout(dropout)
        self._width = width
        self._table: Tensor
        self.register_buffer("_table", sines(0, width), persistent=False)  # grows with the longest clip

    def forward(self, rows: Tensor, positions: Tensor, longest: int) -> Tensor:
        """Take rows (n, d) with their positions (n,) below `longest`."""
        dropped: Tensor = self.dropout(rows + self.alpha * self.table(longest)[positions])
        return dropped

    def table(self, longest: int) -> Tensor:
        """Return the sines and cosines (m, d) of at least the first `longest` positions."""
        if len(self._table) < longest:
            self._table = to_device(sines(2 * longest, self._width), self.alpha.device)
        return self._table


def sines(num_positions: int, width: int) -> Tensor:
    """Return (m, d): sin and cos of position * 10000^(-2k/d) for k = 0, 1, ... side by side."""
    rates = torch.exp(torch.arange(0, width, 2, dtype=torch.float32) * -(math.log(10_000.0) / width))
    angles = torch.arange(num_positions, dtype=torch.float32)[:, None] * rates
    return torch.stack([angles.sin(), angles.cos()], dim=-1).flatten(1)[:, :width]


class TransformerEncoder(nn.Module):
    def __init__(self, config: GptNetConfig) -> None:
        super().__init__()
        self.layers = nn.ModuleList(TransformerEncoderLayer(config, number=i) for i in range(config.n_layer))

    def forward(self, rows: Tensor, attend: Attend) -> Tensor:
        for layer in self.layers:
            rows = layer(rows, attend)
        return rows


class TransformerEncoderLayer(nn.Module):
    def __init__(self, config: GptNetConfig, *, number: int) -> None:
        super().__init__()
        width = config.hidden_dim
        self.self_attn = SelfAttention(width, num_heads=config.head, dropout=config.dropout, layer=number)
        self.linear1 = nn.Linear(width, 4 * width)  # whatever upstream's `linear_units` says
        self.linear2 = nn.Linear(4 * width, width)
        self.norm1 = nn.LayerNorm(width)
        self.norm2 = nn.LayerNorm(width)
        self.dropout = Dropout(config.dropout)

    def forward(self, rows: Tensor, attend: Attend) -> Tensor:
        rows = self.norm1(rows + self.dropout(self.self_attn(rows, attend)))
        inner = self.dropout(F.relu(self.linear1(rows)))
        normed: Tensor = self.norm2(rows + self.dropout(self.linear2(inner)))
        return normed


class SelfAttention(nn.Module):
    def __init__(self, width: int, *, num_heads: int, dropout: float, layer: int) -> None:
        super().__init__()
        self._num_heads = num_heads
        self._dropout = dropout
        self._layer = layer
        self.in_proj_weight = nn.Parameter(torch.empty(3 * width, width))  # query, key, value
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * width))
        self.out_proj = nn.Linear(width, width)
        nn.init.xavier_uniform_(self.in_proj_weight)
        nn.init.zeros_(self.out_proj.bias)

    def forward(self, rows: Tensor, attend: Attend) -> Tensor:
        projected = F.linear(rows, self.in_proj_weight, self.in_proj_bias)
        query, key, value = projected.view(len(rows), 3, self._num_heads, -1).unbind(1)  # (n, h, c) each
        dropout = self._dropout if self.training else 0.0
        attended = attend(query, key, value, layer=self._layer, dropout=dropout)
        out: Tensor = self.out_proj(attended.flatten(1))
        return out


def build_gpt(config: GptNetConfig) -> Text2SemanticDecoder:
    """Build a fresh GPT."""
    return Text2SemanticDecoder(config)
