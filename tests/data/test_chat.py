"""Of a conversation the answers are learned, with their ends, and nothing else."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from everytoken.batch import IGNORE_INDEX
from everytoken.corpora.columns import packed
from everytoken.corpora.conversations import Conversation
from everytoken.data.named_templates import NAMED
from everytoken.errors import UserError
from everytoken.tokenizer.tokenizer import Tokenizer
from support.chats import CALL, OWN, TRAINED, chat, example, items, made, said, shown, templated

WRITTEN = {
    "chatml": "<|im_start|>system\nS<|im_end|>\n<|im_start|>user\nhi<|im_end|>\n"
    "<|im_start|>assistant\n[[yes<|im_end|>]]\n<|im_start|>user\nand<|im_end|>\n"
    "<|im_start|>assistant\n[[no<|im_end|>]]",
    "llama3": "<bos><|start_header_id|>system<|end_header_id|>\n\nS<|eot_id|>"
    "<|start_header_id|>user<|end_header_id|>\n\nhi<|eot_id|>"
    "<|start_header_id|>assistant<|end_header_id|>\n\n[[yes<|eot_id|>]]"
    "<|start_header_id|>user<|end_header_id|>\n\nand<|eot_id|>"
    "<|start_header_id|>assistant<|end_header_id|>\n\n[[no<|eot_id|>]]",
    "gemma": "<bos><start_of_turn>user\nS\n\nhi<end_of_turn>\n<start_of_turn>model\n"
    "[[yes<end_of_turn>]]\n<start_of_turn>user\nand<end_of_turn>\n<start_of_turn>model\n"
    "[[no<end_of_turn>]]",
    "mistral": "<bos>[SYSTEM_PROMPT]S[/SYSTEM_PROMPT][INST]hi[/INST][[yes<eos>]]"
    "[INST]and[/INST][[no<eos>]]",
}


@pytest.mark.parametrize("kind", TRAINED)
@pytest.mark.parametrize("template", NAMED)
def test_answers_are_learned_with_their_ends_and_nothing_else(template: str, kind: str):
    messages = said("hi", "yes", "and", "no", system="S")
    found = shown(chat(template, kind), messages)
    wanted = WRITTEN[template]
    if kind == "char":  # one that its texts lack is unknown
        found, wanted = (text.replace("S", "<unk>") for text in (found, wanted))
    assert found == wanted
    only = shown(chat(template, kind, learn="last_answer"), messages)
    if kind != "char":
        assert only == wanted.replace("[[yes", "yes").replace("]]", "", 1)


@pytest.mark.parametrize("template", NAMED)
@settings(max_examples=30, deadline=None)
@given(data=st.data())
def test_whatever_is_said_no_token_spans_a_border_and_no_text_is_markup(
    template: str, data: st.DataObject
):
    objective = chat(template, "bpe")
    names = [*objective.layout.markup.names, "\n", " ", "  x", "</s>", "[INST]", "{{ x }}", "é"]
    # Characters that can't be text, and a NUL, are refused; so is an answer that says nothing.
    words = st.one_of(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0")))
    text = st.lists(st.one_of(st.sampled_from(names), words), min_size=1, max_size=4).map("".join)
    texts = data.draw(st.lists(text.filter(str.strip), min_size=2, max_size=6))
    texts = texts[: len(texts) // 2 * 2]
    messages = said(*texts)
    [item] = items(objective, messages)
    assert item.labels is not None
    learned = np.flatnonzero(item.labels != IGNORE_INDEX)
    runs = np.split(learned, np.flatnonzero(np.diff(learned) > 1) + 1)
    assert len(runs) == len(texts) // 2
    for i, (run, answer) in enumerate(zip(runs, texts[1::2], strict=True)):
        *ids, end = item.ids[run].tolist()
        assert end == objective.special.eos
        assert ids == objective.tokenizer.encode([answer])[0]
        # What stands before is what is read when the answer is asked for.
        asked = objective.ask(Conversation(messages[: 2 * i + 1]), "it")
        assert item.ids[: run[0]].tolist() == asked.input_ids.tolist()
    # Nothing but what the template writes is markup: as often as where nobody spells it.
    plain = items(objective, said(*["x"] * len(texts)))[0].ids
    marks = list(objective.layout.markup.names.values())
    assert np.isin(item.ids, marks).sum() == np.isin(plain, marks).sum()


def test_what_evaluation_compares_with_is_the_last_answer():
    objective = chat()
    messages = said("hi", "ja é", "and", "non é")
    [item] = items(objective, messages)
    reference = item.reference
    assert reference is not None
    assert reference.text == "non é"
    assert reference.answer_tokens == len("non é".encode()) + 1
    assert reference.byte_count == len("ja énon é".encode())
    prompt = objective.ask(Conversation(messages[:-1]), "it").input_ids
    assert item.ids[: reference.prompt_tokens].tolist() == prompt.tolist()


def test_what_stands_after_the_last_answer_is_left_out():
    objective = chat()
    messages = said("hi", "yes", "and then?")
    assert shown(objective, messages) == shown(objective, messages[:2])
    assert items(objective, messages[:1]) == []
    assert items(objective, [{"role": "system", "content": "S"}]) == []


@pytest.mark.parametrize("template", ["chatml", "llama3"])
def test_calls_of_tools_are_learned_as_the_template_writes_them(template: str):
    messages = [
        {"role": "user", "content": "1+2?"},
        {"role": "assistant", "content": None, "tool_calls": [CALL]},
        {"role": "tool", "content": "3"},
        {"role": "assistant", "content": "three"},
    ]
    text = shown(chat(template), messages, tools=[{"name": "add"}])
    end = NAMED[template].end
    call = '<tool_call>{"name": "add", "arguments": {"a": 1, "b": "ü<>"}}</tool_call>'
    assert f"[[{call}{end}]]" in text
    assert text.endswith(f"[[three{end}]]")
    assert '{"name": "add"}' in text.partition("[[")[0]


# Templates of others

GENERATION = (
    "{% for m in messages %}{% if m.role == 'assistant' %}"
    "{{ 'A' }}{% generation %}{{ ':' + m.content + eos_token + '\\n' }}{% endgeneration %}"
    "{% else %}{{ 'U:' + m.content + '\\n' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'A:' }}{% endif %}"
)


@pytest.mark.parametrize(
    ("template", "wanted"),
    [
        (OWN, "user:a<eos>assistant:[[b<eos>]]user:c<eos>assistant:[[d<eos>]]"),
        # The sign that opens an answer is given, and the line feed after its end is nobody's.
        (GENERATION, "U:a\nA:[[b<eos>]]\nU:c\nA:[[d<eos>]]"),
        # An end that is left out is learned all the same: else no answer would end.
        (
            GENERATION.replace(
                " + eos_token + '\\n' }}{% endgeneration %}",
                " }}{% endgeneration %}{{ eos_token }}",
            ),
            "U:a\nA:[[b<eos>]]U:c\nA:[[d<eos>]]",
        ),
        # An end of the whole after the end of the turn is never generated.
        (
            GENERATION + "{% if not add_generation_prompt %}{% generation %}{{ eos_token }}"
            "{% endgeneration %}{% endif %}",
            "U:a\nA:[[b<eos>]]\nU:c\nA:[[d<eos>]]",
        ),
        # One that opens no answer, but says itself what is learned; one with a sign before it only.
        (GENERATION.partition("{% if add")[0], "U:a\nA[[:b<eos>]]\nU:c\nA[[:d<eos>]]"),
        (
            "{% for m in messages %}{{ '[' + m.content + ']' if m.role == 'user' else ' ' + "
            "m.content + eos_token }}{% endfor %}",
            "[a][[ b<eos>]][c][[ d<eos>]]",
        ),
        # Space that a template puts around an answer has to be generated, too.
        (OWN.replace("':' + m.content", "': ' + m.content + ' '"), None),
        (OWN.replace("m.content", "m.content | trim"), None),
    ],
)
def test_the_tokenizers_own_template(template: str, wanted: str | None):
    objective = templated(template)
    found = shown(objective, said("a", "b", "c", "d"))
    if wanted is None:
        wanted = "user: a <eos>assistant:[[ b <eos>]]user: c <eos>assistant:[[ d <eos>]]"
        if "trim" in template:
            wanted = "user:a<eos>assistant:[[b<eos>]]user:c<eos>assistant:[[d<eos>]]"
            assert shown(objective, said(" a", " b\n")) == "user:a<eos>assistant:[[b<eos>]]"
            # A text that spells a token is found where white space around it was taken off.
            assert "[[<eos> x<eos>]]" in shown(objective, said("a", " <eos> x "))
    assert found == wanted


def test_the_end_of_a_turn_becomes_the_end_of_what_is_generated():
    objective = chat("gemma")
    special = objective.tokenizer.special
    assert objective.tokenizer.name(special.eos) == "<end_of_turn>"
    assert special._replace(eos=2) == TRAINED["byte"].special
    closing = "{% if not add_generation_prompt %}{{ eos_token }}{% endif %}"
    mixed = templated("{% for m in messages %}{{ m.content + '<unk>' }}{% endfor %}" + closing)
    assert shown(mixed, said("a", "b")) == "a<unk>[[b<unk>]]"
    again = made(mixed.tokenizer)  # as a run that goes on makes it
    assert shown(again, said("a", "b")) == "a<unk>[[b<unk>]]"
    assert again.layout.template.render(said("a", "b"), None, "it").text == "a<unk>b<unk><eos>"


@pytest.mark.parametrize("role", ["pad", "eos"])
def test_the_end_is_learned_also_if_padding_has_its_id(role: str):
    kept = TRAINED["byte"]
    special = kept.special._replace(pad=kept.special.eos)
    tokenizer = Tokenizer(kept.engine, special, chat_template=OWN.replace("eos", role))
    assert shown(made(tokenizer), said("a", "b")).endswith("[[b<eos>]]")


def test_a_run_goes_on_with_the_template_that_it_was_begun_with(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.chdir(tmp_path)
    Path("own.jinja").write_text(OWN)
    begun = made(TRAINED["byte"], "own.jinja")
    begun.tokenizer.save(tmp_path / "tokenizer.json")
    kept = Tokenizer.load(tmp_path / "tokenizer.json")
    messages = said("a", "b")
    for change in (lambda f: None, lambda f: f.write_text(OWN[::-1]), Path.unlink):
        change(Path("own.jinja"))
        objective = made(kept, "own.jinja")
        assert shown(objective, messages) == shown(begun, messages)
        assert objective.tokenizer is kept
    assert "isn't what it was" in capsys.readouterr().out


# Long conversations

TURNS = said("aaaa", "1", "bbbb", "2", "cccc", "3", system="S")


@pytest.mark.parametrize(
    ("long", "room", "kept"),
    [
        ("truncate_left", 1000, ["S", "aaaa", "1", "bbbb", "2", "cccc", "3"]),
        ("truncate_left", 19, ["S", "bbbb", "2", "cccc", "3"]),
        ("truncate_left", 18, ["S", "cccc", "3"]),
        ("truncate_left", 5, None),
        ("truncate_right", 19, ["S", "aaaa", "1", "bbbb", "2"]),
        ("truncate_right", 18, ["S", "aaaa", "1"]),
        ("truncate_right", 5, None),
    ],
)
def test_turns_go_until_the_rest_fits_in(long: str, room: int, kept: list[str] | None):
    objective = chat("mistral", long=long, max_tokens=room)
    found = items(objective, TURNS)
    whole = chat("mistral")
    wanted = [] if kept is None else items(whole, said(*kept[1:], system="S"))
    assert [item.ids.tolist() for item in found] == [item.ids.tolist() for item in wanted]
    assert all(objective.real_count(item) <= room for item in found)


@pytest.mark.parametrize("long", ["drop", "refuse"])
def test_others_are_left_to_the_corpus(long: str):
    objective = chat("mistral", long=long, max_tokens=len(items(chat("mistral"), TURNS)[0].ids) - 1)
    [record] = objective.encode([{"messages": packed(TURNS)}], str)
    assert not objective.is_too_long(record)
    objective = chat("mistral", long=long, max_tokens=objective.max_tokens - 1)
    assert objective.is_too_long(record)


# What can't be written


@pytest.mark.bad_input
@pytest.mark.parametrize(
    ("template", "messages", "mistake"),
    [
        ("{% for", None, "is no Jinja (line 1: "),
        ("{{ nothing.there }}", None, "can't write it ('nothing' is undefined)"),
        ("{{ raise_exception('I refuse') }}", None, "can't write it (I refuse)"),
        ("{{ messages.__class__.__mro__ }}", None, "unsafe"),
        ("{% for m in messages %}{{ m.content }}{% endfor %}", None, "writes no special token"),
        (
            OWN.partition("{% if add")[0],
            None,
            "writes 'assistant:' before an answer, and opens none with it (add_generation_prompt)",
        ),
        # What stands before an answer must stay when the conversation goes on.
        (
            OWN.replace("m.role", "messages | length | string"),
            None,
            "put {% generation %} and {% endgeneration %} around what an assistant writes",
        ),
        (
            OWN.replace("m.content", "m.content | upper"),
            said("a", "the <eos> token"),
            "message 2 spells <eos>, and the chat template of the tokenizer doesn't write messages",
        ),
        (
            OWN,
            [
                said("a")[0],
                {"role": "assistant", "content": "b", "tool_calls": [{"name": "<pad>"}]},
            ],
            "message 2 spells <pad> outside of its content",
        ),
        (OWN, said("a", "\0"), "message 2 holds a NUL character"),
        (OWN, [{"role": "user"}], "message 1 has the content None"),
    ],
)
def test_what_a_template_cant_write_is_told_with_its_place(
    template: str, messages: list[dict[str, Any]] | None, mistake: str
):
    with pytest.raises(UserError) as caught:
        example(templated(template), messages or said("a", "b", "c", "d"))
    assert mistake in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.bad_input
@pytest.mark.parametrize("template", ["gemma", "mistral"])
def test_templates_without_a_place_for_tools_say_so(template: str):
    messages = [*said("a"), {"role": "assistant", "content": "b", "tool_calls": [CALL]}]
    with pytest.raises(UserError, match=f"the chat template {template} can't write it .*no place"):
        example(chat(template), messages)


@pytest.mark.bad_input
def test_a_template_that_isnt_there():
    with pytest.raises(UserError, match=r"none of chatml, llama3, gemma, mistral, and no file"):
        made(TRAINED["byte"], "chatmll")


def test_the_date_is_the_settings_and_no_days():
    template = "{{ strftime_now('%Y-%m-%d') }}" + OWN
    assert shown(templated(template), said("a", "b")).startswith("2024-07-26user:a")


def test_json_is_written_as_transformers_has_it():
    template = OWN.replace("m.content", "(m.content | tojson)")
    text = shown(templated(template), said("<ü>", "'"))
    assert text == f'user:{json.dumps("<ü>", ensure_ascii=False)}<eos>assistant:[["\'"<eos>]]'
