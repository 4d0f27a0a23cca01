"""A finished run → a folder that transformers, or torch alone, loads without this package.

Shapes: B sequences, T positions, S source positions, D width, V vocabulary.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from hydra.utils import get_object
from omegaconf import DictConfig
from torch import nn

from everytoken.batch import IGNORE_INDEX, Batch, real_positions
from everytoken.commands.evaluate import load_module
from everytoken.decoding.continuation import all_ends
from everytoken.errors import UserError
from everytoken.hf.adapter import factors, keep_apart, without_adapter
from everytoken.hf.config import transformers
from everytoken.hf.export import fast_tokenizer, names_of, network_of, traced
from everytoken.hf.ids import Ids, give_ids
from everytoken.hf.loaded import check_encoding, check_same, network_in, program_in
from everytoken.hf.model import HuggingFace
from everytoken.hf.network import AUTO_CLASSES, kind_of
from everytoken.model.transformer import Transformer
from everytoken.run.directory import NOT_BUILT, Run
from everytoken.run.named_checkpoint import pointed
from everytoken.runtime.console import Watch
from everytoken.runtime.files import replacing
from everytoken.tokenizer.tokenizer import Tokenizer

PROGRAM = "model.pt2"
BASE = "base"
"""Folder of the model that an adapter which is kept apart belongs to."""


def export(
    run_dir: Path,
    out: Path,
    checkpoint: str,
    trusted: Iterable[str] = (),
    *,
    merge: bool = True,
) -> list[str]:
    """Write a run's model, tokenizer and generation config to a new folder.

    A causal model goes out as `LlamaForCausalLM` (`MistralForCausalLM` if it has a window), an
    encoder as `EuroBertForMaskedLM`, or `EuroBertForTokenClassification` or
    `EuroBertForSequenceClassification` with the names of its classes, one of transformers as
    itself, and an encoder-decoder as a `torch.export` program for the CPU, model.pt2.

    Args:
        run_dir: the run; or a checkpoint in it.
        out: a folder that is empty or doesn't exist.
        checkpoint: a name, see `NamedCheckpoint`.
        trusted: code that its config may call besides what conf/ and src/ have.
        merge: False to keep an adapter apart, as peft loads it, with its base in a folder inside.

    Returns:
        The names of the files.

    Raises:
        UserError: no run, a folder that isn't empty, a model that can't go out, or that isn't what
            it was when it is loaded from there.
    """
    place, checkpoint = pointed(str(run_dir), checkpoint)
    run = Run.open_whole(Path(place), trusted, NOT_BUILT)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"{out} is not empty: give a new folder with out=DIR")
    hf = transformers()
    cfg = run.config
    tokenizer = Tokenizer.load(run.tokenizer_file)
    module = load_module(run, cfg, tokenizer, checkpoint)
    if cfg.task.objective.get("two_way") and isinstance(module.model, Transformer):
        raise UserError(
            "the prefix is read both ways, which no model of transformers does as ours: train with "
            "task.objective.two_way=false to export it"
        )
    model, ids = module.model, _ids(tokenizer, cfg, module.model)
    batch = _few(tokenizer, cfg)
    classes = len(tokenizer.labels) or None
    auto = AUTO_CLASSES[kind_of(cfg.task.shape, classes, "labels" in cfg.task.fields)]
    problem = _problem(cfg)
    with torch.no_grad():
        right = module.head(module.hidden(batch))
    learned = None
    if cfg.get("adapter"):
        learned = None if merge else factors(model)
        without_adapter(model, merge=merge)
    elif not merge:
        raise UserError(f"{run.shown} has no adapter to keep apart: leave out merge=false")
    if learned and isinstance(model, Transformer) and cfg.task.shape == "encoder_decoder":
        raise UserError("an encoder-decoder goes out as a program, whole: leave out merge=false")
    with Watch("exporting"), _complete(out) as whole:
        folder = whole / BASE if learned else whole
        if isinstance(model, HuggingFace):
            give_ids(model.network, ids, hf, model.first_position)
            model.network.config.update(names_of(tokenizer.labels, problem))
            model.network.save_pretrained(folder)
        elif not isinstance(model, Transformer):
            raise UserError(f"only models of this package can go out, not {type(model).__name__}")
        elif cfg.task.shape == "encoder_decoder":
            torch.export.save(traced(model), folder / PROGRAM)
        else:
            labels = tokenizer.labels
            network_of(model, hf, ids, auto, labels, problem).save_pretrained(folder)
        fast_tokenizer(tokenizer, cfg, hf).save_pretrained(folder)
        if cfg.task.shape != "encoder":
            hf.GenerationConfig(**ids, do_sample=False).save_pretrained(folder)
        if learned:
            keep_apart(learned, model, cfg.adapter, whole, out.absolute() / BASE)
        program = folder / PROGRAM
        is_program = program.is_file()
        adapter = whole if learned else None
        loaded = program_in(program) if is_program else network_in(folder, auto, hf, adapter)
        check_same(loaded, right, batch)
        check_encoding(tokenizer, cfg.task.shape, folder, hf)
        return sorted(path.name for path in whole.iterdir())


@contextmanager
def _complete(out: Path) -> Iterator[Path]:
    """A folder to write to, which gets its name when it is complete, and else is removed."""
    try:
        with replacing(out, shared=True) as folder:
            folder.mkdir(parents=True)
            yield folder
            if out.is_dir():
                out.rmdir()  # it is empty, or this fails
    except OSError as error:
        raise UserError(f"can't write {out}: {error.strerror or error}") from error


def _problem(cfg: DictConfig) -> str | None:
    """What transformers calls the way in which a text is of classes; None if none is."""
    if "labels" not in cfg.task.fields:
        return None
    objective = get_object(cfg.task.objective._target_)
    is_several = getattr(objective, "has_several", False)
    return "multi_label_classification" if is_several else "single_label_classification"


def _ids(tokenizer: Tokenizer, cfg: DictConfig, model: nn.Module) -> Ids:
    special = tokenizer.special
    ends = all_ends(getattr(model, "end_ids", ()), special.eos)
    ids: Ids = {"pad_token_id": special.pad, "bos_token_id": special.bos}
    ids["eos_token_id"] = ends if len(ends) > 1 else special.eos
    if cfg.task.shape == "encoder_decoder":
        start = cfg.task.objective.get("start_id")
        ids["decoder_start_token_id"] = special.bos if start is None else start
    if cfg.task.shape == "encoder" and special.mask is not None:
        ids["mask_token_id"] = special.mask
    return ids


def _few(tokenizer: Tokenizer, cfg: DictConfig) -> Batch:
    """Two sequences of ordinary tokens, by which models are compared."""
    known = [id_ for id_ in range(len(tokenizer)) if id_ not in tokenizer.special]
    chance = torch.Generator().manual_seed(0)
    ids = torch.tensor(known)[torch.randint(len(known), (2, 6), generator=chance)]
    lengths = torch.tensor([6, 3])
    is_real = real_positions(lengths, 6, "right")
    ids = ids.where(is_real, tokenizer.special.pad)
    is_target = is_real
    if "labels" in cfg.task.fields:
        is_target = torch.arange(6).expand(2, 6) == 0
    has_source = cfg.task.shape == "encoder_decoder"
    return Batch.make(
        input_ids=ids,
        labels=ids.where(is_target, IGNORE_INDEX),
        lengths=lengths,
        source_ids=ids.flip(0) if has_source else None,
        source_lengths=lengths.flip(0) if has_source else None,
    )
