"""What travels: names between processes, and a script call to the server."""

from __future__ import annotations

import hiredis
from pytest_benchmark.fixture import BenchmarkFixture

from bench.micro.conftest import COORDINATORS
from bench.micro.data import Keyspace, script_call
from cleanup_job.model import pack, unpack

PER_CALL = 250
"""Coordinators of a script call: a thousand keys."""


def test_pack(benchmark: BenchmarkFixture, keyspace: Keyspace) -> None:
    """40,000 names into one value."""
    assert benchmark(pack, keyspace.keys)


def test_unpack(benchmark: BenchmarkFixture, keyspace: Keyspace) -> None:
    """And back."""
    assert len(benchmark(unpack, pack(keyspace.keys))) == 4 * COORDINATORS


def test_pack_a_script_call(benchmark: BenchmarkFixture, keyspace: Keyspace) -> None:
    """250 coordinators, their heartbeats' values joined."""
    ids, values = keyspace.heartbeats()
    words = script_call(ids[:PER_CALL], values[:PER_CALL], joined=True)
    assert benchmark(hiredis.pack_command, ("EVALSHA", "0" * 40, *words))
