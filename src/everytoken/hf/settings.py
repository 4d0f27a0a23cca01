"""What settings of models from elsewhere may be; of transformers only what is asked for is used."""

from omegaconf import DictConfig

from everytoken.errors import UserError
from everytoken.hf.config import check_place, decoder_sizes
from everytoken.model.settings import check_in_training
from everytoken.model.sizes import check_checkpointed


def check_llama(model: DictConfig) -> None:
    """Refuse a model that our decoder can't take the weights of.

    Raises:
        UserError: with what to do.
    """
    check_place(model)
    check_checkpointed(model.checkpoint_activations, decoder_sizes(model.config)["layers"])
    check_in_training(model)


def check_hugging_face(model: DictConfig) -> None:
    """Refuse a model that isn't there, or a setting that it doesn't have.

    Raises:
        UserError: with what to do.
    """
    check_place(model)
    if not isinstance(every := model.checkpoint_activations, bool):
        raise UserError(
            "model.checkpoint_activations of model=hf must be true or false (it is for "
            f"all layers or none), got {every!r}"
        )


CHECKS = {"HuggingFace": check_hugging_face, "llama_from_hf": check_llama}
"""By the name of the part."""
