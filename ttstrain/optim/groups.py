"""Parameter groups by name pattern.

The first rule that matches a parameter's name wins; parameters that no rule matches are the group `default`. A pattern
that matches nothing is an error, and so is a trainable parameter without exactly one optimizer.
"""

from __future__ import annotations

import difflib
import re
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase

from torch import nn

from ttstrain.contract.task import EmbeddingsFirst
from ttstrain.errors import RecipeError
from ttstrain.optim.settings import READS_BETAS, OptimizerSettings, peak_lr, settings_of
from ttstrain.recipe.schema import GroupRule, OptimConfig, Schedule

DEFAULT_GROUP = "default"
TABLES = "tables"  # name of the group of embedding tables whose new embeddings train first
FROZEN_BY_TASK = "(frozen by the task)"
MULTIPLYING = (
    nn.Linear,
    nn.Bilinear,
    nn.modules.conv._ConvNd,
    nn.Embedding,
    nn.EmbeddingBag,
)  # types of layers with weights
_LAYER_NUMBER = re.compile(r"(?:^|\.)(\d+)(?=\.|$)")


@dataclass(frozen=True, slots=True)
class GradClip:
    """A gradient norm that is clipped separately from the rest of its optimizer."""

    rule: str  # whose groups they are of
    max_grad_norm: float


@dataclass(frozen=True, eq=False)
class Group:
    """Parameters that share one LR, weight decay and schedule.

    A rule makes up to two groups of one name: matrices, and norms and biases without weight decay.
    """

    optimizer: str
    name: str
    rule: str  # the rule's name, of which layers and tables are parts; `default` where none matches
    names: tuple[str, ...]  # of the parameters, over the whole task
    parameters: tuple[nn.Parameter, ...]
    lr: float  # peak
    weight_decay: float
    betas: tuple[float, float]
    schedule: Schedule
    frozen_range: tuple[int, int] | None = None  # not trained in steps [from, to)
    clip: GradClip | None = None  # none: with the rest of its optimizer

    @property
    def key(self) -> str:
        """How logs call the group."""
        return f"{self.optimizer}/{self.name}"

    @property
    def num_parameters(self) -> int:
        return sum(parameter.numel() for parameter in self.parameters)

    def frozen_at(self, step: int) -> bool:
        """Tell whether the group is frozen in the update after `step` finished ones."""
        return self.frozen_range is not None and self.frozen_range[0] <= step < self.frozen_range[1]


@dataclass(frozen=True, slots=True)
class FrozenGroup:
    """Frozen parameters and which rule froze them."""

    optimizer: str
    name: str  # the rule's, or `FROZEN_BY_TASK`
    names: tuple[str, ...]
    num_parameters: int


@dataclass(frozen=True, slots=True)
class GroupTable:
    """Every parameter of a task, sorted into groups."""

    groups: tuple[Group, ...]
    frozen_groups: tuple[FrozenGroup, ...]
    settings: Mapping[str, OptimizerSettings]  # per optimizer, in the task's order
    embeddings: frozenset[str]  # names of look-up tables: two-dimensional, but not matrices that multiply

    @property
    def frozen(self) -> list[str]:
        """Names of all parameters that are never trained."""
        return [name for group in self.frozen_groups for name in group.names]


@dataclass(frozen=True, slots=True)
class GroupRow:
    """A row of the table of groups that a user sees."""

    group: str
    optimizer: str
    tensors: int
    parameters: int
    lr: float  # peak; 0 when never trained
    weight_decay: float
    frozen: str  # "", "always" or "steps [from, to)"


@dataclass(frozen=True, slots=True)
class _Found:
    """A parameter with all that decides its group."""

    name: str
    parameter: nn.Parameter
    optimizer: str
    rule: GroupRule | None
    is_vector: bool  # a norm, a bias or another gain: covered by `decay_norms_and_biases`


