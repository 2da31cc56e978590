"""Going on from GPT-SoVITS' own runs: whose moments are whose, which file is the newest, what a base still lacks."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import sovits_toys as toys
import torch
from torch import Tensor, nn

from ttstrain.checkpoint.inspect import inspect
from ttstrain.checkpoint.merging import explain, open_base, open_training
from ttstrain.checkpoint.parts import merge
from ttstrain.checkpoint.upstream import follow, open_checkpoint
from ttstrain.errors import CheckpointError
from ttstrain.families.gpt_sovits.config import VaeConfig, VaeNetConfig
from ttstrain.families.gpt_sovits.export_files import halved, misjudged, vae_config, vae_file, write
from ttstrain.families.gpt_sovits.shapes import generator_shapes
from ttstrain.families.gpt_sovits.versions import PRO, as_upstream_tells, by_tensors, tell
from ttstrain.plan.resolve import parse
from ttstrain.recipe.compose import compose
from ttstrain.runs.base import notes_on
from ttstrain.tensors.loading import compare
from ttstrain.tensors.tensorfile import read_tree

TASK = "gpt_sovits/vae"
ANY = ("v2", "v1")  # of the VAEs without a speaker's vector


class Pair(nn.Module):
    """Stands where upstream's two nets stand, with the real names of few of their parts."""

    def __init__(self) -> None:
        super().__init__()
        self.enc_p = nn.Module()
        self.enc_p.ssl_proj = nn.Conv1d(4, 3, 1)
        self.enc_p.encoder_text = nn.Linear(3, 3)
        self.enc_p.text_embedding = nn.Embedding(732, 3)
        self.enc_p.mrte = nn.Linear(3, 5)
        self.dec = nn.Module()
        self.dec.conv_pre = nn.Conv1d(3, 8, 7)
        self.enc_q = nn.Module()
        self.enc_q.pre = nn.Conv1d(5, 3, 1)


