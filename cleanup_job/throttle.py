"""When a run has to pause, and how long a worker has to rest (pure).

Measurements come from `gauge`, the time from whoever asks. A *pause* holds the whole run until its
reason is gone; in a cluster one server in trouble pauses all of it, since the sweep of the others
would soon come to that one. A *rest* is what each worker does by itself, in small portions, so
that it works no more than its share of the time, or deletes no more keys than its share.

Invariants:
- "Give way" comes first. A server that is slow though we pause keeps the run paused: nobody can
  know that it is not us who made it slow. `time_budget`, the stop file and signals end that.
- What is measured to be bad pauses at once; what is measured to be good has to be so for a while.
- A server that does not answer these questions holds the run up for `SILENCE_PATIENCE_S` only.
  Then the stages go on and find out themselves what is wrong with it.

Not promised: what happens between two measurements. A command of somebody else's that takes a
second is noticed when it has begun.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

import msgspec

LATENCY_SHARE = 4
"""A command of ours may take this part of `max_latency_ms`, since somebody else's may have to wait
for all that one worker has in flight: two pages and the heartbeats of a third, or two batches."""

ACT_AT = 0.7
"""Of `max_latency_ms`: from here on a probe counts as too slow. A probe sees one of some ten of
somebody else's commands, and all but one in a hundred of those are to be within the limit."""

PROBE_EVERY_S = 0.01
"""Between two probes of the latency: about ten of our commands, and some per cent of our time."""

LOOK_EVERY_S = 0.5
"""Between two looks at INFO, which costs a server some 50 µs."""

CALM_LOOKS = 2
"""Looks at INFO that must find a limit kept before the pause for it ends, so that a figure that
hovers about its limit does not switch us on and off each time."""

FIRST_PAUSE_S, MOST_PAUSE_S = 0.05, 1.0
"""A pause for latency: long enough for a queue to drain, and doubled while it does not help."""

LEAST_SHARE = 0.05
"""Of the time to be worked, however often the latency is too high: the sweep is to end some day."""

SHARE_STEP, SHARE_STEP_S = 0.02, 0.1
"""How slowly the share recovers: from a half to all in 2.5 s without an incident."""

PORTION_S = 0.01
"""The least rest. Shorter ones would cost more, by emptying the pipeline, than they give."""

MOST_WORK_S = 0.1
"""What counts as work between two commands: beyond that it was the server that was held up."""

BURST_S = 0.05
"""What a worker that was held up may catch up of `max_keys_per_second`."""

PORTIONS_PER_S = 5
"""A batch is at most this part of the keys of a second, so that a low rate is not one long wait."""

SILENCE_PATIENCE_S = 5.0

LISTEN_EVERY_S = 1.0
"""How often the run is silent, to hear how many commands others send."""

LISTEN_S, MOST_LISTEN_S, COMMANDS_HEARD = 0.05, 1.0, 10
"""For how long: until as many commands were to be heard at the limit, within these."""

SETTLE_S = 0.02
"""From when nothing of ours is in flight until the first count: every worker has seen it by now."""

LISTENING = "listening"


class Reason(NamedTuple):
    """Why there is a pause. The message begins with the setting, which is the code too."""

    code: str
    message: str


class Allowance(NamedTuple):
    """How much the stages may do now.

    Attributes:
        paused: nothing at all.
        share: of the time to be worked, the rest to be rested.
        keys_per_s: to be deleted by each worker; 0: any number.
        ask_again_s: when to ask anew.
    """

    paused: bool = False
    share: float = 1.0
    keys_per_s: float = 0.0
    ask_again_s: float = 0.1


UNLIMITED = Allowance()


