"""What was prepared is trained on as if it hadn't been, from servers that fail, too."""

import json
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from omegaconf import DictConfig, OmegaConf

from everytoken.commands.build import build_data
from everytoken.commands.prepare import described, prepare, sent
from everytoken.commands.prepared import check_prepared
from everytoken.config.check import checked
from everytoken.config.values import check_training
from everytoken.corpora.prepared import MANIFEST, Prepared
from everytoken.corpora.target import Target
from everytoken.data.cut import Topology
from everytoken.data.datamodule import SPLITS, TokenDataModule
from everytoken.data.report import DataReport
from everytoken.data.sampler import GlobalBatches
from everytoken.errors import UserError
from everytoken.tokenizer import train_byte
from support.file_server import Server, serving
from support.s3_server import BUCKET, KEYS, forget, storing

BYTES = train_byte([])
MEGABYTES = 0.0004
STEPS = 12
DATES = (
    *("data.corpus.train_examples=120", "data.corpus.val_examples=20"),
    *("data.corpus.test_examples=20", "data.batch_size=16"),
)
TEXTS = ("data.path=lines.txt", "data.val_fraction=0.2", "data.test_fraction=0.2")
TASKS = {
    "pairs": DATES,
    "windows": (
        *("task=causal_lm", "data=text", *TEXTS, "tokenizer=byte", "data.batch_tokens=100"),
        *("task.objective.window_tokens=12", "task.objective.stride_tokens=7"),
    ),
    "chats": ("task=sft", "data=chat_dates", *DATES, "tokenizer=byte"),
    "tags": ("task=token_classification", "data=date_parts", *DATES),
    "several classes": (
        *("task=multi_label_classification", "data=labelled", "data.path=classes.csv"),
        *("tokenizer=byte", "data.val_fraction=0.2", "data.test_fraction=0.2"),
    ),
    "ids in files": (
        *("task=causal_lm", "data=tokens", "data.path=ids.bin", f"data.end_id={BYTES.special.eos}"),
        *("data.val_fraction=0.2", "data.test_fraction=0.2", "data.batch_tokens=100"),
        *("tokenizer=pretrained", "tokenizer.path=bytes", "task.objective.window_tokens=12"),
    ),
    "a mix": (
        *("task=causal_lm", "tokenizer=byte", "data=mix", "data.batch_tokens=100"),
        "data.parts={a: {data: text, path: lines.txt, val_fraction: 0.2, test_fraction: 0.2}, "
        "b: {data: text, path: others.txt, weight: 3, val_fraction: 0.2, test_fraction: 0.2}}",
    ),
}


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "lines.txt").write_text("".join(f"line {n} {'é' * (n % 9)}\n" for n in range(90)))
    rows = "".join(f"text {n},{'odd' if n % 2 else 'even'}\n" for n in range(60))
    (tmp_path / "classes.csv").write_text(f"text,label\n{rows}")
    (tmp_path / "others.txt").write_text("".join(f"another {n}\n" for n in range(60)))
    (tmp_path / "bytes").mkdir()
    BYTES.save(tmp_path / "bytes" / "tokenizer.json")
    texts = BYTES.encode([f"document {n}" for n in range(60)])
    ids = [id_ for text in texts for id_ in (*text, BYTES.special.eos)]
    np.array(ids, np.uint16).tofile(tmp_path / "ids.bin")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def config(*overrides: str) -> DictConfig:
    return checked("train", [*overrides, "data.cache_dir=cache", "seed=3"], check_training)


def prepared(
    cfg: DictConfig, data: TokenDataModule, path: str = "shards", megabytes: float = MEGABYTES
) -> DictConfig:
    """The config of a run on what was prepared of another's data."""
    work = Path("work")
    work.mkdir()
    manifest = described(cfg, data) | sent(data, Target(path), work, megabytes)
    (work / MANIFEST).write_text(json.dumps(manifest))
    Target(path).put(work / MANIFEST, MANIFEST)
    return on(cfg, path)


