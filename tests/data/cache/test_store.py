"""Tokenized corpora on disk: exactly the items of memory, never stale ones, never half of them."""

import json
import os
import pickle
import re
import resource
import signal
import time
from collections.abc import Callable, Iterator
from multiprocessing import get_context
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf

from everytoken.commands.build import build_data
from everytoken.data.cache import store as stores
from everytoken.data.cache import tokenized as caches
from everytoken.data.cache.folder import StoreError, check
from everytoken.data.cache.store import ItemStore, write_items
from everytoken.data.datamodule import TokenDataModule
from everytoken.data.item import Item, Reference
from everytoken.data.sampler import StepPlan
from everytoken.errors import UserError
from everytoken.tokenizer.learned import SPECIAL, train_char
from everytoken.tokenizer.tokenizer import Tokenizer
from support.helpers import wait_until

CORPUS = """
import os
from everytoken.data.objective import CausalLM
from everytoken.tokenizer.learned import SPECIAL, train_char
from everytoken.tokenizer.tokenizer import Tokenizer
from {helper} import WORDS

class Corpus:
    fields = ("source", "target")

    def __init__(self, times: int, log: str, words: str | None = None) -> None:
        self.times, self.log = times, log

    def fingerprint(self) -> str:
        return os.environ.get("WORDS_VERSION", "1")

    def examples(self, split: str):
        with open(self.log + "/log", "a") as file:
            file.write(split + "\\n")
        for word in WORDS.split() * self.times:
            yield {{"source": word, "target": word[::-1], "text": word}}

class Nameless(Corpus):
    fingerprint = property()

class Cut(CausalLM):
    pass

def train_upper(texts, more=""):
    return train_char([*texts, more.upper()])

def load(texts, path):
    return Tokenizer.load(path)
"""


class Project:
    """A user's own modules and a config that names them; each project's have names of their own."""

    count = 0

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        Project.count += 1
        self.module, self.helper = f"corpus_{Project.count}", f"words_{Project.count}"
        self.folder = folder
        self.cache, self.log = folder / "cache", folder / "log"
        (folder / f"{self.module}.py").write_text(CORPUS.format(helper=self.helper))
        (folder / f"{self.helper}.py").write_text('WORDS = "a bc def ghij klmno pqrstu"\n')
        monkeypatch.syspath_prepend(folder)
        self.cfg: dict[str, Any] = {
            "seed": 1,
            "data": {
                "corpus": {"_target_": f"{self.module}.Corpus", "times": 2, "log": str(folder)},
                "limit_examples": None,
                "batch_tokens": None,
                "batch_size": 4,
                "microbatch_tokens": 100,
                "padding_side": "right",
                "pad_to_multiple_of": 1,
                "num_workers": 0,
                "cache_dir": str(self.cache),
            },
            "task": {
                "fields": ["source", "target"],
                "objective": {
                    "_target_": "everytoken.data.Seq2Seq",
                    "start_id": None,
                    "max_tokens": 100,
                    "long": "refuse",
                },
            },
            "tokenizer": {"_target_": "everytoken.tokenizer.train_char"},
            "trainer": {"max_epochs": 1, "hang_timeout": 60},
        }

    def data(
        self,
        changes: dict[str, Any] | None = None,
        tokenizer: Tokenizer | None = None,
        splits: tuple[str, ...] = ("train", "val"),
    ) -> TokenDataModule:
        cfg = OmegaConf.create(self.cfg)
        for key, value in (changes or {}).items():
            OmegaConf.update(cfg, key, value, merge=False)
        return build_data(cfg, splits, tokenizer)

    def reads(self, *arguments: Any) -> list[str]:
        """The splits that are read by loading the data."""
        before = len(self._log())
        self.data(*arguments)
        return sorted(set(self._log()[before:]))

    def _log(self) -> list[str]:
        return self.log.read_text().split() if self.log.exists() else []

    def edit(self, module: str, old: str, new: str) -> None:
        file = self.folder / f"{module}.py"
        assert old in file.read_text()
        file.write_text(file.read_text().replace(old, new))


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    return Project(tmp_path, monkeypatch)


PAIR = {"source": "a", "target": "b"}


