"""The smallest Whisper with random weights, as a folder: what it writes down is nonsense, but it writes."""

from __future__ import annotations

from pathlib import Path

import torch

SPECIAL = ("<|endoftext|>", "<|startoftranscript|>", "<|en|>", "<|de|>", "<|translate|>", "<|transcribe|>",
           "<|startoflm|>", "<|startofprev|>", "<|nospeech|>", "<|notimestamps|>")  # fmt: skip


def save_tiny_whisper(folder: Path) -> Path:
    """Write model, tokenizer and feature extractor, and return the folder."""
    from transformers import (
        GenerationConfig,
        WhisperConfig,
        WhisperFeatureExtractor,
        WhisperForConditionalGeneration,
        WhisperProcessor,
        WhisperTokenizer,
    )

    torch.manual_seed(0)
    signs = [chr(c) for c in range(33, 127)] + ["Ġ"]
    vocab = {sign: number for number, sign in enumerate([*signs, *SPECIAL])}
    tokenizer = WhisperTokenizer(vocab=vocab, merges=[])
    tokenizer.add_special_tokens({"additional_special_tokens": list(SPECIAL[1:])})
    end, start, notimestamps = (vocab[name] for name in (SPECIAL[0], SPECIAL[1], SPECIAL[-1]))
    config = WhisperConfig(
        vocab_size=len(vocab), d_model=16, encoder_layers=1, decoder_layers=1, encoder_attention_heads=2,
        decoder_attention_heads=2, encoder_ffn_dim=16, decoder_ffn_dim=16, max_target_positions=32, pad_token_id=end,
        bos_token_id=end, eos_token_id=end, decoder_start_token_id=start, suppress_tokens=None,
        begin_suppress_tokens=None,
    )  # fmt: skip
    net = WhisperForConditionalGeneration(config)
    net.generation_config = GenerationConfig(
        decoder_start_token_id=start, eos_token_id=end, pad_token_id=end, bos_token_id=end, is_multilingual=True,
        lang_to_id={name: vocab[name] for name in ("<|en|>", "<|de|>")}, max_length=20,
        task_to_id={"translate": vocab["<|translate|>"], "transcribe": vocab["<|transcribe|>"]},
        no_timestamps_token_id=notimestamps, suppress_tokens=[*range(len(signs), len(vocab))],
    )  # fmt: skip
    net.save_pretrained(folder)
    WhisperProcessor(WhisperFeatureExtractor(), tokenizer).save_pretrained(folder)
    return folder