def on(cfg: DictConfig, path: str, gigabytes: float = 1) -> DictConfig:
    other = cfg.copy()
    OmegaConf.set_struct(other, False)
    other.data.mixture = None
    other.data.corpus = {
        "_target_": "everytoken.corpora.Prepared",
        "path": path,
        "cache_dir": "shelf",
        "cache_gigabytes": gigabytes,
    }
    return other


def steps(data: TokenDataModule, ranks: int, rank: int, first: int = 0) -> list[Any]:
    """What a rank of several reads in the first steps, as plain values."""
    topology = Topology(ranks, rank, data.batching.microbatch_tokens, data.batching.work)
    stream = data.train_steps()
    own = GlobalBatches(
        stream.lengths, stream.budget, topology, data.seed, None, first, data.order, data.marks
    )
    plans = zip(range(first, STEPS), own, strict=False)
    return [[plain(batch) for batch in data.splits["train"][plan]] for _, plan in plans]


def plain(batch: Any) -> dict[str, Any]:
    return {
        name: (value.tolist(), value.dtype) if isinstance(value, torch.Tensor) else value
        for name, value in vars(batch).items()
    }


def same(one: TokenDataModule, other: TokenDataModule) -> None:
    """All that is trained and evaluated on, and what is said of it."""
    assert steps(one, 1, 0) == steps(other, 1, 0)
    for loader in ("val_dataloader", "test_dataloader"):
        pairs = (map(plain, getattr(data, loader)()) for data in (one, other))
        assert [*next(pairs)] == [*next(pairs)]
    reports = [DataReport.of(data, False).as_json() for data in (one, other)]
    assert reports[0] == reports[1]
    assert one._stream == other._stream
    assert one.tokenizer.engine.to_str() == other.tokenizer.engine.to_str()


