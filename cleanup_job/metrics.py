"""What a run came to, as a file for node_exporter's textfile collector.

All are gauges of the last run, but the time of the last success: that is taken over from the file
before, so that it survives runs that fail. The file is replaced as a whole. Each sample has the
`target` of the configuration, so that files of two timers on one machine can stand side by side.

A success is a run that was complete and no dry run. Every run that gets as far as a valid
configuration leaves a file, also one without a report; then there are no samples of coordinators
and keys, since nobody knows them.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType

import msgspec

from cleanup_job import __version__
from cleanup_job.errors import CleanupJobError, ConfigError
from cleanup_job.model import OUTCOMES, Access
from cleanup_job.report import Report
from cleanup_job.whole_file import replacing

STATUSES = ("complete", "partial", "refused", "failed", "try_again", "error", "stopped")
"""What a run can come to: that of its report; without one, by its exit code."""

_WITHOUT_REPORT = {1: "failed", 2: "error", 3: "partial", 4: "refused", 75: "try_again"}

SUFFIX = ".prom"
"""The collector reads no other files."""

READABLE = 0o644
"""By the user of the collector, whatever our umask is; there is no secret in it."""

LAST_SUCCESS = "cleanup_job_last_success_timestamp_seconds"


class Family(msgspec.Struct, frozen=True):
    """Samples of one name, by the values of `labels`."""

    name: str
    text: str
    labels: tuple[str, ...]
    samples: Mapping[tuple[str, ...], float]


class Textfile:
    """Writes the file when its block ends, however it does.

    Attributes:
        report: of the run, once there is one.
        exit_code: of the command, once it is known.
    """

    def __init__(self, path: str, access: Access, *, dry_run: bool) -> None:
        """Find out before the run whether the file can be written.

        Raises:
            ConfigError: without prometheus_client, or for a file that would not be collected.
        """
        try:
            import prometheus_client  # noqa: F401 - who asks for metrics waits for it
        except ImportError:
            raise ConfigError(
                "--prom needs prometheus_client: pip install 'cleanup-job[metrics]'"
            ) from None
        if not path.endswith(SUFFIX):
            raise ConfigError(
                f"--prom: {path} would not be collected: node_exporter reads files that end in "
                f"{SUFFIX}"
            )
        self.report: Report | None = None
        self.exit_code: int | None = None
        self._path = Path(path)
        self._target = target_of(access)
        self._dry_run = dry_run
        self._began_s = time.time()
        self._last_success_s = last_success_s(self._path, self._target)

    def __enter__(self) -> Textfile:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Write it.

        Raises:
            ConfigError: if that can't be, and nothing else went wrong.
        """
        status, exit_code = self._ended(error)
        now_s = time.time()
        if status == "complete" and not self._dry_run:
            self._last_success_s = now_s
        families = [
            *_of_any_run(
                status,
                exit_code,
                now_s,
                now_s - self._began_s,
                self._last_success_s,
                dry_run=self._dry_run,
            ),
            *(_of_report(self.report) if self.report else ()),
        ]
        try:
            with replacing(self._path) as file:
                file.write(exposition(families, self._target))
            self._path.chmod(READABLE)
        except OSError as trouble:
            if error is None:
                raise ConfigError(
                    f"--prom: {self._path} can't be written ({trouble.strerror})"
                ) from trouble

    def _ended(self, error: BaseException | None) -> tuple[str, int]:
        """Status and exit code."""
        if isinstance(error, CleanupJobError):
            return _WITHOUT_REPORT.get(error.exit_code, "error"), error.exit_code
        if isinstance(error, KeyboardInterrupt):
            return "stopped", 128 + (error.args[0] if error.args else 2)
        if isinstance(error, MemoryError):
            return "partial", 3
        if error is not None or self.report is None:
            return "failed", 1
        exit_code = self.exit_code or 0
        return ("stopped" if exit_code > 128 else self.report.status), exit_code


def target_of(access: Access) -> str:
    """What is swept, in a word, without its login."""
    endpoint = access.endpoint
    name = access.service if access.sentinels else endpoint.address
    return f"{name}/{endpoint.db}"


def last_success_s(path: Path, target: str) -> float:
    """Of the file before; 0 if there was none, or nobody can read it."""
    from prometheus_client.parser import text_string_to_metric_families

    try:
        for family in text_string_to_metric_families(path.read_text("utf-8")):
            for sample in family.samples:
                if sample.name == LAST_SUCCESS and sample.labels.get("target") == target:
                    return float(sample.value)
    except (OSError, ValueError, LookupError):
        # A file that is damaged costs the time of the last success, and not the run. An alert
        # on it is right: nobody knows of a success.
        return 0.0
    return 0.0


