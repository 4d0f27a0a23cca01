"""Reading W&B's files back: what it wrote with its own program is found, a torn end is not."""

from pathlib import Path

import pytest
import wandb

from everytoken.tracking.wandb_files import recorded_lines, records, set_empty_aside


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """W&B's folder with one run of 40 lines, long enough for several blocks."""
    path = tmp_path_factory.mktemp("recorded")
    settings = wandb.Settings(console="off", silent=True, x_disable_stats=True)
    with wandb.init(mode="offline", dir=path, id="one", settings=settings) as run:
        for i in range(40):
            run.log({"text": f"{i} " * 1500, "value": i}, step=2 * i)
    wandb.teardown()  # waits for W&B's own process: it may write for some time after a run's end
    return path / "wandb"


def test_all_lines_are_read_back(folder: Path):
    [file] = folder.glob("offline-run-*/*.wandb")
    assert file.stat().st_size > 2 * 32 * 1024
    steps = [record.history.step.num for record in records(file) if record.HasField("history")]
    assert steps == [2 * i for i in range(40)]
    assert recorded_lines(folder) == 79


def test_a_torn_or_damaged_end_is_left_out(folder: Path, tmp_path: Path):
    [file] = folder.glob("offline-run-*/*.wandb")
    whole = file.read_bytes()
    place = whole.index(b"7 " * 1500)
    copy = tmp_path / "offline-run-1" / "run-one.wandb"
    copy.parent.mkdir()
    for content in (whole[: place + 100], whole[:place] + b"X" + whole[place + 1 :]):
        copy.write_bytes(content)
        assert recorded_lines(tmp_path) == 2 * 6 + 1


def test_nothing_is_recorded_in_a_new_folder(tmp_path: Path):
    assert recorded_lines(tmp_path / "wandb") == 0


def test_files_in_which_nothing_was_written_are_set_aside(folder: Path, tmp_path: Path):
    [file] = folder.glob("offline-run-*/*.wandb")
    for name, size in (("killed", 7), ("fine", file.stat().st_size)):
        copy = tmp_path / f"offline-run-{name}" / "run-one.wandb"
        copy.parent.mkdir()
        copy.write_bytes(file.read_bytes()[:size])
    set_empty_aside(tmp_path)
    left = sorted(str(path.relative_to(tmp_path)) for path in tmp_path.glob("*/*"))
    assert left == ["offline-run-fine/run-one.wandb", "offline-run-killed/run-one.wandb.empty"]
