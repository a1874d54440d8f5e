"""Asks the servers how they are, for `throttle` to decide by.

It has connections of its own, so that it sees what any other client sees: a probe waits behind
whatever the server has to do, our own commands in flight included. They are made when they are
first needed, in the job's process only, and none is made if no limit needs one.

Invariants:
- Asking never ends a run, and never holds it up for long: what has not been answered within
  `PATIENCE_S` stays in flight, and nothing else is asked until it is.
- Of a cluster all primaries are asked before the first reply is awaited.

Not promised: in a purge, a server that took over from another one is not asked. The one that is
gone is "not answering" for a while, and then nobody looks there until the next phase.
"""

from __future__ import annotations

import selectors
import time
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path

from cleanup_job.errors import CleanupJobError
from cleanup_job.model import Endpoint
from cleanup_job.throttle import LOOK_EVERY_S, PROBE_EVERY_S, Allowance, Throttle, read
from cleanup_job.wire import Reply, Wire

PATIENCE_S = 0.1
"""How long to wait for a reply: a server that takes longer has something to do."""

RECONNECT_EVERY_S = 1.0

GIVE_UP_S = 10.0
"""A question that is not answered for so long was lost with its connection, and is asked anew."""

Request = tuple[str, ...]


class _Line:
    """The gauge's connection to one server.

    Attributes:
        asked_at_s: when the questions were sent that are in flight, or were last.
        asked: those questions.
        sent: commands so far.
        replies: to the last questions, each with the seconds that it took.
    """

    def __init__(self, endpoint: Endpoint) -> None:
        self.endpoint = endpoint
        self.address = endpoint.address
        self.sent = 0
        self.asked_at_s = 0.0
        self.asked: Sequence[Request] = ()
        self.replies: list[tuple[Reply, float]] = []
        self.is_silent = False
        self.wire: Wire | None = None
        self._connects_at_s = 0.0

    @property
    def waits(self) -> bool:
        """True while a question is in flight."""
        return self.wire is not None and bool(self.wire)

    def ask(self, requests: Sequence[Request]) -> None:
        """Send them, if all before are answered."""
        now_s = time.monotonic()
        if self.waits and now_s - self.asked_at_s > GIVE_UP_S:
            self.close()
        if self.waits or not self._connect(now_s):
            return
        assert self.wire is not None, "it was just made"
        self.asked, self.replies = requests, []
        self.asked_at_s = time.monotonic()
        for words in requests:
            self.sent += 1
            self.wire.send(*words, then=self._take)
        self.wire.take_timings()

    def receive(self) -> None:
        """Take the replies that are there."""
        while self.wire is not None and self.wire and self.wire.can_receive():
            self.wire.receive()
            if self.wire.is_lost:
                self.close()

    def has_answered(self, requests: Sequence[Request]) -> bool:
        """True if all replies to these questions are here, none of them an error."""
        errors = (isinstance(reply, Exception) for reply, _ in self.replies)
        is_all = len(self.replies) == len(self.asked)
        return self.asked == requests and is_all and not any(errors)

    def close(self) -> None:
        """End the connection; a new one is made after a while."""
        if self.wire is not None:
            self.wire.close()
        self.wire = None
        self.is_silent = True
        self._connects_at_s = time.monotonic() + RECONNECT_EVERY_S

    def _connect(self, now_s: float) -> bool:
        if self.wire is None and now_s >= self._connects_at_s:
            try:
                self.wire = Wire(self.endpoint)
            except CleanupJobError:
                self.close()
        return self.wire is not None

    def _take(self, reply: Reply) -> None:
        self.is_silent = isinstance(reply, Exception)
        self.replies.append((reply, time.monotonic() - self.asked_at_s))


