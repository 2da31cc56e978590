"""Inference with the GPT: phonemes and a prompt's tokens in, new tokens out, one at a time.

Legend: x phonemes, y tokens, v vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ttstrain.families.gpt_sovits.config import TOKENS_PER_S, SamplingConfig
from ttstrain.families.gpt_sovits.gpt.attention import Cached
from ttstrain.families.gpt_sovits.gpt.documents import lay_out
from ttstrain.families.gpt_sovits.gpt.net import Text2SemanticDecoder

ENDLESS_STEPS = 11  # the first steps, in which speech cannot end; upstream's
MOST_TOKENS = 1500  # of one sentence, upstream's


@dataclass(frozen=True, slots=True)
class Written:
    """The generated tokens."""

    codes: Tensor  # (y,) int64, new ones, on the net's device
    stopped: bool  # by the end of speech, not by the limit


class Continuation:
    """One clip that grows by a token at a time; keys and values of what was seen are kept."""

    def __init__(self, net: Text2SemanticDecoder, phones: Tensor, bert: Tensor | None, prompt: Tensor) -> None:
        """Begin with phonemes (x,), their features (x, 1024) and the tokens (y,) of a prompt, which may be empty."""
        documents = lay_out([torch.arange(len(phones))], [torch.arange(len(prompt))], device=phones.device)
        self._net = net
        self._attend = Cached(documents)
        text = net.embed_text(phones, bert, documents.text_position, longest=len(phones))
        audio = net.embed_audio(prompt, documents.audio_position, longest=len(prompt))
        self._rows = torch.cat([text, audio])
        self._length = len(prompt)

    def logits(self) -> Tensor:
        """Return what is expected next, (v,) float32 on the CPU; call it once after each token."""
        logits: Tensor = self._net.ar_predict_layer(self._net.h(self._rows, self._attend)[-1])
        return logits.float().cpu()

    def append(self, token: int) -> None:
        place, like = self._length, self._rows
        self._rows = self._net.embed_audio(_codes([token], like), _codes([place], like), longest=place + 1)
        self._length += 1


@torch.no_grad()
def generate(
    net: Text2SemanticDecoder,
    phones: Tensor,
    bert: Tensor | None,
    prompt: Tensor,
    *,
    settings: SamplingConfig,
    generator: torch.Generator,
) -> Written:
    """Continue the tokens (y,) of a prompt, which may be empty, for the phonemes (x,) of prompt and text together.

    `bert` is (x, 1024). `generator` is a CPU generator.
    """
    clip = Continuation(net, phones, bert, prompt)
    seen = torch.zeros(net.eos + 1, dtype=torch.bool)
    seen[prompt.cpu()] = True
    limit = min(MOST_TOKENS, int(settings.max_s * TOKENS_PER_S))
    written: list[int] = []
    while len(written) < limit:
        token = choose(
            clip.logits(),
            seen,
            settings=settings,
            generator=generator,
            eos=net.eos,
            may_end=len(written) >= ENDLESS_STEPS,
        )
        if token == net.eos:
            return Written(_codes(written, phones), stopped=True)
        written.append(token)
        seen[token] = True
        clip.append(token)
    return Written(_codes(written, phones), stopped=False)


def choose(
    logits: Tensor, seen: Tensor, *, settings: SamplingConfig, generator: torch.Generator, eos: int, may_end: bool
) -> int:
    """Draw a token from logits (v,): repetition penalty, top-p, temperature, then top-k, in upstream's order.

    The end of speech is returned as soon as it is the most likely token, whatever is drawn.
    """
    penalised = torch.where(logits < 0, logits * settings.repetition_penalty, logits / settings.repetition_penalty)
    logits = torch.where(seen, penalised, logits)
    if not may_end:
        logits = logits.index_fill(0, torch.tensor([eos]), -torch.inf)
    elif int(logits.argmax()) == eos:
        return eos
    if settings.top_p < 1:
        ordered, places = logits.sort(descending=True)
        beyond = ordered.softmax(dim=0).cumsum(dim=0) > settings.top_p
        beyond[0] = False  # one at least is left
        logits = logits.index_fill(0, places[beyond], -torch.inf)
    logits = logits / settings.temperature
    worst = logits.topk(min(settings.top_k, len(logits))).values[-1]
    p = logits.masked_fill(logits < worst, -torch.inf).softmax(dim=0)
    return int(torch.multinomial(p, 1, generator=generator))


def _codes(values: list[int], like: Tensor) -> Tensor:
    return torch.tensor(values, dtype=torch.int64, device=like.device)
