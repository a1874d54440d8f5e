"""The bench of scale: that it counts right, on a small cluster; never how fast."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import pytest

from bench import carry, nodes, scale
from bench.cli import EXIT_GOOD
from bench.nodes import Population, Seeder
from bench.scale import Cell
from cleanup_job.embedded import slots_of
from cleanup_job.keyspace import slot_of
from tests.servers import DEFAULT

pytestmark = pytest.mark.default_server


def test_a_small_cluster_is_swept_and_checked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(nodes, "IDLE_S", 0.1)
    file = tmp_path / "scale.json"
    words = ["--primaries", "3", "--coordinators", "300", "--workers", "2", "--rounds", "1"]
    words += ["--engines", "processes", "--json", str(file)]
    assert scale.measured(scale.parser().parse_args(words)) == EXIT_GOOD
    told = capsys.readouterr().out
    assert "3 primaries" in told
    assert "300 stale coordinators, no hash tags: 1,240 keys" in told
    content = json.loads(file.read_text())
    (cell,) = content["cells"]
    assert (cell["engine"], cell["workers"]) == ("processes", 2)
    (run,) = cell["runs"]
    assert {*run["phases"]} == {"survey", "judge", "purge"}
    assert run["commands"]["unlink"][0] >= 300
    assert run["job_peak_mb"] > 0 < run["workers_peak_mb"]


def test_tagged_keys_lie_with_their_server_and_travel_whole() -> None:
    population = Population(50, tagged=True, unrelated=20)
    with nodes.running(DEFAULT, 3) as started:
        seeder = Seeder(started, population)
        seeder.seed()
        assert started.keys() == population.keys == 50 * 4 + 10 * 4 + 20
        for number, client in enumerate(started.clients):
            keys = [bytes(key) for key in client.scan_iter(count=1000)]
            assert {slot_of(key) for key in keys} <= {*slots_of(number, 3)}
        carried = carry.carry(seeder, workers=2)
        assert started.keys() == 10 * 4 + 20
        live = seeder.seed()
        assert nodes.untouched(started, live)
        started.client_of(next(iter(live))).set(next(iter(live)), "other")
        assert not nodes.untouched(started, live)
    assert {*carried} == {"survey", "purge"}
    assert carried["survey"].tasks == 3
    assert carried["survey"].back_bytes > carried["survey"].out_bytes > 0


def test_serial_is_measured_once() -> None:
    assert scale.cells(["serial", "processes"], [1, 2]) == [
        Cell("serial", 1),
        Cell("processes", 1),
        Cell("processes", 2),
    ]


def test_what_is_not_there_is_left_out_visibly() -> None:
    assert scale.missing("processes") is None
    assert scale.missing("threads") == "this version does not have it"
    with pytest.raises(argparse.ArgumentTypeError, match="'threads' is none of"):
        scale.engines("serial,threads")
