"""A Dask cluster to work on: found or started, its versions compared, secrets on the way or not.

Imported only by runs with `engine: dask`, since `distributed` takes its time and is an extra.
"""

from __future__ import annotations

import gc
import logging
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pkgutil import resolve_name
from typing import Any, NamedTuple

from cleanup_job.errors import ConfigError, EngineError, EngineUnavailableError
from cleanup_job.model import Access, withheld
from cleanup_job.settings import Dask
from cleanup_job.wire import know_password, knows_password

try:
    from distributed import Client, LocalCluster
    from distributed.security import Security
    from distributed.versions import get_versions
except ImportError as error:
    raise EngineError(
        f"engine: dask needs a package that is not installed ({error.name}); "
        "pip install 'cleanup-job[distributed]'"
    ) from error

CONNECT_S = 10.0
"""How long to wait for the scheduler, and for its first worker."""

ANSWER_S = 16.0
"""How long to wait for an answer of workers: they may be busy with their own for a while."""

OF_SCHEDULER = ("python", "dask", "distributed", "cloudpickle")
"""What has to be the same everywhere, since what one of them pickles another reads. The scheduler
passes on what it does not look into, so it needs no more than these."""

OF_WORKERS = (*OF_SCHEDULER, "cleanup_job", "msgspec")

MOST_LOCAL = 4
"""Workers of a cluster that is started here, unless it is said how many."""


PACKAGES = ["msgspec"]
"""What Dask does not compare by itself, and can be asked for."""

OURS = "cleanup_job"
"""This is asked for by importing it: what runs may be a checkout, and no installed package."""


class Cluster(NamedTuple):
    """What a run needs of one.

    Attributes:
        access: how workers get at the servers.
        admits: False for a worker that came later, and could not be used.
    """

    client: Client
    access: Access
    admits: Callable[[str], bool]


class _Doorkeeper:
    """Looks at workers that come when the others were looked at already."""

    def __init__(self, client: Client, found: Mapping[str, Any], needs_password: bool) -> None:
        self._client = client
        self._found = found
        self._needs_password = needs_password
        self._known = frozenset(found["workers"])

    def __call__(self, address: str) -> bool:
        if address in self._known:
            return True
        told = ask(self._client, get_versions, packages=PACKAGES, workers=[address])
        add_ours(self._client, told)
        try:
            require_same_versions({**self._found, "workers": told})
        except EngineError:
            return False
        if not self._needs_password:
            return True
        return bool(ask(self._client, knows_password, workers=[address])[address])


def add_ours(client: Client, told: dict[str, Any]) -> None:
    """Add which version of ours these workers have; None where they have none.

    Args:
        client: of the scheduler.
        told: by address, what else a worker has.
    """
    name = f"{OURS}:__version__"
    found = ask(client, resolve_name, name, workers=[*told], on_error="return") if told else {}
    for address, one in told.items():
        version = found.get(address)
        one["packages"][OURS] = version if isinstance(version, str) else None


def ask(client: Client, function: Callable[..., Any], *args: Any, **options: Any) -> Any:
    """As `Client.run`, which would wait for ever for somebody who does not answer."""
    run = client._run  # noqa: SLF001
    return client.sync(run, function, *args, **options, callback_timeout=ANSWER_S)


@contextmanager
def cluster(settings: Dask, workers: int | str, access: Access) -> Iterator[Cluster]:
    """A client of the scheduler, and how workers are to get at the servers.

    Args:
        settings: where it is; without an address, workers are started on this machine.
        workers: how many to start.
        access: with the secrets.

    Raises:
        EngineError: versions differ, or secrets could not reach the workers safely.
        EngineUnavailableError: the scheduler can't be reached, or has no workers.
    """
    with ExitStack() as ends:
        ends.enter_context(_quiet())
        if settings.scheduler is None:
            address: Any = ends.enter_context(_local_cluster(workers, access))
        else:
            address = settings.scheduler
        client = ends.enter_context(_client(address, settings))
        try:
            found: Any = client.get_versions(packages=PACKAGES)
            found["client"]["packages"][OURS] = resolve_name(f"{OURS}:__version__")
            add_ours(client, found["workers"])
            require_same_versions(found)
            theirs = _for_workers(client, settings, access)
            yield Cluster(client, theirs, _Doorkeeper(client, found, theirs is not access))
        finally:
            know_password(None)