def as_lists(items: Any) -> list[list[list[int]]]:
    return [[ids.tolist() for ids in item[:3] if ids is not None] for item in items]


def make_items(count: int, length: int = 3) -> Iterator[tuple[Item, int]]:
    for i in range(count):
        yield Item(np.full(length, i, np.int32), np.full(1, -i, np.int32)), length


def all_files(folder: Path) -> list[str]:
    kept = (path for path in folder.rglob("*") if path.is_file() and path.suffix != ".lock")
    return sorted(str(path.relative_to(folder)) for path in kept)


# The store

part = st.lists(st.integers(-(2**31), 2**31 - 1), max_size=5).map(
    lambda ids: np.array(ids, np.int32)
)
number = st.integers(-(2**63), 2**63 - 1)
references = st.builds(Reference, number, number, number, number, st.none() | st.text(max_size=4))
corpora = st.one_of(
    [
        st.lists(
            st.builds(Item, part, source, context, reference, labels, classes, place=st.none()),
            min_size=1,
            max_size=30,
        )
        for classes in (st.none(), part)
        for labels in (st.none(), part)
        for source in (st.none(), part)
        for context in (st.none(), part)
        for reference in (st.none(), references)
    ]
)


@settings(max_examples=60, deadline=None)
@given(corpora, st.integers(1, 9))
def test_what_is_read_is_what_was_written(
    tmp_path_factory: pytest.TempPathFactory, items: list[Item], chunk: int
) -> None:
    folder = tmp_path_factory.mktemp("store") / "train"
    lengths = [17 * i % 5 for i in range(len(items))]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stores, "CHUNK_ITEMS", chunk)
        write_items(folder, zip(items, lengths, strict=True))
    store = ItemStore(folder)
    assert as_lists(store) == as_lists(items)
    assert [row.context_ids is None for row in store] == [row.context_ids is None for row in items]
    assert [row.reference for row in store] == [row.reference for row in items]
    both = zip(store, items, strict=True)
    assert all(np.array_equal(a.labels, b.labels) for a, b in both)  # pyright: ignore
    expected = [row.reference._replace(text=None) for row in items if row.reference]
    assert list(store.references()) == expected
    assert store.lengths.tolist() == lengths
    assert store.longest == max(lengths)
    parts = [part for item in store for part in item[:3] if part is not None]
    assert {ids.dtype for ids in parts} == {np.dtype(np.int32)}


def test_a_store_is_a_sequence(tmp_path: Path) -> None:
    write_items(tmp_path / "s", make_items(7))
    store = ItemStore(tmp_path / "s")
    whole = as_lists(store)
    assert len(store) == len(whole) == 7
    assert as_lists([store[-1]]) == whole[-1:]
    assert as_lists(store[2:20]) == whole[2:]
    for index in (7, -8):
        with pytest.raises(IndexError):
            store[index]


def test_an_item_may_be_changed_without_changing_the_store(tmp_path: Path) -> None:
    write_items(tmp_path / "s", make_items(2))
    store = ItemStore(tmp_path / "s")
    store[1].ids[:] = 99
    assert store[1].ids.tolist() == [1, 1, 1]


def test_a_file_that_is_cut_off_while_it_is_read_is_an_error(tmp_path: Path) -> None:
    write_items(tmp_path / "s", make_items(50))
    store = ItemStore(tmp_path / "s")
    os.truncate(tmp_path / "s" / "tokens.bin", 100)
    assert store[0].ids.tolist() == [0, 0, 0]
    with pytest.raises(StoreError, match="cut off"):
        store[49]


def test_another_dtype_stays_as_it_is(tmp_path: Path) -> None:
    write_items(tmp_path / "s", [(Item(np.array([2**40])), 1)])
    assert ItemStore(tmp_path / "s")[0].ids.tolist() == [2**40]


class MoreThanItem(Item):
    pass


