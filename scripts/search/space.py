"""What a sweep searches, in the grammar of Hydra's own sweepers."""

from typing import Any, Literal

import optuna
from hydra import compose, initialize_config_dir
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import IntervalSweep, Override, RangeSweep, Sweep
from hydra.errors import HydraException
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException
from optuna import distributions

from everytoken.config.cli import explain
from everytoken.config.keys import conf_dir
from everytoken.config.secrets import check_overrides
from everytoken.config.values import check_training
from everytoken.errors import UserError, one_line

Space = dict[str, distributions.BaseDistribution]
"""What is searched, by its key in an override."""

Direction = Literal["minimize", "maximize"]
LOSS = "val/loss"
"""Less of it is better, whatever else is measured."""

POINTS_TRIED = 10


def read_space(overrides: list[str]) -> tuple[Space, list[str]]:
    """What a command line searches, and the overrides that all trials share.

    Raises:
        UserError: an override that can't be read or searched, a key that is given twice, a secret.
    """
    check_overrides(overrides)
    space: Space = {}
    fixed, given = [], set()
    for line in overrides:
        try:
            override = OverridesParser.create().parse_override(line)
            key = override.get_key_element()
            if override.is_sweep_override():
                space[key] = distribution(override)
            else:
                fixed.append(line)
        except (HydraException, ValueError) as error:
            reason = one_line(error).partition(" See ")[0]
            raise UserError(f"can't search or set {line!r}: {reason}") from error
        key = key.lstrip("+~")
        if key.startswith(("hydra.", "hydra/", "resume")):
            raise UserError(f"{line}: each trial is given its own, leave it out")
        if key in given:
            raise UserError(f"{key} is given twice: give it once, as a value or as what to search")
        given.add(key)
    if not space:
        raise UserError(
            "there is nothing to search: give a key=interval(a,b), key=choice(a,b) or "
            "key=range(a,b), in quotes"
        )
    return space, fixed


def distribution(override: Override) -> distributions.BaseDistribution:
    """Optuna's form of one of Hydra's sweeps: a range ends before its end, an interval at it.

    Raises:
        ValueError: nothing is in it, or Optuna can't search it.
    """
    value = override.value()
    if not isinstance(value, Sweep):
        raise ValueError("name the choices")
    if unknown := value.tags - {"log", "int"}:
        raise ValueError(f"the tag {min(unknown)} means nothing here, log and int do")
    settings: dict[str, Any] = {"log": "log" in value.tags}
    if isinstance(value, IntervalSweep):
        ends: list[Any] = [value.start, value.end]
        if "int" in value.tags:
            ends = [*map(int, ends)]
    elif isinstance(value, RangeSweep):
        ends = sorted(value.range())
        if not ends:
            raise ValueError("the range is empty")
        settings["step"] = abs(value.step)
    else:
        return distributions.CategoricalDistribution([*override.sweep_string_iterator()])
    is_whole = isinstance(ends[0], int)
    kind = distributions.IntDistribution if is_whole else distributions.FloatDistribution
    return kind(ends[0], ends[-1], **settings)


def assigned(values: dict[str, Any]) -> list[str]:
    """Values of what is searched, as overrides."""
    return [f"{key}={value}" for key, value in values.items()]


def check_start(space: Space, fixed: list[str]) -> DictConfig:
    """The config of a trial somewhere in the space, if there is one that can be trained.

    Raises:
        UserError: what is wrong with the first that was tried.
    """
    mistakes = []
    points = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=1))
    for _ in range(POINTS_TRIED):
        try:
            with initialize_config_dir(str(conf_dir()), version_base="1.3"):
                cfg = compose("train", [*fixed, *assigned(points.ask(space).params)])
            check_training(cfg)
            return cfg
        except (HydraException, OmegaConfBaseException) as error:
            mistakes.append(UserError(explain(error, "train")))
        except UserError as error:
            mistakes.append(error)
    raise mistakes[0]


def checked_direction(metric: str, cfg: DictConfig, asked: Direction | None) -> Direction:
    """The metric's own, or the one that was asked for where it doesn't say.

    Raises:
        UserError: neither, or they contradict each other.
    """
    known: dict[str, bool | None] = {LOSS: False}
    if metric != LOSS:
        from everytoken.commands.sweep import metric_directions  # here: torch takes a while

        known = metric_directions(cfg)
    higher = known.get(metric)
    own: Direction | None = None if higher is None else "maximize" if higher else "minimize"
    if asked is not None and own not in (None, asked):
        raise UserError(
            f"--direction {asked} would take the worst {metric} for the best: leave it out"
        )
    if (found := own or asked) is None:
        names = ", ".join(
            name for name, way in known.items() if name[:4] == "val/" and way is not None
        )
        raise UserError(
            f"it isn't known whether more of {metric} is better: add --direction minimize or "
            f"--direction maximize, or take one of {names}"
        )
    return found
