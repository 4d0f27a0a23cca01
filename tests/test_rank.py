"""A rank ends as any process does, but for Python's tear-down."""

import gc
import os
import subprocess
import sys
from pathlib import Path

import pytest

from everytoken.rank import _imported, to_the_end

END = """
import atexit, os, sys, threading, time
from everytoken.rank import to_the_end

class Aborts:
    def __del__(self):
        os.abort()

left_over = Aborts()
atexit.register(print, "atexit is obeyed")
threading.Thread(target=lambda: (time.sleep(0.3), print("threads are waited for"))).start()
with to_the_end():
    exec(sys.argv[1])
"""


@pytest.mark.parametrize(
    ("way", "code", "told"),
    [
        ("pass", 0, ""),
        ("sys.exit()", 0, ""),
        ("sys.exit(3)", 3, ""),
        ("sys.exit('why')", 1, "why"),
        ("1 / 0", 1, "ZeroDivisionError: division by zero"),
    ],
)
def test_a_rank_ends_as_any_process_but_for_the_tear_down(way: str, code: int, told: str):
    """gloo's threads abort a process that is torn down while they let go of their tensors."""
    command = [sys.executable, "-c", END, way]
    environment = os.environ | {"LOCAL_RANK": "0"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == code, done.stderr
    assert done.stdout.splitlines() == ["threads are waited for", "atexit is obeyed"]
    assert (done.stderr.splitlines() or [""])[-1] == told


def test_a_process_without_others_goes_on(monkeypatch: pytest.MonkeyPatch):
    for name in ("LOCAL_RANK", "SLURM_NTASKS"):
        monkeypatch.delenv(name, raising=False)
    with to_the_end():
        pass
    with pytest.raises(SystemExit, match="why"), to_the_end():
        sys.exit("why")


def test_what_a_process_imports_is_left_alone_by_the_garbage_collector(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    (tmp_path / "heavy.py").write_text("import gc\nwas_on = gc.isenabled()\nlist_ = [[]]")
    (tmp_path / "broken.py").write_text("raise RuntimeError('broken')")
    monkeypatch.syspath_prepend(str(tmp_path))
    gc.unfreeze()
    assert not _imported("heavy").was_on
    assert gc.isenabled()
    assert gc.get_freeze_count() > 0
    with pytest.raises(RuntimeError, match="broken"):
        _imported("broken")
    assert gc.isenabled()
