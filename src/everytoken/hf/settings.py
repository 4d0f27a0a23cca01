"""What settings of models from elsewhere may be; of transformers only what is asked for is used."""

from omegaconf import DictConfig

from everytoken.hf.config import check_place, decoder_sizes
from everytoken.model.settings import check_in_training


def check_llama(model: DictConfig) -> None:
    """Refuse a model that our decoder can't take the weights of.

    Raises:
        UserError: with what to do.
    """
    check_place(model)
    decoder_sizes(model.config)
    check_in_training(model)


CHECKS = {"HuggingFace": check_place, "llama_from_hf": check_llama}
"""By the name of the part."""
