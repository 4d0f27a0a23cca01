"""The Transformer: encoder, decoder or both from the same parts, on real tokens only.

`Batch` in, hidden states of the target tokens out; loss and logits are made elsewhere (`loss.py`),
so that logits never exist for more positions than are predicted.

Shapes: B sequences, N real tokens, K real source tokens, M target tokens, D width, V vocabulary.
"""

from dataclasses import replace
from typing import Literal

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from everytoken.batch import IGNORE_INDEX, Batch, true_indices
from everytoken.errors import check_number
from everytoken.model.attention import KeyValueCache, Rotary
from everytoken.model.backends import Attend, Backend, attention
from everytoken.model.block import Block, BlockCache, Source
from everytoken.model.head import output_layer
from everytoken.model.layers import Dropout, RMSNorm, TokenDropout
from everytoken.model.precision import compute_dtype
from everytoken.model.sizes import BlockSizes, check_checkpointed
from everytoken.model.unpad import Borders, unpad
from everytoken.model.visibility import Visibility

Shape = Literal["encoder_decoder", "decoder", "encoder"]
Memory = tuple[Tensor, Borders]


class Stack(nn.Module):
    """Blocks one after the other, with rotary positions and a last norm.

    Args:
        layers: number of blocks.
        sizes: see `BlockSizes`.
        token_dropout: see `TokenDropout`.
        rope_base: see `Rotary`.
        visibility: what a token may see of its own sequence.
        backend: the way to attend, see `backends.py`.
        cross: True if each block also attends to encoder output.
        checkpointed: every how many blocks one keeps its input only, see `Transformer`; 0 for none.
    """

    def __init__(
        self,
        layers: int,
        sizes: BlockSizes,
        token_dropout: float,
        rope_base: float,
        *,
        visibility: Visibility,
        backend: Backend,
        cross: bool,
        checkpointed: int = 0,
    ) -> None:
        super().__init__()
        self.checkpointed = checkpointed
        self.visibility = visibility
        self.backend: Backend = backend
        self.rotary = Rotary(sizes.width // sizes.heads, rope_base)
        self.token_dropout = TokenDropout(token_dropout)
        self.dropout = Dropout(sizes.dropout)
        self.blocks = nn.ModuleList(Block(sizes, cross=cross) for _ in range(layers))
        self.norm = RMSNorm(sizes.width, sizes.norm_eps)

    def forward(self, x: Tensor, borders: Borders, memory: Memory | None = None) -> Tensor:
        """Embeddings (N, D) → hidden states (N, D)."""
        return self._run(x, borders, *self._ways(x, borders, memory))

    def prefill(
        self, x: Tensor, borders: Borders, memory: Memory | None
    ) -> tuple[Tensor, list[BlockCache]]:
        """The same, and what each block remembers of it for the tokens that follow."""
        attend, source = self._ways(x, borders, memory)
        own: list[KeyValueCache] = []
        cross: list[KeyValueCache | None] = []
        attend = _remembering(attend, borders, self.visibility.window, own)
        if source is not None and memory is not None:
            source = source._replace(attend=_remembering(source.attend, memory[1], None, cross))
        hidden = self._run(x, borders, attend, source)
        caches = map(BlockCache, own, cross or [None] * len(own))
        return hidden, list(caches)

    def _ways(
        self, x: Tensor, borders: Borders, memory: Memory | None
    ) -> tuple[Attend, Source | None]:
        dtype = compute_dtype(x)
        attend = attention(self.backend, borders, borders, self.visibility, dtype)
        if memory is None:
            return attend, None
        states, memory_borders = memory
        all_of_it = Visibility(causal=False, window=None)
        cross = attention(self.backend, borders, memory_borders, all_of_it, dtype)
        return attend, Source(states, cross)

    def _run(self, x: Tensor, borders: Borders, attend: Attend, source: Source | None) -> Tensor:
        turn = self.rotary(borders.positions)
        x = self.dropout(self.token_dropout(x))
        for number, block in enumerate(self.blocks, 1):
            if self.checkpointed and number % self.checkpointed == 0 and torch.is_grad_enabled():
                # It is computed once more in backward, with the same random numbers.
                x = checkpoint(block, x, turn, attend, source, use_reentrant=False)
            else:
                x = block(x, turn, attend, source)
        return self.norm(x)

    def step(self, x: Tensor, positions: Tensor, caches: list[BlockCache]) -> Tensor:
        """Embeddings (R, D) of the tokens at `positions` (R,) → their hidden states (R, D)."""
        turn = self.rotary(positions)
        for block, cache in zip(self.blocks, caches, strict=True):
            assert isinstance(block, Block)
            x = block.step(x, turn, cache)
        return self.norm(x)


def _remembering(attend: Attend, keys: Borders, window: int | None, caches: list) -> Attend:
    """Attends likewise, and appends to `caches` what it attended to, at each call."""

    def attend_and_remember(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        caches.append(KeyValueCache.of(key, value, keys, window))
        return attend(query, key, value)

    return attend_and_remember


class Transformer(nn.Module):
    """An encoder-decoder, decoder or encoder over one vocabulary.

    Pre-norm RMSNorm (Zhang and Sennrich 2019), rotary positions, SwiGLU, no biases.

    Args:
        shape: "encoder_decoder", "decoder" (causal, but for the prefixes that a batch may have) or
            "encoder" (bidirectional).
        vocabulary: V, tokens that the model knows.
        layers: blocks in each stack.
        width: D, a multiple of 2 x heads.
        heads: H, query heads.
        key_value_heads: G, a divisor of heads.
        ffn_width: hidden width of the feed-forward layers.
        tie_embeddings: True if the output layer shares the embedding's weights.
        rope_base: base of the rotary rates.
        norm_eps: see `BlockSizes`.
        dropout: probability of dropping a channel, 0 to below 1.
        token_dropout: probability of hiding a token from its stack, 0 to below 1.
        window: how many positions a token may look back (and ahead, unless causal) in its own
            sequence; None for no limit.
        attention: the way to attend, see `backends.py`; "auto" takes the fastest.
        checkpoint_activations: True to keep of each block its input only and compute the rest once
            more in backward (Chen et al. 2016); a number for every so manyth block of a stack.
        classes: what is predicted instead of tokens; None for tokens.
        per_sequence: True if each sequence is of a class, False if each token is.

    Raises:
        UserError: sizes out of range or that don't divide.
    """

    computes_on_padding = False
    end_ids: tuple[int, ...] = ()
    """Tokens after which its sequences are over, if there are several; see `generate`."""
    new_tokens: int = 0
    """How many tokens, at the end, weights that it was given knew nothing of."""

    def __init__(
        self,
        *,
        shape: Shape,
        vocabulary: int,
        layers: int,
        width: int,
        heads: int,
        key_value_heads: int,
        ffn_width: int,
        tie_embeddings: bool,
        rope_base: float,
        norm_eps: float,
        dropout: float = 0.0,
        token_dropout: float = 0.0,
        window: int | None = None,
        attention: Backend = "auto",
        checkpoint_activations: bool | int = False,
        classes: int | None = None,
        per_sequence: bool = False,
    ) -> None:
        super().__init__()
        check_number("model.layers", layers, int, low=1)
        check_number("vocabulary", vocabulary, int, low=1)
        check_number("model.token_dropout", token_dropout, float, low=0, below=1)
        check_number("model.window", window, int, low=1, optional=True)
        check_checkpointed(checkpoint_activations, layers)
        sizes = BlockSizes(
            width=width,
            heads=heads,
            key_value_heads=key_value_heads,
            ffn_width=ffn_width,
            dropout=dropout,
            norm_eps=norm_eps,
        )
        self.attention: Backend = attention
        self.embedding = nn.Embedding(vocabulary, width)
        both = shape == "encoder_decoder"

        def stack(*, causal: bool, cross: bool) -> Stack:
            visibility = Visibility(causal, window)
            return Stack(
                layers,
                sizes,
                token_dropout,
                rope_base,
                visibility=visibility,
                backend=attention,
                cross=cross,
                checkpointed=int(checkpoint_activations),
            )

        self.encoder = stack(causal=False, cross=False) if shape != "decoder" else None
        self.decoder = stack(causal=True, cross=both) if shape != "encoder" else None
        self.head = output_layer(width, vocabulary, classes, per_sequence)
        self._initialise(layers)
        if tie_embeddings and classes is None:
            self.head.weight = self.embedding.weight

    def forward(self, batch: Batch) -> Tensor:
        """Hidden states (M, D) of the target tokens, in the order of `batch.targets`."""
        ids, borders = unpad(batch.input_ids, batch.lengths, batch.input_count, batch.padding_side)
        borders = replace(borders, prefix_lengths=batch.prefix_lengths)
        hidden = self._last_stack(self.embedding(ids), borders, self.encode(batch))
        labels, _ = unpad(batch.labels, batch.lengths, batch.input_count, batch.padding_side)
        return hidden[true_indices(labels != IGNORE_INDEX, batch.target_count)]

    def encode(self, batch: Batch) -> Memory | None:
        """Encoder output (K, D) and its borders; None unless the model is an encoder-decoder."""
        if self.encoder is None or self.decoder is None:
            return None
        if batch.source_ids is None or batch.source_lengths is None:
            raise ValueError("an encoder-decoder needs source_ids in its batch: use task=seq2seq")
        ids, borders = unpad(
            batch.source_ids, batch.source_lengths, batch.source_count, batch.padding_side
        )
        return self.encoder(self.embedding(ids), borders), borders

    def _last_stack(self, x: Tensor, borders: Borders, memory: Memory | None) -> Tensor:
        stack = self.decoder if self.decoder is not None else self.encoder
        assert stack is not None  # every shape has one of them
        return stack(x, borders, memory)

    @torch.no_grad()
    def _initialise(self, layers: int) -> None:
        # Wider matrices start smaller (a fixed 0.02 made narrow models slow to learn), and as in
        # GPT-2 (Radford et al. 2019) those that write to the residual stream smaller still, so that
        # its variance doesn't grow with depth.
        for name, weight in self.named_parameters():
            if weight.ndim == 2:
                writes_to_stream = name.endswith(("output.weight", "down.weight"))
                std = 0.5 / self.embedding.embedding_dim**0.5
                nn.init.normal_(weight, std=std / (2 * layers) ** (0.5 * writes_to_stream))
