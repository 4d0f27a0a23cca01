"""Our models and tokenizers as transformers, or torch alone, load them without this package.

Shapes: B sequences, T positions, S source positions, D width, V vocabulary.
"""

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from omegaconf import DictConfig
from tokenizers import processors
from torch import Tensor, nn
from torch.nn import functional as F

from everytoken.batch import real_positions
from everytoken.errors import UserError
from everytoken.hf.ids import Ids
from everytoken.hf.llama import llama_config, part_names, to_llama
from everytoken.model.backends import Attend
from everytoken.model.block import Block, Source
from everytoken.model.transformer import Stack, Transformer
from everytoken.tokenizer.tokenizer import Tokenizer

UNLIMITED = 2048
"""Positions to name where a run says nothing of them: rotary positions have no last one."""


def network_of(
    model: Transformer,
    hf: Any,
    ids: Ids,
    auto: str,
    labels: Sequence[str] = (),
    problem: str | None = None,
) -> Any:
    """The transformers model that computes what our decoder or encoder does, with its weights.

    Args:
        model: ours.
        hf: transformers.
        ids: its special tokens.
        auto: the class that makes it, see `AUTO_CLASSES`.
        labels: names of the classes that it predicts, by id.
        problem: see `names_of`.

    Raises:
        UserError: a weight that has no place in it.
    """
    check_whole(model, {*part_names(model), "head.weight"})
    more: dict[str, Any] = {**ids, **names_of(labels, problem)}
    if labels:
        more["classifier_pooling"] = "bos"  # a sequence's class is told at its first token
    config = llama_config(model, max_position_embeddings=UNLIMITED, **more)
    network = getattr(hf, auto).from_config(config, dtype=torch.float32)
    weights = to_llama(model)
    if config.tie_word_embeddings and not labels:
        weights["lm_head.weight"] = weights["model.embed_tokens.weight"]
    network.load_state_dict(weights)
    return network.eval()


def names_of(labels: Sequence[str], problem: str | None = None) -> dict[str, Any]:
    """Names of classes, as configs of transformers have them; nothing of none.

    Args:
        labels: by id.
        problem: what transformers calls the way in which a text is of them; None for that of tags.
    """
    if not labels:
        return {}
    numbers = {name: id_ for id_, name in enumerate(labels)}
    return {
        "id2label": dict(enumerate(labels)),
        "label2id": numbers,
        **({"problem_type": problem} if problem else {}),
    }


def check_whole(model: Transformer, known: Iterable[str]) -> None:
    """Refuse a model with a weight that wouldn't go out, such as a layer of a subclass.

    Raises:
        UserError: naming it.
    """
    if left := sorted(model.state_dict().keys() - set(known)):
        raise UserError(
            f"{type(model).__name__} has {left[0]}, which {type(model).__mro__[1].__name__} has "
            "not: only what the model of this package computes can go out"
        )


def fast_tokenizer(tokenizer: Tokenizer, cfg: DictConfig, hf: Any) -> Any:
    """The tokenizer for transformers, which encodes a text as the model was trained to read it.

    A causal model reads begin + text (+ end, if that is a source), one of classes begin + text +
    end (+ text + end), any other text + end. Text that spells a special token is plain text, but
    for a masked model, which has to know where its masks are, and for one of chats, whose template
    writes text and markup as one text.
    """
    masked = cfg.task.shape == "encoder" and not tokenizer.labels
    special = tokenizer.special
    engine = type(tokenizer.engine).from_str(tokenizer.engine.to_str())  # the run's own stays
    names = {n: i for n, i in special._asdict().items() if i is not None}
    tokens = {f"{name}_token": engine.id_to_token(i) for name, i in names.items()}
    causal = cfg.task.shape == "decoder"
    begin, end = tokens["bos_token"], tokens["eos_token"]
    single, pair = (f"{begin} $A", None) if causal else (f"$A {end}", None)
    if causal and "source" in cfg.task.fields:  # whose end its source has
        single = f"{begin} $A {end}"
    if "labels" in cfg.task.fields:
        single, pair = f"{begin} $A {end}", f"{begin} $A {end} $B {end}"
    engine.post_processor = processors.TemplateProcessing(
        single=single, pair=pair, special_tokens=[(begin, names["bos"]), (end, names["eos"])]
    )
    return hf.PreTrainedTokenizerFast(
        tokenizer_object=engine,
        **tokens,
        padding_side="left" if causal else "right",  # new tokens follow the prompt
        split_special_tokens=not masked and tokenizer.chat_template is None,
        clean_up_tokenization_spaces=False,
        model_input_names=["input_ids", "attention_mask"],
        chat_template=tokenizer.chat_template,
    )


