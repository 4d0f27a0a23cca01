"""What a sweep searches, told in the words with which Hydra's own sweepers are told it."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import IntervalSweep, Override, RangeSweep, Sweep
from hydra.errors import HydraException
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
    distribution_to_json,
)

from everytoken.config.cli import explain
from everytoken.config.keys import conf_dir
from everytoken.config.values import check_training
from everytoken.errors import UserError

TAKEN = ("hydra.", "hydra/", "resume")
"""Overrides that each trial is given anyway."""


@dataclass(frozen=True)
class Space:
    """Settings to search, and settings that all trials share."""

    searched: dict[str, BaseDistribution]
    fixed: list[str]

    def words(self, values: Mapping[str, Any]) -> list[str]:
        """Values of what is searched, as overrides."""
        return [f"{key}={values[key]}" for key in self.searched]

    def as_json(self) -> dict[str, str]:
        """The same for two spaces exactly if they search the same."""
        searched = {key: distribution_to_json(one) for key, one in self.searched.items()}
        return {**searched, "settings": " ".join(sorted(self.fixed))}


def read_space(words: list[str]) -> Space:
    """What a command line asks for.

    Raises:
        UserError: a word that can't be read, or can't be searched; nothing to search.
    """
    parser = OverridesParser.create()
    searched: dict[str, BaseDistribution] = {}
    fixed = []
    for word in words:
        try:
            override = parser.parse_override(word)
        except HydraException as error:
            reason = " ".join(str(error).split()).partition(" See ")[0]
            raise UserError(f"can't read {word!r} as key=value: {reason}") from error
        key = override.get_key_element()
        if key.lstrip("+~").startswith(TAKEN):
            raise UserError(f"{word}: each trial is given its own, leave it out")
        if not override.is_sweep_override():
            fixed.append(word)
        elif key in searched:
            raise UserError(f"{key} is searched twice: give it once")
        else:
            try:
                searched[key] = distribution(override)
            except ValueError as error:
                raise UserError(f"can't search {word}: {' '.join(str(error).split())}") from error
    if not searched:
        raise UserError(
            "there is nothing to search: give a key=interval(a,b), key=choice(a,b) or "
            "key=range(a,b), in quotes"
        )
    return Space(searched, fixed)


def distribution(override: Override) -> BaseDistribution:
    """Optuna's word for one of Hydra's sweeps: a range ends before its end, an interval at it.

    Raises:
        ValueError: nothing is in it, or Optuna can't search it.
    """
    value = override.value()
    if not isinstance(value, Sweep):
        raise ValueError("name the choices")
    if unknown := value.tags - {"log", "int"}:
        raise ValueError(f"the tag {min(unknown)} means nothing here, log and int do")
    log = "log" in value.tags
    if isinstance(value, IntervalSweep):
        assert value.start is not None
        assert value.end is not None
        if "int" in value.tags or isinstance(value.start, int):
            return IntDistribution(int(value.start), int(value.end), log=log)
        return FloatDistribution(value.start, value.end, log=log)
    if isinstance(value, RangeSweep):
        values = sorted(value.range())
        if not values:
            raise ValueError("the range is empty")
        if isinstance(values[0], int):
            return IntDistribution(values[0], values[-1], log=log, step=abs(int(value.step)))
        return FloatDistribution(values[0], values[-1], log=log, step=abs(float(value.step)))
    return CategoricalDistribution([*override.sweep_string_iterator()])


def check_start(space: Space) -> DictConfig:
    """The config of a trial at a corner of the space, which must be one that can be trained.

    Raises:
        UserError: what is wrong at the first corner, if the last one is wrong too.
    """
    first, last = ({k: corner(d, i) for k, d in space.searched.items()} for i in (0, -1))
    try:
        return _config([*space.words(first), *space.fixed])
    except UserError as mistake:
        try:
            return _config([*space.words(last), *space.fixed])
        except UserError:
            raise mistake from None


def corner(one: BaseDistribution, end: int) -> Any:
    """The first (0) or last (-1) value."""
    if isinstance(one, CategoricalDistribution):
        return one.choices[end]
    assert isinstance(one, IntDistribution | FloatDistribution)
    return (one.low, one.high)[end]


def _config(words: list[str]) -> DictConfig:
    try:
        with initialize_config_dir(str(conf_dir()), version_base="1.3"):
            cfg = compose("train", words)
        check_training(cfg)
    except (HydraException, OmegaConfBaseException) as error:
        raise UserError(explain(error, "train")) from error
    return cfg
