"""What settings of the data may be, checked before anything heavy is imported."""

from collections.abc import Mapping, Sequence
from datetime import date
from typing import Any

from everytoken.corpora.words import SPLITS as WORDS
from everytoken.errors import UserError, check_choice, check_number
from everytoken.runtime.settings import cpu_processes

LONG = ("windows", "truncate", "drop", "refuse")
"""What can become of texts that are too long; pairs have no windows."""

LONG_CHATS = ("truncate_left", "truncate_right", "drop", "refuse")
"""The same of conversations, which are truncated by turns."""

LEARN = ("all_answers", "last_answer")
"""What can be learned of a conversation."""


def check_data(data: Mapping[str, Any]) -> None:
    """Refuse settings that every corpus shares and that make no sense.

    Raises:
        UserError: the first of them; so do all functions here.
    """
    check_budget(data["batch_tokens"], data["batch_size"])
    for key in ("microbatch_tokens", "pad_to_multiple_of"):
        check_number(f"data.{key}", data[key], int, low=1)
    check_number("data.limit_examples", data["limit_examples"], int, low=1, optional=True)
    check_number("data.most_held_out", data.get("most_held_out"), int, low=1, optional=True)
    check_number("data.curriculum_epochs", data.get("curriculum_epochs", 0), int, low=0)
    check_blocks(data.get("shuffle_blocks"), data.get("mixture"))
    most = 8 * cpu_processes()
    check_number("data.num_workers", data["num_workers"], int, low=0, most=most)
    check_choice("data.padding_side", data["padding_side"], ("left", "right"))
    folder = data.get("cache_dir")
    if folder is not None and (not isinstance(folder, str) or not folder or "\0" in folder):
        raise UserError(f"data.cache_dir must be a folder or null, got {folder!r}")


def check_blocks(blocks: object, mixture: object) -> None:
    """The order in two levels."""
    if blocks is None:
        return
    if mixture is not None:
        raise UserError("a mix is shuffled as a whole: leave out data.shuffle_blocks")
    values = [*blocks] if isinstance(blocks, Sequence) else []
    if len(values) != 2 or not all(type(n) is int and 0 < n < 2**63 for n in values):
        raise UserError(
            "data.shuffle_blocks must be null or two whole numbers above 0, [examples of a block, "
            f"blocks shuffled together], got {blocks!r}"
        )


def check_budget(tokens: object, examples: object) -> None:
    """The size of a global batch is set in one way: as real tokens, or as examples."""
    check_number("data.batch_tokens", tokens, int, low=1, optional=True)
    check_number("data.batch_size", examples, int, low=1, optional=True)
    if (tokens is None) == (examples is None):
        state = "neither is" if tokens is None else "both are"
        raise UserError(
            f"set exactly one of data.batch_tokens and data.batch_size ({state} set): "
            "give one a number and the other null"
        )


def check_pairs(objective: Mapping[str, Any]) -> None:
    """Arguments of `Seq2Seq`, and of `SequenceClassification`."""
    check_number("task.objective.max_tokens", objective["max_tokens"], int, low=1)
    check_choice("task.objective.long", objective["long"], LONG[1:])


def check_several(objective: Mapping[str, Any]) -> None:
    """Arguments of `MultiLabelClassification`."""
    check_pairs(objective)
    check_number("task.objective.threshold", objective["threshold"], float, low=0, below=1)


def check_windows(objective: Mapping[str, Any]) -> None:
    """Arguments of `CausalLM`, which `MaskedLM` has too."""
    window, stride, long = (objective[k] for k in ("window_tokens", "stride_tokens", "long"))
    check_number("task.objective.window_tokens", window, int, low=1)
    check_number("task.objective.stride_tokens", stride, int, low=1)
    check_choice("task.objective.long", long, LONG)
    given = f"task.objective.stride_tokens={stride}"
    if stride > window:
        raise UserError(
            f"{given} would leave tokens out between windows: give at most "
            f"task.objective.window_tokens={window}"
        )
    if stride < window and long != "windows":
        raise UserError(f"{given} needs windows, but task.objective.long={long}: leave it out")


def check_masked(objective: Mapping[str, Any]) -> None:
    """Arguments of `MaskedLM`."""
    check_windows(objective)
    fraction = objective["corrupted_fraction"]
    if not isinstance(fraction, int | float) or not 0 < fraction <= 1:
        raise UserError(
            f"task.objective.corrupted_fraction must be above 0 and at most 1, got {fraction!r}"
        )


def check_prefix(objective: Mapping[str, Any]) -> None:
    """Arguments of `PrefixLM`."""
    check_windows(objective)
    if not isinstance(objective["two_way"], bool):
        two_way = objective["two_way"]
        raise UserError(f"task.objective.two_way must be true or false, got {two_way!r}")
    fields = objective["fields"]
    if not isinstance(fields, Sequence) or [*fields] not in (["text"], ["source", "target"]):
        raise UserError(
            f"task.objective.fields must be [text] or [source,target], got {fields!r}: "
            "leave it out, it follows task.fields"
        )


def check_spans(objective: Mapping[str, Any]) -> None:
    """Arguments of `SpanCorruption`."""
    check_windows(objective)
    fraction = objective["corrupted_fraction"]
    if not isinstance(fraction, int | float) or not 0 < fraction < 1:
        raise UserError(
            f"task.objective.corrupted_fraction must be above 0 and below 1, got {fraction!r}"
        )
    check_number("task.objective.mean_span", objective["mean_span"], float, low=1)
    check_number("task.objective.sentinels", objective["sentinels"], int, low=1, most=10_000)
    check_number("task.objective.start_id", objective["start_id"], int, low=0, optional=True)


def check_tags(objective: Mapping[str, Any]) -> None:
    """Arguments of `TokenClassification`."""
    check_pairs(objective)
    check_choice("task.objective.label", objective["label"], ("first", "all"))
    check_choice("task.objective.split", objective["split"], WORDS)


def check_chat(objective: Mapping[str, Any]) -> None:
    """Arguments of `Chat`."""
    check_number("task.objective.max_tokens", objective["max_tokens"], int, low=2)
    check_choice("task.objective.long", objective["long"], LONG_CHATS)
    check_choice("task.objective.learn", objective["learn"], LEARN)
    template, today = objective["template"], objective["today"]
    if template is not None and (not isinstance(template, str) or not template):
        raise UserError(f"task.objective.template must be a name, a file or null, got {template!r}")
    try:
        date.fromisoformat(today)
    except (TypeError, ValueError) as error:
        raise UserError(
            f"task.objective.today must be a date such as 2024-07-26, got {today!r}"
        ) from error


CHECKS = {
    "Seq2Seq": check_pairs,
    "SequenceClassification": check_pairs,
    "CausalLM": check_windows,
    "Chat": check_chat,
    "MaskedLM": check_masked,
    "MultiLabelClassification": check_several,
    "PrefixLM": check_prefix,
    "SpanCorruption": check_spans,
    "TokenClassification": check_tags,
}
"""By the name of the part."""