class Bounds(msgspec.Struct, frozen=True):
    """The settings of the throttle, as `config` explains them; None or 0: no limit."""

    nice: float = 0.0
    max_keys_per_second: int | None = None
    max_latency_ms: float | None = None
    max_foreground_ops: int | None = None
    max_used_memory: int | None = None
    max_replica_lag_bytes: int | None = None
    max_replica_lag_s: int | None = None
    max_blocked_clients: int | None = None
    pause_file: str | None = None

    @property
    def any(self) -> bool:
        """False if there is nothing to be measured, and nobody to wait for."""
        return self != Bounds()

    @property
    def asks_servers(self) -> bool:
        """True if a connection is needed."""
        asks = (self.max_latency_ms, self.max_foreground_ops)
        return bool(self.sections) or any(limit is not None for limit in asks)

    @property
    def sections(self) -> tuple[str, ...]:
        """The parts of INFO that are to be looked at."""
        replicas = (self.max_replica_lag_bytes, self.max_replica_lag_s)
        wanted = {
            "memory": self.max_used_memory is not None,
            "clients": self.max_blocked_clients is not None,
            "replication": any(limit is not None for limit in replicas),
        }
        return tuple(section for section, is_wanted in wanted.items() if is_wanted)

    @property
    def gives_way_at_ms(self) -> float | None:
        """From what latency on it is too high."""
        return None if self.max_latency_ms is None else ACT_AT * self.max_latency_ms

    def block_ms(self, max_block_ms: float, workers: int) -> float:
        """About how long one command may hold a server at which so many workers are at once."""
        if self.max_latency_ms is None:
            return max_block_ms
        return min(max_block_ms, self.max_latency_ms / LATENCY_SHARE / max(1, workers))


# -- what a server tells of itself -----------------------------------------------------------


class Replica(NamedTuple):
    """A replica as its primary sees it; both tell each other once a second how they are.

    Attributes:
        state: online, if it gets what the primary does as it does it.
        behind: bytes that it has not acknowledged.
        silent_s: since it was last heard of.
    """

    address: str
    state: str
    behind: int
    silent_s: int


class Reading(NamedTuple):
    """What INFO says, of the sections that were asked for."""

    used_memory: int = 0
    blocked_clients: int = 0
    replicas: tuple[Replica, ...] = ()


def read(text: str) -> Reading:
    """INFO's text, of which any part may be missing."""
    lines = (line.partition(":") for line in text.splitlines())
    info = {name: value.strip() for name, _, value in lines if value}
    offset = int(info.get("master_repl_offset", 0))
    return Reading(
        used_memory=int(info.get("used_memory", 0)),
        blocked_clients=int(info.get("blocked_clients", 0)),
        replicas=tuple(
            _replica(value, offset)
            for name, value in info.items()
            if name.startswith("slave") and name[5:].isdigit()
        ),
    )


def _replica(text: str, offset: int) -> Replica:
    """Read `ip=127.0.0.1,port=7001,state=online,offset=1234,lag=0`, and maybe more."""
    fields = dict(part.split("=", 1) for part in text.split(",") if "=" in part)
    return Replica(
        address=f"{fields.get('ip', '?')}:{fields.get('port', '?')}",
        state=fields.get("state", "?"),
        behind=max(0, offset - int(fields.get("offset", 0))),
        silent_s=int(fields.get("lag", 0)),
    )


def troubles(limits: Bounds, address: str, seen: Reading) -> Iterator[Reason]:
    """The limits that a server does not keep.

    A replica that is not online counts as behind: it is about to copy everything, and nobody can
    say how far it is.
    """
    most = limits.max_used_memory
    if most is not None and seen.used_memory > most:
        text = f"{address} uses {seen.used_memory:,} bytes (limit {most:,})"
        yield _reason("max_used_memory", text)
    most = limits.max_blocked_clients
    if most is not None and seen.blocked_clients > most:
        text = f"{seen.blocked_clients:,} clients are blocked at {address} (limit {most:,})"
        yield _reason("max_blocked_clients", text)
    yield from _lags(
        "max_replica_lag_bytes",
        limits.max_replica_lag_bytes,
        ((replica, replica.behind, "bytes behind") for replica in seen.replicas),
    )
    yield from _lags(
        "max_replica_lag",
        limits.max_replica_lag_s,
        ((replica, replica.silent_s, "s silent") for replica in seen.replicas),
    )