@pytest.mark.parametrize(
    "items",
    [
        [],
        [Item(np.array([1])), Item(np.array([1]), np.array([2]))],
        [Item(np.array([1])), Item(np.array([1], np.int32))],
        [Item(np.array([[1]]))],
        [Item(np.array([1.5]))],
        [Item([1])],  # pyright: ignore
        [MoreThanItem(np.array([1]))],
        [Item(np.array([1]), reference=Reference(0, 1, 1, 1)), Item(np.array([1]))],
    ],
)
def test_what_would_come_back_otherwise_is_refused(tmp_path: Path, items: list[Item]) -> None:
    with pytest.raises(StoreError):
        write_items(tmp_path / "s", [(item, 1) for item in items])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("file", ["tokens.bin", "borders.bin", "lengths.bin", "meta.json"])
@pytest.mark.parametrize("damage", ["shorter", "longer", "gone"])
def test_damage_is_found_and_replaced(tmp_path: Path, file: str, damage: str) -> None:
    write_items(tmp_path / "s", make_items(9))
    path = tmp_path / "s" / file
    content = path.read_bytes()
    path.unlink()
    if damage != "gone":
        path.write_bytes(content[:-4] if damage == "shorter" else content + b"1234")
    with pytest.raises(StoreError):
        ItemStore(tmp_path / "s")
    write_items(tmp_path / "s", make_items(9))
    assert len(ItemStore(tmp_path / "s")) == 9
    assert [path.name for path in tmp_path.iterdir()] == ["s"]


def test_a_store_that_is_there_already_is_kept(tmp_path: Path) -> None:
    write_items(tmp_path / "s", make_items(9))
    write_items(tmp_path / "s", make_items(2))
    assert len(ItemStore(tmp_path / "s")) == 9


def test_in_another_process_the_same_files_are_opened(tmp_path: Path) -> None:
    write_items(tmp_path / "s", make_items(20_000))
    store = ItemStore(tmp_path / "s")
    assert len(pickle.dumps(store)) < 1000
    assert as_lists(pickle.loads(pickle.dumps(store))[:5]) == as_lists(store[:5])


def test_memory_does_not_grow_with_the_corpus(tmp_path: Path) -> None:
    """80 MB of items, all of which are read."""
    write_items(tmp_path / "s", make_items(100_000, length=199))
    process = psutil.Process()
    store = ItemStore(tmp_path / "s")
    store[0]
    before = process.memory_info().rss
    for i in range(0, len(store), 3):
        store[i]
    assert process.memory_info().rss - before < 4e6


def test_writing_takes_memory_for_a_chunk_only(tmp_path: Path) -> None:
    process = psutil.Process()
    before, most = process.memory_info().rss, 0

    def watched() -> Iterator[tuple[Item, int]]:
        nonlocal most
        for i, pair in enumerate(make_items(60_000, length=400)):
            if i % 9_999 == 0:
                most = max(most, process.memory_info().rss)
            yield pair

    write_items(tmp_path / "s", watched())  # 96 MB
    assert most - before < 60e6


def write_and_wait(folder: Path, started: Path) -> None:
    def endless() -> Iterator[tuple[Item, int]]:
        yield from make_items(30_000)
        started.touch()
        time.sleep(60)

    write_items(folder, endless())


def test_a_killed_writer_leaves_nothing_that_is_read(tmp_path: Path) -> None:
    writer = get_context("fork").Process(
        target=write_and_wait, args=(tmp_path / "s", tmp_path / "started")
    )
    writer.start()
    wait_until((tmp_path / "started").exists)
    assert writer.pid is not None
    os.kill(writer.pid, signal.SIGKILL)
    writer.join()
    assert list(tmp_path.glob("s.*.tmp/tokens.bin"))
    with pytest.raises(StoreError):
        ItemStore(tmp_path / "s")
    write_items(tmp_path / "s", make_items(9))
    assert len(ItemStore(tmp_path / "s")) == 9


# A hit and a miss


def test_a_hit_reads_no_text_and_gives_the_same(project: Project) -> None:
    def everything(data: TokenDataModule) -> Any:
        splits = data.splits.values()
        batches = [[batch.input_ids.tolist() for batch in step] for step in data.train_dataloader()]
        items = [(as_lists(split.items), split.lengths.tolist()) for split in splits]
        return items, batches, data.tokenizer.engine.to_str()

    memory = everything(project.data({"data.cache_dir": None}))
    miss = everything(project.data())
    assert project.reads() == []
    hit = everything(project.data())
    assert memory == miss == hit
    assert len(hit[0][0][0]) == 12


