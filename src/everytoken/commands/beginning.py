"""The weights and the tokenizer that a new run takes from another: `init_from=`.

Weights only: optimizer, schedule and step are new. What the task is predicted with may be of
another size, and so may be the vocabulary; all else has to be the same, by name and shape.
"""

import re
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf
from torch import Tensor, nn

from everytoken.commands.adapting import value_of
from everytoken.config.literal import leaves, literal
from everytoken.data.fields import has_labels
from everytoken.errors import UserError
from everytoken.hf.model import HuggingFace
from everytoken.hf.stored import read_stored
from everytoken.run.checkpoint_file import read
from everytoken.run.directory import Run
from everytoken.run.origin import Origin
from everytoken.runtime.console import warn
from everytoken.tokenizer.tokenizer import Tokenizer
from everytoken.training.adapted import KEY
from everytoken.training.deferred import load
from everytoken.training.module import TokenModule

HEAD = "model.head."
"""How names of an output layer's weights begin in models that are none of transformers."""
EMBEDDING = "model.embedding.weight"

NO_SIZES = (
    *("_target_", "shape", "dropout", "token_dropout", "attention", "checkpoint_activations"),
    *("pretrained", "path", "name_or_path", "config"),
)
"""Keys of a model that are no sizes."""

UNSEEN = ("heads", "key_value_heads")
"""Sizes that another model's weights would fit all the same."""


@dataclass
class Beginning:
    """What a new run begins with."""

    cfg: DictConfig
    """Of the new run."""
    origin: Origin
    tokenizer: Tokenizer | None
    """The one that there is; None if another was typed, which has to be the same."""
    labels: list[str]
    """Names of classes of the other run."""
    sizes: dict[str, Any] = field(default_factory=dict)
    """What is known of its model, by key of ours."""

    @classmethod
    def of(
        cls, cfg: DictConfig, run: Run | None = None, overrides: Iterable[str] = ()
    ) -> "Beginning | None":
        """What the config says, or None.

        Args:
            cfg: of the new run; a model of transformers isn't told to read its own weights too.
            run: its directory, if it has one.
            overrides: what was typed, if it has none.

        Raises:
            UserError: there is no such thing any more.
        """
        if cfg.get("init_from") is None:
            return None
        origin = Origin.find(cfg.init_from)
        identity = run.identity if run else {"overrides": [*overrides]}
        if run and identity.get("init_from", {}) != origin.record():
            raise UserError(
                f"init_from={cfg.init_from} is not what it was when this run was started: start a "
                "new one"
            )
        if "pretrained" in cfg.model:
            cfg.model.pretrained = False
        tokenizer = Tokenizer.load(origin.tokenizer_file)
        labels, tokenizer.labels = tokenizer.labels, []  # which are of the new run's own texts
        words = identity.get("overrides", [])
        typed = any(re.match(r"[+~]*tokenizer[.=]", word) for word in words)
        return cls(cfg, origin, None if typed else tokenizer, labels)

    def fill(self, module: TokenModule, tokenizer: Tokenizer) -> str:
        """Give a module the weights.

        Args:
            module: of the new run, as it was built.
            tokenizer: its own.

        Returns:
            Where they are from, and what is made anew.

        Raises:
            UserError: a tokenizer or a model that isn't the same, with what to type.
        """
        self._check_tokenizer(tokenizer)
        weights, step = self._weights(module)
        own, tied, rows = module.state_dict(), self._is_tied(module), _embedding(module.model)
        tokens = not self.labels and not tokenizer.labels
        known = self._known(tokenizer)
        is_of_head = _head_names(module.model)
        same_classes = self.labels == tokenizer.labels
        taken: dict[str, Tensor] = {}
        new: list[str] = []
        beyond: list[str] = []
        for name in sorted(own.keys() | weights.keys()):
            is_head, mine, theirs = is_of_head(name), own.get(name), weights.get(name)
            if is_head and tied:
                continue  # it is the embedding
            if mine is None or theirs is None:
                if name.startswith("model.") and not is_head:
                    raise UserError(self._no_place(name, mine, theirs))
                new += [name] if mine is not None else []
            elif (
                (name == rows or (is_head and tokens))
                and mine.shape[1:] == theirs.shape[1:]
                and (mine.shape != theirs.shape or len(theirs) > known)
            ):
                theirs = theirs[:known]  # rows to spare, of no token, aren't those of a new one
                taken[name] = _rows(value_of(module)(mine), theirs)
                beyond += [f"{name} beyond {len(theirs)} rows"] if len(mine) > len(theirs) else []
                if name == rows:
                    module.model.new_tokens = max(0, len(mine) - len(theirs))  # pyright: ignore
            elif mine.shape == theirs.shape and (same_classes or not is_head):
                taken[name] = theirs
            elif is_head and mine.shape[1:] == theirs.shape[1:]:
                new.append(f"{name} {_shape(theirs)} -> {_shape(mine)}")
            else:
                raise UserError(self._no_place(name, mine, theirs))
        self._check_unseen(module, weights)
        if self.cfg.get("adapter") and new and not has_labels(self.cfg.task.fields):
            raise UserError(
                f"adapter=lora would leave at random what is made anew: {', '.join(new)}; leave "
                "adapter out, or begin with weights that have it"
            )
        anew = ", ".join([*beyond, *new])
        named = module.named_parameters(remove_duplicate=False)
        frozen = {name for name, weight in named if not weight.requires_grad}
        if kept := [one for one in (*beyond, *new) if one.split()[0] in frozen]:
            raise UserError(
                f"freeze would leave at random what is made anew: {', '.join(kept)}; leave that "
                "out of freeze, or begin with weights that have it"
            )
        load(module, taken)
        return (
            f"begins at step 0 with the weights of {step}{self.origin.name} and its tokenizer"
            + (f"; made anew: {anew}" if anew else "")
            + (f" (resume={self.origin.run.shown} would go on with it)" if self.origin.run else "")
        )

    def _known(self, tokenizer: Tokenizer) -> int:
        """Rows for tokens that the weights are to keep: those of its own, if there are new ones."""
        own = len(Tokenizer.load(self.origin.tokenizer_file))
        return own if own < len(tokenizer) else sys.maxsize

    def _check_tokenizer(self, tokenizer: Tokenizer) -> None:
        if self.tokenizer is not None:
            return
        there = Tokenizer.load(self.origin.tokenizer_file)
        same = there.engine.get_vocab() == tokenizer.engine.get_vocab()
        if not same or there.special != tokenizer.special:
            raise UserError(
                f"the tokenizer that was typed has another vocabulary ({len(tokenizer)} tokens) "
                f"than that of init_from={self.cfg.init_from} ({len(there)}), to which the weights "
                "belong: leave out tokenizer, and its own is used"
            )

    def _weights(self, module: TokenModule) -> tuple[dict[str, Tensor], str]:
        """By name, and of which step they are, for messages."""
        if self.origin.run is None:
            found, self.sizes = read_stored(module.model, self.origin.folder)
            return {f"model.{name}": tensor for name, tensor in found.items()}, ""
        self.sizes = _settings(self.origin.run.config.model)
        [file] = self.origin.files
        checkpoint = read(file, mapped=True, weights_only=True)
        if KEY in checkpoint:
            raise UserError(
                f"init_from={self.cfg.init_from} holds an adapter only: put it into its base by "
                f"scripts/export_hf.py run={self.origin.run.shown} out=FOLDER, and give that folder"
            )
        return checkpoint["state_dict"], f"step {checkpoint.get('global_step', 'unknown')} of "

    def _no_place(self, name: str, mine: Tensor | None, theirs: Tensor | None) -> str:
        return (
            f"init_from={self.cfg.init_from} is another model: {name.removeprefix('model.')} is "
            f"{_shape(theirs)} there and {_shape(mine)} here: {self._to_type()}"
        )

    def _to_type(self) -> str:
        """What makes the model of the new run the one that there is."""
        own = _settings(self.cfg.model)
        if self.sizes.get("shape", own.get("shape")) != own.get("shape"):
            return (
                f"its shape is {self.sizes['shape']}, and task={self.cfg.task.name} needs "
                f"{own.get('shape')}; choose a task that goes with it"
            )
        if (kind := self.sizes.get("_target_", own["_target_"])) != own["_target_"]:
            return f"its model is {kind}; choose that with model="
        differing = [k for k, v in self._differing().items() if k in own and k in self.sizes]
        give = " ".join(f"model.{key}={literal(self.sizes[key])}" for key in differing)
        return f"type {give}" if give else "choose the model that it has"

    def _differing(self) -> dict[str, Any]:
        own = _settings(self.cfg.model)
        keys = [k for k in own if k in self.sizes and k not in NO_SIZES]
        return {key: own[key] for key in keys if own[key] != self.sizes[key]}

    def _check_unseen(self, module: TokenModule, weights: Mapping[str, Tensor]) -> None:
        """Refuse, or tell, what differs and has no shape."""
        differing = self._differing()
        untied = EMBEDDING in weights and "model.head.weight" in weights
        untied = untied and not _equal(weights[EMBEDDING], weights["model.head.weight"])
        refused = [key for key in differing if key in UNSEEN]
        if refused or (untied and self._is_tied(module)):
            give = [f"model.{key}={literal(self.sizes[key])}" for key in refused]
            give = give or ["model.tie_embeddings=false"]
            raise UserError(
                f"init_from={self.cfg.init_from} is another model, whose weights mean nothing "
                f"here: type {' '.join(give)}"
            )
        told = [key for key in differing if not key.startswith("tie_")]
        notes = [f"model.{k} {literal(self.sizes[k])} -> {literal(differing[k])}" for k in told]
        if notes:
            warn(f"the weights of {self.origin.name} were trained otherwise: {', '.join(notes)}")

    @staticmethod
    def _is_tied(module: TokenModule) -> bool:
        head = getattr(module.model, "head", None)
        embedding = getattr(module.model, "embedding", None)
        return getattr(head, "weight", head) is getattr(embedding, "weight", None)


