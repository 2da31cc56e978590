"""The texts of an export: where each file goes in GPT-SoVITS, and the README."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ttstrain import __version__
from ttstrain.contract.export import Source
from ttstrain.families.gpt_sovits.config import SovitsConfig
from ttstrain.shell import quoted

_SUFFIXES = {"v1": "", "v2": "_v2", "v2Pro": "_v2Pro", "v2ProPlus": "_v2ProPlus"}


def weight_folder(name: str, version: str) -> str:
    """Return the folder of GPT-SoVITS that its web tool lists weights from."""
    return f"{'GPT' if name.endswith('.ckpt') else 'SoVITS'}_weights{_SUFFIXES[version]}"


def readme(source: Source, config: SovitsConfig, names: Sequence[str], notes: Sequence[str]) -> str:
    """Return the README of an exported folder."""
    sections = [
        f"# {source.name}\n\nA fine-tuned GPT-SoVITS {config.version}, step {source.step:,} (weights: "
        f"{source.chosen}), written by ttstrain {__version__}.",
        _table(source, config, names),
        _use(config, names),
        "## Know\n\n" + "\n".join(f"- {line}" for line in _know(config, names, notes)),
        "## Licence\n\n" + _licence(source),
    ]
    return "\n\n".join(sections) + "\n"


def _table(source: Source, config: SovitsConfig, names: Sequence[str]) -> str:
    rows = "\n".join(f"| `{name}` | {_what(name, config.version)} |" for name in names)
    return (
        f"| file | what it is |\n|---|---|\n{rows}\n\nStarted from: {source.base or 'nothing, trained from scratch'}."
    )


def _what(name: str, version: str) -> str:
    file = Path(name).name
    if name.endswith(".ckpt"):
        return 'the GPT ("s1"), half precision'
    if file.startswith("s2D"):
        return 'the discriminator ("s2D"), for further training'
    if file.startswith("s2G"):
        return 'the VAE with its posterior encoder ("s2G"), for further training'
    mark = {"v2Pro": "; starts with the bytes `05`", "v2ProPlus": "; starts with the bytes `06`"}.get(version, "")
    return f'the VAE ("SoVITS"), half precision, without the posterior encoder{mark}'


def _use(config: SovitsConfig, names: Sequence[str]) -> str:
    places = {name: weight_folder(name, config.version) for name in names if "/" not in name}
    lines = [quoted("cp", name, f"GPT-SoVITS/{place}/") for name, place in places.items()]
    text = (
        "## Use\n\nCopy the files to where GPT-SoVITS' web tool looks for weights of this version, press `refresh` on "
        "its inference page and choose them:\n\n```sh\n" + "\n".join(lines) + "\n```"
    )
    alone = {name.rpartition(".")[2] for name in places}
    if alone == {"ckpt"}:
        text += f"\n\nThis is only the GPT: use it with a VAE of {config.version}, such as the published one."
    if alone == {"pth"}:
        text += f"\n\nThis is only the VAE: use it with a GPT of {config.version}, such as the published one."
    pretrained = [name for name in names if "/" in name and name.endswith(".pth")]
    if pretrained:
        given = " and ".join(f"`{name}`" for name in pretrained)
        text += f"\n\nTo continue training in the web tool, give {given} as the pretrained SoVITS-G and SoVITS-D."
    vae = next((name for name in places if name.endswith(".pth")), None)
    if vae is not None:
        text += (
            "\n\nTo continue training in ttstrain, put the published files before it (they have the parts it lacks): "
            f"`--base s2G.pth --base s2D.pth --base {quoted(vae)}`."
        )
    return text


def _know(config: SovitsConfig, names: Sequence[str], notes: Sequence[str]) -> list[str]:
    know = [*notes]
    if config.version in ("v2Pro", "v2ProPlus") and any(name.endswith(".pth") for name in names):
        know.append("the first two bytes are upstream's version marker; other zip readers cannot open the file")
    know.append("both nets use the semantic tokens of one quantizer: combine them only with nets of the same version")
    know.append("the files contain no code: `torch.load(..., weights_only=True)` reads them")
    return know


def _licence(source: Source) -> str:
    if source.base is None:
        return "Trained from scratch: its permitted uses depend on the recordings it was trained on."
    return (
        "GPT-SoVITS' published weights are under the MIT licence. Using a cloned voice also needs its "
        "speaker's consent."
    )