def build_groups(
    modules: Mapping[str, nn.Module],
    named_parameters: Iterable[tuple[str, nn.Parameter]],
    optim: OptimConfig,
    *,
    embeddings_first: EmbeddingsFirst | None = None,
) -> GroupTable:
    """Sort every parameter of a task into named groups.

    `modules` maps each optimizer to the module it owns, `named_parameters` are the whole task's. Parameters of rules
    that say `frozen: true` get `requires_grad = False`. The tables of `embeddings_first` get groups of their own, and
    all others are frozen for its steps. Raises RecipeError for rules that match nothing or train nothing, ValueError
    when the task's optimizers overlap or leave a trainable parameter out.
    """
    _check_optimizer_names(optim, modules)
    named = dict(named_parameters)
    rules = _match_rules(list(named), optim.groups)
    owners = _owners(modules, named)
    matrices = {
        id(part.weight) for root in modules.values() for part in root.modules() if isinstance(part, MULTIPLYING)
    }
    found = [
        _Found(name, named[name], owners[name], rules[name], is_vector=_is_vector(named[name], matrices))
        for name in named
        if name in owners
    ]
    for item in found:
        if item.rule is not None and item.rule.frozen is True:
            item.parameter.requires_grad_(False)
    trainable = [item for item in found if item.parameter.requires_grad]
    _check_rules_train(optim.groups, rules, trainable)
    settings = {optimizer: settings_of(optim, optimizer) for optimizer in modules}
    groups: list[Group] = []
    for optimizer in modules:
        own = [item for item in trainable if item.optimizer == optimizer]
        if not own:
            raise RecipeError(
                f"optimizer `{optimizer}` has no parameter to train", hint="check `frozen` in `optim.groups`"
            )
        for rule in (*optim.groups, None):
            members = [item for item in own if item.rule is rule]
            parts = _groups_of(rule, members, optimizer=optimizer, settings=settings[optimizer], optim=optim)
            if twice := {part.key for part in parts} & {group.key for group in groups}:
                raise RecipeError(
                    f"`optim.groups`: two groups are called `{min(twice)}`",
                    hint="rename one: groups of `layer_decay` are called `<name>.<layer>`",
                )
            groups += parts
    if embeddings_first is not None:
        groups = _rows_apart(groups, embeddings_first)
    embeddings = {id(part.weight) for root in modules.values() for part in root.modules() if _is_table(part)}
    return GroupTable(
        groups=tuple(groups),
        frozen_groups=tuple(_frozen_groups(found, optim.groups, modules)),
        settings=settings,
        embeddings=frozenset(name for name, parameter in named.items() if id(parameter) in embeddings),
    )


def describe(table: GroupTable) -> list[GroupRow]:
    """Return one row per group, the frozen ones last."""
    rows = [
        GroupRow(
            group=group.name,
            optimizer=group.optimizer,
            tensors=len(group.names),
            parameters=group.num_parameters,
            lr=group.lr,
            weight_decay=group.weight_decay,
            frozen="" if group.frozen_range is None else "steps [{}, {})".format(*group.frozen_range),
        )
        for group in table.groups
    ]
    return rows + [
        GroupRow(
            group=group.name,
            optimizer=group.optimizer,
            tensors=len(group.names),
            parameters=group.num_parameters,
            lr=0.0,
            weight_decay=0.0,
            frozen="always",
        )
        for group in table.frozen_groups
    ]


# ---------------------------------------------------------------- who owns and who matches


def _check_optimizer_names(optim: OptimConfig, modules: Mapping[str, nn.Module]) -> None:
    for name in optim.optimizers:
        if name not in modules:
            near = difflib.get_close_matches(name, modules, n=1)
            raise RecipeError(
                f"`optim.optimizers.{name}`: the task has no such optimizer",
                hint=f"did you mean `{near[0]}`?" if near else f"its optimizers: {', '.join(modules)}",
            )


def _owners(modules: Mapping[str, nn.Module], named: Mapping[str, nn.Parameter]) -> dict[str, str]:
    """Map each parameter's name to the one optimizer whose module holds it; frozen ones may have none."""
    holders: dict[int, list[str]] = {}
    for optimizer, module in modules.items():
        for parameter in module.parameters():
            holders.setdefault(id(parameter), []).append(optimizer)
    owners: dict[str, str] = {}
    for name, parameter in named.items():
        match holders.pop(id(parameter), []):
            case [optimizer]:
                owners[name] = optimizer
            case []:
                if parameter.requires_grad:
                    raise ValueError(f"parameter `{name}` belongs to no optimizer of the task")
                owners[name] = ""
            case several:
                raise ValueError(f"parameter `{name}` belongs to several optimizers: {', '.join(several)}")
    if holders:
        raise ValueError(f"{len(holders)} parameters of the optimizers' modules are not the task's own")
    return owners