class Critic(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.discriminators = nn.ModuleList(nn.Module() for _ in range(6))
        for fold in self.discriminators:
            fold.convs = nn.ModuleList([nn.Conv1d(1, 2, 3)])


def upstreams_optimizer(net: Pair) -> torch.optim.AdamW:
    """Group parameters as upstream's trainer: all but the text side, then its three parts."""
    text = [net.enc_p.text_embedding, net.enc_p.encoder_text, net.enc_p.mrte]
    own = {id(parameter) for part in text for parameter in part.parameters()}
    groups: list[dict[str, Any]] = [{"params": [p for p in net.parameters() if id(p) not in own], "lr": 1e-4}]
    groups += [{"params": list(part.parameters()), "lr": 4e-5} for part in text]
    return torch.optim.AdamW(groups, betas=(0.8, 0.99), eps=1e-9)


def stepped(net: nn.Module, optimizer: torch.optim.Optimizer, *, steps: int) -> None:
    for _ in range(steps):
        for parameter in net.parameters():
            parameter.grad = torch.randn_like(parameter)
        optimizer.step()


def save(path: Path, net: nn.Module, optimizer: torch.optim.Optimizer, *, epoch: int) -> Path:
    state = {
        "model": net.state_dict(),
        "iteration": epoch,
        "optimizer": optimizer.state_dict(),
        "learning_rate": 1e-4,
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(state, path)
    return path


def trained(folder: Path, number: int, *, epoch: int, steps: int) -> tuple[Pair, torch.optim.AdamW]:
    """Write `G_<number>.pth` and `D_<number>.pth` after some updates."""
    net, critic = Pair(), Critic()
    optimizer = upstreams_optimizer(net)
    critics = torch.optim.AdamW(critic.parameters(), 1e-4)
    stepped(net, optimizer, steps=steps)
    stepped(critic, critics, steps=steps)
    save(folder / f"G_{number}.pth", net, optimizer, epoch=epoch)
    save(folder / f"D_{number}.pth", critic, critics, epoch=epoch)
    return net, optimizer


# ---------------------------------------------------------------- moments


def test_each_parameter_gets_its_own_moments_from_upstreams_groups(tmp_path: Path) -> None:
    net, optimizer = trained(tmp_path, 96, epoch=4, steps=3)
    opened = open_training(open_checkpoint(tmp_path / "G_96.pth", task=TASK), task=TASK)
    moments = read_tree(opened.optimizer_state)
    for name, parameter in net.named_parameters():
        expected: Mapping[str, Tensor] = optimizer.state[parameter]
        assert torch.equal(moments[f"vae.{name}"]["exp_avg"], expected["exp_avg"]), name
        assert torch.equal(moments[f"vae.{name}"]["exp_avg_sq"], expected["exp_avg_sq"]), name
    assert opened.step == 3
    assert {name.partition(".")[0] for name in moments} == {"vae", "discriminator"}


def test_the_discriminator_of_another_epoch_is_not_taken_for_its_partner(tmp_path: Path) -> None:
    trained(tmp_path, 233333333333, epoch=4, steps=3)
    critic = Critic()
    save(tmp_path / "D_233333333333.pth", critic, torch.optim.AdamW(critic.parameters()), epoch=2)
    opened = open_checkpoint(tmp_path / "G_233333333333.pth")
    assert opened.partners == ()
    assert any("is of epoch 2, but this file is of epoch 4" in note for note in opened.notes)


# ---------------------------------------------------------------- folders


def test_a_run_of_upstreams_is_chosen_by_what_is_inside_and_not_by_digits(tmp_path: Path) -> None:
    logs = tmp_path / "v2_0812" / "logs_s2_v2"
    trained(logs, 233333333333, epoch=2, steps=1)
    trained(logs, 96, epoch=4, steps=3)
    os.utime(logs / "G_96.pth", (0, 0))  # nor by its time
    assert follow(logs) == follow(tmp_path / "v2_0812") == logs / "G_96.pth"
    notes = inspect(logs).notes
    assert any("`G_96.pth` is the newest: epoch 4, 3 updates" in note for note in notes)
    other = inspect(logs / "G_233333333333.pth").notes
    assert any(note.startswith("the folder's newest checkpoint is another file") for note in other)


def test_a_folder_with_two_trainings_asks_which(tmp_path: Path) -> None:
    trained(tmp_path / "logs_s2_v2", 1, epoch=1, steps=1)
    trained(tmp_path / "logs_s2_v2Pro", 1, epoch=1, steps=1)
    with pytest.raises(CheckpointError, match="training files of 2 nets") as raised:
        follow(tmp_path)
    assert "logs_s2_v2Pro" in str(raised.value.hint)


def test_a_half_written_file_is_passed_over_and_named(tmp_path: Path) -> None:
    trained(tmp_path, 5, epoch=5, steps=2)
    data = (tmp_path / "G_5.pth").read_bytes()
    (tmp_path / "G_9.pth").write_bytes(data[: len(data) // 2])
    assert follow(tmp_path) == tmp_path / "G_5.pth"
    assert any("`G_9.pth` cannot be read" in note for note in inspect(tmp_path / "G_5.pth").notes)


# ---------------------------------------------------------------- several files


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mapping[str, Path]]:
    folder = tmp_path_factory.mktemp("files")
    export = folder / "mine_e3_s30.pth"
    weights = {f"vae.{key}": value + 1 for key, value in toys.small_vae(seed=1).state_dict().items()}
    write(export, vae_file(weights, toys.s2_document(), info="3epoch_30iteration"))
    yield {
        "s1": toys.write_s1(folder / "s1.ckpt"),
        "s2G": toys.write_s2g(folder / "s2G.pth"),
        "s2D": toys.write_s2d(folder / "s2D.pth"),
        "export": export,
    }


def test_an_export_is_grafted_onto_its_base(files: Mapping[str, Path]) -> None:
    merged = open_base([str(files[name]) for name in ("s2G", "s2D", "export")], task=TASK)
    base, mine, critic = (open_checkpoint(files[name]) for name in ("s2G", "export", "s2D"))
    assert set(merged.weights) == set(base.weights) | set(critic.weights)
    for name, stored in merged.weights.items():
        source = mine if name in mine.weights else base if name in base.weights else critic
        assert torch.equal(stored.read(), source.weights[name].read()), name
    assert not any(name.startswith("vae.enc_q.") for name in mine.weights)
    assert merged.absent == tuple(entry for entry in merged.absent if entry.pattern == "gpt.*")
    stay = sum(name not in mine.weights for name in merged.weights)
    assert (
        f"mine_e3_s30.pth replaces {len(mine.weights)} tensors of the files before it; {stay} are kept" in merged.notes
    )


def test_order_decides_which_file_wins(files: Mapping[str, Path]) -> None:
    merged = open_base([str(files["export"]), str(files["s2G"])], task=TASK)
    base = open_checkpoint(files["s2G"])
    assert torch.equal(
        merged.weights["vae.dec.conv_post.weight"].read(), base.weights["vae.dec.conv_post.weight"].read()
    )


def test_one_base_may_hold_all_three_nets(files: Mapping[str, Path]) -> None:
    merged = open_base([str(files[name]) for name in ("s1", "s2G", "s2D")], task="gpt_sovits/joint")
    assert {name.partition(".")[0] for name in merged.weights} == {"gpt", "vae", "discriminator"}
    assert set(merged.config) == {"version", "gpt", "vae"}


@pytest.mark.parametrize(
    ("given", "lacks"),
    [
        (["s2G"], ["discriminator.*", "s2D*.pth"]),
        (["export", "s2D"], ["vae.enc_q.*", "put the published `s2G*.pth` before it"]),
        (["s2D"], ["vae.*", "s2G*.pth"]),
    ],
)
def test_what_a_base_lacks_is_said_with_where_it_is(
    files: Mapping[str, Path], given: list[str], lacks: list[str]
) -> None:
    whole = nn.Module()
    whole.vae, whole.discriminator = toys.small_vae(), toys.small_discriminator()
    opened = merge([open_checkpoint(files[name]) for name in given])
    error = explain(compare(whole, opened.weights, source="x"), opened)
    assert error is not None
    assert all(word in error.message + str(error.hint) for word in lacks)


def test_tensors_that_no_file_is_known_to_lack_are_not_explained_away(files: Mapping[str, Path]) -> None:
    whole = nn.Module()
    whole.vae, whole.more = toys.small_vae(), nn.Linear(2, 2)
    opened = open_checkpoint(files["s2G"])
    assert explain(compare(whole, opened.weights, source="x"), opened) is None


@pytest.mark.parametrize(
    ("generator", "critic", "said"),
    [("v2Pro", "v2", "of version v1 or v2, .*of v2Pro or v2ProPlus"), ("v2", "v2ProPlus", "of version v2Pro or v2")],
)
def test_a_pair_of_two_versions_is_told_by_its_versions(tmp_path: Path, generator: Any, critic: Any, said: str) -> None:
    """A list of hundreds of tensors that one side lacks would say the same to nobody."""
    g = toys.write_s2g(tmp_path / "G_7.pth", version=generator, layout="training")
    toys.write_s2d(tmp_path / "D_7.pth", version=critic, layout="training")
    with pytest.raises(CheckpointError, match=said) as raised:
        open_base([str(g)], task=TASK)
    assert "D_7.pth" in raised.value.message
    assert "one version" in str(raised.value.hint)


@pytest.mark.parametrize(("gpt", "fits"), [("v1", False), ("v2", True)])
def test_a_gpt_of_other_symbols_is_not_joined_to_a_vae(tmp_path: Path, gpt: Any, fits: bool) -> None:
    s1 = toys.write_s1(tmp_path / "s1.ckpt", version=gpt)
    s2 = toys.write_s2g(tmp_path / "s2.pth", version="v2Pro")
    if fits:
        assert open_base([str(s1), str(s2)], task="gpt_sovits/joint").fits == {"v2Pro", "v2ProPlus"}
    else:
        with pytest.raises(CheckpointError, match=r"s2.pth` is of version v2Pro or v2ProPlus, but .*s1.ckpt` is of v1"):
            open_base([str(s1), str(s2)], task="gpt_sovits/joint")


# ---------------------------------------------------------------- versions


@pytest.mark.parametrize(
    ("shapes", "versions"),
    [
        ({"enc_p.text_embedding.weight": (322, 192)}, ("v1",)),
        ({"enc_p.text_embedding.weight": (732, 192)}, ("v2",)),
        ({"sv_emb.weight": (1024, 20480), "dec.conv_pre.weight": (512, 192, 7)}, ("v2Pro",)),
        ({"sv_emb.weight": (1024, 20480), "dec.conv_pre.weight": (768, 192, 7)}, ("v2ProPlus",)),
        ({"cfm.estimator.proj_out.weight": (100, 1024)}, ("v3", "v4")),
    ],
)
def test_tensors_tell_the_version(shapes: dict[str, tuple[int, ...]], versions: tuple[str, ...]) -> None:
    assert by_tensors(shapes) == versions


@pytest.mark.parametrize(
    ("shapes", "config", "size", "told"),
    [
        # A run's `G_*.pth` says nothing of itself, and channels that nobody published tell no more than the family.
        ({"sv_emb.weight": (8, 20480), "dec.conv_pre.weight": (16, 8, 7)}, {}, 100, ("v2Pro", PRO)),
        ({"sv_emb.weight": (8, 20480), "dec.conv_pre.weight": (16, 8, 7)}, {"version": "v2ProPlus"}, 100, (PRO[1], ())),
        ({"sv_emb.weight": (8, 20480), "dec.conv_pre.weight": (512, 8, 7)}, {}, 100, ("v2Pro", ())),
        ({"cfm.estimator.proj_out.weight": (100, 1024)}, {}, 701 << 20, ("v3", ("v3", "v4"))),
        ({"cfm.estimator.proj_out.weight": (100, 1024)}, {"version": "v4"}, 701 << 20, ("v4", ())),
        ({"enc_p.text_embedding.weight": (400, 192), "ref_enc.spectral.0.fc.weight": (128, 500)}, {}, 100, ("v2", ANY)),
        ({"enc_p.text_embedding.weight": (400, 192), "ref_enc.spectral.0.fc.weight": (128, 704)}, {}, 100, ("v2", ())),
        ({"enc_p.text_embedding.weight": (400, 192), "ref_enc.spectral.0.fc.weight": (128, 1025)}, {}, 100, ("v1", ())),
    ],
)
def test_a_version_that_nothing_tells_is_a_guess(
    tmp_path: Path, shapes: Any, config: Any, size: int, told: Any
) -> None:
    name, open_ = told
    path = tmp_path / "G_7.pth"
    with path.open("wb") as file:
        file.truncate(size)
    found = tell(shapes, config, path=path, head=b"PK", exported=False)
    assert (found.name, found.open) == (name, open_)
    assert (f"assumed {name}" in found.guess) == bool(open_)
    assert " or ".join(open_) in found.guess
    assert not any("assumed" in note or f"it is {name}" in note for note in found.notes)


def test_a_guessed_version_yields_to_the_recipe_and_to_a_file_that_tells(tmp_path: Path) -> None:
    path = toys.write_s2g(tmp_path / "G_7.pth", version="v2ProPlus", layout="training")
    opened = open_checkpoint(path, task=TASK)
    assert (opened.version, opened.unknown) == ("v2Pro or v2ProPlus", ("version",))
    guess = "it is v2Pro or v2ProPlus, which have the same tensors; assumed v2Pro, by what is usual"
    assert opened.guesses == (guess,)
    assert guess in inspect(path).notes  # who looks at the file has no recipe
    assert not any("v2Pro" in note for note in opened.notes)  # a run takes the recipe's, and says that alone
    model = {**VaeConfig().model_dump(mode="json"), **opened.config}
    for version in PRO:
        opened.check_model({**model, "version": version})
    published = toys.write_s2g(tmp_path / "s2G.pth", version="v2ProPlus")
    both = open_base([str(published), str(path)], task=TASK)
    assert (both.unknown, both.config["version"]) == ((), "v2ProPlus")


@pytest.mark.parametrize("version", PRO)
def test_a_run_says_the_version_that_its_recipe_takes_and_no_guess_of_it(tmp_path: Path, version: Any) -> None:
    opened = open_checkpoint(toys.write_s2g(tmp_path / "G_7.pth", version="v2ProPlus", layout="training"), task=TASK)
    composed = compose(toys.write_recipe(tmp_path / "r.yaml", "vae", version=version), [])
    plan: Any = SimpleNamespace(recipe=parse(composed), origins=composed.origins)
    about = [note for note in notes_on(plan, opened) if "v2Pro" in note]
    assert about == [f'`G_7.pth` does not tell version: model.version="{version}", as you say']


@pytest.mark.parametrize(("version", "head"), [("v2", b"PK"), ("v2Pro", b"05"), ("v2ProPlus", b"06")])
def test_written_files_start_with_upstreams_mark(tmp_path: Path, version: Any, head: bytes) -> None:
    path = tmp_path / "x.pth"
    write(path, {"weight": {}, "config": {}, "info": ""}, version=version)
    assert path.read_bytes()[:4] == head + b"\x03\x04"
    if version != "v2":
        assert as_upstream_tells(path, head=head).version == version


@pytest.mark.parametrize("value", [float("nan"), 7e4])
def test_weights_that_half_precision_breaks_are_not_written(value: float) -> None:
    with pytest.raises(CheckpointError, match="not finite in half precision"):
        halved({"vae.dec.conv_post.weight": torch.tensor([0.0, value])})


@pytest.mark.parametrize(("version", "kib"), [("v1", 82_932.8), ("v2", 83_006.3)])
def test_files_of_the_published_size_are_told_apart_by_upstreams_rule(tmp_path: Path, version: Any, kib: float) -> None:
    config = VaeNetConfig(freeze_quantizer=False)
    weights = {key: torch.zeros(shape) for key, shape in generator_shapes(config, version).items()}
    codebook = {"inited": (1,), "cluster_size": (1024,), "embed": (1024, 768), "embed_avg": (1024, 768)}
    weights |= {f"vae.quantizer.vq.layers.0._codebook.{key}": torch.zeros(shape) for key, shape in codebook.items()}
    path = tmp_path / "voice_e8_s96.pth"
    settings = vae_config(config, version=version, name="voice")
    write(path, vae_file(weights, settings, info="8epoch_96iteration"), version=version)
    assert path.stat().st_size / 1024 == pytest.approx(
        kib, abs=12
    )  # upstream's own file of this net, whose members have longer names
    assert misjudged(path, version=version, published_size=True) is None
    other = "v2" if version == "v1" else "v1"
    with pytest.raises(CheckpointError, match=rf"would load `voice_e8_s96.pth` as {version}, by .*, but it is {other}"):
        misjudged(path, version=other, published_size=True)


@pytest.mark.parametrize("version", ["v3", "v4"])
def test_adapters_of_later_versions_are_known_and_not_trained(tmp_path: Path, version: str) -> None:
    attention = "cfm.base_model.model.estimator.transformer_blocks.0.attn.to_q"
    keys = {
        f"{attention}.lora_A.default.weight": torch.zeros(16, 8),
        f"{attention}.lora_B.default.weight": torch.zeros(8, 16),
        "bridge.0.weight": torch.zeros(8, 4, 1),
        "wns1.pre.weight": torch.zeros(8, 8, 1),
        "linear_mel.weight": torch.zeros(4, 8, 1),
    }
    path = tmp_path / "mine_l16.pth"
    torch.save({"weight": keys, "config": {"model": {"version": version}}, "info": "", "lora_rank": 16}, path)
    data = path.read_bytes()
    path.write_bytes({"v3": b"03", "v4": b"04"}[version] + data[2:])
    found = inspect(path)
    assert (found.family, found.kind, found.version) == ("gpt_sovits", "adapter", version)
    assert f"adapters of rank 16: inference needs the published {version} VAE too" in found.notes
    with pytest.raises(CheckpointError, match=f"is GPT-SoVITS {version}"):
        open_checkpoint(path, task=TASK)


@pytest.mark.parametrize(
    ("keys", "setting"),
    [
        (["encoder.layers.0.attention.k_proj.weight", "feature_extractor.conv_layers.0.conv.weight"], "hubert"),
        (["roberta.encoder.layer.0.attention.self.query.weight", "roberta.embeddings.word_embeddings.weight"], "bert"),
        (["layer3_ds.weight", "fuse34.local_att.0.weight"], "speaker"),
    ],
)
def test_an_encoder_that_is_given_as_a_base_is_named(tmp_path: Path, keys: list[str], setting: str) -> None:
    path = tmp_path / "pytorch_model.bin"
    torch.save({key: torch.zeros(2) for key in keys}, path)
    with pytest.raises(CheckpointError, match="not a net that is trained") as raised:
        open_checkpoint(path)
    assert f"model.features.{setting}" in str(raised.value.hint)
