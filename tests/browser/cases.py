"""Reports as runs give them, made up where a real run would take too long. `CASES` has all."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Any

from msgspec import structs

from cleanup_job.model import OUTCOMES, Problem, Written
from cleanup_job.report import (
    AgeBand,
    ClientUse,
    CommandTimes,
    Coordinators,
    Example,
    FamilyKeys,
    Keys,
    Loss,
    Moment,
    NodeUse,
    PartitionWalk,
    Pause,
    PhaseCost,
    Phases,
    PlanUse,
    Report,
    ServerUse,
    Stop,
    Target,
)

CONFIG: dict[str, Any] = {
    "redis": {"url": "redis://127.0.0.1:6379/0", "password_file": None},
    "stale_after": 600,
    "keys": {
        "heartbeat": "blocking:heartbeat:{id}",
        "timestamp": {"fields": ["timestamp", "lastHeartbeat"], "unit": "ms"},
        "owned": {
            "signal": "blocking:signal:{id}",
            "ack": "blocking:ack:{id}:*",
            "idempotency": "blocking:idempotency:*{id}*",
            "activity": "coordinator:activity:{id}",
        },
    },
    "orphans": "report",
    "orphan_grace": 600,
    "workers": "auto",
    "engine": "processes",
    "lock": True,
    "max_block_ms": 2,
    "max_purge": None,
}

BANDS_S = (600, 660, 720, 900, 1_800, 3_600, 7_200, 14_400, 43_200, 86_400, 172_800, 604_800)

MARKUP = '"><script>document.title="ran"</script><img src=x onerror=alert(1)>'

HOSTILE = (
    MARKUP,
    "</td></tr></table></main><style>*{display:none}</style>",
    "</title></style></svg><script>alert(1)</script>",
    "<svg/onload=alert(1)><math><mtext><option><FAKEFAKE></option></mtext></math>",
    "javascript:alert(1)//&lt;script&gt;&#60;script&#62;&amp;",
    "' onfocus='alert(1)' autofocus='",
    "<!-- --!> <![CDATA[ ]]> <?php ?> {{7*7}} ${7*7}",
    "<base href=https://evil.example><meta http-equiv=refresh content=0;url=https://evil.example>",
    "<link rel=stylesheet href=https://evil.example/a.css><iframe src=https://evil.example>",
    "\x00\x07\x1b[31mred\x1b[0m\r\n\t\x7f\x85\u2028",
    "\u202egnp.exe\u2066\u200f\u2069 \u200b\u00ad\ufeff \ufdd0\uffff",
    "\ud800 half a pair, \\xff\\xfe no UTF-8",
    "שלום-עולם مرحبا",
    "z" * 10_000,
    "a̷̛" * 200,
    "😀👩‍👩‍👧 𝔘𝔫𝔦𝔠𝔬𝔡𝔢",
    "",
    " ",
)
"""Ids that nothing on the server forbids, and some that only a file can hold."""


def report(**fields: Any) -> Report:
    settings: dict[str, Any] = {
        "status": "complete",
        "dry_run": False,
        "run_id": "5f0c2a91",
        "started_at": "2025-10-10T21:01:11.000Z",
        "duration_s": 0.11,
        "target": Target("valkey", "9.1.2", "standalone", ["127.0.0.1:6379"], 0),
        "config": CONFIG,
    }
    return Report(**{**settings, **fields})


def seed() -> Report:
    """The validation report's case: 10,000 stale coordinators and 10 live ones, 40,040 keys."""
    return swept(10_000, 10, duration_s=0.142)