def _match_rules(names: Sequence[str], rules: Sequence[GroupRule]) -> dict[str, GroupRule | None]:
    """Give each name the first rule that matches it."""
    for name, count in Counter(rule.name for rule in rules).items():
        if count > 1 or name == DEFAULT_GROUP:
            raise RecipeError(
                f"`optim.groups`: the name `{name}` is {'given twice' if count > 1 else 'taken'}",
                hint=f"`{DEFAULT_GROUP}` holds all other parameters; set it with `optim.lr` and `optim.weight_decay`"
                if name == DEFAULT_GROUP
                else "put all patterns of one group into its `match`",
            )
    matched: dict[str, GroupRule | None] = dict.fromkeys(names)
    for rule in rules:
        hits = 0
        for pattern in rule.match:
            fitting = [name for name in names if fnmatchcase(name, pattern)]
            if not fitting:
                raise RecipeError(
                    f"`optim.groups`: pattern `{pattern}` of group `{rule.name}` matches no parameter",
                    hint=_near(pattern, names),
                )
            for name in fitting:
                if matched[name] is None:
                    matched[name] = rule
                hits += matched[name] is rule
        if not hits:
            raise RecipeError(
                f"`optim.groups`: rules before it take every parameter of group `{rule.name}`",
                hint="the first rule that matches wins: put the more specific rule first",
            )
    return matched


def _near(pattern: str, names: Sequence[str]) -> str:
    """Name the parameters most like a pattern that matched none."""
    plain = pattern.strip("*.")
    tails = {tail: name for name in reversed(names) for tail in _tails(name)}
    near = difflib.get_close_matches(plain, tails, n=3, cutoff=0.5)
    shown = list(dict.fromkeys(tails[tail] for tail in near)) or list(names[:3])
    return f"`*` also crosses dots; {'near' if near else 'existing'} names: {', '.join(f'`{name}`' for name in shown)}"


def _tails(name: str) -> list[str]:
    """Return every run of path components: a pattern may match any of them."""
    parts = name.split(".")
    return [".".join(parts[i:j]) for i in range(len(parts)) for j in range(i + 1, len(parts) + 1)]


def _check_rules_train(
    rules: Sequence[GroupRule], matched: Mapping[str, GroupRule | None], trainable: Sequence[_Found]
) -> None:
    for rule in rules:
        if rule.frozen is not True and not any(item.rule is rule for item in trainable):
            first = next(name for name, matching in matched.items() if matching is rule)
            raise RecipeError(
                f"`optim.groups`: group `{rule.name}` matches only parameters that the task never trains",
                hint=f"`{first}` is frozen by the task: drop the rule, or say `frozen: true`",
            )


def _is_vector(parameter: nn.Parameter, matrices: Collection[int]) -> bool:
    """Tell whether a parameter is a gain or offset per channel, of any shape, and not a layer's weight matrix.

    GRN's gains are (1, 1, c), those of weight normalisation (c, 1, 1).
    """
    return sum(size > 1 for size in parameter.shape) <= 1 and id(parameter) not in matrices


def _is_table(module: nn.Module) -> bool:
    return isinstance(module, nn.Embedding | nn.EmbeddingBag)


# ---------------------------------------------------------------- one rule's groups


def _groups_of(
    rule: GroupRule | None,
    members: Sequence[_Found],
    *,
    optimizer: str,
    settings: OptimizerSettings,
    optim: OptimConfig,
) -> list[Group]:
    """Split what one rule matched by layer and by weight decay."""
    if not members:
        return []
    if rule is not None and rule.betas is not None and settings.kind not in READS_BETAS:
        raise RecipeError(
            f"`optim.groups`: group `{rule.name}` sets `betas`, which `{settings.kind}` does not have",
            hint="drop them, or choose another optimizer",
        )
    frozen_range = None if rule is None or isinstance(rule.frozen, bool) else rule.frozen
    weight_decay = settings.weight_decay if rule is None or rule.weight_decay is None else rule.weight_decay
    decays_vectors = optim.decay_norms_and_biases or _asks_for_decay_of_vectors(rule, members)
    groups = []
    for name, factor, layer in _layers(rule, members):
        for vectors in (False, True):
            part = [item for item in layer if item.is_vector is vectors]
            if not part:
                continue
            groups.append(
                Group(
                    optimizer=optimizer,
                    name=name,
                    rule=DEFAULT_GROUP if rule is None else rule.name,
                    names=tuple(item.name for item in part),
                    parameters=tuple(item.parameter for item in part),
                    lr=peak_lr(rule, settings) * factor,
                    weight_decay=0.0 if vectors and not decays_vectors else weight_decay,
                    betas=settings.betas if rule is None or rule.betas is None else rule.betas,
                    schedule=optim.schedule if rule is None or rule.schedule is None else rule.schedule,
                    frozen_range=frozen_range,
                    clip=None
                    if rule is None or rule.max_grad_norm is None
                    else GradClip(rule.name, rule.max_grad_norm),
                )
            )
    return groups


