"""Errors in one line."""

from typing import Any

import pytest
from torch.utils.data import DataLoader, Dataset

from everytoken.errors import RunError, ShownError, UserError, one_line


class Failing(Dataset[Any]):
    def __init__(self, error: ShownError) -> None:
        self.error = error

    def __len__(self) -> int:
        return 1

    def __getitem__(self, index: int) -> Any:
        try:
            raise ValueError("why")
        except ValueError as error:
            raise self.error from error


def test_whatever_an_error_says_is_one_line() -> None:
    assert one_line(ValueError("no\n\n  such\tthing\n")) == "no such thing"
    assert one_line(ValueError("no such thing"), 7) == "no such"
    assert one_line(TimeoutError()) == "TimeoutError"


@pytest.mark.parametrize("kind", [UserError, RunError])
def test_a_loader_process_says_what_is_wrong_in_a_line(kind: type[ShownError]) -> None:
    loader = DataLoader(Failing(kind("a.zip is missing: prepare it again")), num_workers=1)
    with pytest.raises(kind) as caught:
        next(iter(loader))
    assert str(caught.value) == "a.zip is missing: prepare it again"