def swept(stale: int, live: int, *, duration_s: float, **fields: Any) -> Report:
    """A run that deleted all that was dead, four keys each."""
    families = ("heartbeat", "signal", "ack", "activity")
    by_family = {
        name: FamilyKeys(matched=stale + live, planned=stale, deleted=stale) for name in families
    }
    by_family["idempotency"] = FamilyKeys()
    keys = 4 * (stale + live)
    scanned = fields.pop("scanned", keys)
    survey_s, judge_s = 0.38 * duration_s, 0.12 * duration_s
    purge_s = 0.45 * duration_s
    server_s = 8.5e-6 * stale
    known: dict[str, Any] = {
        "duration_s": duration_s,
        "coordinators": Coordinators(
            checked=stale + live, live=live, stale=stale, purged=stale
        ),
        "keys": total(scanned, by_family),
        "phases": Phases(survey_s, judge_s, purge_s),
        "costs": {
            "survey": PhaseCost(survey_s, 0.8 * survey_s, 0.5 * server_s, survey_commands(scanned)),
            "judge": PhaseCost(judge_s, judge_s, None),
            "purge": PhaseCost(purge_s, 0.4 * purge_s, 0.5 * server_s, purge_commands(4 * stale)),
        },
        "server": ServerUse(server_s, 1_300_000 + 120 * keys, 1_350_000),
        "client": ClientUse(0.7 * duration_s),
        "nodes": [
            NodeUse(
                "127.0.0.1:6379", "9.1.2", 0, scanned, scanned - 4 * stale, server_s,
                1_300_000 + 120 * keys, 1_350_000,
            )
        ],
        "partitions": walked(["127.0.0.1:6379"], 4, scanned, survey_s),
        "samples": [
            *(
                Example(f"test-swarm-{n}", "stale", "older than stale_after", 700.4 - n / 10)
                for n in range(3)
            ),
        ],
        "ages": ages(stale, [0, 1]),
        "timeline": moments(duration_s, scanned, 4 * stale),
    }  # fmt: skip
    return report(**{**known, **fields})


def total(scanned: int, by_family: dict[str, FamilyKeys]) -> Keys:
    sums = {
        name: sum(getattr(family, name) for family in by_family.values())
        for name in ("matched", "planned", *OUTCOMES)
    }
    return Keys(scanned=scanned, by_family=by_family, **sums)