def exposition(families: Iterator[Family] | list[Family], target: str) -> bytes:
    """The text that Prometheus reads."""
    from prometheus_client import CollectorRegistry, Gauge, generate_latest

    registry = CollectorRegistry()
    for family in families:
        gauge = Gauge(family.name, family.text, ["target", *family.labels], registry=registry)
        for values, number in family.samples.items():
            gauge.labels(target, *values).set(number)
    return bytes(generate_latest(registry))


def _of_any_run(
    status: str,
    exit_code: int,
    now_s: float,
    duration_s: float,
    success_s: float,
    *,
    dry_run: bool,
) -> Iterator[Family]:
    yield _one(LAST_SUCCESS, "When a run was complete last, and no dry run; 0 for never", success_s)
    yield _one("cleanup_job_last_run_timestamp_seconds", "When the last run ended", now_s)
    yield _one("cleanup_job_last_run_duration_seconds", "How long the last run took", duration_s)
    yield _one("cleanup_job_last_run_exit_code", "What the last run exited with", exit_code)
    yield _one("cleanup_job_last_run_dry_run", "Whether the last run only looked", dry_run)
    yield Family(
        "cleanup_job_last_run_status",
        "1 for what the last run came to",
        ("status",),
        {(name,): float(name == status) for name in STATUSES},
    )
    yield Family("cleanup_job_build_info", "The version", ("version",), {(__version__,): 1.0})


def _of_report(report: Report) -> Iterator[Family]:
    yield from _of_what_was_found(report)
    yield from _of_keys(report)
    yield from _of_costs(report)
    target = report.target
    yield Family(
        "cleanup_job_server_info",
        "What was swept",
        ("product", "server_version", "mode"),
        {(target.product, target.version, target.mode): 1.0},
    )


def _of_what_was_found(report: Report) -> Iterator[Family]:
    found = report.coordinators
    states = ("live", "stale", "unreadable", "future", "orphaned")
    yield Family(
        "cleanup_job_coordinators",
        "Coordinators that the last run found",
        ("state",),
        {(name,): getattr(found, name) for name in states},
    )
    outcomes = ("purged", "revived", "orphans_purged")
    yield Family(
        "cleanup_job_coordinators_handled",
        "What became of coordinators in the last run",
        ("outcome",),
        {(name,): getattr(found, name) for name in outcomes},
    )


def _of_keys(report: Report) -> Iterator[Family]:
    families = report.keys.by_family.items()
    yield _one("cleanup_job_keys_scanned", "Keys that the server held", report.keys.scanned)
    for name, text in (
        ("matched", "Keys of the family that the last run found"),
        ("planned", "Keys that the last run was to delete"),
    ):
        yield Family(
            f"cleanup_job_keys_{name}",
            text,
            ("family",),
            {(family,): float(getattr(counts, name)) for family, counts in families},
        )
    yield Family(
        "cleanup_job_keys",
        "What became of the keys that the last run was to delete",
        ("family", "outcome"),
        {
            (family, outcome): float(getattr(counts, outcome))
            for family, counts in families
            for outcome in OUTCOMES
        },
    )


def _of_costs(report: Report) -> Iterator[Family]:
    server = report.server
    yield Family(
        "cleanup_job_phase_duration_seconds",
        "How long the phases of the last run took",
        ("phase",),
        {(name,): cost.wall_s for name, cost in report.costs.items()},
    )
    yield _one(
        "cleanup_job_server_cpu_seconds",
        "CPU that the servers used meanwhile, for others too",
        server.cpu_s,
    )
    yield _one("cleanup_job_client_cpu_seconds", "CPU that we used ourselves", report.client.cpu_s)
    yield Family(
        "cleanup_job_server_memory_bytes",
        "Memory that the servers used",
        ("when",),
        {("before",): server.used_memory_before, ("after",): server.used_memory_after},
    )
    yield Family(
        "cleanup_job_command_calls",
        "How often a command was sent in the last run",
        ("command",),
        {(name,): float(times.calls) for name, times in report.commands.items()},
    )
    for word, part in (("p50", "p50_ms"), ("p99", "p99_ms"), ("max", "max_ms")):
        yield Family(
            f"cleanup_job_command_{word}_seconds",
            f"How long a command took in the last run ({word})",
            ("command",),
            {(name,): getattr(times, part) / 1000 for name, times in report.commands.items()},
        )
    yield Family(
        "cleanup_job_paused_seconds",
        "How long the throttle held the last run up",
        ("reason",),
        {(pause.code,): pause.seconds for pause in report.throttle},
    )


def _one(name: str, text: str, number: float) -> Family:
    return Family(name, text, (), {(): float(number)})
