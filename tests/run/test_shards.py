"""Checkpoints in shards: the same bits as in one file, for any number of ranks; none is lost."""

import pickle
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from everytoken.errors import UserError
from everytoken.run.checkpoint_file import is_sharded, read, step_of, verify, write
from everytoken.run.shards import FOLDER, KEY, checksum, drop_unused, mapped
from support import prefork
from support.sharding_jobs import train_sharded

SCRIPT = Path(__file__).parents[2] / "scripts" / "merge_checkpoint.py"
JOB = "support.sharding_jobs:train_sharded"


def tensors(checkpoint: dict[str, Any]) -> dict[str, torch.Tensor]:
    found: dict[str, torch.Tensor] = {}
    mapped(checkpoint, found.__setitem__)
    return found


def assert_same(one: Path, other: Path, tolerance: float = 0) -> None:
    """Of two checkpoints: all tensors, and the settings of the optimizer."""
    a, b = read(one), read(other)
    assert a["optimizer_states"][0]["param_groups"] == b["optimizer_states"][0]["param_groups"]
    assert a["lr_schedulers"] == b["lr_schedulers"]
    found, right = tensors(a), tensors(b)
    assert found.keys() == right.keys()
    for place, tensor in right.items():
        torch.testing.assert_close(found[place], tensor, rtol=0, atol=tolerance, msg=place)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five steps of two ranks, saved on the way."""
    folder = tmp_path_factory.mktemp("trained")
    prefork.launch(JOB, {"folder": str(folder), "ranks": 2}, 2)
    return folder


@pytest.fixture
def kept(trained: Path, tmp_path: Path) -> Path:
    """A copy of its checkpoint in shards."""
    shutil.copytree(trained, tmp_path / "kept")
    return tmp_path / "kept" / "last.ckpt"


def shard_files(path: Path) -> list[Path]:
    said = torch.load(path, weights_only=True)[KEY]
    return [path.parent / FOLDER / said["folder"] / name for name in said["files"]]


def test_shards_hold_what_one_file_does(trained: Path) -> None:
    assert is_sharded(trained / "last.ckpt")
    assert not is_sharded(trained / "whole.ckpt")
    assert_same(trained / "last.ckpt", trained / "whole.ckpt")
    assert step_of(trained / "last.ckpt") == 3  # though training went on while it was written
    weights = read(trained / "last.ckpt")["state_dict"]
    assert weights["model.head.weight"] is weights["model.embedding.weight"]
    same = torch.load(trained / "last.ckpt", weights_only=True)[KEY]["same"]
    for part in ("state_dict", "current_model_state"):  # of an average, and of the weights
        assert same.pop(f"{part}/model.head.weight") == f"{part}/model.embedding.weight"
    assert not same


def test_a_save_that_fails_is_told_and_the_one_before_stays(trained: Path) -> None:
    for rank in range(2):
        assert (trained / f"failure-{rank}").read_text() == "disk full"
    verify(trained / "last.ckpt")
    folders = {file.parent for file in shard_files(trained / "last.ckpt")}
    folders |= {file.parent for file in shard_files(trained / "end.ckpt")}
    assert set((trained / FOLDER).iterdir()) == folders  # what the failed one left is gone


@pytest.mark.parametrize(
    ("name", "ranks"),
    [("last.ckpt", 1), ("last.ckpt", 2), ("last.ckpt", 3), ("whole.ckpt", 1), ("whole.ckpt", 2)],
)
def test_a_run_goes_on_from_either_on_any_number_of_ranks(
    trained: Path, name: str, ranks: int
) -> None:
    out = f"{ranks}-{name}"
    arguments = {"folder": str(trained), "ranks": ranks, "resumed": name, "out": out}
    if ranks == 1:
        train_sharded(**arguments)
    else:
        prefork.launch(JOB, arguments, ranks)
    assert_same(trained / out, trained / "end.ckpt", tolerance=0 if ranks == 2 else 1e-6)


@pytest.fixture(scope="module")
def split(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What four ranks have saved of which two split the matrices."""
    folder = tmp_path_factory.mktemp("split")
    arguments = {"folder": str(folder), "other": str(trained)}
    prefork.launch("support.sharding_jobs:train_split", arguments, 4)
    return folder


