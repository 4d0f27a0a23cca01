"""Ranks that wait for those which still work, for as long as these do.

A collective gives up after trainer.hang_timeout seconds. Where one rank may have much more to do
than others (a corpus to tokenize, a checkpoint to write), all meet here before the next one. From
the first time on each rank says again and again how far it is, through the store in which the ranks
met; who says the same for trainer.hang_timeout seconds hangs.
"""

import atexit
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from operator import methodcaller

from everytoken.errors import RunError
from everytoken.runtime.rendezvous import Meeting, beat_key, met

LOOKS = 4
"""How often a rank says how far it is, and is looked at, while it may say the same."""

MOST_SECONDS = 10.0
"""Between two of them."""

FIRST_NAP, LAST_NAP = 0.001, 0.2
"""Seconds between two looks if all are there."""

GRACE_SECONDS = 5
"""How long a rank that failed may take to say why, and others to be stopped for it."""

_beats = 0


def beat() -> None:
    """Go on, for what waits without working: for a lock that somebody else holds, say."""
    global _beats
    _beats += 1


@contextmanager
def together(what: str) -> Iterator[None]:
    """Around what all ranks do and some for longer: none goes on before all are done.

    Nothing in a process without others, or of ranks that haven't met (see `rendezvous.meet`).

    Args:
        what: they do, in words: "preparing data".

    Raises:
        RunError: a rank hangs, or has failed.
    """
    work = Work.begin(what)
    if work is None:
        yield
        return
    try:
        yield
    except BaseException:
        work.fail()
        raise
    work.end()


class Work:
    """One piece of it, and how far each rank is.

    Args:
        pulse: of this rank.
        what: they do.
    """

    def __init__(self, pulse: "Pulse", what: str) -> None:
        self.pulse = pulse
        self.meeting = pulse.meeting
        self.what = what
        self.number = pulse.number
        self.everybody = f"everytoken/together/{self.number}"

    @classmethod
    def begin(cls, what: str) -> "Work | None":
        """What this rank does from now on; None without others."""
        meeting = met()
        if meeting is None:
            return None
        if not _pulses or _pulses[-1].meeting is not meeting:
            _pulses.append(Pulse(meeting))
        _pulses[-1].begin()
        return cls(_pulses[-1], what)

    def fail(self) -> None:
        """Tell the others that this rank won't be done."""
        self.pulse.say("failed")

    def end(self) -> None:
        """Wait until all are done; raises as `together` does."""
        self.pulse.say("done")
        done = self.meeting.ask(lambda store: store.add(f"{self.everybody}/done", 1))
        if done == self.meeting.size:
            self.meeting.ask(lambda store: store.set(self.everybody, ""))
        self._wait()

    def _wait(self) -> None:
        nap = FIRST_NAP
        looked = time.monotonic()
        seen: dict[int, tuple[str, float]] = {}
        while not self.meeting.ask(lambda store: store.check([self.everybody])):
            time.sleep(nap)
            nap = min(LAST_NAP, 2 * nap)
            if (now := time.monotonic()) - looked >= self.pulse.period:
                looked = now
                self._look(seen, now)

    def _look(self, seen: dict[int, tuple[str, float]], now: float) -> None:
        """Whether those that aren't done have gone on since; `seen` says when each did last."""
        keys = [beat_key(rank) for rank in range(self.meeting.size)]
        states = self.meeting.ask(lambda store: store.multi_get(keys))
        for rank, state in enumerate(map(bytes.decode, states)):
            number, _, how = state.partition(" ")
            if int(number) > self.number or (int(number) == self.number and "done" in how):
                continue
            if "failed" in how:
                time.sleep(GRACE_SECONDS)
                raise RunError(self._told(rank, f"has failed while {self.what}"))
            if seen.setdefault(rank, (state, now))[0] != state:
                seen[rank] = (state, now)
            elif now - seen[rank][1] > self.meeting.wait_seconds:
                waited = f"{self.meeting.wait_seconds:g} seconds (trainer.hang_timeout)"
                raise RunError(self._told(rank, f"didn't go on {self.what} for {waited}"))

    def _told(self, rank: int, what: str) -> str:
        return f"rank {self.meeting.rank} stops, for {self.meeting.named(rank)} {what}"


class Pulse:
    """How far this rank is, said for as long as it lives: others may wait for it at any time.

    Args:
        meeting: the ranks.
    """

    def __init__(self, meeting: Meeting) -> None:
        self.meeting = meeting
        self.period = min(MOST_SECONDS, meeting.wait_seconds / LOOKS)
        self.number = 0
        self.state = ""
        # torch's store is for one thread: it counts what it is asked before it takes its lock.
        self.store = meeting.ask(methodcaller("clone"))
        self.over = threading.Event()
        self.thread = threading.Thread(target=self._beat, daemon=True)
        self.thread.start()
        atexit.register(self.end)

    def begin(self) -> None:
        """The next piece of work."""
        self.number += 1
        self.state = "at work"

    def say(self, state: str) -> None:
        """What has become of it: done, failed."""
        self.state = state
        said = self._said(time.process_time())
        with suppress(RunError):  # whoever waits next says so
            self.meeting.ask(lambda store: store.set(beat_key(self.meeting.rank), said))

    def end(self) -> None:
        """Nothing is said any more, for a store in use doesn't outlive its process unharmed."""
        self.over.set()
        self.thread.join(GRACE_SECONDS)

    def _beat(self) -> None:
        # What works takes time of the CPU, be it in Python or not; so do reading and writing, and
        # what is written reaches the disk piece by piece.
        with suppress(RuntimeError):  # rank 0 is gone: whoever waits next says so
            while not self.over.wait(self.period):
                said = self._said(time.process_time() - time.thread_time())
                self.store.set(beat_key(self.meeting.rank), said)

    def _said(self, seconds: float) -> str:
        return f"{self.number} {self.state} {_beats} {seconds:.1f}"


_pulses: list[Pulse] = []
