"""Checkpoint files: no crash, full disk or damage costs more than the newest; none runs code."""

import errno
import os
import pickle
import sys
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch

from everytoken.callbacks.last_checkpoint import LastCheckpoint
from everytoken.errors import BrokenRunError, UserError
from everytoken.run.checkpoint_file import CheckpointFiles, read, write
from everytoken.run.newest_checkpoint import newest_good
from support.fitting import STEPS, fit, full_disk


def state(step: int) -> dict[str, Any]:
    return {"state_dict": {"w": torch.full((2, 3), step), "b": torch.ones(1)}, "global_step": step}


def step_of(path: Path | None) -> int:
    assert path is not None
    return read(path)["global_step"]


def files(folder: Path) -> dict[str, int]:
    return {path.name: step_of(path) for path in folder.iterdir()}


# Writing


@pytest.mark.parametrize("linked", [True, False])
@pytest.mark.parametrize("keep", [1, 2, 3])
def test_predecessors_are_kept(
    tmp_path: Path, keep: int, linked: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also on a file system without hard links."""

    def refuse(*_: Any) -> None:
        raise PermissionError(1, "Operation not permitted")

    if not linked:
        monkeypatch.setattr(Path, "hardlink_to", refuse)
    for step in range(5):
        write(state(step), tmp_path / "last.ckpt", keep)
    expected = {"last.ckpt": 4, "last-1.ckpt": 3, "last-2.ckpt": 2}
    assert files(tmp_path) == dict(list(expected.items())[:keep])


CHANGES = ("open", "os.rename", "os.link", "os.remove")
"""What Python reports before it changes a folder."""


@pytest.mark.parametrize("linked", [True, False])
@pytest.mark.parametrize("keep", [1, 2, 3])
def test_a_process_may_die_before_any_change_of_the_folder(
    tmp_path: Path, keep: int, linked: bool
) -> None:
    for step in range(3):
        write(state(step), tmp_path / "last.ckpt", keep)
    saved = 2
    while not _completes(tmp_path, state(saved + 1), keep, saved - 1, linked):
        assert step_of(newest_good(tmp_path)) in (saved, saved + 1), files(tmp_path)
        saved += 1
        write(state(saved), tmp_path / "last.ckpt", keep)
        assert len(files(tmp_path)) == keep  # nothing is left over
    assert saved - 2 >= {1: 2, 2: 4, 3: 5}[keep]  # so many moments there were


def _completes(folder: Path, checkpoint: Any, keep: int, moment: int, linked: bool) -> bool:
    """Save in a child process that dies before its n-th change; False if it died."""
    child = os.fork()
    if child == 0:
        left = moment

        def count(event: str, arguments: tuple[Any, ...]) -> None:
            nonlocal left
            if event == "os.link" and not linked:
                raise PermissionError(1, "Operation not permitted")
            if event in CHANGES and str(arguments[0]).startswith(str(folder)):
                left -= 1
                if left == 0:
                    os._exit(9)

        sys.addaudithook(count)
        write(checkpoint, folder / "last.ckpt", keep)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_what_a_killed_process_left_is_removed(tmp_path: Path) -> None:
    (tmp_path / "best.ckpt.tmp").write_bytes(b"PK\3\4 half")
    write(state(1), tmp_path / "last.ckpt", 2)
    assert files(tmp_path) == {"last.ckpt": 1}


def test_a_full_disk_costs_nothing_but_the_new_file(tmp_path: Path) -> None:
    write(state(1), tmp_path / "last.ckpt", 2)
    with full_disk(), pytest.raises(OSError, match="File too large"):
        write(state(2), tmp_path / "last.ckpt", 2)
    assert files(tmp_path) == {"last.ckpt": 1}


class DiskIsFull(L.Callback):
    """From before the save of one step on, until another step is made."""

    def __init__(self, first: int, last: int) -> None:
        self.first, self.last = first, last
        self.disk = full_disk()

    def on_train_batch_start(self, trainer: L.Trainer, *_: Any) -> None:
        if trainer.global_step == self.first:
            self.disk.__enter__()

    def on_train_batch_end(self, trainer: L.Trainer, *_: Any) -> None:
        if trainer.global_step == self.last:
            self.disk.__exit__(None, None, None)


def test_training_goes_on_while_the_disk_is_full(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fit(tmp_path, DiskIsFull(2, 5), LastCheckpoint(every_n_steps=1, keep=2))
    assert files(tmp_path / "checkpoints") == {"last.ckpt": STEPS, "last-1.ckpt": 1}
    said = capsys.readouterr().out.splitlines()
    [failed, saved] = [line for line in said if "last.ckpt" in line]
    assert "can't save" in failed
    assert "File too large" in failed
    assert "saved again" in saved


def test_a_run_that_can_not_save_its_end_fails(tmp_path: Path) -> None:
    disk = DiskIsFull(3, 99)
    try:
        with pytest.raises(
            BrokenRunError, match=r"last\.ckpt of step 5 \(File too large\).*make room"
        ):
            fit(tmp_path, disk, LastCheckpoint(every_n_steps=1, keep=2))
    finally:
        disk.disk.__exit__(None, None, None)
    assert files(tmp_path / "checkpoints") == {"last.ckpt": 2, "last-1.ckpt": 1}


def test_nothing_is_removed_to_make_room_for_what_was_not_saved(tmp_path: Path) -> None:
    io = CheckpointFiles()
    io.save_checkpoint(state(1), tmp_path / "1.ckpt")
    with full_disk():
        io.save_checkpoint(state(2), tmp_path / "2.ckpt")
    io.remove_checkpoint(tmp_path / "1.ckpt")
    assert files(tmp_path) == {"1.ckpt": 1}
    io.save_checkpoint(state(3), tmp_path / "3.ckpt")
    io.remove_checkpoint(tmp_path / "1.ckpt")
    assert files(tmp_path) == {"3.ckpt": 3}


# Reading


def test_what_was_written_is_read(tmp_path: Path) -> None:
    path = tmp_path / "a.ckpt"
    write(state(7), path, 1)
    assert str(read(path)) == str(state(7))
    assert str(CheckpointFiles().load_checkpoint(path)) == str(state(7))


def test_no_flipped_bit_changes_what_is_read(tmp_path: Path) -> None:
    """It is refused, or it is where nothing is stored."""
    path = tmp_path / "a.ckpt"
    write(state(7), path, 1)
    whole = path.read_bytes()
    refused = 0
    for place in range(0, len(whole), 9):
        damaged = bytearray(whole)
        damaged[place] ^= 1 << (place % 8)
        path.write_bytes(damaged)
        try:
            assert str(read(path)) == str(state(7)), place
        except UserError:
            refused += 1
    assert refused > len(whole) / 9 / 2


@pytest.mark.bad_input
def test_a_tensor_marked_as_a_folder_is_refused(tmp_path: Path) -> None:
    """One bit outside all checksums, with which torch reads memory that it never filled."""
    path = tmp_path / "a.ckpt"
    write(state(7), path, 1)
    whole = bytearray(path.read_bytes())
    entry = whole.rindex(b"PK\1\2", 0, whole.rindex(b"/data/0"))
    whole[entry + 38] ^= 0x10  # external attributes: a folder
    path.write_bytes(whole)
    with pytest.raises(UserError, match="data/0 is not what was written"):
        read(path)


@pytest.mark.bad_input
@pytest.mark.parametrize("left", [0, 1, 2, 100, -1])
def test_a_file_that_is_cut_off_is_refused(tmp_path: Path, left: int) -> None:
    path = tmp_path / "a.ckpt"
    write(state(7), path, 1)
    path.write_bytes(path.read_bytes()[:left])
    with pytest.raises(UserError, match=r"a\.ckpt is (damaged|no checkpoint)"):
        read(path)


class Exploit:
    """A pickle that writes a file when it is loaded."""

    def __init__(self, victim: Path) -> None:
        self.victim = victim

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.victim),)


@pytest.mark.bad_input
@pytest.mark.parametrize("form", ["pickle", "legacy", "zip", "new pickle in a zip", "overlooked"])
def test_a_foreign_pickle_is_refused_and_never_run(
    tmp_path: Path, form: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    victim, path = tmp_path / "victim", tmp_path / "a.ckpt"
    evil = {"state_dict": {}, "more": Exploit(victim)}
    if form == "pickle":
        path.write_bytes(pickle.dumps(evil))
    else:
        protocol = 4 if form == "new pickle in a zip" else 2
        torch.save(
            evil,
            path,
            pickle_protocol=protocol,
            _use_new_zipfile_serialization=form != "legacy",
        )
    if form == "overlooked":  # what is looked for first is not the only lock
        monkeypatch.setattr(
            "everytoken.run.checkpoint_file.get_unsafe_globals_in_checkpoint", lambda path: []
        )
    with pytest.raises(UserError, match=r"a\.ckpt is .*(can run code|could run code).*"):
        read(path)
    assert not victim.exists()
    if form == "pickle":
        pickle.loads(path.read_bytes())
    else:
        torch.load(path, weights_only=False)
    assert victim.exists()  # the trap was a trap


@pytest.mark.bad_input
@pytest.mark.parametrize("content", [[1], {"weights": {}}, {"state_dict": 3}])
def test_other_files_of_torch_are_no_checkpoints(tmp_path: Path, content: Any) -> None:
    path = tmp_path / "a.ckpt"
    torch.save(content, path)
    with pytest.raises(UserError, match="no checkpoint of this project: it has no state_dict"):
        read(path)


@pytest.mark.bad_input
def test_a_missing_checkpoint_is_told(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no checkpoint .*a\.ckpt: has the run trained long"):
        read(tmp_path / "a.ckpt")


# The newest that is whole


def test_the_newest_good_one_is_found(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert newest_good(tmp_path) is None
    for step in range(12):
        write(state(step), tmp_path / "last.ckpt", 11)
    for name, expected in (("last", 10), ("last-1", 9)):
        path = tmp_path / f"{name}.ckpt"
        path.write_bytes(path.read_bytes()[:-30])
        assert step_of(newest_good(tmp_path)) == expected
    (tmp_path / "last.ckpt").unlink()
    assert step_of(newest_good(tmp_path)) == 9
    said = capsys.readouterr().out.splitlines()
    assert ["last-1.ckpt is damaged" in line for line in said] == [False, False, True, True]
    for path in tmp_path.iterdir():
        path.write_bytes(b"")
    with pytest.raises(UserError, match=r"last-10\.ckpt, and none can be read: .* or remove them"):
        newest_good(tmp_path)
    assert len(list(tmp_path.iterdir())) == 10


@pytest.mark.bad_input
@pytest.mark.parametrize("number", [errno.EACCES, errno.EIO])
def test_checkpoints_that_can_not_be_read_are_not_taken_for_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    """A run would begin anew, in their place."""
    write(state(1), tmp_path / "last.ckpt", 1)

    def refuse(*_: Any, **__: Any) -> None:
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as patched:
        patched.setattr(Path, "open", refuse)
        with pytest.raises(UserError, match=r"has last\.ckpt, and none can be read"):
            newest_good(tmp_path)
        patched.setattr(os, "listdir", refuse)
        with pytest.raises(UserError, match=f"can't read {tmp_path}: {os.strerror(number)}"):
            newest_good(tmp_path)
    assert step_of(newest_good(tmp_path)) == 1


@pytest.mark.bad_input
def test_checkpoints_that_are_elsewhere_are_missed(tmp_path: Path) -> None:
    """On a disk that isn't mounted, say; or last.ckpt alone was removed."""
    (tmp_path / "checkpoints").symlink_to(tmp_path / "disk")
    with pytest.raises(UserError, match="disk, which isn't there: mount its disk"):
        newest_good(tmp_path / "checkpoints")
    write(state(1), tmp_path / "disk" / "best.ckpt", 1)
    with pytest.raises(UserError, match=r"has best\.ckpt, but no last\.ckpt to go on from"):
        newest_good(tmp_path / "checkpoints")


def test_what_is_not_its_own_is_left_in_its_folder(tmp_path: Path) -> None:
    """A link may lead there from a run directory that came from elsewhere."""
    (tmp_path / "book.tmp").write_text("the user's own")
    (tmp_path / "last.ckpt.tmp").write_text("left over")
    (tmp_path / "best.ckpt.tmp").symlink_to(tmp_path / "book.tmp")
    for name in ("last", "best"):
        write(state(1), tmp_path / f"{name}.ckpt", 1)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "best.ckpt",
        "book.tmp",
        "last.ckpt",
    ]
    assert (tmp_path / "book.tmp").read_text() == "the user's own"
