"""What the commands do, in Python: a finished run loaded, the parts of a new one built.

For notebooks and for programs around this package; each way reads the same config as the command.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import torch
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from everytoken.commands.adapting import adapt
from everytoken.commands.answers import Answerer
from everytoken.commands.beginning import Beginning
from everytoken.commands.build import (
    build_data,
    build_evaluator,
    build_module,
    factory,
)
from everytoken.commands.evaluate import load_module
from everytoken.commands.generate import longest_trained
from everytoken.commands.length import length_of
from everytoken.config.check import checked
from everytoken.config.cli import explain
from everytoken.config.keys import conf_dir
from everytoken.config.values import check_training
from everytoken.data.datamodule import TokenDataModule
from everytoken.data.objective import Objective, build_objective
from everytoken.errors import UserError, check_choice
from everytoken.run.directory import NOT_BUILT, Run
from everytoken.runtime.console import log
from everytoken.tokenizer.tokenizer import Tokenizer
from everytoken.training.module import TokenModule


@dataclass(frozen=True, eq=False)
class LoadedRun:
    """A run whose checkpoint is in memory, see `load`."""

    path: Path
    """The run directory."""
    config: DictConfig
    """What it was trained with."""
    module: TokenModule
    """In evaluation mode; `module.model` is the network."""
    tokenizer: Tokenizer
    """Texts ↔ token ids, as in training."""

    @property
    def model(self) -> torch.nn.Module:
        """The network: `Batch` → hidden states of target tokens; its `head` makes logits."""
        return self.module.model

    def generate(
        self,
        texts: Iterable[str],
        *,
        max_new_tokens: int | None = None,
        batch_size: int | None = None,
    ) -> list[str]:
        """Answer texts as `python -m generate` answers lines.

        Args:
            texts: prompts, sources, or texts with "<mask>" in them, as the run's task is.
            max_new_tokens: longest answer; None for what conf/generate.yaml has.
            batch_size: texts that are answered together; None for what conf/generate.yaml has.

        Raises:
            UserError: a text that this model can't read.
        """
        usual = OmegaConf.load(conf_dir() / "generate.yaml")
        longest = usual.max_new_tokens if max_new_tokens is None else max_new_tokens
        trained = longest_trained(Run(self.path))
        answerer = Answerer(self.module, self._objective(), self.tokenizer, longest, trained)
        at_once = usual.batch_size if batch_size is None else batch_size
        return list(answerer.answers([texts] if isinstance(texts, str) else texts, at_once))

    def data(self, *splits: str) -> TokenDataModule:
        """The run's data: "train", "val" and "test", or those of them that are given."""
        return build_data(self.config, splits or ("train", "val", "test"), self.tokenizer)

    def evaluate(self, split: str = "test") -> dict[str, float]:
        """Exact metrics on "val" or "test", each example counted once; nothing is written."""
        check_choice("split", split, ("val", "test"))
        evaluator = build_evaluator(self.config)
        run_split = evaluator.validate if split == "val" else evaluator.test
        found = run_split(self.module, datamodule=self.data(split), verbose=False)[0]
        return {name: value for name, value in found.items() if name != "step"}

    def _objective(self) -> Objective:
        return build_objective(factory(self.config, "task.objective"), self.tokenizer)


@dataclass(frozen=True, eq=False)
class Parts:
    """What a trainer needs, see `build`."""

    config: DictConfig
    """What they were made of."""
    data: TokenDataModule
    module: TokenModule
    """Its `total_steps` are what its schedule was made for."""


def build(*overrides: str) -> Parts:
    """Data and module as `python -m train` makes them, for a trainer of one's own.

    Args:
        overrides: as on the command line: "task=causal_lm", "data.path=corpus.txt".

    Raises:
        UserError: an override that the command would refuse.
    """
    if not all(isinstance(override, str) for override in overrides):
        raise UserError("give build each override by itself: build('model=small', 'seed=2')")
    try:
        cfg = checked("train", [*overrides], check_training)
    except (HydraException, OmegaConfBaseException) as error:
        raise UserError(explain(error, "train")) from error
    begun = Beginning.of(cfg, overrides=overrides)
    data = build_data(cfg, ("train", "val", "test"), begun and begun.tokenizer)
    module = build_module(cfg, data.tokenizer, length_of(cfg, data).steps)
    if begun:
        log(begun.fill(module, data.tokenizer))
    adapt(cfg, module)
    return Parts(cfg, data, module)


def load(
    run: str | Path,
    checkpoint: str = "best",
    *,
    device: str | torch.device | None = None,
    trust: Iterable[str] = (),
) -> LoadedRun:
    """Load a run, to generate with it, to evaluate it, or to take its parts.

    Args:
        run: the run directory.
        checkpoint: which of its checkpoints, as `python -m eval checkpoint=` takes it.
        device: where the model goes; None for a CUDA GPU if there is one, else the CPU.
        trust: code that the run's config may call, defined outside of src/ and named nowhere in
            conf/.

    Raises:
        UserError: no such run or checkpoint, or a config that would call foreign code.
    """
    found = Run.open_whole(Path(run).expanduser().absolute(), trust, NOT_BUILT)
    cfg = found.config
    tokenizer = Tokenizer.load(found.tokenizer_file)
    module = load_module(found, cfg, tokenizer, checkpoint)
    where = device or ("cuda" if torch.cuda.is_available() else "cpu")
    return LoadedRun(found.path, cfg, module.to(where), tokenizer)