@contextmanager
def _quiet() -> Iterator[None]:
    """What Dask has to say of lost connections is told by us, with what it means."""
    loggers = [logging.getLogger(name) for name in LOGGERS]
    for logger in loggers:
        logger.addFilter(_never)
    try:
        yield
    finally:
        gc.collect()  # or asyncio complains later of errors that nobody looked at
        for logger in loggers:
            logger.removeFilter(_never)


LOGGERS = (
    "distributed.client", "distributed.core", "distributed.batched", "distributed.comm.tcp",
    "distributed.deploy", "distributed.nanny", "distributed.scheduler", "distributed.worker",
    "distributed.utils", "tornado.application", "asyncio",
)  # fmt: skip
"""A logger has no say in what its children log."""


def _never(_: logging.LogRecord) -> bool:
    return False


@contextmanager
def _local_cluster(workers: int | str, access: Access) -> Iterator[LocalCluster]:
    count = workers if isinstance(workers, int) else min(MOST_LOCAL, max(2, os.cpu_count() or 1))
    password = access.endpoint.password
    with LocalCluster(
        n_workers=count,
        threads_per_worker=1,
        dashboard_address="127.0.0.1:0",
        silence_logs=logging.CRITICAL,
        preload=["cleanup_job.remote"],
        # They are ours, and on this machine.
        env={"REDIS_PASSWORD": str(password)} if password is not None else {},
    ) as started:
        yield started


@contextmanager
def _client(address: Any, settings: Dask) -> Iterator[Client]:
    try:
        client = Client(
            address, timeout=CONNECT_S, set_as_default=False, security=_security(settings)
        )
    except (OSError, ValueError, TypeError) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise EngineUnavailableError(
            f"the scheduler {address} can't be reached: {reason}; check dask.scheduler and that it "
            "runs"
        ) from error
    try:
        client.wait_for_workers(1, timeout=CONNECT_S)
    except TimeoutError as error:
        client.close()
        raise EngineUnavailableError(
            f"the scheduler {address} has no workers: start some with dask worker {address}"
        ) from error
    try:
        yield client
    finally:
        client.close(timeout=CONNECT_S)


def _security(settings: Dask) -> Security | None:
    if settings.ca_file is None:
        return None
    return Security(
        tls_ca_file=settings.ca_file,
        tls_client_cert=settings.cert_file,
        tls_client_key=settings.key_file or settings.cert_file,
        require_encryption=True,
    )


def require_same_versions(found: Mapping[str, Any]) -> None:
    """Compare what pickles here and there.

    Args:
        found: as `Client.get_versions` returns it.

    Raises:
        EngineError: naming who has what.
    """
    ours = found["client"]["packages"]
    others: dict[str, tuple[Any, tuple[str, ...]]] = {
        "the scheduler": (found["scheduler"], OF_SCHEDULER)
    }
    others |= {f"worker {name}": (told, OF_WORKERS) for name, told in found["workers"].items()}
    wrong = []
    for who, (told, names) in others.items():
        theirs = told["packages"] | {"python": told["host"]["python"]}
        for name in names:
            mine = _comparable(name, ours.get(name) or found["client"]["host"].get(name))
            if _comparable(name, theirs.get(name)) != mine:
                wrong.append(f"{who} has {name} {_comparable(name, theirs.get(name))}, not {mine}")
    if wrong:
        more = f" (and {len(wrong) - 3} more)" if len(wrong) > 3 else ""
        raise EngineError(
            f"versions differ: {'; '.join(wrong[:3])}{more}; install the same packages here and "
            "there, cleanup-job[distributed] among them",
            "versions_differ",
        )


def _comparable(name: str, version: str | None) -> str | None:
    """Of Python, the part that says how its objects are pickled."""
    return ".".join(version.split(".")[:2]) if name == "python" and version else version


def _for_workers(client: Client, settings: Dask, access: Access) -> Access:
    """How workers get at the servers. Without TLS, by a password that they have themselves.

    Raises:
        EngineError: if they have none.
        ConfigError: if there is TLS, but nobody said whom to trust.
    """
    if (settings.scheduler or "").startswith("tls://"):
        if settings.ca_file is None:
            raise ConfigError("dask.scheduler: a tls:// address needs dask.ca_file and cert_file")
        return access
    password = access.endpoint.password
    if password is None:
        return access
    know_password(password)
    told = ask(client, knows_password)
    lacking = [name for name, knows in told.items() if not knows]
    if lacking:
        raise EngineError(
            f"workers have no password for the server, and it is not sent to them without TLS "
            f"({', '.join(lacking[:3])}): set REDIS_PASSWORD or REDIS_URL in their environment, or "
            "give dask.scheduler a tls:// address",
            "no_secret",
        )
    return withheld(access)
