"""What the guides promise besides commands: links that lead somewhere, keys that exist, upstream's options in full."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote

import pytest
from documented import GUIDES, REPO

from ttstrain import registry
from ttstrain.plan.complaints import known_keys
from ttstrain.recipe.schema import Recipe
from ttstrain.recipe.shipped import list_recipes

DOCS = REPO / "docs"
MOST_BYTES = 200_000
KEYS = {*known_keys(Recipe), *(key for spec in registry.tasks().values() for key in known_keys(spec.config, "model"))}
SECTIONS = {key.partition(".")[0] for key in KEYS if "." in key}
PARTS = ("Means", "ttstrain", "See", "Change")

# Every option of upstream's trainers, by name: F5-TTS 1.1.20, GPT-SoVITS of 2026-08-18, Orpheus-TTS of 2025-05-05.
OPTIONS: dict[str, str] = {
    "migrating_from_f5.md": (
        # finetune_cli.py
        "exp_name dataset_name learning_rate batch_size_per_gpu batch_size_type max_samples grad_accumulation_steps "
        "max_grad_norm epochs num_warmup_updates save_per_updates keep_last_n_checkpoints last_per_updates finetune "
        "pretrain tokenizer tokenizer_path log_samples logger bnb_optimizer "
        # configs/*.yaml
        "num_workers backbone dim depth heads ff_mult text_dim text_mask_padding qk_norm conv_layers pe_attn_head "
        "attn_backend attn_mask_enabled checkpoint_activations target_sample_rate n_mel_channels hop_length win_length "
        "n_fft mel_spec_type is_local local_path wandb_project wandb_run_name wandb_resume_id save_dir "
        # setting.json
        "mixed_precision"
    ),
    "migrating_from_gpt_sovits.md": (
        # s1longer-v2.yaml
        "seed epochs batch_size save_every_n_epoch precision gradient_clip if_dpo lr lr_init lr_end warmup_steps "
        "decay_steps max_eval_sample max_sec num_workers pad_val vocab_size phoneme_vocab_size embedding_dim "
        "hidden_dim head linear_units n_layer dropout EOS random_bert top_k "
        # s2.json
        "log_interval eval_interval learning_rate betas eps fp16_run lr_decay segment_size init_lr_ratio warmup_epochs "
        "c_mel c_kl text_low_lr_rate grad_ckpt lora_rank max_wav_value sampling_rate filter_length hop_length "
        "win_length n_mel_channels mel_fmin mel_fmax add_blank n_speakers cleaned_text inter_channels hidden_channels "
        "filter_channels n_heads n_layers kernel_size p_dropout resblock resblock_kernel_sizes resblock_dilation_sizes "
        "upsample_rates upsample_initial_channel upsample_kernel_sizes n_layers_q use_spectral_norm gin_channels "
        "semantic_frame_rate freeze_quantizer s2_ckpt_dir content_module version save_weight_dir"
    ),
    "migrating_from_orpheus.md": (
        # finetune/config.yaml, lora.py, pretrain/config.yaml
        "TTS_dataset model_name epochs batch_size number_processes pad_token save_steps learning_rate save_folder "
        "project_name run_name lora_rank lora_alpha lora_dropout target_modules bias modules_to_save use_rslora "
        "tokenizer_name ratio text_QA_dataset"
    ),
}


def tables(markdown: str) -> Iterator[list[str]]:
    """Yield the cells of each row of each table."""
    for line in markdown.splitlines():
        if line.startswith("|") and not re.match(r"\|[ :|-]+\|$", line):
            yield [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]


def spans(text: str) -> list[str]:
    return re.findall(r"(?<!`)`([^`]+)`(?!`)", text)


def keys_in(text: str) -> list[str]:
    """List the keys of a recipe among the spans of code of a text: `optim.lr`, `optim.lr=1e-5`."""
    named = [span.partition("=")[0].partition(":")[0].strip("'") for span in spans(text)]
    return [name for name in named if re.fullmatch(r"[a-z_]+(\.\w+)+", name) and name.partition(".")[0] in SECTIONS]


def option_rows(guide: str) -> list[list[str]]:
    _, _, text = (DOCS / guide).read_text(encoding="utf-8").partition("## Option by option")
    return list(tables(text))


@pytest.mark.parametrize("guide", OPTIONS)
def test_every_option_of_upstream_has_a_key_or_a_reason(guide: str) -> None:
    rows = option_rows(guide)
    named = {word for row in rows for span in spans(row[0]) for word in re.findall(r"\w+", span)}
    assert [option for option in OPTIONS[guide].split() if option not in named] == []
    assert [row for row in rows if len(row) != 3 or not row[1]] == []
    no_key = [row for row in rows if "`" not in row[1] and row[0] not in ("option", "option and default", "upstream")]
    allowed = ("not needed", "nothing", "as in the web tool", "as above")
    assert [row[0] for row in no_key if not row[1].startswith((*allowed, "tab or button", "ttstrain"))] == []


@pytest.mark.parametrize("guide", GUIDES, ids=lambda path: path.relative_to(REPO).as_posix())
def test_keys_that_a_guide_names_exist(guide: Path) -> None:
    text = guide.read_text(encoding="utf-8")
    if guide.name in OPTIONS:  # upstream's own names stand in the first column
        head, _, _ = text.partition("## Option by option")
        text = head + "\n".join(" ".join(row[1:]) for row in option_rows(guide.name))
    if guide.name in ("CHANGELOG.md", "decisions.md", "CONTRIBUTING.md"):
        pytest.skip("names what was, too")
    unknown = [key for key in keys_in(text) if re.sub(r"\.\d+\.", ".*.", key) not in KEYS and not _in_a_mapping(key)]
    assert [key for key in unknown if not key.endswith((".py", ".yaml", ".json", ".md"))] == []


def _in_a_mapping(key: str) -> bool:
    """Tell whether a key lies under a free name, as `optim.optimizers.discriminator.lr` does."""
    parts = key.split(".")
    return any(".".join([*parts[:at], "*", *parts[at + 1 :]]) in KEYS for at in range(1, len(parts)))


# ---------------------------------------------------------------- links


def anchors(path: Path) -> set[str]:
    """List the anchors that GitHub gives a page's headings."""
    headings = re.findall(r"^#+ (.+)$", path.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("guide", GUIDES, ids=lambda path: path.relative_to(REPO).as_posix())
def test_links_lead_to_a_file_and_a_heading(guide: Path) -> None:
    text = re.sub(r"^ *```.*?^ *```", "", guide.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    links = re.findall(r"\]\(([^)\s]+)\)", text) + re.findall(r'src="([^"]+)"', text)
    lost = []
    for link in links:
        if re.match(r"https?:|mailto:", link):
            continue
        place, _, anchor = unquote(link).partition("#")
        target = (guide.parent / place).resolve() if place else guide
        if not target.exists() or (anchor and anchor not in anchors(target)):
            lost.append(link)
    assert lost == []


# ---------------------------------------------------------------- pages of their own


def test_every_symptom_has_its_four_parts_and_stands_in_the_index() -> None:
    text = (DOCS / "troubleshooting.md").read_text(encoding="utf-8")
    index, *entries = re.split(r"^### ", text, flags=re.MULTILINE)
    assert len(entries) > 30
    for entry in entries:
        title, _, body = entry.partition("\n")
        assert re.findall(r"^- \*\*(\w+)\*\*: \S", body, flags=re.MULTILINE) == list(PARTS), title
        anchor = re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-")
        assert f"(#{anchor})" in index, title


def test_the_readme_names_recipes_that_ship_and_every_guide() -> None:
    readme = (REPO / "README.md").read_text(encoding="utf-8")
    shipped = {entry.name for entry in list_recipes()}
    rows = [row for row in tables(readme) if len(row) == 3 and row[0].startswith("`")]
    assert len(rows) > 8
    assert [row[0] for row in rows if row[0].strip("`") not in shipped] == []
    assert [path.name for path in DOCS.glob("*.md") if f"docs/{path.name}" not in readme] == []


def test_the_pictures_are_small_and_wide_enough_to_read() -> None:
    from PIL import Image

    for name in ("report.png", "terminal.png"):
        path = DOCS / "img" / name
        assert path.stat().st_size < MOST_BYTES
        with Image.open(path) as picture:
            assert picture.width >= 800