@pytest.mark.parametrize("task", TASKS)
def test_training_is_what_it_is_without(task: str):
    cfg = config(*TASKS[task])
    data = build_data(cfg, SPLITS)
    others = prepared(cfg, data)
    found = build_data(others, SPLITS)
    same(data, found)
    assert isinstance(found.source, Prepared)
    assert len(found.source.splits["train"].shards) > 2
    ranks = [steps(found, 2, rank, first=STEPS // 2) for rank in (0, 1)]  # others, and resumed
    assert ranks == [steps(data, 2, rank)[STEPS // 2 :] for rank in (0, 1)]
    for limited in (cfg, others):
        limited.data.limit_examples = 9
    one, other = build_data(cfg, SPLITS, data.tokenizer), build_data(others, SPLITS)
    if task not in ("windows", "ids in files"):  # of which each window counts
        assert steps(one, 1, 0) == steps(other, 1, 0)
        if task != "a mix":  # whose records keep their numbers
            assert one.counts["val"].records == other.counts["val"].records
        assert one._examples == other._examples


@pytest.mark.parametrize("workers", [0, 1])
def test_a_server_that_fails_changes_nothing(
    folder: Path,
    workers: int,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
):
    cfg = config(*DATES)
    data = build_data(cfg, SPLITS)
    prepared(cfg, data, megabytes=0.001)
    each = json.loads((folder / "shards" / MANIFEST).read_text())["splits"]["train"]
    data.shuffle_blocks = [each["shard_examples"], 2]
    with serving(monkeypatch) as server:
        give(server, folder / "shards")
        server.moods = ["well", "fails", "well", "cuts off", "stalls", "well", "cuts off"]
        shards = [f for f in server.files if re.search(r"train/\d+.zip", f)]
        most = 6 * max(len(server.files[name]) for name in shards)
        remote_cfg = on(cfg, server.url("a"), most / 1e9)
        remote_cfg.data.num_workers = workers
        remote_cfg.data.shuffle_blocks = data.shuffle_blocks
        found = build_data(remote_cfg, SPLITS)
        expected = [[plain(b) for b in step] for step in first(data.train_dataloader())]
        for step, own in zip(first(found.train_dataloader()), expected, strict=True):
            assert [plain(batch) for batch in step] == own
            assert sum(map(size, folder.glob("shelf/shards/*/train/*.zip"))) <= most
        assert not server.moods
        assert "again and again" not in capfd.readouterr().out
        remote_cfg.data.shuffle_blocks = None
        assert isinstance(found.source, Prepared)
        check_prepared(remote_cfg, found.source)
        told = " ".join(capfd.readouterr().out.split())
        assert f"data.shuffle_blocks=[{each['shard_examples']},3]" in told
    assert {f"a/{name.removeprefix('a/')}" for name in shards} <= {*server.asked}


def size(file: Path) -> int:
    """Bytes of a file that others may remove."""
    try:
        return file.stat().st_size
    except FileNotFoundError:
        return 0


def give(server: Server, folder: Path) -> None:
    for file in folder.rglob("*"):
        if file.is_file():
            server.files[f"a/{file.relative_to(folder)}"] = file.read_bytes()


def first(steps: Iterable[Any], count: int = 13) -> Iterator[Any]:
    return (step for _, step in zip(range(count), steps, strict=False))


@pytest.mark.bad_input
@pytest.mark.parametrize(
    ("overrides", "told"),
    [
        (["data.path=nothing"], "nothing is prepared at nothing"),
        (["task=causal_lm"], "was prepared with task=seq2seq, and this is task=causal_lm"),
        (["task.objective.max_tokens=5"], "type task.objective.max_tokens=1024"),
        (["tokenizer=bpe"], "leave out tokenizer=bpe"),
        (["data.cache_gigabytes=9"], "is a folder, which is read where it is: leave it out"),
        (["data.shuffle_blocks=[0,1]"], "data.shuffle_blocks must be"),
    ],
)
def test_what_it_was_not_prepared_for_is_refused(shards: Path, overrides: list[str], told: str):
    words = ["data=prepared", f"data.path={shards}", "data.batch_tokens=300", *overrides]
    with pytest.raises(UserError, match=re.escape(told)) as caught:
        build_data(config(*words), SPLITS)
    assert "\n" not in str(caught.value)


@pytest.mark.bad_input
def test_what_is_kept_of_a_server_is_a_size() -> None:
    with pytest.raises(UserError, match=r"data\.cache_gigabytes must be"):
        Prepared("https://host/a", None, -1)


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("prepared") / "shards"
    prepare(str(place), [*DATES, "data.cache_dir=null"], 0.001)
    return place


@pytest.mark.bad_input
def test_what_was_prepared_is_not_written_over(shards: Path):
    with pytest.raises(UserError, match="holds what was prepared before: give a new folder"):
        prepare(str(shards), [*DATES], 1)
    with pytest.raises(UserError, match="is for reading only"):
        prepare("https://127.0.0.1:1/a", [*DATES], 1)


@pytest.mark.filterwarnings("ignore")
def test_an_object_store(folder: Path, monkeypatch: pytest.MonkeyPatch):
    cfg = config(*DATES)
    data = build_data(cfg, SPLITS)
    with storing(monkeypatch) as store:
        store.moods = ["well", "fails", "well", "fails"]  # a tokenizer, then shards
        others = prepared(cfg, data, f"s3://{BUCKET}/some/place")
        assert not store.moods
        store.moods = ["well", "fails", "cuts off", "well", "stalls", "cuts off"]
        same(data, build_data(others, SPLITS))
        assert not store.moods
        with pytest.raises(UserError, match="nothing is prepared at s3://none/a"):
            build_data(on(cfg, "s3://none/a"), SPLITS)
        file = folder / "file"
        file.touch()
        with pytest.raises(UserError, match="nothing is at s3://none/a"):
            Target("s3://none/a").put(file, "file")
        for name in KEYS:
            monkeypatch.delenv(name)
        forget()
        with pytest.raises(UserError, match=r"^s3://bucket/some/place/prepared.json asks who you"):
            build_data(others, SPLITS)