class Gauge:
    """The throttle with its measurements, for the whole run.

    Args:
        throttle: what decides.
    """

    def __init__(self, throttle: Throttle) -> None:
        self.throttle = throttle
        self._limits = throttle.limits
        self._lines: list[_Line] = []
        self._probes_at_s = 0.0
        self._looks_at_s = 0.0
        self._pause_file = Path(self._limits.pause_file) if self._limits.pause_file else None

    def watch(self, endpoints: Iterable[Endpoint]) -> None:
        """These are the servers from now on."""
        before = {line.endpoint: line for line in self._lines}
        wanted = dict.fromkeys(endpoints) if self._limits.asks_servers else {}
        self._lines = [before.get(endpoint) or _Line(endpoint) for endpoint in wanted]
        for endpoint in before.keys() - wanted.keys():
            before[endpoint].close()
        self.throttle.ledger.interrupt()

    def close(self) -> None:
        """End all connections."""
        self.watch(())

    def allowance(self, *, quiet: bool) -> Allowance:
        """What the run may do now, by what is due to be measured.

        Args:
            quiet: nothing of ours is in flight at any server.
        """
        now_s = time.monotonic()
        if self.throttle.backoff is not None and now_s >= self._probes_at_s:
            self._probe()
        if self._limits.sections and now_s >= self._looks_at_s:
            self._look()
        listener = self.throttle.listener
        if listener is not None and listener.wants_count(now_s, quiet=quiet):
            self._count()
        now_s = time.monotonic()
        self.throttle.saw_silence(now_s, (line.address for line in self._lines if line.is_silent))
        is_file_there = self._pause_file is not None and _exists(self._pause_file)
        return self.throttle.decide(now_s, is_file_there=is_file_there)

    def _probe(self) -> None:
        """See how long a command has to wait that does nothing."""
        answered = self._ask([("TIME",)])
        now_s = time.monotonic()
        took_s = {line.address: line.replies[0][1] for line in answered}
        took_s |= {line.address: now_s - line.asked_at_s for line in self._lines if line.waits}
        self.throttle.saw_latencies(now_s, {name: 1000 * s for name, s in took_s.items()})
        self._probes_at_s = time.monotonic() + PROBE_EVERY_S

    def _look(self) -> None:
        """See what the servers say of themselves."""
        requests = [("INFO", section) for section in self._limits.sections]
        answered = self._ask(requests)
        texts = {line.address: "\n".join(_text(r) for r, _ in line.replies) for line in answered}
        self.throttle.saw_info({address: read(text) for address, text in texts.items()})
        self._looks_at_s = time.monotonic() + LOOK_EVERY_S

    def _count(self) -> None:
        """Take what each server has carried out so far, but for our own questions."""
        assert self.throttle.listener is not None, "somebody wants to know"
        answered = self._ask([("INFO", "stats")])
        now_s = time.monotonic()
        counts = {line.address: _commands(line) for line in answered}
        self.throttle.listener.take(now_s, counts)

    def _ask(self, requests: Sequence[Request]) -> list[_Line]:
        """Ask all servers the same; those that answered all of it in time, without an error."""
        for line in self._lines:
            line.ask(requests)
        self._receive()
        for line in self._lines:
            line.is_silent = line.is_silent or line.waits
        return [line for line in self._lines if line.has_answered(requests)]

    def _receive(self) -> None:
        """Take replies as they come, from whomever, until all are here or time is up."""
        give_up_at_s = time.monotonic() + PATIENCE_S
        with selectors.DefaultSelector() as selector:
            for line in self._lines:
                if line.wire is not None and line.waits:
                    selector.register(line.wire.fileno(), selectors.EVENT_READ, line)
            while selector.get_map():
                ready = selector.select(max(0.0, give_up_at_s - time.monotonic()))
                for key, _ in ready:
                    key.data.receive()
                    if not key.data.waits:
                        selector.unregister(key.fd)
                if not ready or time.monotonic() > give_up_at_s:
                    return


def _exists(path: Path) -> bool:
    with suppress(OSError):
        return path.exists()
    return False


def _commands(line: _Line) -> int:
    """What others have had carried out; the count is from before the INFO that tells it."""
    lines = (part.partition(":") for part in _text(line.replies[0][0]).splitlines())
    counts = {name: value for name, _, value in lines}
    return int(counts.get("total_commands_processed", "0").strip() or 0) - (line.sent - 1)


def _text(reply: Reply) -> str:
    return reply.decode("utf-8", "replace") if isinstance(reply, bytes) else ""
