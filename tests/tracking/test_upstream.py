"""What tracking uses of W&B beyond its documentation: its files, and how often it writes them."""

import time
from pathlib import Path

import wandb
from wandb.proto import wandb_internal_pb2 as protocol

from everytoken.tracking.wandb_files import records
from support.upstream import changed


def of_wandb(what: str, home: str = "tracking/wandb_files.py") -> str:
    return changed("wandb", what, home)


def test_the_messages_of_its_protocol() -> None:
    assert hasattr(protocol, "Record"), of_wandb("wandb.proto.wandb_internal_pb2.Record")
    record = protocol.Record()  # pyright: ignore[reportAttributeAccessIssue]
    for field in ("history", "run"):
        assert field in record.DESCRIPTOR.fields_by_name, of_wandb(f"Record.{field}")
    record.history.step.num = 7
    same = protocol.Record.FromString(  # pyright: ignore[reportAttributeAccessIssue]
        record.SerializeToString()
    )
    assert same.history.step.num == 7, of_wandb("Record.history.step.num")


def test_its_files_are_written_soon_and_can_be_read(tmp_path: Path) -> None:
    """A run's file is in a folder *run-*, and is a log of LevelDB with a header of its own."""
    name = "x_transaction_log_flush_interval"
    assert name in wandb.Settings.model_fields, of_wandb(f"Settings.{name}", "tracking/logger.py")
    settings = wandb.Settings(
        console="off", silent=True, x_disable_stats=True, x_transaction_log_flush_interval=0.2
    )
    with wandb.init(mode="offline", dir=tmp_path, id="one", settings=settings) as run:
        for step in range(3):
            run.log({"value": step, "text": f"{step} " * 15_000}, step=step, commit=True)
        end = time.monotonic() + 20
        files, found, steps = [], [], []
        while steps != [0, 1, 2] and time.monotonic() < end:
            time.sleep(0.1)
            files = list((tmp_path / "wandb").glob("*run-*/*.wandb"))
            found = [record for file in files for record in records(file)]
            steps = [record.history.step.num for record in found if record.HasField("history")]
    assert files, of_wandb("where its file is: wandb/*run-*/*.wandb")
    assert any(record.HasField("run") for record in found), of_wandb("the format of .wandb files")
    assert steps == [0, 1, 2], of_wandb(f"the format of .wandb files, or Settings.{name}")
