"""A finished run → a folder that transformers, or torch alone, loads without this package.

Shapes: B sequences, T positions, S source positions, D width, V vocabulary.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from omegaconf import DictConfig

from everytoken.commands.evaluate import load_module
from everytoken.errors import UserError
from everytoken.hf.config import transformers
from everytoken.hf.export import fast_tokenizer, network_of, traced
from everytoken.hf.model import HuggingFace
from everytoken.model.transformer import Transformer
from everytoken.run.directory import NOT_BUILT, Run
from everytoken.runtime.console import Watch
from everytoken.runtime.files import replacing
from everytoken.tokenizer.tokenizer import Tokenizer


def export(run_dir: Path, out: Path, checkpoint: str, trusted: Iterable[str] = ()) -> list[str]:
    """Write a run's model, tokenizer and generation config to a new folder.

    A causal model goes out as `LlamaForCausalLM` (`MistralForCausalLM` if it has a window), a
    masked one as `EuroBertForMaskedLM`, one of transformers as itself, and an encoder-decoder as a
    `torch.export` program for the CPU, model.pt2.

    Args:
        run_dir: the run.
        out: a folder that is empty or doesn't exist.
        checkpoint: "best" or "last".
        trusted: code that its config may call besides what conf/ and src/ have.

    Returns:
        The names of the files.

    Raises:
        UserError: no run, a folder that isn't empty, a model that can't go out.
    """
    run = Run.open_whole(run_dir, trusted, NOT_BUILT)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"{out} is not empty: give a new folder with out=DIR")
    hf = transformers()
    cfg = run.config
    tokenizer = Tokenizer.load(run.tokenizer_file)
    model = load_module(run, cfg, tokenizer, checkpoint).model
    with Watch("exporting"), _complete(out) as folder:
        if isinstance(model, HuggingFace):
            model.network.save_pretrained(folder)
        elif not isinstance(model, Transformer):
            raise UserError(f"only models of this package can go out, not {type(model).__name__}")
        elif cfg.task.shape == "encoder_decoder":
            torch.export.save(traced(model), folder / "model.pt2")
        else:
            network_of(model, hf, _ids(tokenizer, cfg)).save_pretrained(folder)
        fast_tokenizer(tokenizer, cfg, hf).save_pretrained(folder)
        if cfg.task.shape != "encoder":
            hf.GenerationConfig(**_ids(tokenizer, cfg), do_sample=False).save_pretrained(folder)
        return sorted(path.name for path in folder.iterdir())


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


def _ids(tokenizer: Tokenizer, cfg: DictConfig) -> dict[str, int]:
    special = tokenizer.special
    ids = {f"{name}_token_id": getattr(special, name) for name in ("pad", "bos", "eos")}
    if cfg.task.shape == "encoder_decoder":
        start = cfg.task.objective.get("start_id")
        ids["decoder_start_token_id"] = special.bos if start is None else start
    if cfg.task.shape == "encoder" and special.mask is not None:
        ids["mask_token_id"] = special.mask
    return ids
