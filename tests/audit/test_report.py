"""What an audit prints fits the terminal."""

import io

import pytest

from everytoken.audit import results
from everytoken.audit.check import Finding
from everytoken.audit.report import CHECKS
from everytoken.audit.results import Result, table
from everytoken.runtime.console import SafeConsole


@pytest.mark.parametrize(("width", "told"), [(80, False), (110, False), (160, True)])
def test_a_check_takes_one_line_at_any_width(
    width: int, told: bool, monkeypatch: pytest.MonkeyPatch
):
    file = io.StringIO()
    console = SafeConsole(file=file, width=width)
    monkeypatch.setattr(results, "console", console)
    console.print(table([Result(check, Finding(1e-7)) for check in CHECKS]))
    lines = file.getvalue().splitlines()
    assert len(lines) == 2 + len(CHECKS)
    assert max(map(len, lines)) <= width
    assert all((check.meaning in file.getvalue()) == told for check in CHECKS)
