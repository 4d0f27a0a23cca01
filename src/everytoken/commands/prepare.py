"""The job behind scripts/prepare.py: a run's texts → tokens in shards, where many machines read."""

import json
import re
import tempfile
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from everytoken.commands.build import build_data
from everytoken.config.check import checked
from everytoken.config.cli import explain
from everytoken.config.keys import conf_dir
from everytoken.config.literal import shown_command
from everytoken.config.values import check_training
from everytoken.corpora.prepared import FORM, MANIFEST, Prepared
from everytoken.corpora.target import Target
from everytoken.data.cache.folder import StoreError
from everytoken.data.cache.sharding import (
    Written,
    examples_of,
    write_index,
    write_shards,
    write_tokenizer,
)
from everytoken.data.cache.store import ItemList, ItemStore
from everytoken.data.datamodule import SPLITS, TokenDataModule
from everytoken.data.fields import with_second
from everytoken.errors import RunError, UserError, check_number
from everytoken.runtime.console import INDENT, Watch, log


def prepare(target: str, overrides: Sequence[str], megabytes: float) -> None:
    """Write all splits of what a run would train on to a folder or an address.

    Args:
        target: the folder or address; nothing is prepared there yet.
        overrides: those of the run.
        megabytes: of a shard, about, in 10⁶ bytes.

    Raises:
        UserError: overrides that `python -m train` would refuse; a target that can't be written.
        RunError: its server failed too often.
    """
    check_number("--shard-megabytes", megabytes, float, low=0.001, most=1e6)
    try:
        cfg = checked("train", [*overrides], check_training)
    except (HydraException, OmegaConfBaseException) as error:
        raise UserError(explain(error, "train")) from error
    place = Target(target)
    if place.has(MANIFEST):
        raise UserError(f"{target} holds what was prepared before: give a new folder")
    data = build_data(cfg, SPLITS)
    if isinstance(data.source, Prepared):
        raise UserError(f"{data.source.path} is prepared already: copy it")
    manifest = described(cfg, data)
    with tempfile.TemporaryDirectory() as folder:
        try:
            manifest |= sent(data, place, Path(folder), megabytes)
            whole = Path(folder) / MANIFEST
            whole.write_text(json.dumps(manifest) + "\n", encoding="utf-8")
            place.put(whole, MANIFEST)
        except (OSError, StoreError) as error:
            raise RunError(f"can't write what goes to {target} ({error}): see TMPDIR") from error
    log(conclusion(target, overrides, manifest))


def described(cfg: DictConfig, data: TokenDataModule) -> dict[str, Any]:
    """What decides the tokens, for who trains on them."""
    return {
        "form": FORM,
        "task": cfg.task.name,
        "task_fields": [*cfg.task.fields],
        "fields": with_second(cfg.task.fields, getattr(data.source, "fields", ())),
        "objective": OmegaConf.to_container(cfg.task.objective, resolve=True),
        "tokenizer_of": cfg.tokenizer._target_,
        "mixture": data.mixture,
    }


def sent(data: TokenDataModule, place: Target, folder: Path, megabytes: float) -> dict[str, Any]:
    """Write all files but the manifest; how it names them."""

    def put(file: Written) -> list[Any]:
        size = file.path.stat().st_size
        place.put(file.path, file.name)
        return [size, file.crc]

    tokenizer = write_tokenizer(data.tokenizer, folder)
    found: dict[str, Any] = {"tokenizer": [tokenizer.name, *put(tokenizer)], "splits": {}}
    for split, examples in data.splits.items():
        items = examples.items
        assert isinstance(items, ItemStore | ItemList)
        each = examples_of(megabytes, items)
        shards: list[list[Any]] = []
        done, total = partial(len, shards), -(-len(items) // each)
        with Watch(f"preparing {split}", done, total, "shards"):
            for shard in write_shards(items, split, each, folder):
                shards.append(put(shard))
        index = write_index(items, split, folder)
        found["splits"][split] = {
            "index": [index.name, *put(index)],
            "examples": len(items),
            "shard_examples": each,
            "shards": shards,
        }
    return found


def conclusion(target: str, overrides: Sequence[str], manifest: Mapping[str, Any]) -> str:
    """What was written, and what to type to train on it."""
    shared = OmegaConf.load(conf_dir() / "train.yaml").data
    own = [
        word
        for word in overrides
        if not re.match(r"[+~]*(data|tokenizer)[.=]", word)
        or word.partition("=")[0].removeprefix("data.") in shared
    ]
    lines = []
    for split, part in manifest["splits"].items():
        size = sum(size for size, _ in part["shards"]) / 1e6
        lines.append(
            f"{split}: {part['examples']:,} examples in {len(part['shards']):,} shards, "
            f"{size:,.1f} MB; {part['shard_examples']:,} examples in each"
        )
    command = shown_command("train", *own, "data=prepared", **{"data.path": target})
    return "\n".join([*lines, "train on them:", INDENT + command])