def _lags(
    code: str, most: int | None, lags: Iterable[tuple[Replica, int, str]]
) -> Iterator[Reason]:
    if most is None:
        return
    for replica, lag, unit in lags:
        if replica.state != "online":
            yield _reason(code, f"replica {replica.address} is not online ({replica.state})")
        elif lag > most:
            yield _reason(code, f"replica {replica.address} is {lag:,} {unit} (limit {most:,})")


def _reason(code: str, text: str) -> Reason:
    return Reason(code, f"{code}: {text}")


# -- latency ---------------------------------------------------------------------------------


class Backoff:
    """The share of the time to be worked, by the latency that others see.

    Too high: pause, and halve the share. Then it grows by small equal steps, as long as nothing
    happens. So it swings about what the server can bear.
    """

    def __init__(self, max_latency_ms: float) -> None:
        self.share = 1.0
        self._most_ms = max_latency_ms
        self._pause_s = FIRST_PAUSE_S
        self._doubles_at_s = 0.0
        self._paused_until_s = 0.0
        self._grows_at_s = 0.0

    def saw(self, now_s: float, latency_ms: float) -> None:
        """A command that does nothing took so long."""
        if latency_ms > self._most_ms:
            if not self.pauses(now_s):
                self.share = max(LEAST_SHARE, self.share / 2)
                self._pause_s = FIRST_PAUSE_S
                self._doubles_at_s = now_s + self._pause_s
            elif now_s >= self._doubles_at_s:
                self._pause_s = min(MOST_PAUSE_S, 2 * self._pause_s)
                self._doubles_at_s = now_s + self._pause_s
            self._paused_until_s = now_s + self._pause_s
            self._grows_at_s = self._paused_until_s + SHARE_STEP_S
        elif now_s >= self._grows_at_s:
            self.share = min(1.0, self.share + SHARE_STEP)
            self._grows_at_s = now_s + SHARE_STEP_S

    def pauses(self, now_s: float) -> bool:
        """True until the latency was good for the length of the pause."""
        return now_s < self._paused_until_s


# -- what others send ------------------------------------------------------------------------


class Listener:
    """How many commands per second others send to a server: counted while we send none.

    A server counts everybody's commands in one figure, those within scripts too. Ours could be
    subtracted only by knowing which of them were carried out at the instant of the count. So once
    a second the run is silent for a moment. Exact for that moment; a burst between two of them is
    not heard.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._window_s = min(MOST_LISTEN_S, max(LISTEN_S, COMMANDS_HEARD / most))
        self._next_at_s = 0.0
        self._silent_since_s: float | None = None
        self._first: tuple[float, Mapping[str, int]] | None = None
        self.loud: Reason | None = None

    def wants_silence(self, now_s: float) -> bool:
        """True if nothing should be sent now."""
        return self.loud is not None or now_s >= self._next_at_s

    def wants_count(self, now_s: float, *, quiet: bool) -> bool:
        """True if the servers' counts are to be taken; `quiet`: nothing of ours is in flight."""
        if not quiet or not self.wants_silence(now_s):
            self._silent_since_s = self._first = None
            return False
        if self._silent_since_s is None:
            self._silent_since_s = now_s
        if self._first is None:
            return now_s >= self._silent_since_s + SETTLE_S
        return now_s >= self._first[0] + (LOOK_EVERY_S if self.loud else self._window_s)

    def take(self, now_s: float, counts: Mapping[str, int]) -> None:
        """So many commands by address were carried out so far, without the gauge's own."""
        before, self._first = self._first, (now_s, counts)
        if before is None:
            return
        heard = {
            address: max(0, count - before[1][address]) / (now_s - before[0])
            for address, count in counts.items()
            if address in before[1]
        }
        address = max(heard, key=heard.__getitem__, default="")
        if heard and heard[address] > self._most:
            text = f"others send {heard[address]:,.0f} commands/s to {address}"
            self.loud = _reason("max_foreground_ops", f"{text} (limit {self._most:,})")
        else:
            self.loud = None
            self._next_at_s = now_s + LISTEN_EVERY_S
            self._first = self._silent_since_s = None


# -- the whole run ---------------------------------------------------------------------------


