"""Conversations in, answers out: from a file, and turn by turn at a terminal."""

import codecs
import fcntl
import io
import json
import os
import pty
import select
import signal
import struct
import subprocess
import sys
import termios
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from everytoken.commands import generate as command
from everytoken.commands.answers import Answerer
from everytoken.commands.conversing import PROMPT, answered, converse
from everytoken.corpora.conversations import Conversation
from everytoken.data.chat import Chat
from everytoken.data.objective import CausalLM
from everytoken.errors import UserError
from everytoken.runtime.signals import stop_requests
from everytoken.tokenizer.learned import train_char
from support import finished_runs
from support.chats import TRAINED, made, said
from support.finished_runs import make_run

SMALL = ["logger=none", "model.layers=1", "model.width=32", "model.ffn_width=48"]
SFT = [*SMALL, "task=sft", "data=chat_dates", "tokenizer=char"]
LETTERS = 6
"""Tokens of an answer."""


@pytest.fixture(scope="module")
def chatty(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Answerer]:
    objective = made(TRAINED["char"], "mistral")
    folder = tmp_path_factory.mktemp("chat") / "run"
    words = [*SFT, "task.objective.template=mistral", "task.max_new_tokens=null"]
    run, module, tokenizer = make_run(folder, words, objective.tokenizer)
    return run.path, Answerer(module, made(tokenizer, "mistral"), tokenizer, LETTERS)


def talk(answerer: Answerer, typed: str, **settings: Any) -> str:
    """What a terminal shows to lines that are typed."""
    out = io.StringIO()
    given = {"stream": True, "prompts": True, **settings}
    converse(answerer, io.BytesIO(typed.encode()), out, str, **given)
    return out.getvalue()


def answer(answerer: Answerer, *texts: str) -> str:
    return answerer.answer([answerer.objective.ask(Conversation(said(*texts)), "it")], [0])[0]  # pyright: ignore


@pytest.mark.parametrize("stream", [True, False])
def test_all_that_was_said_before_is_read(chatty: tuple[Path, Answerer], stream: bool):
    answerer = chatty[1]
    first = answer(answerer, "hi")
    second = answer(answerer, "hi", first, "and <eos>?")
    assert first != second
    found = talk(answerer, "hi\n\nand <eos>?\n", stream=stream)
    assert found == f"{PROMPT}{first}\n{PROMPT}{PROMPT}{second}\n{PROMPT}"
    assert talk(answerer, "hi", stream=stream, prompts=False) == f"{first}\n"


def test_a_plain_line_is_a_users_only_message(chatty: tuple[Path, Answerer]):
    answerer = chatty[1]
    lines = ["hi", "and <eos>?"]
    wanted = [answer(answerer, line) for line in lines]
    assert [*answerer.answers([*lines, "", " "], 2)] == [*wanted, "", ""]


def test_ctrl_c_ends_an_answer_and_the_answer_stays_as_far_as_it_went(
    chatty: tuple[Path, Answerer], monkeypatch: pytest.MonkeyPatch
):
    answerer, asked = chatty[1], []

    def stream(text: Conversation, key: int) -> Iterator[str]:
        asked.append([message["content"] for message in text.messages])
        yield "par"
        if len(asked) == 1:
            os.kill(os.getpid(), signal.SIGINT)
        yield "tial"

    monkeypatch.setattr(answerer, "stream", stream)
    with stop_requests.listening():
        found = talk(answerer, "a\nb\n")
        assert signal.getsignal(signal.SIGINT) not in (signal.default_int_handler, signal.SIG_IGN)
    assert found == f"{PROMPT}par\n{PROMPT}partial\n{PROMPT}"
    assert asked == [["a"], ["a", "par", "b"]]


def test_an_answer_that_says_nothing_isnt_remembered(
    chatty: tuple[Path, Answerer], monkeypatch: pytest.MonkeyPatch
):
    answerer, asked = chatty[1], []

    def stream(text: Conversation, key: int) -> Iterator[str]:
        asked.append([message["content"] for message in text.messages])
        yield ["\x1c", "\0", "yes", ""][len(asked) - 1]

    monkeypatch.setattr(answerer, "stream", stream)
    talk(answerer, "a\nb\nc\nd\n")
    assert asked == [["a"], ["b"], ["c"], ["c", "yes", "d"]]


