"""Parts of a config whose code isn't there, and settings that it doesn't take: told by its source.

So a slip in a YAML is found before data are read, and nothing is imported for it.
"""

from collections.abc import Iterator
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from everytoken.config.code import missing, parameters
from everytoken.config.keys import did_you_mean
from everytoken.config.places import place
from everytoken.errors import UserError

OF_HYDRA = ("_target_", "_args_", "_partial_", "_convert_", "_recursive_")
"""Keys of a part that aren't arguments of its code."""


def check_code(cfg: DictConfig, folder: Path) -> None:
    """Refuse a `_target_` that names nothing, and settings that its code doesn't take.

    Args:
        cfg: resolved.
        folder: of --config-dir, or conf/.

    Raises:
        UserError: with the file and line that says so, and the nearest name that there is.
    """
    for key, part in _groups(cfg, ""):
        for name in part:
            if str(name).startswith("_") and name not in OF_HYDRA and "_target_" not in part:
                where = f"{key}.{name}"
                hint = did_you_mean(where, [f"{key}.{one}" for one in OF_HYDRA])
                raise UserError(f"{place(where, folder)}unknown key {where}{hint}")
        if not isinstance(part.get("_target_"), str):
            continue
        target = str(part._target_)
        if why := missing(target):
            at = place(f"{key}._target_", folder)
            raise UserError(f"{at}{key}._target_={target} can't be imported: {why}")
        if (taken := parameters(target)) is None:
            continue
        for name in part:
            if name not in taken and not str(name).startswith("_"):
                where = f"{key}.{name}"
                hint = did_you_mean(where, [f"{key}.{one}" for one in taken])
                raise UserError(f"{place(where, folder)}unknown key {where}{hint}")


def _groups(
    node: DictConfig, path: str, *, is_argument: bool = False
) -> Iterator[tuple[str, DictConfig]]:
    """What may be a part, by its dotted name; keys of an argument are its part's own affair."""
    is_part = "_target_" in node
    if is_part or not is_argument:
        yield path, node
    for key in node:
        value = None if OmegaConf.is_missing(node, key) else node[key]
        if isinstance(value, DictConfig):
            inside = is_part or is_argument
            yield from _groups(value, f"{path}.{key}".lstrip("."), is_argument=inside)