def _embedding(model: nn.Module) -> str:
    """The name of the weight with a row for each token that is read."""
    if not isinstance(model, HuggingFace):
        return EMBEDDING
    table = model.network.get_input_embeddings()
    return next(f"model.{name}.weight" for name, part in model.named_modules() if part is table)


def _head_names(model: nn.Module) -> Callable[[str], bool]:
    """Tells which names of weights are of an output layer, the model's own or another's."""
    if not isinstance(model, HuggingFace):
        return lambda name: name.startswith(HEAD)
    inside = f"model.network.{model.network.base_model_prefix}."
    # What some pool for classes is inside of what other models of their kind have alike.
    return lambda name: not name.startswith(inside) or ".pooler." in name


def _rows(mine: Tensor, theirs: Tensor) -> Tensor:
    """(V, D): rows of tokens that both know are theirs, for the ids are the same."""
    both = min(len(mine), len(theirs))
    return torch.cat([theirs[:both], mine[both:]])


def _settings(model: DictConfig) -> dict[str, Any]:
    """Dotted keys of a model's config, and their values."""
    return dict(leaves(OmegaConf.to_container(model, resolve=True)))


def _equal(one: Tensor, other: Tensor) -> bool:
    return one.shape == other.shape and torch.equal(one, other)


def _shape(tensor: Tensor | None) -> str:
    return "missing" if tensor is None else "(" + ", ".join(map(str, tensor.shape)) + ")"