def test_ctrl_c_where_nothing_is_answered_ends_nothing(chatty: tuple[Path, Answerer]):
    class Keyboard(io.BytesIO):
        interrupted = False

        def readline(self, *size: Any) -> bytes:
            if not self.interrupted:
                self.interrupted = True
                raise KeyboardInterrupt
            return super().readline()

    out = io.StringIO()
    converse(chatty[1], Keyboard(b"hi\n"), out, str, stream=True, prompts=True)
    assert out.getvalue() == f"{PROMPT}\n{PROMPT}{answer(chatty[1], 'hi')}\n{PROMPT}"


def test_a_line_of_messages_gets_an_answer_and_keeps_the_rest(chatty: tuple[Path, Answerer]):
    answerer = chatty[1]
    rows = [
        {"id": 7, "messages": said("hi"), "tags": ["ü"]},
        {"conversations": [{"from": "human", "value": "x"}]},
        {"messages": said("hi", "yes", "and?", system="S"), "tools": None},
        {"prompt": "x"},
        {"instruction": "hi", "input": "", "id": 8},
        {"prompt": said("hi", "yes", "and?", system="S")},
    ]
    texts = "\n\n".join(json.dumps(row) for row in rows).split("\n")
    found = [json.loads(line) for line in answered(answerer, texts, "a.jsonl", 2)]
    first = {"role": "assistant", "content": answer(answerer, "hi")}
    assert found[0] == {"id": 7, "messages": [*said("hi"), first], "tags": ["ü"]}
    assert [m["content"] for m in found[1]["messages"]] == ["x", answer(answerer, "x")]
    assert found[2]["messages"][:-1] == rows[2]["messages"]
    # The column of the answer needn't be there.
    assert found[3] == {"prompt": "x", "messages": found[1]["messages"]}
    assert found[4] == {"instruction": "hi", "input": "", "id": 8, "messages": [*said("hi"), first]}
    assert found[5]["messages"] == found[2]["messages"]


@pytest.mark.bad_input
@pytest.mark.parametrize(
    ("row", "mistake"),
    [
        ('{"messages": ', "a.jsonl, line 2: not JSON"),
        ("3", "a.jsonl, line 2: must be an object"),
        ('{"text": "a"}', "a.jsonl, line 2: no conversation in the columns 'text'"),
        (json.dumps({"messages": said("a", "b")}), "line 2: the conversation ends with an answer"),
        ('{"prompt": "a", "completion": "b"}', "line 2: the conversation ends with an answer"),
        ('{"prompt": 3}', "a.jsonl, line 2: message 1 has the content 3"),
    ],
)
def test_a_line_without_a_question(chatty: tuple[Path, Answerer], row: str, mistake: str):
    rows = [json.dumps({"messages": said("hi")}), row]
    with pytest.raises(UserError) as caught:
        list(answered(chatty[1], rows, "a.jsonl", 1))
    assert mistake in str(caught.value)


