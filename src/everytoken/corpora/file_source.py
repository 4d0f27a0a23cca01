"""A corpus whose splits are files."""

from collections.abc import Collection

from everytoken.corpora.files import Paths, find, listed, state
from everytoken.corpora.splits import SPLITS, SplitSource


class FileSource(SplitSource):
    """A source of files by split, named by data.path, data.val_path and data.test_path.

    Args:
        train: files of the training split.
        val: files of validation; None for a share of `train`.
        test: the same for test.
        endings: of the files that can be read.
        val_fraction: see `SplitSource`, as for the others.
        test_fraction: share for test.
        seed: decides which examples.

    Raises:
        UserError: files that aren't there or that can't be read, contradictory settings.
    """

    own = "data.{split}_path"

    def __init__(
        self,
        train: Paths,
        val: Paths | None,
        test: Paths | None,
        endings: Collection[str],
        val_fraction: float,
        test_fraction: float,
        seed: int,
    ) -> None:
        paths = zip(SPLITS, (train, val, test), strict=True)
        self.files = {name: find(path, endings) for name, path in paths if path is not None}
        super().__init__(list(self.files), val_fraction, test_fraction, seed)

    def where(self, split: str) -> str:
        """The files of a split, in words."""
        return listed(self.files[split])

    def fingerprint(self) -> str:
        """Changes with any of the files."""
        return str({split: state(files) for split, files in self.files.items()})