def _rows_apart(groups: Sequence[Group], first: EmbeddingsFirst) -> list[Group]:
    """Put the tables whose new embeddings train first into groups of their own; freeze all other groups until then."""
    apart: list[Group] = []
    for group in groups:
        named = list(zip(group.names, group.parameters, strict=True))
        for tables in (False, True):
            part = [item for item in named if (item[0] in first.tables) is tables]
            if not part:
                continue
            names, parameters = zip(*part, strict=True)
            if tables:
                name = TABLES if group.name == DEFAULT_GROUP else f"{group.name}.{TABLES}"
                apart.append(replace(group, name=name, names=names, parameters=parameters))
            else:
                frozen = _frozen_until(first.steps, group)
                apart.append(replace(group, names=names, parameters=parameters, frozen_range=frozen))
    found = {name for group in apart for name in group.names}
    if missing := [table for table in first.tables if table not in found]:
        raise RecipeError(
            f"`model.first_new_rows` trains new embeddings of `{missing[0]}`, but that table is frozen",
            hint="remove the rule or the adapters that freeze it, or `first_new_rows`",
        )
    return apart


def _frozen_until(steps: int, group: Group) -> tuple[int, int]:
    begin, end = group.frozen_range or (0, 0)
    if begin > steps:
        raise RecipeError(
            f"group `{group.name}` is frozen in steps [{begin}, {end}) and by `model.first_new_rows` in [0, {steps})",
            hint="a group can be frozen in one range of steps only: make the two ranges overlap or meet",
        )
    return 0, max(end, steps)


def _asks_for_decay_of_vectors(rule: GroupRule | None, members: Sequence[_Found]) -> bool:
    """Tell whether a rule sets a weight decay and matches only norms and biases: then it is meant for these."""
    if rule is None or rule.weight_decay is None:
        return False
    return all(item.is_vector for item in members)


def _layers(rule: GroupRule | None, members: Sequence[_Found]) -> list[tuple[str, float, list[_Found]]]:
    """Return (group name, LR factor, parameters): one entry, or one per layer under `layer_decay`.

    Parameters without a number in their name keep the rule's own name and LR.
    """
    if rule is None:
        return [(DEFAULT_GROUP, 1.0, list(members))]
    if rule.layer_decay is None:
        return [(rule.name, 1.0, list(members))]
    layers: dict[int, list[_Found]] = {}
    unnumbered = []
    for item in members:
        number = _LAYER_NUMBER.search(item.name)
        if number is None:
            unnumbered.append(item)
        else:
            layers.setdefault(int(number[1]), []).append(item)
    if not layers:
        raise RecipeError(
            f"`optim.groups`: group `{rule.name}` sets `layer_decay`, but its parameters have no layer number",
            hint=f"a layer is the first number in a name, and `{members[0].name}` has none",
        )
    last = max(layers)
    numbered = [(f"{rule.name}.{layer}", rule.layer_decay ** (last - layer), layers[layer]) for layer in sorted(layers)]
    return ([(rule.name, 1.0, unnumbered)] if unnumbered else []) + numbered


def _frozen_groups(
    found: Sequence[_Found], rules: Sequence[GroupRule], modules: Mapping[str, nn.Module]
) -> list[FrozenGroup]:
    frozen = [item for item in found if not item.parameter.requires_grad]
    groups = []
    for optimizer in (*modules, ""):
        for rule in (*(rule for rule in rules if rule.frozen is True), None):
            by_rule = rule is not None
            part = [
                item
                for item in frozen
                if item.optimizer == optimizer
                and (item.rule is rule if by_rule else item.rule is None or item.rule.frozen is not True)
            ]
            if part:
                groups.append(
                    FrozenGroup(
                        optimizer=optimizer,
                        name=FROZEN_BY_TASK if rule is None else rule.name,
                        names=tuple(item.name for item in part),
                        num_parameters=sum(item.parameter.numel() for item in part),
                    )
                )
    return groups