def test_ranks_that_split_matrices_save_what_one_process_does(trained: Path, split: Path) -> None:
    """In shards, too, where they have rows of two matrices in one."""
    assert is_sharded(split / "last.ckpt")
    assert not is_sharded(split / "whole.ckpt")
    assert_same(split / "last.ckpt", split / "whole.ckpt")
    assert_same(split / "whole.ckpt", trained / "whole.ckpt", tolerance=1e-5)
    train_sharded(str(trained), 1, out="double.ckpt", double=True)
    assert_same(split / "double.ckpt", trained / "double.ckpt", tolerance=1e-10)


def test_ranks_that_split_matrices_go_on_bit_for_bit_and_from_what_others_saved(
    trained: Path, split: Path
) -> None:
    assert_same(split / "again.ckpt", split / "end.ckpt")
    for name in ("from-shards.ckpt", "from-file.ckpt"):
        assert_same(split / name, trained / "end.ckpt", tolerance=1e-6)


@pytest.mark.parametrize(("name", "ranks"), [("last.ckpt", 1), ("last.ckpt", 2), ("whole.ckpt", 1)])
def test_others_go_on_from_what_ranks_that_split_matrices_saved(
    split: Path, name: str, ranks: int
) -> None:
    arguments = {"folder": str(split), "ranks": ranks, "resumed": name, "out": f"{ranks}-{name}"}
    if ranks == 1:
        train_sharded(**arguments)
    else:
        prefork.launch(JOB, arguments, ranks)
    assert_same(split / f"{ranks}-{name}", split / "end.ckpt", tolerance=1e-6)


def test_shards_go_when_no_checkpoint_names_them(kept: Path) -> None:
    files, others = shard_files(kept), shard_files(kept.with_name("end.ckpt"))
    write(read(kept), kept, keep=1)
    kept.with_name("odd.ckpt").write_bytes(b"not to be read: who knows what it names")
    drop_unused(kept.parent)
    assert all(file.exists() for file in files)
    kept.with_name("odd.ckpt").unlink()
    drop_unused(kept.parent)
    assert not any(file.exists() for file in files)
    assert all(file.exists() for file in others)


@pytest.mark.bad_input
@pytest.mark.parametrize("which", [0, 1, 2])
@pytest.mark.parametrize("damage", ["gone", "cut", "changed"])
def test_a_damaged_shard_is_found(kept: Path, which: int, damage: str) -> None:
    file = shard_files(kept)[which]
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    if damage == "gone":
        file.unlink()
    else:
        file.write_bytes(content if damage == "changed" else content[:-1])
    with pytest.raises(UserError, match="isn't there: keep" if damage == "gone" else "damaged"):
        read(kept)


class Evil:
    def __reduce__(self) -> Any:
        return print, ("it ran",)


@pytest.mark.bad_input
def test_what_describes_shards_runs_no_code(kept: Path, capsys: pytest.CaptureFixture[str]) -> None:
    index = torch.load(kept, weights_only=True)
    file = kept.parent / FOLDER / index[KEY]["folder"] / ".metadata"
    file.write_bytes(pickle.dumps(Evil()))
    index[KEY]["files"][".metadata"] = (file.stat().st_size, checksum(file))
    write(index, kept, keep=1)
    with pytest.raises(UserError, match=r"names builtins\.print"):
        read(kept)
    assert "it ran" not in capsys.readouterr().out


@pytest.mark.bad_input
@pytest.mark.parametrize(
    "said",
    [
        {"folder": "../elsewhere", "files": {}, "same": {}},
        {"folder": "here", "files": {"../x": (1, 1)}, "same": {}},
        {"folder": "here"},
        "here",
    ],
)
def test_an_index_names_only_what_is_beside_it(kept: Path, said: Any) -> None:
    index = torch.load(kept, weights_only=True)
    write(index | {KEY: said}, kept, keep=1)
    with pytest.raises(UserError, match=r"outside of its folder|doesn't say"):
        verify(kept)


def test_one_command_makes_one_file(kept: Path, tmp_path: Path) -> None:
    out = tmp_path / "one.ckpt"
    done = prefork.run(tmp_path, str(SCRIPT), str(kept), str(out))
    assert done.returncode == 0, done.stderr
    shutil.rmtree(kept.parent / FOLDER)
    assert not is_sharded(out)
    assert_same(out, kept.with_name("whole.ckpt"))
    again = prefork.run(tmp_path, str(SCRIPT), str(kept.with_name("whole.ckpt")), str(out))
    assert (again.returncode, again.stderr.count("\n")) == (2, 1)
    assert "is there already" in again.stderr
