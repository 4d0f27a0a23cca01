"""The adapter of a config, put on weights that exist: `adapter=lora`."""

from collections.abc import Callable
from contextlib import nullcontext

from omegaconf import DictConfig
from torch import Tensor

from everytoken.commands.factory import instantiate
from everytoken.data.fields import has_labels
from everytoken.hf.adapter import head_parts, token_parts
from everytoken.training.adapted import Base
from everytoken.training.module import TokenModule


def adapt(cfg: DictConfig, module: TokenModule) -> None:
    """Add the adapter of a config to a module that has the weights of its base.

    An output layer of classes is trained too, for no base has it; and so are the layers that have a
    row for each token, if some are new.
    """
    if not cfg.get("adapter"):
        return
    model = module.model
    heads = head_parts(model) if has_labels(cfg.task.fields) else []
    if getattr(model, "new_tokens", 0):
        heads += token_parts(model)
    trained = {id(weight) for head in heads for weight in head.parameters()}
    weights = model.named_parameters(remove_duplicate=False)
    names = [name for name, weight in weights if id(weight) in trained]
    place = cfg.init_from or cfg.model.get("name_or_path") or cfg.model.get("path")
    module.base = Base.of(str(place), model, value_of(module), but=names)
    with module.deferred.building() if module.deferred else nullcontext():
        instantiate(cfg, "adapter", model=model)
    model.train(model.training)  # what is new in it, too
    for head in heads:
        head.requires_grad_(True)
    module.strict_loading = False  # checkpoints don't have all of it


def value_of(module: TokenModule) -> Callable[[Tensor], Tensor]:
    """Gives what is in one of its weights, which may have no memory yet."""
    return module.deferred.value if module.deferred else lambda weight: weight
