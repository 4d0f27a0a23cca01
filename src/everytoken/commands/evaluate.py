"""The job behind `python -m eval`, as each rank runs it, and a finished run made ready for use."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from rich.table import Table

from everytoken.commands.adapting import adapt
from everytoken.commands.beginning import Beginning
from everytoken.commands.build import build_data, build_evaluator, build_module
from everytoken.commands.lines import breaks_shown
from everytoken.commands.memory import explained, fewer_tokens
from everytoken.corpora.splits import numbers
from everytoken.data.datamodule import TokenDataModule
from everytoken.errors import UserError
from everytoken.run.checkpoint_file import load_weights
from everytoken.run.directory import Run, shown
from everytoken.run.named_checkpoint import NamedCheckpoint
from everytoken.run.other_data import label as data_label
from everytoken.runtime.console import log, warn
from everytoken.runtime.files import write_json, write_whole
from everytoken.runtime.rendezvous import meet
from everytoken.runtime.together import together
from everytoken.tokenizer.tokenizer import Tokenizer
from everytoken.training.answers import Limit, cut_off, too_short
from everytoken.training.distributed import from_all_ranks
from everytoken.training.module import TokenModule


def evaluate(
    run_dir: str,
    split: str,
    checkpoint: str,
    trainer: dict[str, Any],
    precision: dict[str, Any] | None,
    decoding: dict[str, Any] | None,
    max_new_tokens: Limit | None = None,
    data: dict[str, Any] | None = None,
    data_overrides: Sequence[str] = (),
) -> None:
    """Exact metrics of a run's checkpoint on a split; printed, and written to the run directory.

    Beside them what was generated, if anything was: a line for each example that is stored, in
    their order, blank for one that was left out.

    Args:
        run_dir: the run.
        split: "val" or "test".
        checkpoint: a name, see `NamedCheckpoint`.
        trainer: a trainer config.
        precision: a precision config; None for the run's own.
        decoding: a decoding config; None for the run's own.
        max_new_tokens: how far to generate; None for as far as the run.
        data: a data config; None for the run's own.
        data_overrides: what was typed for it, to name the files by.

    Raises:
        UserError: no such run or checkpoint; a decoding where nothing is generated; results, which
            are printed, that can't be written.
    """
    run = Run(Path(run_dir))
    cfg = run.config
    cfg.trainer = trainer
    if precision is not None:
        cfg.precision = precision
    if data is not None:
        OmegaConf.update(cfg, "data", data, merge=False, force_add=True)
    if max_new_tokens is not None:
        if cfg.task.shape == "encoder":
            raise UserError(f"{run_dir} is an encoder, which generates nothing: no max_new_tokens")
        cfg.task.max_new_tokens = max_new_tokens
    if decoding is not None:
        if cfg.task.max_new_tokens is None:
            more = "" if cfg.task.shape == "encoder" else ", or add max_new_tokens=auto"
            raise UserError(
                f"evaluation of {run_dir} generates nothing (task.max_new_tokens=null), "
                f"so decoding would change nothing: leave it out{more}"
            )
        cfg.decoding = decoding
    label = NamedCheckpoint.of(run, checkpoint).label
    tokenizer = Tokenizer.load(run.tokenizer_file)
    meet(trainer["hang_timeout"])
    with together("preparing data"):
        corpus = build_data(cfg, (split,), tokenizer)
    log(measured(corpus, split, cfg))
    with together("loading the model"):
        module = load_module(run, cfg, tokenizer, checkpoint)
    longest = corpus.splits[split].longest_answer
    if warning := too_short(module.max_new_tokens, longest, split):
        warn(warning)
    evaluator = build_evaluator(cfg)
    run_split = evaluator.validate if split == "val" else evaluator.test
    with explained(module, fewer_tokens(cfg.data.microbatch_tokens, f" in {run.config_file}"), cfg):
        found = run_split(module, datamodule=corpus, verbose=False)[0]
    results = {name: value for name, value in found.items() if name != "step"}
    if warning := cut_off(module.evaluated.cut_off, split):
        warn(warning)
    texts = all_texts(module)
    if evaluator.is_global_zero:
        stem = "-".join(filter(None, ["eval", split, label, data_label(data_overrides)]))
        file = run.path / f"{stem}.json"
        counted = f"{corpus.counts[split].records:,} examples of {split}"
        table = Table("metric", "value", show_edge=False)
        for name, value in results.items():
            table.add_row(name, f"{value:.6f}")
        log(table)  # before it is written: what takes long isn't lost to a full disk
        log(f"{counted}: {shown(file)}")
        try:
            write_json(
                file,
                results
                | module.evaluated.details
                | ({"data": [*data_overrides]} if data_overrides else {}),
            )
            if texts:
                write_whole(file.with_name(f"{stem}.txt"), _listed(texts, corpus, split))
        except OSError as error:
            raise UserError(
                f"can't write {error.filename or file} ({error.strerror}): what is printed above "
                "isn't kept"
            ) from error


def measured(data: TokenDataModule, split: str, cfg: DictConfig) -> str:
    """Which examples are measured, in a line."""
    count, limit = data.counts[split].records, cfg.data.limit_examples
    words = getattr(data.source, "part_in_words", lambda split: f"{split} of data={cfg.data.kind}")
    first = f"the first {limit:,} (data.limit_examples) of " if count == limit else ""
    return f"measures {split}, {count:,} examples: {first}{words(split)}"


def _listed(texts: dict[int, str], data: TokenDataModule, split: str) -> str:
    """A line for each example that is stored of a split; of one in windows, for each of these."""
    counts, records = data.counts[split], data.splits[split].records()
    found: dict[int, list[str]] = {}
    for index in sorted(texts):
        found.setdefault(records[index], []).append(breaks_shown(texts[index]))
    if missing := counts.records - len(found) + len(counts.gaps):
        first = f" ({numbers([gap + 1 for gap in counts.gaps])})" if counts.gaps else ""
        log(f"{missing:,} lines of {split}{first} are blank or left out: no metric counts them")
    return "".join(line + "\n" for line in placed(found, counts.records, counts.gaps))


def placed(found: Mapping[int, Sequence[str]], count: int, gaps: Collection[int]) -> Iterator[str]:
    """The lines of each of `count` examples, in order; a blank one where there are none.

    Args:
        found: lines by number of the example.
        count: of examples that were read.
        gaps: places of those that weren't, among all.
    """
    left_out, records = set(gaps), iter(range(count))
    for place in range(count + len(left_out)):
        if place in left_out:
            yield ""
        else:
            yield from found.get(next(records), [""])


def all_texts(module: TokenModule) -> dict[int, str]:
    """What the evaluation that is just over generated, by the index of the example, on all ranks.

    To be called on all ranks.
    """
    parts = from_all_ranks(module.evaluated.texts)
    return {index: text for part in parts for index, text in part.items()}


def load_module(run: Run, cfg: DictConfig, tokenizer: Tokenizer, checkpoint: str) -> TokenModule:
    """The trained module of a run, in evaluation mode, on the CPU.

    Raises:
        UserError: no such checkpoint, or one that doesn't fit the config.
    """
    if "attention" in cfg.model:
        cfg.model.attention = "auto"  # what was forced in training may not exist on this device
    if "pretrained" in cfg.model and not cfg.get("adapter"):
        cfg.model.pretrained = False  # the checkpoint has all weights
    begun = Beginning.of(cfg, run) if cfg.get("adapter") else None
    module = build_module(cfg, tokenizer, total_steps=1)
    if begun:
        begun.fill(module, tokenizer)
    adapt(cfg, module)
    named = NamedCheckpoint.of(run, checkpoint)
    found = load_weights(module, named.path, is_raw=named.is_raw)
    log(f"{shown(named.path)}: {found}")
    return module.eval()
