"""The faults: each is one entry of `FAULTS`, and most are a small function above it.

To add one, write what happens at the moment as a function of the scene and the link that was
struck, and give it an entry. What it changes on a server it sets back by `scene.after`. What it
changes for the coordinators it tells the scene, or the checks would blame the tool.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import pty
import resource
import signal
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from cleanup_job.acl import LEASE_PREFIX
from tests.faults.journals import keeping, know_all, left_of, restoring, with_journal
from tests.faults.people import value_of
from tests.faults.proxy import Link
from tests.faults.scene import PHASES, Act, Fault, Outcome, Report, Scene, Truth
from tests.faults.stage import (
    PASSWORD,
    USER,
    ReplicatedStage,
    await_,
    give_rights,
    has_role,
    is_in_step,
)
from tests.keys import heartbeat_key, now_ms
from tests.servers import ServerProcess

SOME = 20
"""How many coordinators are changed in the middle."""

BIG = 10_000_000

PAGE = 4096
"""Largest file where the disk is full: what two processes share takes a page, a report more."""

TIMEOUT_S = 1.0
"""`wire.REPLY_TIMEOUT_S` in these runs: see `runs.SHORTER`."""


def at(what: Callable[[Scene, Link], object]) -> Callable[[Scene], Act]:
    """Do something that blocks, while the link that was struck waits."""

    def acts(scene: Scene) -> Act:
        async def act(link: Link) -> None:
            await asyncio.to_thread(what, scene, link)

        return act

    return acts


# -- the network ----------------------------------------------------------------------------------


def latency(scene: Scene) -> Act:
    async def act(link: Link) -> None:
        link.proxies.delay_s = lambda: scene.rng.uniform(0, 0.01)

    return act


def stall(least_s: float, most_s: float) -> Callable[[Scene], Act]:
    def acts(scene: Scene) -> Act:
        seconds = scene.rng.uniform(least_s, most_s)

        async def act(link: Link) -> None:
            link.proxies.stall(seconds)

        return act

    return acts


def reset(_: Scene) -> Act:
    return Link.reset


def close(_: Scene) -> Act:
    return Link.close


def swallow(_: Scene) -> Act:
    return Link.swallow


# -- the server's process -------------------------------------------------------------------------


def server_of(scene: Scene, link: Link) -> ServerProcess:
    return scene.stage.servers[link.place]


def client_of(scene: Scene, link: Link) -> redis.Redis:
    return scene.stage.clients[link.place]


def save_first(scene: Scene) -> None:
    for client in scene.stage.clients.values():
        client.save()


def back_old(scene: Scene) -> Act:
    save_first(scene)

    def strike(scene: Scene, link: Link) -> None:
        server_of(scene, link).stop()
        server_of(scene, link).start()

    return at(strike)(scene)


def back_same(scene: Scene, link: Link) -> None:
    server = server_of(scene, link)
    one = server.client(retry=Retry(NoBackoff(), 0))
    with contextlib.suppress(redis.ConnectionError):  # so it should end
        one.execute_command("SHUTDOWN", "SAVE")
    assert server._process is not None
    server._process.wait(10)
    server.stop()
    server.start()


def back_empty(scene: Scene, link: Link) -> None:
    """Some of the dead are alive again at once: whoever goes on by what it knew would hurt them."""
    server = server_of(scene, link)
    server.stop()
    (server.folder / "dump.rdb").unlink(missing_ok=True)
    people = scene.people
    there = {key for key in people.everything() if scene.stage.place(key) == link.place}
    # Of records between two, the one that is left may be dead.
    scene.forgotten |= there | (
        people.to_be_left() - people.to_be_left(people.everything() - there)
    )
    scene.removed |= there
    without_beat = [name for name in people.states if heartbeat_key(name) in there]
    for name in without_beat:
        scene.excused.update(people.keys_of(name))
    server.start()
    scene.stage.await_well()
    revived = scene.rng.sample(people.ids("stale"), SOME)
    come_back(scene, revived, only=link.place)


def gone_for_good(scene: Scene) -> Act:
    save_first(scene)

    def strike(scene: Scene, link: Link) -> None:
        server = server_of(scene, link)
        server.stop()
        scene.after.callback(server.start)

    return at(strike)(scene)


def freeze(scene: Scene, link: Link) -> None:
    pid = server_of(scene, link).pid
    os.kill(pid, signal.SIGSTOP)
    seconds = scene.rng.uniform(1.1, 1.5) * TIMEOUT_S
    scene.later(seconds, lambda: os.kill(pid, signal.SIGCONT))


# -- what the server says -------------------------------------------------------------------------


def kill_clients(scene: Scene, link: Link) -> None:
    client_of(scene, link).execute_command("CLIENT", "KILL", "USER", USER)


def pause(seconds: float) -> Callable[[Scene], Act]:
    def strike(scene: Scene, link: Link) -> None:
        client = client_of(scene, link)
        mode = scene.rng.choice(["ALL", "WRITE"])
        client.execute_command("CLIENT", "PAUSE", int(seconds * 1000), mode)
        scene.after.callback(client.execute_command, "CLIENT", "UNPAUSE")

    return at(strike)


def flush_scripts(scene: Scene, link: Link) -> None:
    for client in scene.stage.clients.values():
        client.script_flush()


def busy(scene: Scene, link: Link) -> None:
    """A script that does not end, until it is killed."""
    client = client_of(scene, link)
    client.config_set("lua-time-limit", 1)
    scene.after.callback(client.config_set, "lua-time-limit", 5000)
    # Not by a client that would send it again.
    one = server_of(scene, link).client(retry=Retry(NoBackoff(), 0), socket_timeout=20)
    ended = threading.Event()

    def occupy() -> None:
        try:
            one.eval("while true do end", 0)
        except redis.RedisError:
            ended.set()

    threading.Thread(target=occupy, daemon=True).start()
    other = server_of(scene, link).client(retry=Retry(NoBackoff(), 0))

    def is_busy() -> bool:
        try:
            other.ping()
        except redis.RedisError as error:
            return "BUSY" in str(error) or "busy" in str(error)
        return False

    await_(is_busy)

    def end() -> None:
        other.script_kill()
        assert ended.wait(10)
        one.close()
        other.close()

    scene.later(scene.rng.uniform(0.05, 0.4), end)


def fill_memory(scene: Scene, link: Link) -> None:
    for client in scene.stage.clients.values():
        client.config_set("maxmemory", 1)
        scene.after.callback(client.config_set, "maxmemory", 0)


def fail_to_save(scene: Scene, link: Link) -> None:
    """A folder is where the snapshot should go, so that saving fails, and writes are refused."""
    for client, server in zip(scene.stage.clients.values(), scene.stage.servers, strict=True):
        snapshot = server.folder / "dump.rdb"
        snapshot.unlink(missing_ok=True)
        (snapshot / "in the way").mkdir(parents=True)
        client.config_set("save", "3600 1")
        client.bgsave()
        await_(lambda c=client: c.info("persistence")["rdb_last_bgsave_status"] == "err")  # type: ignore[misc]
        scene.after.callback(client.config_set, "save", "")
        scene.after.callback(snapshot.rmdir)
        scene.after.callback((snapshot / "in the way").rmdir)


RIGHTS = ["-unlink", "-@scripting", "-scan", "-get -mget", "-time", "resetkeys", "-@all", "off"]


def withdraw_rights(scene: Scene, link: Link) -> None:
    which = scene.rng.choice([*RIGHTS, "user"])
    for client in scene.stage.clients.values():
        if which == "user":
            client.execute_command("ACL", "DELUSER", USER)
        else:
            client.execute_command("ACL", "SETUSER", USER, *which.split())
        scene.after.callback(give_rights, client)


def change_password(scene: Scene, link: Link) -> None:
    for client in scene.stage.clients.values():
        client.execute_command("ACL", "SETUSER", USER, f"<{PASSWORD}", ">another")
        client.execute_command("CLIENT", "KILL", "USER", USER)
        scene.after.callback(give_rights, client)


# -- the lease ------------------------------------------------------------------------------------


def lease_of(scene: Scene) -> tuple[redis.Redis, bytes] | None:
    """The lease, if somebody has it, and a client of its server."""
    for client in scene.stage.clients.values():
        for key in client.scan_iter(LEASE_PREFIX + b"*", count=2000):
            return client, key
    return None


def take_over(scene: Scene, link: Link) -> None:
    """Somebody else has the lease by now, and must keep it."""
    found = lease_of(scene)
    if found is None:
        return
    client, key = found
    client.set(key, "somebody else", px=60_000)

    def end() -> None:
        if client.get(key) != b"somebody else":
            scene.wrong.append("the lease of somebody else is gone")
        client.delete(key)

    scene.after.callback(end)


def delete_lease(scene: Scene, link: Link) -> None:
    found = lease_of(scene)
    if found is not None:
        found[0].delete(found[1])


def fill_before(scene: Scene) -> None:
    for client in scene.stage.clients.values():
        client.config_set("maxmemory", 1)
        scene.after.callback(client.config_set, "maxmemory", 0)


def went_on(scene: Scene, outcome: Outcome, reports: list[Report | None]) -> list[str]:
    report = reports[0]
    codes = [warning["code"] for warning in report["warnings"]] if report else []
    is_told = outcome.code == 0 and "no_lease" in codes
    return [] if is_told else [f"exit {outcome.code}, warnings {codes}"]


# -- replicas -------------------------------------------------------------------------------------


def replica_lags(scene: Scene) -> Act:
    """The replica stops listening for a while, as one on a slow disk does."""
    alone = None if scene.stage.clustered else scene.stage.replica()

    def strike(scene: Scene, link: Link) -> None:
        pid = (alone or replica_of(scene, link)).pid
        os.kill(pid, signal.SIGSTOP)
        scene.after.callback(os.kill, pid, signal.SIGCONT)

    if alone:
        scene.after.callback(scene.stage.detach)
    return at(strike)(scene)


def replica_of(scene: Scene, link: Link) -> ServerProcess:
    assert isinstance(scene.stage, ReplicatedStage)
    return scene.stage.replica_of(link.place)


def replica_gone(scene: Scene) -> Act:
    """The replica dies, and writes are refused without it."""
    alone = None if scene.stage.clustered else scene.stage.replica()
    for client in scene.stage.clients.values():
        client.config_set("min-replicas-to-write", 1)
        scene.after.callback(client.config_set, "min-replicas-to-write", 0)

    def strike(scene: Scene, link: Link) -> None:
        (alone or replica_of(scene, link)).stop()
        client = client_of(scene, link)
        await_(lambda: client.info("replication")["connected_slaves"] == 0)

    return at(strike)(scene)


def demote(scene: Scene) -> Act:
    """The standalone server becomes the replica of its replica, and stays at its address."""
    replica = scene.stage.replica()
    scene.after.callback(scene.stage.detach)

    def strike(scene: Scene, link: Link) -> None:
        with replica.client() as client:
            client.replicaof("NO", "ONE")
        scene.stage.clients[0].replicaof("127.0.0.1", replica.port)

    def settle() -> None:
        with replica.client() as client:
            if has_role(client, "master"):
                await_(lambda: is_in_step(scene.stage.clients[0], client))

    scene.after.callback(settle)
    return at(strike)(scene)


def fail_over(scene: Scene, link: Link) -> None:
    """The replica takes over: from a primary that was killed, or that agrees."""
    primary = scene.stage.nodes[link.place]
    replica = replica_of(scene, link)
    with replica.client() as client:
        if scene.rng.random() < 0.5:
            primary.stop()
            client.execute_command("CLUSTER", "FAILOVER", "TAKEOVER")
        else:
            client.execute_command("CLUSTER", "FAILOVER")
        await_(lambda: has_role(client, "master"))


# -- the data -------------------------------------------------------------------------------------


def some_stale(scene: Scene) -> list[bytes]:
    return scene.rng.sample(scene.people.ids("stale"), SOME)


def come_back(scene: Scene, names: list[bytes], only: int | None = None) -> None:
    """They beat again. On one server all that is there now must stay; in a cluster the heartbeat,
    and the report must name what they lost."""
    people, stage = scene.people, scene.stage
    back = [name for name in names if only in (None, stage.place(heartbeat_key(name)))]
    now = now_ms(stage.clients[0])
    for name in back:
        stage.client_of(heartbeat_key(name)).set(heartbeat_key(name), value_of("live", now))
        scene.rewritten.add(heartbeat_key(name))
    protect(scene, back, "live")
    if only is None and stage.clustered:
        scene.lossy.update(back)
    if only is not None and not stage.clustered:
        # Their owned keys, too, since there is nothing any more.
        fresh = [key for name in back for key in people.keys_of(name)[1:]]
        for key in fresh:
            stage.client_of(key).set(key, b"new")
        scene.protected.update(present(scene, set(fresh)))


def protect(scene: Scene, names: list[bytes], state: str) -> None:
    """From now on they must not lose anything; on a cluster that holds for their heartbeats."""
    keys = set(map(heartbeat_key, names))
    if not scene.stage.clustered:
        keys.update(key for name in names for key in scene.people.keys_of(name))
    scene.people.states.update(dict.fromkeys(names, state))
    scene.protected.update(present(scene, keys))


def present(scene: Scene, keys: set[bytes]) -> dict[bytes, bytes]:
    return {key: held for key, held in scene.stage.dumps(keys).items() if held is not None}


def revive(scene: Scene, link: Link) -> None:
    come_back(scene, some_stale(scene))


def doomed(scene: Scene) -> list[list[bytes]]:
    """The keys of some who are dead, as far as nobody who lives needs them; heartbeats first."""
    left = scene.people.to_be_left()
    keys = [scene.people.keys_of(name) for name in some_stale(scene)]
    return [[key for key in some if key not in left] for some in keys]


def expire(scene: Scene, link: Link) -> None:
    for keys in doomed(scene):
        # Sometimes only owned keys, sometimes the heartbeat: then nobody finds what is left,
        # should this run not come to its end.
        chosen = scene.rng.sample(keys, scene.rng.randint(1, len(keys)))
        scene.removed.update(chosen)
        if keys[0] in chosen:
            scene.excused.update(keys)
        for key in chosen:
            scene.stage.client_of(key).pexpire(key, scene.rng.randint(1, 50))


def change_type(scene: Scene, link: Link) -> None:
    """Owned keys become lists and go all the same; heartbeats become hashes and save theirs."""
    some = doomed(scene)
    for keys in some[: SOME // 2]:
        for key in keys[1:2]:
            if_there(scene, key, "redis.call('DEL', KEYS[1]); redis.call('RPUSH', KEYS[1], 'x')")
    names = [keys[0].removeprefix(heartbeat_key(b"")) for keys in some[SOME // 2 :]]
    for name in names:
        key = heartbeat_key(name)
        pipe = scene.stage.client_of(key).pipeline()  # MULTI: it is never absent
        pipe.delete(key)
        pipe.hset(key, "timestamp", "0")
        pipe.execute()
        scene.rewritten.add(key)
    protect(scene, names, "hash")


def if_there(scene: Scene, key: bytes, script: str) -> None:
    """Change a key, but do not bring one back that has gone."""
    script = f"if redis.call('EXISTS', KEYS[1]) == 1 then {script} end"
    scene.stage.client_of(key).eval(script, 1, key)


GROW = (
    "if redis.call('TYPE', KEYS[1]).ok == 'string' then "
    f"redis.call('APPEND', KEYS[1], string.rep(' ', {BIG})) end"
)


def grow(scene: Scene, link: Link) -> None:
    """Owned keys of the dead, and heartbeats of theirs that stay the same JSON."""
    for keys in doomed(scene)[:2]:
        for key in keys[:2]:
            if_there(scene, key, GROW)


# -- a plan ---------------------------------------------------------------------------------------


def plan_of(scene: Scene) -> Path:
    return scene.folder / "plan.jsonl.gz"


def plan_first(scene: Scene) -> None:
    """A plan is made. Then some who are in it come back, and some die who are not."""
    scene.stage.proxies.begin()
    made, _ = scene.start(argv=("--json", "-", "--dry-run", "--plan", str(plan_of(scene))))
    assert made.wait() == 0
    dying = scene.rng.sample(scene.people.ids("live"), SOME // 2)
    come_back(scene, some_stale(scene))
    scene.lossy.clear()  # so early that they lose nothing
    before = scene.people.to_be_left()
    die(scene, dying)
    scene.mortal = before - scene.people.to_be_left()


def die(scene: Scene, names: list[bytes]) -> None:
    now = now_ms(scene.stage.clients[0])
    for name in names:
        key = heartbeat_key(name)
        scene.stage.client_of(key).set(key, value_of("stale", now))
    scene.people.states.update(dict.fromkeys(names, "stale"))
    keys = {key for name in names for key in scene.people.keys_of(name)}
    # They are watched as before, but with this beat.
    scene.protected.update(present(scene, keys))


def by_plan(scene: Scene) -> dict[str, Any]:
    return {"argv": ("--json", "-", "--plan", str(plan_of(scene)))}


# -- this side ------------------------------------------------------------------------------------


def running(scene: Scene) -> int:
    assert scene.run is not None
    return scene.run.pid


def kill_job(scene: Scene, link: Link) -> None:
    os.kill(running(scene), signal.SIGKILL)


def kill_worker(scene: Scene, link: Link) -> None:
    workers = scene.run.workers() if scene.run else []
    if workers:
        os.kill(scene.rng.choice(workers), signal.SIGKILL)


def stop_job(number: int) -> Callable[[Scene, Link], None]:
    def strike(scene: Scene, link: Link) -> None:
        # To the whole group, as terminals and service managers do.
        os.killpg(running(scene), number)

    return strike


def starve_workers(scene: Scene, link: Link) -> None:
    """No memory beyond what they have, and replies of 10 MB to come."""
    for name in scene.rng.sample(scene.people.ids("stale"), 2):
        if_there(scene, heartbeat_key(name), GROW)
    for pid in scene.run.workers() if scene.run else []:
        pages = int(Path(f"/proc/{pid}/statm").read_text().split()[0])
        most = pages * resource.getpagesize() + 2_000_000
        resource.prlimit(pid, resource.RLIMIT_AS, (most, most))


def sweep_too(scene: Scene, link: Link) -> None:
    """Another run, and nothing of this one until that has ended."""
    other = scene.start()
    scene.others.append(other)
    other[0].wait()


def sweep_too_without_lock(scene: Scene, link: Link) -> None:
    scene.others.append(scene.start(argv=WITHOUT_LOCK))


WITHOUT_LOCK = ("--json", "-", "--no-lock")


def without_lock(_: Scene) -> dict[str, Any]:
    return {"argv": WITHOUT_LOCK}


def second_is_sent_away(scene: Scene, outcome: Outcome, _: list[Report | None]) -> list[str]:
    # The first has the lease throughout these phases, unless it had ended meanwhile.
    codes = [other.code for other, _ in scene.others]
    return [] if codes == [75] else [f"the other run exited with {codes}"]


def pause_path(scene: Scene) -> Path:
    return scene.folder / "pause"


def stop_path(scene: Scene) -> Path:
    return scene.folder / "stop"


def appear(path: Path, scene: Scene) -> None:
    path.touch()
    scene.after.callback(path.unlink, missing_ok=True)


def hold_up(scene: Scene, link: Link) -> None:
    """The pause file is there for a while."""
    appear(pause_path(scene), scene)
    scene.later(scene.rng.uniform(0.05, 0.3), lambda: pause_path(scene).unlink(missing_ok=True))


def hold_up_for_good(scene: Scene, link: Link) -> None:
    """It is there until the time budget has ended, and while nobody waits for a reply."""
    appear(pause_path(scene), scene)


def show_stop_file(scene: Scene, link: Link) -> None:
    appear(stop_path(scene), scene)


def pausing(scene: Scene) -> dict[str, Any]:
    return {"argv": ("--json", "-", "--pause-file", str(pause_path(scene)))}


def pausing_in_time(scene: Scene) -> dict[str, Any]:
    pauses = pausing(scene)["argv"]
    return {"argv": (*pauses, "--time-budget", "1")}


def stopping(scene: Scene) -> dict[str, Any]:
    return {"argv": ("--json", "-", "--stop-file", str(stop_path(scene)))}


def exits(*codes: int) -> Callable[[Scene, Outcome, list[Report | None]], list[str]]:
    """It must end with one of these."""

    def then(scene: Scene, outcome: Outcome, _: list[Report | None]) -> list[str]:
        is_right = outcome.code in codes
        return [] if is_right else [f"exit {outcome.code}, {outcome.status}, {outcome.errors}"]

    return then


def ended_by(code: str) -> Callable[[Scene, Outcome, list[Report | None]], list[str]]:
    """It must have come to its end, or tell that it was this which ended it."""

    def then(scene: Scene, outcome: Outcome, reports: list[Report | None]) -> list[str]:
        report = reports[0]
        told = report["stopped_by"] if report else None
        is_right = (outcome.code, told) in ((0, None), (3, code))
        return [] if is_right else [f"exit {outcome.code}, stopped by {told}, {outcome.errors}"]

    return then


DAY_S = 86_400


def a_day_off(scene: Scene) -> dict[str, Any]:
    return {"clock_ahead_s": scene.rng.choice([-1, 1]) * DAY_S}


def is_refused(scene: Scene, outcome: Outcome, reports: list[Report | None]) -> list[str]:
    report = reports[0]
    told = [error["message"] for error in report["errors"]] if report else []
    is_right = outcome.code == 4 and any("the clock of" in message for message in told)
    deleted = report["keys"]["deleted"] if report else 0
    return [] if is_right and not deleted else [f"exit {outcome.code}, {told}, {deleted} deleted"]


def tiny_disk(most: int) -> Callable[[Scene], dict[str, Any]]:
    """Room for so many bytes of a journal."""

    def options(scene: Scene) -> dict[str, Any]:
        return {"argv": keeping(scene), "limits": {"RLIMIT_FSIZE": most}, **piped(scene)}

    return options


def no_journal(scene: Scene, outcome: Outcome, _: list[Report | None]) -> list[str]:
    is_right = outcome.code == 2 and not left_of(scene)
    return [] if is_right else [f"exit {outcome.code}, journal {left_of(scene)}"]


def no_room(scene: Scene) -> dict[str, Any]:
    """The report's disk is full. It goes to stdout then, which is a pipe."""
    report = scene.folder / "report.json"
    report.unlink(missing_ok=True)
    return {"argv": ["--json", str(report)], "limits": {"RLIMIT_FSIZE": PAGE}, **piped(scene)}


