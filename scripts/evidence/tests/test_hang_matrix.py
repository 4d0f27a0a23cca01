"""The walk over moments at which a rank hangs, in short; and what it takes for a fault."""

from pathlib import Path

import pytest

import hang_matrix
from hang_matrix import Cell, Found, cells, fault

STOPPED = Cell("launch", 2, "step", "stop", 0)


def test_every_moment_and_rank_is_walked():
    found = [*cells(["launch", "torchrun"], 3)]
    assert len(found) == len(set(found)) == 3 * (7 * 2 + 8 * 3)


@pytest.mark.parametrize(
    ("found", "wrong"),
    [
        (Found(11.0, 30.0, 1, ["error: rank 1 stops, for rank 0 on here hangs"]), ""),
        (Found(11.0, None, None, ["error: rank 0"]), "hangs"),
        (Found(None, 30.0, 1, []), "nobody says why"),
        (Found(99.0, 99.0, 1, ["error: rank 0"]), "told too late"),
        (Found(11.0, 30.0, 0, ["error: rank 0"]), "exit code 0"),
        (Found(11.0, 30.0, 1, ["error: rank 10"]), "the rank isn't named"),
    ],
)
def test_what_is_wrong_is_said(found: Found, wrong: str):
    assert fault(STOPPED, found) == wrong


@pytest.mark.slow
def test_rank_0_is_missed_in_a_step(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    """All others would ask its store, which answers nobody, who is gone."""
    out = tmp_path / "found.jsonl"
    code = hang_matrix.main(["--only", "launch,step,stop,0", "--out", str(out)])
    assert code == 0, capsys.readouterr().out
    assert hang_matrix.main(["--only", "launch,step,stop,0", "--out", str(out)]) == 0
    assert len(out.read_text().splitlines()) == 1  # it went on with what was found
