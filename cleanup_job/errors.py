"""One error tree; each error knows its exit code and carries its own remedy.

Nothing below `cli` ends the process: stages raise these, `cli` prints one line
and exits with `exit_code`. An exception that is not of this tree is a bug
(exit code 1) and keeps its traceback.
"""

from __future__ import annotations


class CleanupJobError(Exception):
    """Base of all expected errors.

    Attributes:
        code: a stable name for machines, used in the JSON report.
        exit_code: what the command exits with.
    """

    exit_code = 1

    def __init__(self, message: str, code: str) -> None:
        super().__init__(message)
        self.code = code

    def __reduce__(self) -> tuple[type[CleanupJobError], tuple[str, str]]:
        # Errors cross process boundaries; the default pickling would lose `code`.
        return type(self), (str(self), self.code)


class ConfigError(CleanupJobError):
    """The configuration or the command line cannot mean what it says."""

    exit_code = 2

    def __init__(self, message: str, code: str = "config") -> None:
        super().__init__(message, code)


class ServerRefusedError(CleanupJobError):
    """The server answered, and trying again will not help.

    A wrong password, a missing right, a replica, something that is no Redis.
    """

    exit_code = 2


class ServerUnavailableError(CleanupJobError):
    """The server cannot answer now: unreachable, loading, gone in mid-reply."""

    exit_code = 75


class LockedError(CleanupJobError):
    """Another run is at the same keys; nothing was deleted."""

    exit_code = 75

    def __init__(self, message: str, code: str = "locked") -> None:
        super().__init__(message, code)


class NotNowError(CleanupJobError):
    """Something asks for no run at the moment; nothing was deleted."""

    exit_code = 75


class RefusedError(CleanupJobError):
    """A safety limit says no; nothing was deleted. The message names what overrides it."""

    exit_code = 4


class CursorOrderError(CleanupJobError):
    """A SCAN cursor came back out of the order that partitions rely on."""

    exit_code = 75


class OutOfMemoryError(CleanupJobError):
    """This process got no more memory; nothing was deleted."""

    exit_code = 75


class EngineError(CleanupJobError):
    """The engine can't be used as it is: not installed, other versions, no way to pass secrets."""

    exit_code = 2

    def __init__(self, message: str, code: str = "engine") -> None:
        super().__init__(message, code)


class EngineUnavailableError(CleanupJobError):
    """The engine can't be reached, or has no workers now; nothing was deleted."""

    exit_code = 75

    def __init__(self, message: str, code: str = "engine_unavailable") -> None:
        super().__init__(message, code)


class ShelfError(CleanupJobError):
    """What was found can't be kept, or is not there any more."""

    exit_code = 75

    def __init__(self, message: str, code: str = "shelf") -> None:
        super().__init__(message, code)


class BrokenOffError(CleanupJobError):
    """The purge ended in the middle, and there is no report. The next run goes on."""

    exit_code = 3
