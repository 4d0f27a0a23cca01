"""Conversations of files, in the forms in which they are passed around."""

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from everytoken.corpora.chats import Chats
from everytoken.corpora.conversations import Conversation
from everytoken.corpora.splits import SPLITS
from everytoken.errors import UserError
from support.corpus_files import write, write_table

SETTINGS: dict[str, Any] = {
    "val": None,
    "test": None,
    "form": None,
    "val_fraction": 0.1,
    "test_fraction": 0.1,
    "seed": 1,
}


def source(train: Any, **changed: Any) -> Chats:
    return Chats(str(train), **SETTINGS | changed)


def talks(corpus: Chats, split: str) -> list[Conversation]:
    return [Conversation.unpacked(example["messages"]) for example in corpus.read(split)]


def said(question: Any, answer: Any) -> list[dict[str, Any]]:
    return [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]


def lines(*rows: Any) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


SYSTEM = {"role": "system", "content": "Be brief."}
CALL = {"function": {"name": "add", "arguments": {"a": None}}}
TOLD = [
    {"role": "user", "content": "1+2?"},
    {"role": "assistant", "tool_calls": [CALL]},
    {"role": "tool", "content": "3", "tool_call_id": "x"},
    {"role": "assistant", "content": "three"},
]


@pytest.mark.parametrize(
    ("row", "wanted"),
    [
        ({"messages": said("a", "b"), "id": 7}, Conversation(said("a", "b"))),
        ({"messages": [SYSTEM, *said("a", "b")]}, Conversation([SYSTEM, *said("a", "b")])),
        (
            {
                "messages": said(
                    [{"type": "text", "text": "a"}, {"type": "text", "text": " b"}], "c"
                )
            },
            Conversation(said("a b", "c")),
        ),
        (
            {"prompt": said("a", "b")[:1], "completion": said("a", "b")[1:]},
            Conversation(said("a", "b")),
        ),
        # In .parquet, and from APIs, all messages have the keys of all.
        (
            {"messages": [{**m, "tool_calls": m.get("tool_calls")} for m in TOLD], "tools": [CALL]},
            Conversation(TOLD, [CALL]),
        ),
        ({"messages": TOLD, "tools": json.dumps([CALL])}, Conversation(TOLD, [CALL])),
        (
            {"conversations": [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}]},
            Conversation(said("a", "b")),
        ),
        ({"prompt": "a", "completion": "b"}, Conversation(said("a", "b"))),
        (
            {"system": "Be brief.", "prompt": "a", "completion": "b"},
            Conversation([SYSTEM, *said("a", "b")]),
        ),
        ({"instruction": "a", "input": "", "output": "b"}, Conversation(said("a", "b"))),
        ({"instruction": "a", "output": "b"}, Conversation(said("a", "b"))),
        ({"instruction": "a", "input": "x", "output": "b"}, Conversation(said("a\n\nx", "b"))),
        (
            {"instruction": "c", "output": "d", "history": [["a", "b"]], "system": "Be brief."},
            Conversation([SYSTEM, *said("a", "b"), *said("c", "d")]),
        ),
        ({"messages": said("a", "b"), "system": None}, Conversation(said("a", "b"))),
        *(
            ({"messages": talk}, Conversation(talk))  # told between the turns how to answer
            for head in (SYSTEM, {**SYSTEM, "role": "developer"})
            for talk in [[said("a", "b")[0], head, said("a", "b")[1]]]
        ),
        *(
            (
                {"messages": [*begun, *said("a", "b")], "system": "Be brief."},
                Conversation([SYSTEM, *said("a", "b")]),
            )
            for begun in ([], [SYSTEM])
        ),
        (
            {
                "conversations": [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}],
                "system": "Be brief.",
            },
            Conversation([SYSTEM, *said("a", "b")]),
        ),
    ],
)
def test_a_row_in_each_form(tmp_path: Path, row: Any, wanted: Conversation) -> None:
    [found] = talks(source(write(tmp_path / "a.jsonl", lines(row))), "train")
    assert found == wanted
    [found] = talks(source(write(tmp_path / "a.json", json.dumps([row]))), "train")
    assert found == wanted


@pytest.mark.parametrize("kind", [".csv", ".tsv", ".csv.gz", ".parquet", ".jsonl.zst"])
def test_texts_of_columns_and_json_in_them(tmp_path: Path, kind: str) -> None:
    columns = {"instruction": ["a, b", "c"], "input": ["", "d"], "output": ["b", "e"]}
    found = talks(source(write_table(tmp_path / f"a{kind}", columns)), "train")
    assert found == [Conversation(said("a, b", "b")), Conversation(said("c\n\nd", "e"))]
    columns = {"messages": [json.dumps(said("a", "b"))]}
    found = talks(source(write_table(tmp_path / f"b{kind}", columns), quoted=True), "train")
    assert found == [Conversation(said("a", "b"))]


def test_parquet_with_lists(tmp_path: Path) -> None:
    pq.write_table(pa.table({"messages": [TOLD, said("a", "b")]}), tmp_path / "a.parquet")
    assert talks(source(tmp_path / "a.parquet"), "train")[1] == Conversation(said("a", "b"))