class PaddedSeq2Seq(nn.Module):
    """An encoder-decoder on padded batches, without sizes that depend on data: for `torch.export`.

    Args:
        model: an encoder-decoder, whose layers do the work.
    """

    def __init__(self, model: Transformer) -> None:
        super().__init__()
        assert model.encoder is not None
        assert model.decoder is not None
        self.embedding, self.head = model.embedding, model.head
        self.encoder, self.decoder = model.encoder, model.decoder

    def forward(
        self, source_ids: Tensor, source_lengths: Tensor, input_ids: Tensor, lengths: Tensor
    ) -> Tensor:
        """Logits (B, T, V) of sequences that are padded on the right.

        Args:
            source_ids: (B, S) what the encoder reads, with the end token.
            source_lengths: (B,) its real tokens, at least one.
            input_ids: (B, T) what the decoder reads, from the start token on.
            lengths: (B,) its real tokens; logits beyond mean nothing.
        """
        source_real = real_positions(source_lengths, source_ids.shape[1], "right")
        real = real_positions(lengths, input_ids.shape[1], "right")
        memory = self._run(self.encoder, source_ids, source_real, None)
        hidden = self._run(self.decoder, input_ids, real, (memory, source_real))
        return self.head(hidden).unflatten(0, input_ids.shape)

    def _run(
        self, stack: Stack, ids: Tensor, real: Tensor, memory: tuple[Tensor, Tensor] | None
    ) -> Tensor:
        """(B, T) ids → (B * T, D): each position of the padded batch is a token here."""
        place = torch.arange(ids.shape[1], device=ids.device)
        distance = place - place[:, None]  # (T, T): from the one that looks
        near = torch.ones_like(distance, dtype=torch.bool)
        if stack.visibility.causal:
            near = near & (distance <= 0)
        if stack.visibility.window is not None:
            near = near & (distance.abs() <= stack.visibility.window)
        # Padding looks at itself, for to see nothing is undefined.
        mask = (near & real[:, None]) | (distance == 0)
        source = None
        if memory is not None:
            states, source_real = memory
            source = Source(states, _dense(ids.shape[0], source_real[:, None]))
        attend = _dense(ids.shape[0], mask)
        turn = stack.rotary(place.repeat(ids.shape[0]))
        x = self.embedding(ids).flatten(0, 1)
        for block in stack.blocks:
            assert isinstance(block, Block)
            x = block(x, turn, attend, source)
        return stack.norm(x)


def _dense(rows: int, mask: Tensor) -> Attend:
    """Attention inside each of B rows, where mask (B, T or 1, S) is True."""

    def attend(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        q, k, v = (part.unflatten(0, (rows, -1)).transpose(1, 2) for part in (query, key, value))
        group = q.shape[1] // k.shape[1]
        k, v = (part.repeat_interleave(group, dim=1) for part in (k, v))
        out = F.scaled_dot_product_attention(q, k, v, mask[:, None])  # (B, H, T, W)
        return out.transpose(1, 2).flatten(0, 1)

    return attend


def traced(model: Transformer) -> torch.export.ExportedProgram:
    """`PaddedSeq2Seq` as a program for any number and any length of sequences.

    Raises:
        UserError: a weight that has no place in it.
    """
    check_whole(model, PaddedSeq2Seq(model).state_dict())
    ids, lengths = torch.zeros(3, 5, dtype=torch.int64), torch.tensor([5, 2, 4])
    rows, wide, source_wide = (torch.export.Dim(n, min=1) for n in ("rows", "wide", "source_wide"))
    return torch.export.export(
        PaddedSeq2Seq(model).eval(),
        (torch.zeros(3, 7, dtype=torch.int64), torch.tensor([7, 3, 6]), ids, lengths),
        dynamic_shapes=({0: rows, 1: source_wide}, {0: rows}, {0: rows, 1: wide}, {0: rows}),
    )
