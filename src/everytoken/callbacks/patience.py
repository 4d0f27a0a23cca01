"""Evaluation takes ranks differently long: they wait for the last one, as long as it works."""

import lightning as L

from everytoken.runtime.together import Work


class EvaluateTogether(L.Callback):
    """Before the others' callbacks, whose sums over ranks give up after `trainer.hang_timeout`.

    A rank may have generated much longer texts than the others, or compile what these needn't.
    """

    def __init__(self) -> None:
        self.work: Work | None = None

    def on_validation_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """From now on ranks say how far they are."""
        self.work = Work.begin("validating")

    def on_test_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """The same."""
        self.work = Work.begin("testing")

    def on_validation_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Wait for the others."""
        work, self.work = self.work, None
        if work is not None:
            work.end()

    def on_test_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """The same."""
        self.on_validation_epoch_end(trainer, pl_module)

    def on_exception(
        self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException
    ) -> None:
        """Tell them that they would wait in vain."""
        work, self.work = self.work, None
        if work is not None:
            work.fail()
