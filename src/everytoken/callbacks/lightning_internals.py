"""All that callbacks use of Lightning which it doesn't document; its loops are among it.

Checked with Lightning 2.6. tests/callbacks/test_upstream.py says what another version has changed.
"""

from typing import Any

import lightning as L
from lightning.pytorch.callbacks import ModelCheckpoint

LOOKS = "_ModelCheckpoint__warn_if_dir_not_empty"
"""ModelCheckpoint's method that looks whether its directory is empty, and warns if not."""
UNSAVED = ("_last_global_step_saved", "_last_checkpoint_saved", "_defer_save_until_validation")


def handle_no_signals(trainer: L.Trainer) -> None:
    """Keep Lightning from handling signals, and from asking all ranks for SIGTERM in each step.

    `Trainer._signal_connector` registers handlers when a run begins, and has no switch for it;
    `_TrainingEpochLoop._broadcast_sigterm_tensor` is the exchange.
    """
    trainer._signal_connector.register_signal_handlers = _nothing
    trainer.fit_loop.epoch_loop._broadcast_sigterm_tensor = _nothing


def begin_after(trainer: L.Trainer, step: int, logged: int) -> None:
    """Have a fit that is about to begin count optimizer steps from `step`, which were made before.

    `trainer.global_step` is the progress of the optimizer loop, and the number of batches that of
    the epoch loop. `_TrainingEpochLoop._batches_that_stepped` is the step that loggers are given;
    it grows when all is done that belongs to a step, validation and its logging too.

    Args:
        trainer: optimizes by hand.
        step: optimizer steps that were made.
        logged: those of which everything is logged.
    """
    loop = trainer.fit_loop.epoch_loop
    for counter in (loop.batch_progress, loop.manual_optimization.optim_step_progress):
        counter.total.increment_by(step)
    loop._batches_that_stepped = logged


def allow_steps(trainer: L.Trainer, max_steps: int) -> None:
    """End the fit after so many steps; `Trainer.max_steps` itself can't be set."""
    trainer.fit_loop.epoch_loop.max_steps = max_steps


def end_step(trainer: L.Trainer) -> None:
    """Do what follows a step, as if it had just been made: its validation, if one is due.

    To be called when the fit has begun: the loop is given `_FitLoop._data_fetcher`.
    """
    fetcher = trainer.fit_loop._data_fetcher
    assert fetcher is not None
    trainer.fit_loop.epoch_loop.on_advance_end(fetcher)


def end_after_step(trainer: L.Trainer) -> None:
    """End the fit after the step at hand, whose validation is made, as by `trainer.should_stop`.

    That itself, set in the middle of a step, has `_LoggerConnector.should_update_logs` write the
    values of an earlier step once more, as if they were of this one.
    """
    loop = trainer.fit_loop.epoch_loop
    end = loop.on_advance_end

    def on_advance_end(data_fetcher: Any) -> None:
        loop.on_advance_end = end
        trainer.should_stop = True
        end(data_fetcher)

    loop.on_advance_end = on_advance_end


def expect_files(callback: ModelCheckpoint) -> None:
    """Have it begin without a warning that there are files already, as where a run goes on.

    To find out, Lightning imports every client of object storage that is installed, a local
    directory or not: a fifth of a second for s3fs.
    """
    setattr(callback, LOOKS, _nothing)


def unsaved_state(callback: ModelCheckpoint) -> dict[str, Any]:
    """What it decides by, in `ModelCheckpoint.__init__`, and leaves out of its `state_dict`."""
    return {name: getattr(callback, name) for name in UNSAVED}


def restore_unsaved(callback: ModelCheckpoint, state: dict[str, Any]) -> None:
    """Set it."""
    for name in UNSAVED:
        setattr(callback, name, state[name])


def _nothing(*_: object) -> None:
    pass