def survey_commands(keys: int) -> dict[str, CommandTimes]:
    return {
        "SCAN": CommandTimes(keys // 1_000 + 4, 0.42, 1.18, 1.31),
        "MGET": CommandTimes(keys // 4_000 + 1, 0.97, 1.6, 1.62),
    }


def purge_commands(keys: int) -> dict[str, CommandTimes]:
    return {
        "EVALSHA": CommandTimes(keys // 500 + 1, 0.61, 1.43, 1.98),
        "SCRIPT LOAD": CommandTimes(1, 0.12, 0.12, 0.12),
    }


def ages(stale: int, filled: Sequence[int]) -> list[AgeBand]:
    """All stale ones in some bands, the fewer the older."""
    weights = [0.5 ** filled.index(n) if n in filled else 0 for n in range(len(BANDS_S))]
    each = [int(stale * weight / sum(weights)) for weight in weights]
    each[filled[0]] += stale - sum(each)
    return [
        AgeBand(from_s, to_s, coordinators)
        for from_s, to_s, coordinators in zip(BANDS_S, (*BANDS_S[1:], None), each, strict=True)
    ]


def walked(nodes: Sequence[str], each: int, keys: int, seconds: float) -> list[PartitionWalk]:
    chance = random.Random(3)
    share = keys // (len(nodes) * each)
    return [
        PartitionWalk(
            node, f"{part}/{each}", int(share * chance.uniform(0.9, 1.1)), seconds / each, 1
        )
        for node in nodes
        for part in range(each)
    ]


def moments(
    duration_s: float, walked: int, deleted: int, stops: Sequence[Stop] = (), number: int = 60
) -> list[Moment]:
    """Survey, judge and purge, and nothing in a pause."""
    chance = random.Random(5)
    length_s = duration_s / number
    found = []
    for n in range(number):
        at_s = n * length_s
        part = n / number
        phase = "survey" if part < 0.4 else "judge" if part < 0.53 else "purge"
        held = any(stop.at_s <= at_s < stop.at_s + stop.seconds for stop in stops)
        if phase == "judge" or held:
            found.append(Moment(at_s, length_s, phase, 0))
            continue
        work = walked / (0.4 * number) if phase == "survey" else deleted / (0.47 * number)
        keys = int(work * chance.uniform(0.75, 1.2))
        p50_ms = chance.uniform(0.35, 0.7)
        p99_ms = p50_ms * chance.uniform(1.5, 3)
        max_ms = p99_ms * chance.choice((1, 1.1, 1.3, 2.5))
        found.append(Moment(at_s, length_s, phase, keys, keys // 500 + 1, p50_ms, p99_ms, max_ms))
    return found


def failover() -> Report:
    """A cluster of three primaries, one of which went in the middle of the purge."""
    names = ["10.0.3.11:7000", "10.0.3.12:7000", "10.0.3.13:7000"]
    run = swept(30_000, 420, duration_s=14.2)
    stops = [
        Stop("max_replica_lag_bytes", 7.9, 1.1),
        Stop("max_latency_ms", 9.6, 0.4),
        Stop("max_latency_ms", 10.1, 0.7),
    ]
    by_family = {
        name: FamilyKeys(
            matched=counts.matched, planned=counts.planned, deleted=counts.deleted - 2_512,
            failed=1_930, unknown=500, spared=40, gone=42,
        )
        for name, counts in run.keys.by_family.items()
        if counts.planned
    }  # fmt: skip
    return report(
        status="partial",
        duration_s=14.2,
        target=Target("valkey", "8.1.8", "cluster", names, 0),
        coordinators=Coordinators(
            checked=30_423, live=420, stale=30_000, unreadable=2, future=1, orphaned=118,
            purged=27_448, revived=10,
        ),
        keys=total(240_000, by_family),
        phases=Phases(5.4, 1.7, 6.6),
        costs={
            **run.costs,
            "purge": PhaseCost(6.6, 1.4, None, purge_commands(120_000)),
        },
        server=ServerUse(1.31, 96_400_000, 61_000_000),
        client=ClientUse(2.9),
        workers=2,
        nodes=[
            NodeUse(names[0], "8.1.8", 5_461, 80_121, 41_960, 0.48, 32_100_000, 20_400_000,
                    [(0, 5_460)]),
            NodeUse(names[1], "8.1.8", 5_462, 79_958, 0, 0.0, 32_200_000, 0, [(5_461, 10_922)]),
            NodeUse(names[2], "8.1.8", 5_461, 79_921, 40_870, 0.45, 32_100_000, 20_300_000,
                    [(10_923, 16_383)]),
        ],
        partitions=walked(names, 4, 240_000, 5.2),
        throttle=[
            Pause("max_latency_ms", "max_latency_ms: 10.0.3.13:7000 answers in 4.1 ms", 2, 1.1),
            Pause(
                "max_replica_lag_bytes",
                "max_replica_lag_bytes: 10.0.3.21:7000 is 1,310,720 bytes behind", 1, 1.1,
            ),
            Pause("max_keys_per_second", "max_keys_per_second: rests between batches", 0, 0.8),
        ],
        stops=stops,
        timeline=moments(14.2, 240_000, 110_000, stops, 90),
        ages=ages(30_000, [2, 3, 4, 6, 8, 11]),
        losses=[Loss("swarm-7:coordinator-12", 3), Loss("swarm-9:coordinator-4", 1)],
        samples=[
            Example("swarm-1:coordinator-77", "stale", "older than stale_after", 1_209_660.0),
            Example("swarm-1:coordinator-12", "stale", "older than stale_after", 88_112.5),
            Example("swarm-3:coordinator-40", "orphaned", "no heartbeat, 3 keys"),
            Example("swarm-3:coordinator-41", "orphaned", "no heartbeat, 12 keys"),
            Example("coordinator-x", "unreadable", "is no JSON: malformed (byte 0)"),
            Example("coordinator-y", "unreadable", "has no timestamp or lastHeartbeat"),
            Example("clock-ahead", "future", "its time lies in the future", -3_720.0),
            Example("swarm-7:coordinator-12", "revived", "its heartbeat is fresh", 0.8),
            Example("swarm-2:coordinator-5", "spared", "its heartbeat changed", 640.0),
        ],
        uncovered=[(5_461, 5_999), (7_000, 7_000)],
        journal=Written("/var/lib/cleanup-job/5f0c2a91.journal", 27_448, 109_792, 18_400_211),
        warnings=[
            Problem(
                "uncovered",
                "slots were not covered: their server was gone or kept changing, or workers died",
                540, ("5461-5999", "7000", "10.0.3.12:7000"),
            ),
            Problem("spared", "coordinators changed after they were judged, and were spared", 10,
                    ("swarm-2:coordinator-5",)),
        ],
        errors=[
            Problem("unreachable", "10.0.3.12:7000 closed the connection", 7_720),
            Problem(
                "failed_over",
                "servers restarted or failed over during the purge, and may have brought back what "
                "was deleted: run again",
                1, ("10.0.3.12:7000",),
            ),
        ],
    )  # fmt: skip


def untouched(run: Report) -> dict[str, Any]:
    """What is different in a report if nothing was deleted."""
    by_family = {
        name: FamilyKeys(matched=counts.matched, planned=counts.planned)
        for name, counts in run.keys.by_family.items()
    }
    return {
        "keys": total(run.keys.scanned, by_family),
        "timeline": [moment for moment in run.timeline if moment.phase != "purge"],
        "costs": {name: cost for name, cost in run.costs.items() if name != "purge"},
        "nodes": [
            structs.replace(
                node, keys_after=node.keys_before, used_memory_after=node.used_memory_before
            )
            for node in run.nodes
        ],
    }


def refused() -> Report:
    """Nobody lives: a clock, or the pattern, is wrong."""
    run = swept(2_140, 0, duration_s=0.09)
    why = (
        "not one of 2,140 coordinators is live: either all are dead, or a clock or the heartbeat's "
        "pattern is wrong; if they are, give --yes or set expect_all_dead"
    )
    return structs.replace(
        run,
        **untouched(run),
        status="refused",
        coordinators=Coordinators(checked=2_140, stale=2_140),
        errors=[Problem("all_dead", why, 2_140)],
    )


def empty() -> Report:
    """An empty server."""
    return report(
        duration_s=0.004,
        phases=Phases(0.001, 0.0, 0.0),
        keys=Keys(by_family={"heartbeat": FamilyKeys(), "signal": FamilyKeys()}),
        costs={"survey": PhaseCost(0.001, 0.001, 0.0, {"SCAN": CommandTimes(2, 0.1, 0.1, 0.1)})},
        server=ServerUse(0.001, 1_204_000, 1_204_000),
        nodes=[NodeUse("127.0.0.1:6379", "9.1.2", 0, 0, 0, 0.001, 1_204_000, 1_204_000)],
        partitions=walked(["127.0.0.1:6379"], 1, 0, 0.001),
    )


def dry_run() -> Report:
    """What would go, by a plan file."""
    run = swept(850, 120, duration_s=0.06, scanned=1_040_040)
    return structs.replace(
        run,
        **untouched(run),
        dry_run=True,
        coordinators=Coordinators(checked=970, live=120, stale=850, orphaned=31),
        plan=PlanUse("plan.jsonl.gz", "2025-10-10T21:01:11Z", 850, 3_400, 850),
        ages=ages(850, [0, 1, 2, 3]),
    )


def stopped() -> Report:
    """A throttled run that its time budget ended."""
    stops = [Stop("max_latency_ms", 3.0 * n + 2, 0.6 + n % 3 / 4) for n in range(38)]
    by_family = {
        name: FamilyKeys(matched=51_000, planned=50_000, deleted=31_000, failed=19_000)
        for name in ("heartbeat", "signal", "ack", "activity")
    }
    return swept(
        50_000,
        1_000,
        duration_s=120.3,
        status="partial",
        stopped_by="time_budget",
        coordinators=Coordinators(checked=51_000, live=1_000, stale=50_000, purged=31_000),
        keys=total(204_000, by_family),
        stops=stops,
        timeline=moments(120.3, 204_000, 124_000, stops, 120),
        throttle=[
            Pause("max_latency_ms", "max_latency_ms: 127.0.0.1:6379 answers in 5 ms", 38, 31.9),
            Pause("nice", "nice: rests between commands", 0, 22.0),
        ],
        ages=ages(50_000, [1, 2, 3, 4, 5, 6]),
        errors=[
            Problem(
                "not_attempted",
                "planned keys were left in place when the run ended: the time budget of 120 s "
                "ended; the next run goes on",
                76_000,
            )
        ],
    )


def million() -> Report:
    """1,000,000 coordinators on a cluster of 90 primaries, and every sample that there is room for.

    As large as a report gets: `--show 2000`, 16 partitions for each primary, an hour of pauses.
    """
    names = [f"redis-{n:02}.cache.svc.cluster.example:6379" for n in range(90)]
    size = 16_384 // len(names)
    stops = [Stop("max_latency_ms", n * 0.9, 0.3) for n in range(2_000)]
    kinds = ("stale", "orphaned", "unreadable", "future", "revived", "spared")
    return swept(
        1_000_000,
        54_321,
        duration_s=1_871.4,
        scanned=31_415_926,
        target=Target("redis", "7.4.2", "cluster", names, 0),
        nodes=[
            NodeUse(
                name, "7.4.2", size, 349_000 + 61 * n, 302_000 + 70 * n, 3.1 + n / 90,
                912_000_000, 804_000_000,
                [(n * size, 16_383 if n == len(names) - 1 else (n + 1) * size - 1)],
            )
            for n, name in enumerate(names)
        ],
        workers=16,
        partitions=walked(names, 16, 31_415_926, 700.0),
        stops=stops,
        timeline=moments(1_871.4, 31_415_926, 4_000_000, stops, 3_000),
        throttle=[Pause("max_latency_ms", "max_latency_ms: a primary is slow", 2_000, 600.0)],
        ages=ages(1_000_000, [*range(len(BANDS_S))]),
        samples=[
            Example(f"swarm-{n:06}:coordinator-{n * 7919 % 9973:04}", kind, "a reason", 700.0 + n)
            for kind in kinds
            for n in range(2_000)
        ],
        losses=[Loss(f"swarm-{n}:coordinator", 3) for n in range(2_000)],
        warnings=[Problem(f"code-{n}", f"something odd, number {n}", n + 1) for n in range(200)],
    )  # fmt: skip


def fragmented() -> Report:
    """A cluster whose slots lie about in single ones, which is the worst case for the map."""
    names = [f"[2001:db8::{n}]:6379" for n in range(1, 6)]
    return swept(
        500,
        50,
        duration_s=0.8,
        target=Target("redis", "7.0.15", "cluster", names, 0),
        nodes=[
            NodeUse(name, "7.0.15", 3_277, 1_000, 600, 0.1, 9_000_000, 8_000_000,
                    [(slot, slot) for slot in range(n, 16_384, 5)])
            for n, name in enumerate(names)
        ],
        partitions=walked(names, 2, 5_000, 0.3),
    )  # fmt: skip


def hostile(names: Sequence[str] = HOSTILE) -> Report:
    """Every text of a report is one that somebody chose to do harm with."""

    def name(number: int) -> str:
        return names[number % len(names)]

    number = len(names)
    times = CommandTimes(3, 0.1, 0.2, 0.3)
    family = FamilyKeys(matched=9, planned=6, deleted=2, gone=1, spared=1, failed=1, unknown=1)
    by_family = {f"{n} {name(n)}": family for n in range(number)}
    kinds = ("stale", "orphaned", "unreadable", "future", "revived", "spared", name(0))
    return report(
        status="partial",
        run_id=name(0),
        started_at=name(1),
        stopped_by=name(2),
        duration_s=2.5,
        target=Target(name(3), name(4), "cluster", [name(n) for n in range(number)], 0),
        coordinators=Coordinators(20, 2, 9, 5, 4, 3, 5, 1, 1),
        keys=total(400, by_family),
        commands={name(5): times},
        costs={
            f"{n} {name(n)}": PhaseCost(0.5, 0.2, 0.1, {name(n + 1): times}) for n in range(number)
        },
        nodes=[
            NodeUse(name(n), name(n + 1), 900, 90, 10, 0.1, 5_000, 4_000,
                    [(n * 900, n * 900 + 899)])
            for n in range(number)
        ],
        plan=PlanUse(name(6), name(7), 9, 40, 6, 2, 1),
        throttle=[Pause(name(n), name(n + 1), n, 0.1) for n in range(number)],
        journal=Written(name(8), 3, 9, 500),
        losses=[Loss(one, 2) for one in names],
        partitions=[PartitionWalk(name(n), name(n + 2), 30, 0.1, 1) for n in range(number)],
        samples=[
            Example(one, kind, name(n + 1), 700.0 + n)
            for kind in kinds
            for n, one in enumerate(names)
        ],
        ages=ages(9, [0]),
        timeline=[
            Moment(n / 10, 0.1, name(n), 20, 3, 0.2, 0.4, 0.9) for n in range(number)
        ],
        stops=[Stop(one, 0.2, 0.1) for one in names],
        uncovered=[(16_000, 16_100)],
        config={
            f"{n} {name(n)}": {name(n + 1): [name(n + 2), {name(n + 3): name(n + 4)}]}
            for n in range(number)
        },
        warnings=[Problem(name(n), name(n + 1), 2, tuple(names[:3])) for n in range(number)],
        errors=[Problem(name(n), name(n + 2), 2, tuple(names[3:6])) for n in range(number)],
    )  # fmt: skip


CASES: dict[str, Callable[[], Report]] = {
    "seed": seed,
    "failover": failover,
    "refused": refused,
    "empty": empty,
    "dry_run": dry_run,
    "stopped": stopped,
    "million": million,
    "fragmented": fragmented,
    "hostile": hostile,
}