def test_generate_reads_files_of_conversations_and_chats(
    chatty: tuple[Path, Answerer], tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    def run(**given: Any) -> str:
        settings: dict[str, Any] = {
            **{"checkpoint": "best", "decoding": None, "max_new_tokens": LETTERS},
            **{"batch_size": 4, "input": None, "output": None, "stream": None},
        }
        command.generate(str(chatty[0]), **{**settings, **given})
        return capsys.readouterr().out

    file = tmp_path / "a.jsonl"
    file.write_text(json.dumps({"messages": said("hi")}) + "\n")
    [line] = run(input=str(file)).splitlines()
    assert json.loads(line)["messages"][1]["content"] == answer(chatty[1], "hi")
    (tmp_path / "a.txt").write_text("hi\nand?\n")
    first = answer(chatty[1], "hi")
    second = answer(chatty[1], "hi", first, "and?")
    shown = run(input=str(tmp_path / "a.txt"), chat=True)
    assert shown.splitlines() == [text.replace("\n", "⏎") for text in (first, second)]
    with pytest.raises(UserError, match=r"chat=true is one conversation, and .* one in each"):
        run(input=str(file), chat=True)


@pytest.mark.bad_input
def test_a_model_of_texts_doesnt_chat(tmp_path: Path):
    words = [*SMALL, "task=causal_lm", "data=pydoc"]
    run, _, _ = finished_runs.make_run(tmp_path / "run", words, train_char(["abc"]))
    with pytest.raises(UserError, match=r"wasn't trained on conversations"):
        command.generate(str(run.path), "best", None, 4, 4, None, None, None, chat=True)


def test_prompts_of_an_objective_are_a_users_message():
    objective = made(TRAINED["byte"], "chatml")
    assert isinstance(objective, Chat)
    assert not isinstance(objective, CausalLM)
    [ids] = objective.tokenizer.encode(["hi"])
    asked = objective.ask(Conversation(said("hi")), "it")
    assert objective.prompt(ids).input_ids.tolist() == asked.input_ids.tolist()


class Terminal:
    """A program at a terminal of its own, 200 columns wide."""

    def __init__(self, *words: str) -> None:
        self.ours, theirs = pty.openpty()
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("4H", 50, 200, 0, 0))
        self.process = subprocess.Popen(
            [sys.executable, "-c", f"{TAKE_TERMINAL}; {START}", *words],
            stdin=theirs,
            stdout=theirs,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
        os.close(theirs)
        self.seen = ""

    def type(self, text: str) -> None:
        os.write(self.ours, text.encode())

    def read(self, until: Callable[[str], bool]) -> str:
        """What is shown from here on, at least until it is enough."""
        decoder, found = codecs.getincrementaldecoder("utf-8")(), ""
        while not until(found):
            ready, _, _ = select.select([self.ours], [], [], 60)
            assert ready, f"nothing more is shown after {found!r}"
            found += decoder.decode(os.read(self.ours, 4096))
        return found


TAKE_TERMINAL = "import fcntl, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0)"
START = "from everytoken.entry.generate import main; main()"


@pytest.fixture
def endless(tmp_path: Path) -> tuple[Path, Answerer]:
    """A run whose answers have no end."""
    words = [*SFT, "task.objective.template=mistral", "model.tie_embeddings=false"]
    run, module, tokenizer = make_run(
        tmp_path / "run", words, made(TRAINED["char"], "mistral").tokenizer
    )
    head = module.head
    assert isinstance(head, torch.nn.Linear)
    with torch.no_grad():
        head.weight[tokenizer.special.eos] = 0  # some other is always above
    torch.save({"state_dict": module.state_dict()}, run.checkpoint("best"))
    return run.path, Answerer(module, made(tokenizer, "mistral"), tokenizer, LETTERS)


@pytest.mark.slow
def test_at_a_terminal_answers_stream_ctrl_c_ends_one_and_ctrl_d_the_program(
    endless: tuple[Path, Answerer],
):
    path, answerer = endless
    terminal = Terminal(f"run={path}", "chat=true", "max_new_tokens=100000")
    end = f"\r\n{PROMPT}"
    try:
        terminal.read(lambda found: found.endswith(PROMPT))
        terminal.type("hi\n")
        shown = terminal.read(lambda found: len(found) > 40)
        assert terminal.process.poll() is None
        terminal.type("\x03")
        shown += terminal.read(lambda found: found.endswith(end))
        first = shown.partition("\r\n")[2].removesuffix(end).replace("^C", "")
        assert first.startswith(answer(answerer, "hi"))
        terminal.type("and?\n")
        wanted = answer(answerer, "hi", first, "and?")
        shown = terminal.read(lambda found: len(found) >= len("and?\r\n") + len(wanted))
        assert shown.partition("\r\n")[2].startswith(wanted)
        assert wanted != answer(answerer, "and?")
        terminal.type("\x03")
        terminal.read(lambda found: found.endswith(end))
        terminal.type("\x04")
        assert terminal.process.wait(60) == 0
    finally:
        terminal.process.kill()
        terminal.process.communicate()
        os.close(terminal.ours)
