"""What corpora use of the insides of `datasets` is there, and does its work."""

import json
from pathlib import Path

from datasets import Dataset, load_dataset

from everytoken.corpora.datasets_internals import fingerprint
from support.upstream import changed


def loaded(folder: Path, cache: str) -> Dataset:
    dataset = load_dataset(str(folder), split="train", cache_dir=str(folder.with_name(cache)))
    assert isinstance(dataset, Dataset)
    return dataset


def test_a_dataset_has_a_name_of_its_content(tmp_path: Path) -> None:
    found = changed("datasets", "Dataset._fingerprint", "corpora/datasets_internals.py")
    folder = tmp_path / "data"
    folder.mkdir()
    (folder / "train.jsonl").write_text(json.dumps({"text": "one"}) + "\n")
    assert hasattr(loaded(folder, "a"), "_fingerprint"), found
    before = fingerprint(loaded(folder, "a"))
    assert isinstance(before, str), found
    assert fingerprint(loaded(folder, "a")) == before, found
    assert fingerprint(loaded(folder, "b")) == before, f"{found}: it depends on the cache"
    (folder / "train.jsonl").write_text(json.dumps({"text": "two"}) + "\n")
    assert fingerprint(loaded(folder, "a")) != before, found