class Entry(msgspec.Struct):
    """What one reason has cost so far.

    Attributes:
        message: why, as it was said last.
        pauses: how often it began; 0 for rests, of which there are too many to count.
        seconds: in all.
    """

    message: str
    pauses: int = 0
    seconds: float = 0.0


class Ledger:
    """Which reasons held the run up, and for how long.

    Attributes:
        entries: by the code of the reason.
        pauses: code, first and last instant of each, in order; rests are not among them.
    """

    def __init__(self) -> None:
        self.entries: dict[str, Entry] = {}
        self.pauses: list[tuple[str, float, float]] = []
        self._reason: Reason | None = None
        self._since_s: float | None = None
        self._rests: Mapping[str, float] = {}

    def account(self, now_s: float, reason: Reason | None, rests: Mapping[str, float]) -> None:
        """From now on it is this reason, or none, and these shares of the time are rested."""
        if self._since_s is not None:
            self._add(now_s - self._since_s)
        if reason is not None:
            entry = self.entries.setdefault(reason.code, Entry(reason.message))
            entry.message = reason.message
            entry.pauses += self._reason is None or self._reason.code != reason.code
        self._reason, self._since_s, self._rests = reason, now_s, rests

    def interrupt(self) -> None:
        """Nothing counts until the next `account`: no stage is at work."""
        self._reason = self._since_s = None

    def rested(self, code: str, message: str, seconds: float) -> None:
        """Add what was counted elsewhere."""
        if seconds:
            self.entries.setdefault(code, Entry(message)).seconds += seconds

    def _add(self, seconds: float) -> None:
        if self._reason is not None:
            self.entries[self._reason.code].seconds += seconds
            self._add_pause(self._reason.code, seconds)
            return
        for code, share in self._rests.items():
            message = f"{code}: rests between commands"
            self.entries.setdefault(code, Entry(message)).seconds += seconds * share

    def _add_pause(self, code: str, seconds: float) -> None:
        """Beside the sum: from when to when it was. What follows without a gap is one pause."""
        assert self._since_s is not None, "only what has begun can be added"
        first_s, last_s = self._since_s, self._since_s + seconds
        if self.pauses and self.pauses[-1][0] == code and self.pauses[-1][2] == first_s:
            first_s = self.pauses.pop()[1]
        self.pauses.append((code, first_s, last_s))


class Throttle:
    """What the run may do, by all that was measured. One for all of its servers."""

    def __init__(self, limits: Bounds, workers: int = 1) -> None:
        self.limits = limits
        self.ledger = Ledger()
        self.reason: Reason | None = None
        most_ms, most_ops = limits.gives_way_at_ms, limits.max_foreground_ops
        self.backoff = Backoff(most_ms) if most_ms is not None else None
        self.listener = Listener(most_ops) if most_ops is not None else None
        self._keys_per_s = (limits.max_keys_per_second or 0) / workers
        self._nice_share = 1 / (1 + limits.nice)
        self._troubles: dict[str, tuple[Reason, int]] = {}
        self._slowest: tuple[str, float] = ("", 0.0)
        self._silent_since_s: dict[str, float] = {}

    def saw_info(self, readings: Mapping[str, Reading]) -> None:
        """INFO of these addresses."""
        found = {
            reason.code: reason
            for address, seen in readings.items()
            for reason in troubles(self.limits, address, seen)
        }
        looks = {code: (reason, left - 1) for code, (reason, left) in self._troubles.items()}
        looks.update((code, (reason, CALM_LOOKS)) for code, reason in found.items())
        self._troubles = {code: look for code, look in looks.items() if look[1] > 0}

    def saw_latencies(self, now_s: float, latencies_ms: Mapping[str, float]) -> None:
        """A command that does nothing took so long at these addresses; the slowest counts."""
        if self.backoff is None or not latencies_ms:
            return
        address = max(latencies_ms, key=latencies_ms.__getitem__)
        if latencies_ms[address] > (self.limits.gives_way_at_ms or 0.0):
            self._slowest = (address, latencies_ms[address])
        self.backoff.saw(now_s, latencies_ms[address])

    def saw_silence(self, now_s: float, addresses: Iterable[str]) -> None:
        """These do not answer now."""
        since = self._silent_since_s
        self._silent_since_s = {address: since.get(address, now_s) for address in addresses}

    def decide(self, now_s: float, *, is_file_there: bool) -> Allowance:
        """What the run may do from now on."""
        self.reason = next(self._reasons(now_s, is_file_there=is_file_there), None)
        share = min(self._nice_share, self.backoff.share if self.backoff else 1.0)
        rests = {}
        if share < self._nice_share:
            rests["max_latency_ms"] = 1 - share
        elif share < 1:
            rests["nice"] = 1 - share
        self.ledger.account(now_s, self.reason, rests)
        soon = self.backoff is not None or self.reason is not None
        return Allowance(
            paused=self.reason is not None,
            share=share,
            keys_per_s=self._keys_per_s,
            ask_again_s=PROBE_EVERY_S if soon else UNLIMITED.ask_again_s,
        )

    def _reasons(self, now_s: float, *, is_file_there: bool) -> Iterator[Reason]:
        if is_file_there:
            yield _reason("pause_file", f"{self.limits.pause_file} is there")
        yield from (reason for reason, _ in self._troubles.values())
        if self.backoff is not None and self.backoff.pauses(now_s):
            address, took_ms = self._slowest
            text = (
                f"{address} takes {took_ms:,.1f} ms (limit {self.limits.max_latency_ms:g}, gives "
                f"way from {self.limits.gives_way_at_ms:g})"
            )
            yield _reason("max_latency_ms", text)
        for address, since_s in self._silent_since_s.items():
            if now_s - since_s < SILENCE_PATIENCE_S:
                yield _reason("no_answer", f"{address} does not answer the throttle")
        if self.listener is not None and self.listener.loud is not None:
            yield self.listener.loud
        if self.listener is not None and self.listener.wants_silence(now_s):
            yield _reason(LISTENING, "silent for a moment, to count what others send")