def full_device(scene: Scene) -> dict[str, Any]:
    return {"argv": ["--json", "/dev/full"]}


def stdout_full(scene: Scene) -> dict[str, Any]:
    full = os.open("/dev/full", os.O_WRONLY)
    nothing = os.open(os.devnull, os.O_RDWR)
    for stream in (full, nothing):
        scene.after.callback(os.close, stream)
    return {"streams": (nothing, full, nothing)}


def stderr_full(scene: Scene) -> dict[str, Any]:
    """Messages and log have no room."""
    full = os.open("/dev/full", os.O_WRONLY)
    nothing = os.open(os.devnull, os.O_RDONLY)
    out = os.open(scene.folder / "out-1", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    for stream in (full, nothing, out):
        scene.after.callback(os.close, stream)
    return {"streams": (nothing, out, full)}


def piped(scene: Scene) -> dict[str, Any]:
    """Stdout and stderr are pipes, read to files when the run has ended."""
    nothing = os.open(os.devnull, os.O_RDONLY)
    scene.after.callback(os.close, nothing)
    ends = []
    for name in ("out", "err"):
        read, write = os.pipe()
        ends.append(write)
        path = scene.folder / f"{name}-1"
        scene.after.callback(lambda read=read, path=path: path.write_bytes(_all_of(read)))  # type: ignore[misc]
        scene.after.callback(os.close, write)
    return {"streams": (nothing, *ends)}


def _all_of(stream: int) -> bytes:
    with open(stream, "rb") as file:
        return file.read()


def nobody_reads(scene: Scene) -> dict[str, Any]:
    """Stdout is a pipe that its reader has closed."""
    nothing = os.open(os.devnull, os.O_RDWR)
    read, write = os.pipe()
    os.close(read)
    for stream in (nothing, write):
        scene.after.callback(os.close, stream)
    return {"streams": (nothing, write, nothing)}


class Terminal:
    """A terminal that goes away, as a lost connection's does; the report goes to a file.

    Most programs are ended by SIGHUP then; one that was started to ignore it goes on.
    """

    def __init__(self, ignores: Sequence[int] = ()) -> None:
        self.main = -1
        self._ignores = ignores

    def options(self, scene: Scene) -> dict[str, Any]:
        self.main, end = pty.openpty()
        scene.after.callback(os.close, end)
        scene.after.callback(self.hang_up)
        report = scene.folder / "out-1"
        out = os.open(report, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        scene.after.callback(os.close, out)
        # What ignores SIGHUP has its output elsewhere, as a rule, and bars where it began.
        to_file = {"argv": ["--json", "-"], "streams": (end, out, end)}
        to_terminal = {"argv": ["--json", str(report)], "streams": (end, end, end)}
        return {
            **(to_file if self._ignores else to_terminal),
            "terminal": True,
            "ignores": self._ignores,
        }

    def hang_up(self) -> None:
        if self.main >= 0:
            os.close(self.main)
            self.main = -1

    def act(self, scene: Scene) -> Act:
        def strike(scene: Scene, link: Link) -> None:
            self.hang_up()

        return at(strike)(scene)


TERMINAL = Terminal()
ANOTHER_TERMINAL = Terminal([signal.SIGHUP])

WORKERS = ("workers",)
ALONE = ("standalone",)
CLUSTER = ("cluster",)
AT_THE_END = ("purge",)
KILLED = frozenset({-signal.SIGKILL})

FAULTS = [
    # The network
    Fault("latency", latency),
    Fault("stall, short", stall(0.05, 0.3)),
    Fault("stall beyond the timeout", stall(1.1, 1.6), truth=Truth.LATE, few=True),
    Fault("connection reset", reset),
    Fault("reply cut off", close, when=("reply",)),
    Fault("half-open connection", swallow, few=True),
    Fault("CLIENT KILL", at(kill_clients)),
    # The server
    Fault("server killed, back empty", at(back_empty), truth=Truth.UNDONE, restarts=True),
    Fault("server killed, back from an old snapshot", back_old, truth=Truth.UNDONE, restarts=True),
    Fault("server restarted, with another run_id", at(back_same), restarts=True),
    Fault(
        "server killed for good", gone_for_good, truth=Truth.UNDONE, restarts=True, few=True,
        only_asked_for=CLUSTER,
    ),
    Fault("server stopped beyond the timeout", at(freeze), truth=Truth.LATE, few=True),
    Fault("CLIENT PAUSE, short", pause(0.2)),
    Fault("CLIENT PAUSE beyond the timeout", pause(1.3), truth=Truth.LATE, few=True),
    Fault("SCRIPT FLUSH", at(flush_scripts)),
    Fault("BUSY script", at(busy)),
    Fault("maxmemory reached", at(fill_memory)),
    Fault("MISCONF", at(fail_to_save)),
    Fault("replica lags", replica_lags, topologies=("standalone", "replicated"), few=True),
    Fault(
        "replica gone, and writes need one", replica_gone,
        topologies=("standalone", "replicated"), few=True, restarts=True,
    ),
    Fault(
        "primary becomes a replica", demote, truth=Truth.UNDONE, topologies=ALONE,
        restarts=True, few=True,
    ),
    Fault(
        "failover", at(fail_over), truth=Truth.UNDONE, topologies=("replicated",),
        restarts=True, few=True,
    ),
    Fault("rights withdrawn", at(withdraw_rights)),
    Fault("password changed", at(change_password)),
    # The data
    Fault("coordinators come back", at(revive)),
    Fault("keys expire", at(expire)),
    Fault("keys change type", at(change_type)),
    Fault("keys grow to 10 MB", at(grow)),
    Fault(
        "two sweeps at once", at(sweep_too), truth=Truth.LATE, phases=PHASES[1:],
        then=second_is_sent_away,
    ),
    Fault("two sweeps at once, without locks", at(sweep_too_without_lock), options=without_lock,
          phases=PHASES[1:]),
    # The lease, and what else holds a run up or ends it
    Fault("lease taken over", at(take_over)),
    Fault("lease deleted", at(delete_lease)),
    Fault(
        "memory full from the start", None, phases=("lease",), before=fill_before, then=went_on
    ),
    Fault("pause file comes and goes", at(hold_up), options=pausing, then=exits(0)),
    Fault("stop file", at(show_stop_file), options=stopping, then=ended_by("stop_file")),
    Fault(
        "time budget ends in a pause", at(hold_up_for_good), options=pausing_in_time,
        then=ended_by("time_budget"), few=True,
    ),
    Fault("client's clock a day off", None, phases=("lease",), options=a_day_off, then=is_refused),
    # A plan
    Fault(
        "plan, and coordinators come back", at(revive), phases=PHASES[1:],
        before=plan_first, options=by_plan, then=exits(0), few=True,
    ),
    # This side
    Fault("SIGKILL of the job", at(kill_job), codes=KILLED),
    Fault("SIGKILL of a worker", at(kill_worker), engines=WORKERS),
    Fault("SIGTERM", at(stop_job(signal.SIGTERM))),
    Fault("SIGINT", at(stop_job(signal.SIGINT))),
    Fault("memory limit on workers", at(starve_workers), engines=WORKERS, only_asked_for=CLUSTER),
    Fault("terminal gone", TERMINAL.act, options=TERMINAL.options, codes=frozenset({129})),
    Fault(
        "terminal gone, SIGHUP ignored", ANOTHER_TERMINAL.act, options=ANOTHER_TERMINAL.options,
    ),
    Fault("disk full for the report", None, options=no_room, phases=AT_THE_END),
    Fault("report to a full device", None, options=full_device, phases=AT_THE_END),
    Fault(
        "SIGTERM, and no room for messages",
        at(stop_job(signal.SIGTERM)),
        options=stderr_full,
        topologies=ALONE,
    ),
    Fault(
        "stdout full", None, options=stdout_full, phases=AT_THE_END, topologies=ALONE,
        has_report=False,
    ),
    Fault(
        "stdout closed", None, options=nobody_reads, phases=AT_THE_END, topologies=ALONE,
        has_report=False,
    ),
]  # fmt: skip

BY_NAME = {fault.name: fault for fault in FAULTS}

FAULTS += [
    *(
        with_journal(BY_NAME[name])
        for name in (
            "connection reset", "SCRIPT FLUSH", "maxmemory reached", "coordinators come back",
            "keys expire", "SIGKILL of the job", "SIGKILL of a worker", "SIGTERM",
            "lease taken over",
        )
    ),
    with_journal(
        Fault("disk full for the journal", None, options=tiny_disk(2 * PAGE)),
        name="disk full for the journal", phases=("purge",),
    ),
    Fault(
        "no room for a journal at all", None, phases=("between",), engines=("serial",),
        before=know_all, options=tiny_disk(64), then=no_journal, restarts=True,
    ),
    *(
        restoring(BY_NAME[name])
        for name in (
            "connection reset", "reply cut off", "stall, short", "half-open connection",
            "CLIENT KILL", "maxmemory reached", "SIGKILL of the job", "SIGTERM", "lease taken over",
        )
    ),
]  # fmt: skip

BY_NAME = {fault.name: fault for fault in FAULTS}