def test_equal_conversations_are_in_one_split(tmp_path: Path) -> None:
    rows = [{"messages": said(f"q{i % 60}", f"a{i % 60}"), "id": i} for i in range(120)]
    write(tmp_path / "a.jsonl", lines(*rows))
    corpus = source(tmp_path / "a.jsonl", val_fraction=0.3)
    splits = [[example["messages"] for example in corpus.examples(split)] for split in SPLITS]
    assert sum(map(len, splits)) == 120
    assert len(set().union(*splits)) == 60 == sum(len(set(split)) for split in splits)
    held = source(tmp_path / "a.jsonl", val=str(write(tmp_path / "v.jsonl", lines(rows[3]))))
    assert rows[3]["messages"] not in [t.messages for t in map(_unpacked, held.examples("train"))]
    assert held.dropped["train"] == {"also in a held-out split": 2}


def _unpacked(example: Any) -> Conversation:
    return Conversation.unpacked(example["messages"])


@pytest.mark.bad_input
@pytest.mark.parametrize(
    ("row", "mistake"),
    [
        ({"text": "a"}, "no conversation in the columns 'text': give one of these: messages; "),
        (
            {"messages": said("a", "b"), "prompt": "a", "completion": "b"},
            "in 2 ways: say which one is meant, data.form=messages or data.form=prompt",
        ),
        ({"messages": []}, "has no messages but []"),
        ({"messages": "hi"}, "'hi' is no JSON"),
        ({"messages": '[{"role": "user", "role": "tool"}]'}, "'role' more than once"),
        ({"messages": [SYSTEM, *said("a", "b")], "system": "Be long."}, "keep one"),
        ({"messages": said("a", "b"), "system": 7}, "message 1 has the content 7"),
        ({"messages": said("a", "b"), "tools": 0}, "tools that are no list but 0"),
        ({"instruction": "a", "input": 0, "output": "b"}, "has the input 0: give a text"),
        ({"instruction": "a", "input": ["x"], "output": "b"}, "has the input ['x']: give a text"),
        ({"instruction": "a", "output": "b", "history": ["a"]}, "give pairs, [[question, answer]"),
        (
            {"messages": [*said("a", "b")[:1], {**said("a", "b")[1], "weight": 0}]},
            "message 2 has the weight 0, and answers are learned alike",
        ),
        (
            {"conversations": [{"from": "human", "value": "a", "role": "system"}]},
            "has a role and says another",
        ),
        ({"messages": None}, "has no messages but None"),
        ({"messages": ["hi"]}, "message 1 is 'hi': give an object"),
        ({"messages": [{"content": "a"}]}, "message 1 is {'content': 'a'}: give an object"),
        ({"messages": [{"role": "user", "content": 3}]}, "message 1 has the content 3"),
        (
            {"messages": said("a", [{"type": "text", "text": "b"}, {"type": "image", "image": 1}])},
            "message 2 has a part of the type 'image' in its content: only texts are read",
        ),
        ({"messages": said(["a"], "b")}, "message 1 has a part of the type 'a'"),
        ({"messages": said([], "b")}, "message 1 has the content []"),
        (
            {"prompt": [{"type": "text", "text": 3}], "completion": "b"},
            "message 1 has a part with the text 3",
        ),
        ({"messages": [{"role": "narrator", "content": "a"}]}, "has the role 'narrator': give sys"),
        ({"conversations": [{"from": "Bob", "value": "a"}]}, "message 1 has the role 'Bob'"),
        ({"messages": said("a", "b")[1:]}, "message 1 is an answer, and nobody has said anything"),
        ({"messages": [SYSTEM, *said("a", "b")[1:]]}, "message 2 is an answer, and nobody"),
        ({"messages": [*said("a", "b"), said("a", "c")[1]]}, "message 3 is an answer after an ans"),
        ({"messages": said("a", " \n")}, "message 2 is an empty answer"),
        ({"prompt": "a", "completion": ""}, "message 2 is an empty answer"),
        ({"instruction": "a", "output": 3}, "message 2 has the content 3"),
        ({"messages": [*said("a", "b"), SYSTEM, said("a", "c")[1]]}, "message 4 is an answer aft"),
        ({"messages": said("a", "\0")}, "message 2 holds a NUL character"),
        ({"messages": said("a", "\ud800")}, "message 2 holds half a surrogate pair"),
        ({"messages": said("a", "b"), "tools": {"a": 1}}, "has tools that are no list"),
    ],
)
def test_what_is_no_conversation_is_told_with_its_line(
    tmp_path: Path, row: Any, mistake: str
) -> None:
    file = write(tmp_path / "a.jsonl", lines({"messages": said("a", "b")}, row))
    with pytest.raises(UserError) as caught:
        talks(source(file), "train")
    assert str(caught.value).startswith(f"{file}, line 2: ")
    assert mistake in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.bad_input
def test_a_form_that_is_named_must_be_there(tmp_path: Path) -> None:
    file = write(tmp_path / "a.jsonl", lines({"messages": said("a", "b")}))
    with pytest.raises(UserError, match=r"line 1: no column 'prompt'; there is 'messages'"):
        talks(source(file, form="prompt"), "train")
    with pytest.raises(UserError, match=r"data.form must be"):
        source(file, form="sharegpt")
    assert talks(source(file, form="messages"), "train") == [Conversation(said("a", "b"))]


def test_the_form_chooses_among_several(tmp_path: Path) -> None:
    row = {"messages": said("a", "b"), "prompt": "c", "completion": "d"}
    file = write(tmp_path / "a.jsonl", lines(row))
    assert talks(source(file, form="prompt"), "train") == [Conversation(said("c", "d"))]