def test_a_spawned_loader_worker_opens_the_same_files(project: Project) -> None:
    split = project.data({"data.corpus.times": 1000}).splits["train"]
    assert isinstance(split.items, ItemStore)
    pickled = pickle.dumps(split)
    assert len(pickled) < 2000 < len(split)
    plan = StepPlan(0, [[5, 300, 4000]])
    (there,), (here,) = pickle.loads(pickled)[plan], split[plan]
    assert there.input_ids.tolist() == here.input_ids.tolist()


def test_a_forked_loader_worker_reads_the_same(project: Project) -> None:
    def steps(workers: int) -> list[Any]:
        loader = project.data({"data.num_workers": workers}).train_dataloader()
        return [[batch.input_ids.tolist() for batch in step] for step in loader]

    alone = steps(0)
    assert len(alone) == 3
    assert steps(2) == alone


def test_evaluation_finds_what_training_has_made(project: Project) -> None:
    tokenizer = project.data(splits=("train", "val", "test")).tokenizer
    assert project.reads(None, tokenizer, ("test",)) == []
    assert project.reads(None, train_char(["xyz"]), ("test",)) == ["test"]


CHANGES = {
    "argument of the source": {"data.corpus.times": 3},
    "another source": {"data.corpus._target_": "MODULE.Other"},
    "limit": {"data.limit_examples": 5},
    "task": {"task.objective": {"_target_": "MODULE.Cut", "window_tokens": 3, "stride_tokens": 3,
                                "long": "windows"},
             "task.fields": ["text"]},
    "fields": {"task.fields": ["target", "source"]},
    "tokenizer": {"tokenizer._target_": "MODULE.train_upper"},
}  # fmt: skip


@pytest.mark.parametrize("what", CHANGES)
def test_what_items_are_made_of_is_part_of_the_key(project: Project, what: str) -> None:
    project.edit(project.module, "class Cut", "class Other(Corpus):\n    pass\n\nclass Cut")
    values = json.loads(json.dumps(CHANGES[what]).replace("MODULE", project.module))
    project.data()
    assert project.reads(values) != []
    assert project.reads(values) == []
    assert project.reads() == []


def test_arguments_of_objective_and_tokenizer_are_part_of_the_key(project: Project) -> None:
    overrides: dict[str, Any] = {
        "task.objective": {
            "_target_": f"{project.module}.Cut",
            "window_tokens": 3,
            "stride_tokens": 3,
            "long": "windows",
        },
        "task.fields": ["text"],
        "tokenizer": {"_target_": f"{project.module}.train_upper", "more": "x"},
    }
    project.data(overrides)
    for key, value in (("task.objective.window_tokens", 2), ("tokenizer.more", "yz")):
        assert project.reads(overrides) == []
        assert project.reads(overrides | {key: value}) == ["train", "val"]
    # Windows of another size don't ask for another tokenizer.
    (tokenizer, items) = (
        project.data(overrides | {"task.objective.window_tokens": n}) for n in (4, 5)
    )
    assert tokenizer.tokenizer.engine.to_str() == items.tokenizer.engine.to_str()


def test_what_does_not_change_items_is_not_part_of_the_key(project: Project) -> None:
    project.data()
    assert project.reads({"seed": 5, "data.batch_size": 2, "data.microbatch_tokens": 50}) == []


