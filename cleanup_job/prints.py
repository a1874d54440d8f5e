"""How orphans' keys were when they were dumped, to see later that they still are (pure)."""

from __future__ import annotations

from collections.abc import Iterable

BYTES_COMPARED = 512 * 1024
"""Of a batch of orphans, whose values are dumped once more to see that they did not change."""

NOT_COMPARED = bytes(8)
"""In place of a dump's checksum: there were too many bytes to dump them once more."""


class Prints:
    """Fingerprints of an orphan batch's keys as they were dumped, by key: see `purge.lua`.

    Empty for a key that was gone.
    """

    def __init__(self) -> None:
        self.by_key: dict[bytes, bytes] = {}
        self._compared = 0

    def add(
        self, keys: Iterable[bytes], dumps: Iterable[bytes | None], expiries_ms: Iterable[int]
    ) -> None:
        """Remember how these keys are."""
        for key, dump, expiry_ms in zip(keys, dumps, expiries_ms, strict=True):
            self.by_key[key] = b"" if dump is None else self._print_of(dump, expiry_ms)

    def compared(self, keys: Iterable[bytes]) -> list[bytes]:
        """Those whose values can be dumped once more."""
        return [key for key in keys if not self.by_key[key].startswith(NOT_COMPARED)]

    def _print_of(self, dump: bytes, expiry_ms: int) -> bytes:
        self._compared += len(dump)
        # A dump ends with a CRC-64 of all of it.
        checksum = dump[-8:] if self._compared <= BYTES_COMPARED else NOT_COMPARED
        return b"%b%d" % (checksum, expiry_ms)
