"""A rank ends as any process does, but for Python's tear-down."""

import gc
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from everytoken.errors import RunError, UserError
from everytoken.runtime.rank import _imported, call
from everytoken.runtime.signals import UNSENT

RANK = {"LOCAL_RANK": "0", "RANK": "0", "WORLD_SIZE": "2"}
END = """
import atexit, os, sys, threading, time
from contextlib import nullcontext
from everytoken.runtime.rank import to_the_end

class Aborts:
    def __del__(self):
        os.abort()

left_over = Aborts()
atexit.register(print, "atexit is obeyed")
threading.Thread(target=lambda: (time.sleep(0.3), print("threads are waited for"))).start()
with {around}():
    exec(sys.argv[1])
print("goes on")
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
    done = end(way, RANK)
    assert done.returncode == code, done.stderr
    assert done.stdout.splitlines() == ["threads are waited for", "atexit is obeyed"]
    assert (done.stderr.splitlines() or [""])[-1] == told


@pytest.mark.parametrize(("code", "left"), [(0, 0), (1, 1), (124, 0), (143, 0), (137, 137)])
def test_torchrun_does_not_start_again_what_stopped_as_it_was_asked_to(code: int, left: int):
    done = end(f"sys.exit({code})", RANK | {"TORCHELASTIC_MAX_RESTARTS": "3"})
    assert done.returncode == left, done.stderr
    assert ("exit code 0 and not 124" in done.stdout) == (code == 124)


def test_torchrun_does_not_start_again_what_was_a_mistake(tmp_path: Path):
    """It is asked to end, as the parent of the rank."""
    parent = "import subprocess, sys, time; subprocess.run(sys.argv[1:]); time.sleep(60)"
    rank = [sys.executable, "-c", END.format(around="to_the_end"), "sys.exit(2)"]
    env = {**os.environ, **RANK, "TORCHELASTIC_MAX_RESTARTS": "3"}
    done = subprocess.run([sys.executable, "-c", parent, *rank], env=env, timeout=50)
    assert done.returncode == -signal.SIGTERM


def test_a_process_without_others_goes_on():
    harmless = "del Aborts.__del__"
    done = end(harmless, {})
    assert done.returncode == 0, done.stderr
    assert "goes on" in done.stdout
    done = end(f"{harmless}; sys.exit(3)", {})
    assert done.returncode == 3, done.stderr
    assert "goes on" not in done.stdout


def no_shared_memory(cause: str) -> None:
    raise RuntimeError("DataLoader worker (pid(s) 7) exited unexpectedly") from RuntimeError(cause)


@pytest.mark.parametrize(
    ("cause", "lever"),
    [
        (f"DataLoader worker (pid 7) exited unexpectedly with exit code {UNSENT}.", "--shm-size"),
        ("DataLoader worker (pid 7) is killed by signal: Bus error.", "data.num_workers=0"),
        ("DataLoader worker (pid 7) is killed by signal: Killed.", "data.microbatch_tokens"),
    ],
)
def test_what_a_loader_process_lacked_is_named_with_its_lever(cause: str, lever: str):
    with pytest.raises(RunError, match=lever):
        call(f"{__name__}:no_shared_memory", {"cause": cause})


def larger_than_memory() -> None:
    np.empty(2**59)


@pytest.mark.bad_input
def test_more_than_memory_holds_is_one_line():
    with pytest.raises(UserError, match=r"more than memory holds \(Unable to allocate 4"):
        call(f"{__name__}:larger_than_memory", {})


def test_commands_that_torchrun_starts_end_so_too():
    words = "import runpy; sys.argv = ['train', '--help']; "
    words += "runpy.run_module('train', run_name='__main__')"
    done = end(words, RANK, around="nullcontext")
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith("atexit is obeyed\n")


def end(
    way: str, place: dict[str, str], around: str = "to_the_end"
) -> subprocess.CompletedProcess[str]:
    """Of a process in which something aborts that is torn down."""
    left_out = ("LOCAL_RANK", "SLURM_NTASKS", "PYTHONUNBUFFERED")
    kept = {k: v for k, v in os.environ.items() if k not in left_out}
    command = [sys.executable, "-c", END.format(around=around), way]
    return subprocess.run(command, capture_output=True, text=True, env=kept | place)


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
