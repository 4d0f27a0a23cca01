"""Ranks that wait for those which still work, for as long as these do.

A collective gives up after trainer.hang_timeout seconds. Where one rank may have much more to do
than others (a corpus to tokenize, a checkpoint to write), all meet here before the next one. A rank
at work says again and again how far it is, through the store in which the ranks met; who says the
same for trainer.hang_timeout seconds hangs.
"""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

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
        meeting: the ranks.
        what: they do.
    """

    def __init__(self, meeting: Meeting, what: str) -> None:
        self.meeting = meeting
        self.what = what
        self.number = meeting.count
        self.period = min(MOST_SECONDS, meeting.wait_seconds / LOOKS)
        self.everybody = f"everytoken/together/{self.number}"
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._show, daemon=True)
        self._thread.start()

    @classmethod
    def begin(cls, what: str) -> "Work | None":
        """Say how far this rank is, from now on; None without others."""
        meeting = met()
        if meeting is None:
            return None
        meeting.count += 1
        return cls(meeting, what)

    def fail(self) -> None:
        """Tell the others that this rank won't be done."""
        self._stop()
        self._say("failed")

    def end(self) -> None:
        """Wait until all are done; raises as `together` does."""
        self._stop()
        self._say("done")
        if (
            self.meeting.ask(lambda store: store.add(f"{self.everybody}/done", 1))
            == self.meeting.size
        ):
            self.meeting.ask(lambda store: store.set(self.everybody, ""))
        self._wait()

    def _stop(self) -> None:
        self._over.set()
        self._thread.join()

    def _show(self) -> None:
        # What works takes time of the CPU, be it in Python or not; so do reading and writing, and
        # what is written reaches the disk piece by piece.
        while not self._over.wait(self.period):
            seconds = time.process_time() - time.thread_time()
            self._say(f"{_beats} {seconds:.1f}")

    def _say(self, state: str) -> None:
        """Tell the others; it doesn't matter if they are gone."""
        try:
            said = f"{self.number} {state}"
            self.meeting.ask(lambda store: store.set(beat_key(self.meeting.rank), said))
        except RunError:
            self._over.set()  # nobody hears; whoever waits next says so

    def _wait(self) -> None:
        nap = FIRST_NAP
        looked = time.monotonic()
        seen: dict[int, tuple[str, float]] = {}
        while not self.meeting.ask(lambda store: store.check([self.everybody])):
            time.sleep(nap)
            nap = min(LAST_NAP, 2 * nap)
            if (now := time.monotonic()) - looked >= self.period:
                looked = now
                self._look(seen, now)

    def _look(self, seen: dict[int, tuple[str, float]], now: float) -> None:
        """Whether those that aren't done have gone on since; `seen` says when each did last."""
        keys = [beat_key(rank) for rank in range(self.meeting.size)]
        states = self.meeting.ask(lambda store: store.multi_get(keys))
        for rank, state in enumerate(map(bytes.decode, states)):
            number, _, how = state.partition(" ")
            if int(number) > self.number or (int(number) == self.number and how == "done"):
                continue
            if how == "failed":
                time.sleep(GRACE_SECONDS)
                raise RunError(self._told(rank, f"has failed while {self.what}"))
            if seen.setdefault(rank, (state, now))[0] != state:
                seen[rank] = (state, now)
            elif now - seen[rank][1] > self.meeting.wait_seconds:
                waited = f"{self.meeting.wait_seconds:g} seconds (trainer.hang_timeout)"
                raise RunError(self._told(rank, f"didn't go on {self.what} for {waited}"))

    def _told(self, rank: int, what: str) -> str:
        return f"rank {self.meeting.rank} stops, for {self.meeting.named(rank)} {what}"
