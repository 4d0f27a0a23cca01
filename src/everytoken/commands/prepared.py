"""Whether what was prepared is what a run needs."""

from hydra.utils import get_object
from omegaconf import DictConfig, OmegaConf

from everytoken.config.literal import literal
from everytoken.corpora.prepared import Prepared
from everytoken.errors import UserError
from everytoken.runtime.console import warn

LEARNED = "everytoken.tokenizer.train_"
"""Begins the names of what learns a tokenizer."""


def check_prepared(cfg: DictConfig, source: Prepared) -> None:
    """Refuse what was prepared otherwise than a run needs it.

    Raises:
        UserError: with what to type.
    """
    then, own = source.manifest, OmegaConf.to_container(cfg.task.objective, resolve=True)
    assert isinstance(own, dict)
    was, target = then["objective"], str(own["_target_"])
    if was["_target_"] != target:
        raise UserError(
            f"{source.path} was prepared with task={then['task']}, and this is "
            f"task={cfg.task.name}: choose that one, or prepare it for this one"
        )
    # What is drawn anew for each epoch may differ.
    free = getattr(get_object(target), "drawn", ())
    settings = {f"task.objective.{k}": v for k, v in was.items() if own.get(k, v) != v}
    settings = {key: v for key, v in settings.items() if key.rpartition(".")[2] not in free}
    if then["task_fields"] != [*cfg.task.fields]:
        settings = {"task.fields": then["task_fields"]}
    if settings:
        give = " ".join(f"{key}={literal(value)}" for key, value in settings.items())
        raise UserError(f"{source.path} was prepared with other settings of the task: type {give}")
    learned = then["tokenizer_of"].startswith(LEARNED)
    if cfg.model.get("pretrained") and not cfg.get("init_from") and learned:
        raise UserError(
            f"pretrained weights know only the tokens of their own tokenizer, and {source.path} "
            "was prepared with another: prepare it with tokenizer=pretrained tokenizer.path=FOLDER"
        )
    _check_room(cfg, source)


def _check_room(cfg: DictConfig, source: Prepared) -> None:
    """Warn of an order that reads more shards at a time than are kept."""
    train, most = source.splits["train"], source.shelf.most_bytes
    size = sum(file.size for file in train.shards)
    if not source.shelf.is_remote or size <= most:
        return
    each, kept = train.shard_examples, most // max(file.size for file in train.shards)
    block, together = cfg.data.get("shuffle_blocks") or (train.examples, 1)
    read = together * (-(-block // each) + (block % each > 0))
    if 2 * read > kept:
        warn(
            f"the shards of train have {size / 1e9:,.3g} GB, and data.cache_gigabytes keeps "
            f"{most / 1e9:g}: in this order they are fetched again and again; raise it, or shuffle "
            f"few at a time by data.shuffle_blocks=[{each},{max(1, min(16, kept // 2))}]"
        )
