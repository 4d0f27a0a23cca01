"""Any language model of transformers, or one of classes, under the contract of `TokenModule`.

The network stays whole and as it is, with its own names, dropout and tied weights. Its forward pass
ends where logits would be made: of what goes into the output layer only the rows of target tokens
are taken, so that logits exist for M tokens only, here as anywhere. A network of classes is used as
it is, and its logits are the hidden states.

Shapes: B sequences, T positions, M target tokens, D width, V vocabulary, C classes.
"""

import inspect
from typing import Any

import torch
from torch import Tensor, nn

from everytoken.batch import IGNORE_INDEX, Batch, real_positions, true_indices
from everytoken.errors import UserError
from everytoken.hf.config import HFConfig, end_ids
from everytoken.hf.network import kind_of, lacking, make_network, positions
from everytoken.model.transformer import Shape
from everytoken.model.unpad import Borders, repad, unpad


class HuggingFace(nn.Module):
    """A causal, masked or encoder-decoder language model of transformers, or one of classes.

    Args:
        shape: what the task needs; chooses the class of transformers.
        vocabulary: tokens that the tokenizer knows.
        new_tokens: so many of them, at the end, may be new: the network gets rows for those that it
            lacks.
        name_or_path: a folder with safetensors, or a name on the Hugging Face hub.
        config: its config.json.
        pretrained: True for its weights, which are then read; False for random ones.
        checkpoint_activations: True to compute layers once more in backward, as transformers does.
        classes: what is predicted instead of tokens; None for tokens.
        per_sequence: True if each sequence is of a class, False if each token is.

    Raises:
        UserError: transformers isn't there, or has no such model for the task; no safetensors; more
            tokens than the model knows; logits that are made in another way than from one output
            layer. In `forward`: the same; a sequence that is longer than a table of positions.
    """

    computes_on_padding = True

    def __init__(
        self,
        *,
        shape: Shape,
        vocabulary: int,
        name_or_path: str,
        config: HFConfig,
        pretrained: bool,
        checkpoint_activations: bool = False,
        classes: int | None = None,
        per_sequence: bool = False,
        new_tokens: int = 0,
    ) -> None:
        super().__init__()
        self.shape = shape
        self.end_ids = end_ids(config)
        self.classes = classes
        self.per_sequence = per_sequence
        kind = kind_of(shape, classes, per_sequence)
        self.network = make_network(kind, name_or_path, config, pretrained, classes).train()
        known = self.network.get_input_embeddings().num_embeddings
        self.new_tokens = lacking(vocabulary, known, new_tokens, name_or_path, told=pretrained)
        """Of them no weights knew anything."""
        if self.new_tokens:
            self.network.resize_token_embeddings(vocabulary, mean_resizing=pretrained)
        if classes is None and type(self.network.get_output_embeddings()) is not nn.Linear:
            raise UserError(f"{type(self.network).__name__} has no linear output layer")
        self.first_position, self.longest = positions(self.network)
        for table in self.network.modules():
            if isinstance(table, nn.Embedding):
                # What is padding is known from lengths, and the same id may be a token to learn.
                table.padding_idx = None
        if checkpoint_activations:
            self._checkpoint_activations()
        self._is_known = False
        """True once its logits were compared with what `head` makes."""

    @property
    def head(self) -> nn.Module:
        """The output layer, with all that the network does to its logits; nothing for classes."""
        if self.classes is not None:
            return nn.Identity()
        linear = self.network.get_output_embeddings()
        config = self.network.config
        bias = getattr(self.network, "final_logits_bias", None)
        scale = getattr(config, "logit_scale", None) or 1.0
        scale /= getattr(config, "logits_scaling", None) or 1.0
        cap = getattr(config, "final_logit_softcapping", None)
        if bias is None and scale == 1 and cap is None:
            return linear
        return Head(linear, bias, scale, cap)

    def forward(self, batch: Batch) -> Tensor:
        """Hidden states (M, D) of the target tokens, in the order of `batch.targets`."""
        if not self._is_known:
            not_compiled: Any = torch.compiler.disable
            not_compiled(self._check_logits)(batch.input_ids.device)
        return self._hidden(batch)

    def _hidden(self, batch: Batch) -> Tensor:
        inputs, places = self._inputs(batch)
        if self.classes is not None:
            logits = self.network(**inputs).logits  # (B, C) or (B, T, C)
            if self.per_sequence:
                return logits[places // inputs["input_ids"].shape[1]]
            return logits.flatten(0, 1)[places]
        layer = self.network.get_output_embeddings()
        hook = layer.register_forward_pre_hook(_stop)
        try:
            self.network(**inputs)
        except _HeadReached as reached:
            return reached.hidden.flatten(0, 1)[places]
        finally:
            hook.remove()
        raise UserError(f"{type(self.network).__name__} makes its logits without its output layer")

    def _inputs(self, batch: Batch) -> tuple[dict[str, Any], Tensor]:
        """What the network is called with, padded on the right, and (M,) places of the targets.

        On the right, because many networks count positions from the first column.
        """
        ids, borders = unpad(batch.input_ids, batch.lengths, batch.input_count, batch.padding_side)
        labels, _ = unpad(batch.labels, batch.lengths, batch.input_count, batch.padding_side)
        places = borders.slots[true_indices(labels != IGNORE_INDEX, batch.target_count)]
        inputs: dict[str, Any] = {"use_cache": False} if self._takes("use_cache") else {}
        tokens = self._tokens(ids, borders)
        if self.network.config.is_encoder_decoder:
            if batch.source_ids is None or batch.source_lengths is None:
                raise ValueError("an encoder-decoder needs source_ids in its batch: task=seq2seq")
            inputs |= {f"decoder_{name}": tensor for name, tensor in tokens.items()}
            tokens = self._tokens(
                *unpad(
                    batch.source_ids, batch.source_lengths, batch.source_count, batch.padding_side
                )
            )
        elif self.first_position:
            first, width = self.first_position, borders.max_seqlen
            inputs["position_ids"] = torch.arange(first, first + width, device=ids.device)[None]
        return inputs | tokens, places

    def _tokens(self, ids: Tensor, borders: Borders) -> dict[str, Tensor]:
        """Ids and attention mask, both (B, T) and padded on the right."""
        width = borders.max_seqlen
        if self.longest is not None and width > self.longest:
            raise UserError(
                f"a sequence of {width} tokens, and {type(self.network).__name__} has only "
                f"{self.longest} positions: lower task.objective.window_tokens or .max_tokens in "
                "training, max_new_tokens in generation"
            )
        # A row without a token attends to its padding: to nothing would be undefined.
        mask = real_positions(borders.lengths.clamp(min=1), width, "right")
        return {"input_ids": repad(ids, borders), "attention_mask": mask.long()}

    def _takes(self, argument: str) -> bool:
        return argument in inspect.signature(self.network.forward).parameters

    def _checkpoint_activations(self) -> None:
        old = self.network.gradient_checkpointing_enable  # of versions that have no other name
        try:
            getattr(self.network, "activation_checkpointing_enable", old)({"use_reentrant": False})
        except ValueError as error:
            raise UserError(
                f"{type(self.network).__name__} can't do model.checkpoint_activations=true: leave "
                "it out"
            ) from error
        self.network.disable_input_require_grads()  # which only the reentrant kind needs

    @torch.no_grad()
    def _check_logits(self, device: torch.device) -> None:
        """Refuse a network that does more to its logits than `head` knows.

        Now, and not as it is built, for then it may have no memory yet.
        """
        ids = torch.arange(3, device=device)[None]
        ids %= self.network.get_input_embeddings().num_embeddings
        lengths = torch.tensor([3], device=device)
        source = {"source_ids": ids, "source_lengths": lengths}
        batch = Batch.make(
            input_ids=ids,
            labels=ids,
            lengths=lengths,
            **(source if self.network.config.is_encoder_decoder else {}),
        )
        modes = [(part, part.training) for part in self.modules()]
        self.eval()
        with torch.autocast(device.type, enabled=False):
            right = self.network(**self._inputs(batch)[0]).logits[0]
            if self.per_sequence:
                right = right.expand(len(ids[0]), -1)
            found = self.head(self._hidden(batch))
        for part, training in modes:
            part.training = training
        if found.shape != right.shape or not torch.allclose(found, right, rtol=1e-4, atol=1e-5):
            raise UserError(
                f"{type(self.network).__name__} changes its logits after the output layer in a way "
                "that isn't known here: see `head` in hf/model.py"
            )
        self._is_known = True


class Head(nn.Module):
    """An output layer and what follows it: (M, D) → (M, V).

    Args:
        linear: the output layer.
        bias: (1, V) is added; None for none.
        scale: is multiplied with.
        cap: logits stay within ± this, by tanh; None for no limit (Gemma 2).
    """

    def __init__(
        self, linear: nn.Module, bias: Tensor | None, scale: float, cap: float | None
    ) -> None:
        super().__init__()
        self.linear = linear
        self.bias = bias
        self.scale = scale
        self.cap = cap

    def forward(self, hidden: Tensor) -> Tensor:
        """(M, D) → (M, V)."""
        logits = self.linear(hidden) * self.scale
        if self.bias is not None:
            logits = logits + self.bias
        return logits if self.cap is None else torch.tanh(logits / self.cap) * self.cap


class _HeadReached(Exception):  # noqa: N818 - no error
    """Ends a forward pass, and brings what goes into the output layer."""

    def __init__(self, hidden: Tensor) -> None:
        super().__init__()
        self.hidden = hidden


def _stop(layer: nn.Module, inputs: tuple[Tensor, ...]) -> None:
    raise _HeadReached(inputs[0])