def test_the_fingerprint_is_part_of_the_key(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    project.data()
    monkeypatch.setenv("WORDS_VERSION", "2")
    assert project.reads() == ["train", "val"]


@pytest.mark.parametrize("what", ["source", "helper", "base class"])
def test_edited_code_makes_new_items(project: Project, what: str) -> None:
    if what == "base class":
        (project.folder / f"more_{project.module}.py").write_text(
            f"from {project.module} import Corpus\n\nclass More(Corpus):\n    pass\n"
        )
        project.cfg["data"]["corpus"]["_target_"] = f"more_{project.module}.More"
    project.data()
    assert project.reads() == []
    if what == "helper":
        project.edit(project.helper, "klmno", "k")
    else:
        project.edit(project.module, "word[::-1]", "word")
    assert project.reads() == ["train", "val"]


def test_edited_code_of_objective_and_tokenizer_makes_new_items(project: Project) -> None:
    for name in ("objective", "tokenizer"):
        (project.folder / f"{name}_{project.module}.py").write_text(
            "from everytoken.data.objective import Seq2Seq\n"
            "from everytoken.tokenizer.learned import SPECIAL, train_char\n"
            "class Mine(Seq2Seq):\n    pass\n"
            "def train(texts):\n    return train_char(texts)\n"
        )
    overrides = {
        "task.objective": {
            "_target_": f"objective_{project.module}.Mine",
            "start_id": None,
            "max_tokens": 100,
            "long": "drop",
        },
        "tokenizer": {"_target_": f"tokenizer_{project.module}.train"},
    }
    project.data(overrides)
    for name, reread in (("objective", ["train", "val"]), ("tokenizer", ["train", "val"])):
        assert project.reads(overrides) == []
        project.edit(f"{name}_{project.module}", "pass", "is_mine = True")
        assert set(project.reads(overrides)) >= ({"train"} if name == "tokenizer" else set(reread))


def test_a_target_is_known_by_the_module_that_names_it_too(project: Project) -> None:
    alias = f"alias_{project.module}"
    (project.folder / f"{alias}.py").write_text(
        f"from functools import partial\nfrom {project.module} import train_upper\n"
        "train = partial(train_upper, more='x')\n"
    )
    overrides = {"tokenizer._target_": f"{alias}.train"}
    project.data(overrides)
    assert project.reads(overrides) == []
    project.edit(alias, "'x'", "'y'")
    assert "train" in project.reads(overrides)


def test_an_edited_file_that_an_argument_names_makes_new_items(project: Project) -> None:
    words = project.folder / "words.txt"
    words.write_text("one")
    named = {"data.corpus.words": str(words)}
    project.data(named)
    assert project.reads(named) == []
    words.write_text("three")
    assert project.reads(named) == ["train", "val"]


@pytest.mark.parametrize("package", ["tokenizers", "numpy", "python"])
def test_versions_are_part_of_the_key(
    project: Project, package: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from everytoken.data.cache import code_state as sources

    project.data()
    if package == "python":
        monkeypatch.setattr(caches.platform, "python_version", lambda: "3.99.0")
    else:
        monkeypatch.setattr(
            sources, "_version", lambda name: "99" if name == package else "unknown"
        )
    assert project.reads() == ["train", "val"]


def test_a_tokenizer_that_reads_no_text_is_loaded_anew(project: Project) -> None:
    file = project.folder / "tokenizer.json"
    loads = {"tokenizer": {"_target_": f"{project.module}.load", "path": str(file)}}
    train_char(["abc"]).save(file)
    project.data(loads)
    assert project.reads(loads) == []
    train_char(["abcd"]).save(file)
    assert len(project.data(loads).tokenizer) == 5 + 4
    assert [name for name in all_files(project.cache) if "tokenizer" in name] == []


# What isn't kept


def test_a_source_without_fingerprint_writes_nothing(project: Project) -> None:
    class_ = {"data.corpus._target_": f"{project.module}.Nameless"}
    assert project.reads(class_) == project.reads(class_) == ["train", "val"]
    assert not project.cache.exists()


def test_without_a_folder_nothing_is_kept(project: Project) -> None:
    for nowhere in (None, ""):
        assert project.reads({"data.cache_dir": nowhere}) == ["train", "val"]
    assert not project.cache.exists()


def test_where_files_cannot_be_locked_texts_are_kept_all_the_same(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    def acquire(*arguments: Any, **settings: Any) -> None:
        raise NotImplementedError("this file system has no locks")

    monkeypatch.setattr(caches.FileLock, "acquire", acquire)
    assert project.reads() == ["train", "val"]
    assert project.reads() == []


def test_a_tokenizer_that_is_more_than_its_file_is_not_kept(project: Project) -> None:
    class Mine(Tokenizer):
        pass

    tokenizer = Mine(train_char(["abcdef"]).engine, SPECIAL)
    assert project.data(None, tokenizer).tokenizer is tokenizer
    assert all_files(project.cache) == []


def test_code_that_is_in_no_file_is_not_kept(
    project: Project, capsys: pytest.CaptureFixture[str]
) -> None:
    data = project.data()
    body = {"fingerprint": str, "__module__": "typed", "examples": lambda self, split: [PAIR]}
    typed: Any = type("Typed", (), body)()
    configs = {"source": {}, "objective": {}}
    cache = caches.Cache(project.folder / "other", configs, caches.Corpus(typed, [*PAIR], None))
    assert len(cache.items("train", data.tokenizer, data.objective)) == 1
    assert not (project.folder / "other").exists()
    assert "the code of typed is in no file" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("code", "mistake"),
    [("print 1", "words_.*py, line 1"), ("from ... import x", "no package specified")],
)
def test_code_that_cannot_be_read_is_not_kept(
    project: Project, code: str, mistake: str, capsys: pytest.CaptureFixture[str]
) -> None:
    project.edit(
        project.module, "class Cut", f"def never():\n    import bad_{project.helper}\n\nclass Cut"
    )
    (project.folder / f"bad_{project.helper}.py").write_text(code)
    assert project.reads() == project.reads() == ["train", "val"]
    warnings = capsys.readouterr().out
    assert warnings.count("warning: ") == 2
    assert re.search(mistake, warnings)
    assert all_files(project.cache) == []


@pytest.mark.parametrize("obstacle", ["a file", "no permission", "a full disk"])
def test_a_folder_that_cannot_be_written_stops_nothing(
    project: Project,
    obstacle: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    if obstacle == "a file":
        project.cache.write_text("")
    elif obstacle == "no permission":
        project.cfg["data"]["cache_dir"] = "/proc/cache"
    else:

        def full(descriptor: int) -> None:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(os, "fsync", full)
    data = project.data()
    assert len(data.splits["train"]) == 12
    printed = capsys.readouterr().out
    assert printed.count("warning: ") == 1
    assert "see data.cache_dir" in printed
    if obstacle == "a full disk":
        assert "No space left" in printed
        assert [name for name in all_files(project.cache) if "tokenizer" not in name] == []


@pytest.mark.bad_input
def test_a_mistake_in_the_corpus_is_one_line_and_nothing_is_kept(project: Project) -> None:
    for mistake, message in (
        ({"data.corpus.times": 0}, "the train split is empty"),
        ({"task.fields": ["source", "title"]}, "train example 0 has .* needs title"),
    ):
        with pytest.raises(UserError, match=message):
            project.data(mistake)
    assert all_files(project.cache) == []


def test_checks_are_made_on_a_hit_too(project: Project) -> None:
    project.data()
    with pytest.raises(UserError, match=r"microbatch_tokens=13 .*longest train example \(14 real"):
        project.data({"data.microbatch_tokens": 13})


DAMAGES: dict[str, Callable[[bytes], bytes | None]] = {
    "one byte": lambda content: content[:-9] + bytes([content[-9] ^ 1]) + content[-8:],
    "garbage": lambda content: b"garbage",
    "deleted": lambda content: None,
}
KEPT = [
    *("train/tokens.bin", "train/borders.bin", "train/lengths.bin", "train/meta.json"),
    *("train/checksums.json", "tokenizer/tokenizer.json", "tokenizer/checksums.json"),
]


@pytest.mark.parametrize("file", KEPT)
def test_damage_by_hand_is_found_warned_of_and_mended(
    project: Project, file: str, capsys: pytest.CaptureFixture[str]
) -> None:
    right = as_lists(project.data().splits["train"].items)
    (path,) = project.cache.glob(f"*/{file}")
    whole = path.read_bytes()
    assert all_files(project.cache) != []
    for damage in DAMAGES.values():
        path.unlink()
        if (content := damage(whole)) is not None:
            path.write_bytes(content)
        capsys.readouterr()
        data = project.data()
        printed = " ".join(capsys.readouterr().out.split())
        assert as_lists(data.splits["train"].items) == right
        assert len(data.tokenizer) == 5 + 21
        assert printed.count("warning: ") == 1
        assert f"{path.parent} was damaged" in printed
        assert "it is made anew" in printed
        assert path.read_bytes() == whole
        assert project.reads() == []


def test_what_killed_processes_left_is_swept_away_by_the_next_that_builds(project: Project) -> None:
    project.data(splits=("train",))
    (train,) = project.cache.glob("*/train")
    for left in ("val.1234.tmp", "val.5678.tmp", "train.1234.tmp"):
        (train.with_name(left)).mkdir()
        (train.with_name(left) / "tokens.bin").write_bytes(b"1")
    project.data()  # holds the lock of val only
    names = {path.name for path in train.parent.iterdir() if path.suffix != ".lock"}
    assert names == {"train", "train.1234.tmp", "val"}


def limited(project: Project, size: int) -> list[Any]:
    """The items, loaded where no file can be larger than `size` bytes: as good as a full disk."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
    try:
        return as_lists(project.data().splits["train"].items)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


@pytest.mark.parametrize("size", [0, 100, 3000, 12_000, 30_000])
def test_wherever_the_disk_is_full_all_is_read_and_nothing_is_left(
    project: Project, size: int, capsys: pytest.CaptureFixture[str]
) -> None:
    project.cfg["data"]["corpus"]["times"] = 200
    project.edit(project.module, 'open(self.log + "/log", "a")', 'open("/dev/null", "a")')
    right = as_lists(project.data({"data.cache_dir": None}).splits["train"].items)
    assert limited(project, size) == right
    printed = " ".join(capsys.readouterr().out.split())
    assert printed.count("warning: tokenized texts stay in memory") == 1
    assert "File too large" in printed
    whole = {path.parent for path in project.cache.rglob("checksums.json")}
    for folder in whole:
        check(folder)
    left = [path for path in project.cache.rglob("*") if path.is_file() and path.suffix != ".lock"]
    assert {path.parent for path in left} == whole


@pytest.mark.parametrize("size", [0, 100])
def test_a_disk_that_is_full_at_once_is_a_store_error(tmp_path: Path, size: int) -> None:
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
    try:
        with pytest.raises(StoreError, match="File too large"):
            write_items(tmp_path / "s", make_items(50))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert list(tmp_path.iterdir()) == []


def test_counts_are_kept_with_the_items(project: Project) -> None:
    project.data()
    assert project.reads() == []
    memory, kept = project.data({"data.cache_dir": None}), project.data()
    assert kept.counts == memory.counts
    assert kept.counts["train"].records == 12
    assert kept.counts["train"].duplicates == 6


# Several processes

SLOW = """import time
        time.sleep(0.3)
        time.sleep(60 * os.path.exists("slow"))
        for word in WORDS.split()"""


def load(project: Project, found: Any) -> None:
    data = project.data(splits=("train",))
    found.put(as_lists(data.splits["train"].items))


@pytest.fixture
def fork(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> Iterator[tuple[Callable[[], BaseProcess], Any]]:
    """What starts a process that loads the data slowly, and a queue of what they find."""
    monkeypatch.setenv("TOKENIZERS_PARALLELISM", "false")
    monkeypatch.chdir(project.folder)
    project.edit(project.module, "for word in WORDS.split()", SLOW)
    context = get_context("fork")
    found = context.Queue()
    started: list[BaseProcess] = []

    def start() -> BaseProcess:
        started.append(context.Process(target=load, args=(project, found)))
        started[-1].start()
        return started[-1]

    yield start, found
    for process in started:
        process.kill()
        process.join()


def test_of_processes_at_once_one_builds(project: Project, fork: Any) -> None:
    start, found = fork
    for _ in range(3):
        start()
    first, *others = (found.get(timeout=60) for _ in range(3))
    assert len(first) == 12
    assert others == [first, first]
    # Its first example is looked at, then the tokenizer reads it, then it is tokenized.
    assert project.log.read_text().split() == ["train"] * 3


def test_who_waits_goes_on_when_the_builder_is_killed(
    project: Project,
    fork: Any,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    start, found = fork
    monkeypatch.setattr("everytoken.runtime.locks.PATIENCE_SECONDS", 0.1)
    Path("slow").touch()
    builder = start()
    wait_until(project.log.exists)
    start()
    told = ""

    def is_waiting() -> bool:
        nonlocal told
        told += capfd.readouterr().out
        return "waiting for another process" in " ".join(told.split())  # broken for the terminal

    wait_until(is_waiting)
    Path("slow").unlink()
    builder.kill()
    assert len(found.get(timeout=60)) == 12
