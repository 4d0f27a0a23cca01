"""What goes with `trainer.tensor_parallel`, by which processes split the matrices of blocks."""

from omegaconf import DictConfig

from everytoken.errors import UserError
from everytoken.model.sizes import check_split

SIZES = ("heads", "key_value_heads", "ffn_width")


def check_tensor_parallel_model(cfg: DictConfig) -> None:
    """Refuse what can't be split so.

    Raises:
        UserError: the first of them.
    """
    split, model = cfg.trainer.tensor_parallel, str(cfg.model._target_)
    if split == 1:
        return
    others = {
        "model=hf": model.endswith(".HuggingFace"),
        "adapter=lora": bool(cfg.get("adapter")),
        "compile=true": cfg.compile,
        "optimizer=muon": str(cfg.optimizer._target_).endswith(".Muon"),
    }
    for choice in (choice for choice, is_chosen in others.items() if is_chosen):
        raise UserError(
            f"trainer.tensor_parallel={split} doesn't go with {choice}: leave that out, or choose "
            "trainer.tensor_parallel=1"
        )
    if model.endswith(".Transformer"):
        check_split(split, **{name: cfg.model[name] for name in SIZES})
