"""The smallest tokenizer and codec of the right classes, for smoke runs: nothing to download, nothing to hear."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from ttstrain.families.orpheus.ids import NUM_CUSTOM

if TYPE_CHECKING:
    from tokenizers import Tokenizer

CODEC: Final[dict[str, Any]] = {
    "sampling_rate": 24_000,
    "encoder_dim": 4,
    "encoder_rates": [2, 4, 8, 8],
    "decoder_dim": 32,
    "decoder_rates": [8, 8, 4, 2],
    "attn_window_size": None,
    "codebook_size": 4096,
    "codebook_dim": 8,
    "vq_strides": [4, 2, 1],
    "noise": True,
    "depthwise": True,
}
CODEC_SEED: Final = 20_250_315
SPECIAL: Final = ("<|begin_of_text|>", "<|end_of_text|>", "<|eot_id|>")


def toy_tokenizer(texts: tuple[str, ...] = (), *, size: int = 0) -> Tokenizer:
    """Return a byte tokenizer like Llama 3's with the audio tokens; merges are learned from `texts` up to `size`."""
    from tokenizers import AddedToken, Tokenizer, decoders, pre_tokenizers, processors, trainers
    from tokenizers.models import BPE

    tokenizer = Tokenizer(BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(
        vocab_size=max(size, len(alphabet)), initial_alphabet=alphabet, special_tokens=[], show_progress=False
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.add_special_tokens([AddedToken(name, special=True, normalized=False) for name in SPECIAL])
    bos = tokenizer.token_to_id(SPECIAL[0])
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{SPECIAL[0]} $A", special_tokens=[(SPECIAL[0], bos)]
    )
    tokenizer.add_tokens([AddedToken(f"<custom_token_{n}>", normalized=True) for n in range(NUM_CUSTOM + 2)])
    return tokenizer
