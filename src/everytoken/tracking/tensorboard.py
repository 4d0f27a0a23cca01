"""TensorBoard files that show each logged moment once, also of a run that was killed."""

import lightning as L
from lightning.pytorch.loggers import TensorBoardLogger
from tensorboard.compat.proto.event_pb2 import (
    Event,  # pyright: ignore[reportAttributeAccessIssue]
    SessionLog,  # pyright: ignore[reportAttributeAccessIssue]
)

from everytoken.run.directory import Run
from everytoken.run.metrics_reader import read_metrics


class TensorBoard(TensorBoardLogger, L.Callback):
    """Writes a run's values to its folder `tensorboard`.

    A killed run leaves values of steps after its last checkpoint. Where it goes on, TensorBoard is
    told that what it has from there on is void, and is given what metrics.csv kept of it.

    Args:
        run: that is logged.
    """

    def __init__(self, run: Run) -> None:
        super().__init__(save_dir=run.path, name="tensorboard", version="")
        self.run = run

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Begin at the trainer's step."""
        if not trainer.is_global_zero:
            return
        step, writer = trainer.global_step, self.experiment.file_writer
        assert writer is not None  # it is until the experiment is closed
        restart = SessionLog(status=SessionLog.START)
        writer.add_event(Event(step=step, session_log=restart))
        for row in read_metrics(self.run):
            if (at := int(row.pop("step", -1))) >= step:
                self.log_metrics(row, at)
        self.save()
