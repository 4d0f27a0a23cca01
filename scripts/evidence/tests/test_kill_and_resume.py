"""The script that kills runs at any moment and continues them, in short."""

from pathlib import Path

import pytest

from support import prefork

SCRIPT = Path(__file__).parents[1] / "kill_and_resume.py"


@pytest.mark.slow
@pytest.mark.parametrize(("processes", "kills"), [(1, 1), (2, 1)])
def test_what_was_killed_and_resumed_is_the_same_run_bit_for_bit(
    processes: int, kills: int
) -> None:
    words = [str(SCRIPT), "--processes", str(processes), "--kills", str(kills)]
    words += ["--seed", "3", "trainer.max_steps=20", "data.corpus.val_examples=40"]
    done = prefork.run(Path.cwd(), *words)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.splitlines()[-1] == f"{kills} of {kills} kills: bit-exact"