# -- a worker --------------------------------------------------------------------------------


class Tempo:
    """How long one worker has to rest before its next command.

    What was worked and not rested for is kept as work, so that it is forgiven when the share
    recovers. Each batch moves the time at which the next one may begin.

    Attributes:
        waited_s: what was rested for `max_keys_per_second`.
    """

    def __init__(self, now_s: float) -> None:
        self.waited_s = 0.0
        self._at_s = now_s
        self._worked_s = 0.0
        self._next_at_s = now_s

    def begin(self, now_s: float) -> None:
        """Work begins, or goes on; what was before was neither work nor rest."""
        self._at_s = now_s

    def takes(self, now_s: float, keys: int, allowed: Allowance) -> None:
        """So many keys are about to be deleted."""
        if allowed.keys_per_s:
            self._next_at_s = max(self._next_at_s, now_s - BURST_S) + keys / allowed.keys_per_s

    def rest_s(self, now_s: float, allowed: Allowance) -> float:
        """How long to rest, in seconds; 0 while it is not worth while. It was worked until now."""
        self._worked_s += min(MOST_WORK_S, now_s - self._at_s)
        self._at_s = now_s
        debt_s = self._debt_s(allowed)
        return max(0.0, self._wait_s(allowed), debt_s if debt_s >= PORTION_S else 0.0)

    def rested(self, now_s: float, allowed: Allowance) -> None:
        """It was rested until now, because it had to or since the whole run pauses."""
        slept_s = now_s - self._at_s
        debt_s = self._debt_s(allowed)
        if not allowed.paused and self._wait_s(allowed) > debt_s:
            self.waited_s += slept_s
        self._worked_s *= max(0.0, 1 - slept_s / debt_s) if debt_s else 0.0
        self._at_s = now_s

    def _debt_s(self, allowed: Allowance) -> float:
        return self._worked_s * (1 / allowed.share - 1)

    def _wait_s(self, allowed: Allowance) -> float:
        return self._next_at_s - self._at_s if allowed.keys_per_s else 0.0


def portion(most: int, allowed: Allowance, least: int) -> int:
    """How many keys to delete at once, of at most so many."""
    if not allowed.keys_per_s:
        return most
    return max(min(least, most), min(most, int(allowed.keys_per_s / PORTIONS_PER_S)))
