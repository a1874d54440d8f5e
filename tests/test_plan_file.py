"""Plan files: any bytes come back as they were, and nothing that was cut or changed is used."""

from __future__ import annotations

import contextlib
import gzip
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import structs

from cleanup_job import plan_file
from cleanup_job.config import Config, Keys, Timestamp
from cleanup_job.cursors import Order
from cleanup_job.errors import ConfigError, RefusedError
from cleanup_job.model import HEARTBEAT, Access, Endpoint, Kind, Planned, Routes, Server, Target
from cleanup_job.plan_file import Header, PlannedTarget, header_for, read, write

FAMILIES = ("signal", "ack", "idempotency", "activity")

TARGET = PlannedTarget("valkey", "9.1.2", "standalone", ["h:1"], ["f00"], 0)

AT_MS = 1_790_000_000_123

names = st.binary(min_size=1, max_size=12) | st.text(min_size=1, max_size=8).map(str.encode)
plans = st.dictionaries(
    names,
    st.tuples(
        st.sampled_from([Kind.STALE, Kind.ORPHANED]),
        st.dictionaries(st.sampled_from(FAMILIES), st.lists(names, min_size=1, max_size=3)),
    ),
    max_size=5,
).map(
    lambda found: [
        Planned(name, kind, keys, 700_123 if kind is Kind.STALE else None)
        for name, (kind, keys) in sorted(found.items())
    ]
)


def header_of(plan: list[Planned]) -> Header:
    keys = {
        family: sum(len(planned.keys.get(family, ())) for planned in plan) for family in FAMILIES
    }
    keys[HEARTBEAT] = sum(planned.kind is Kind.STALE for planned in plan)
    return header_for(Config(), TARGET, "beef", AT_MS, len(plan), keys)


def written(folder: Path | str, plan: list[Planned], name: str = "plan.jsonl") -> Path:
    path = Path(folder) / name
    write(path, header_of(plan), plan)
    return path


PLAN = [
    Planned(b"a", Kind.STALE, {"ack": [b"blocking:ack:a:1", b"blocking:ack:a:\xff"]}, 700_123),
    Planned("é".encode(), Kind.ORPHANED, {"signal": ["blocking:signal:é".encode()]}),
]


class TestRoundTrip:
    @pytest.mark.parametrize("name", ["plan.jsonl", "plan.jsonl.gz"])
    @settings(max_examples=30)  # each waits for the disk
    @given(plan=plans)
    def test_of_any_bytes(self, plan: list[Planned], name: str) -> None:
        with tempfile.TemporaryDirectory() as folder:
            path = written(folder, plan, name)
            found = read(path)
            assert found.header == header_of(plan)
            assert list(found.coordinators()) == plan
            assert found.keys == sum(found.header.keys.values())
            assert [*Path(folder).iterdir()] == [path]

    def test_people_can_read_it(self, tmp_path: Path) -> None:
        header, first, second, end = written(tmp_path, PLAN).read_text().splitlines()
        assert header.startswith(
            '{"format":"cleanup-job plan","version":1,"created_at":"2026-09-21T14:13:20.123Z",'
        )
        assert first == (
            '{"id":"a","verdict":"stale","age_s":700.123,"keys":{"ack":["blocking:ack:a:1",'
            '{"base64":"YmxvY2tpbmc6YWNrOmE6/w=="}]}}'
        )
        assert second == (
            '{"id":"é","verdict":"orphaned","age_s":null,"keys":{"signal":["blocking:signal:é"]}}'
        )
        assert end.startswith('{"end":"cleanup-job plan","coordinators":2,"keys":{"signal":1,')

    def test_gzip_is_known_by_its_content(self, tmp_path: Path) -> None:
        packed = written(tmp_path, PLAN, "plan.gz")
        renamed = packed.rename(tmp_path / "plan.jsonl")
        assert list(read(renamed).coordinators()) == PLAN
        assert gzip.decompress(renamed.read_bytes()) == written(tmp_path, PLAN, "x").read_bytes()

    def test_one_that_was_replaced_after_it_was_checked_is_refused(self, tmp_path: Path) -> None:
        found = read(written(tmp_path, PLAN))
        written(tmp_path, PLAN[:1])
        with pytest.raises(RefusedError, match="was replaced meanwhile; nothing was deleted"):
            list(found.coordinators())


class TestDamage:
    @pytest.mark.parametrize("name", ["plan.jsonl", "plan.jsonl.gz"])
    def test_any_cut_is_refused(self, tmp_path: Path, name: str) -> None:
        path = written(tmp_path, PLAN, name)
        whole = path.read_bytes()
        ends = {place for place, byte in enumerate(whole) if byte == ord("\n")}
        for length in {*range(0, len(whole), 3), *ends, *(place + 1 for place in ends)}:
            if length == len(whole):
                continue
            path.write_bytes(whole[:length])
            with pytest.raises(ConfigError, match=f"^--plan: {path}:[0-9]+: "):
                read(path)

    def test_any_changed_byte_is_refused(self, tmp_path: Path) -> None:
        path = written(tmp_path, PLAN)
        whole = path.read_bytes()
        for place in range(len(whole)):
            changed = bytearray(whole)
            # 0x2A makes a space of a line's end.
            changed[place] ^= 0x2A if changed[place : place + 1] == b"\n" else 1 << place % 8
            path.write_bytes(changed)
            with pytest.raises(ConfigError, match=r"^--plan: "):
                read(path)

    def test_a_compressed_one_with_a_changed_byte_is_refused_or_the_same(
        self, tmp_path: Path
    ) -> None:
        path = written(tmp_path, PLAN, "plan.gz")
        whole = path.read_bytes()
        for place in range(len(whole)):
            changed = bytearray(whole)
            changed[place] ^= 0x11
            path.write_bytes(changed)
            # The time and the name in gzip's header have no checksum.
            with contextlib.suppress(ConfigError):
                assert list(read(path).coordinators()) == PLAN

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            (lambda lines: [*lines, b"\n"], ":5: there is something behind its end"),
            (lambda lines: lines[:-1], ":4: its end is missing"),
            (lambda lines: [lines[0], *lines[2:]], ":3: the checksum does not fit"),
            (lambda lines: [lines[0], lines[2], lines[1], lines[3]], ":3: not in the order of ids"),
            (lambda lines: [*lines[:2], *lines[1:]], ":3: not in the order of ids"),
            (lambda lines: [lines[0], b"{}\n", *lines[1:]], ":2: no line of a plan"),
            (lambda lines: [lines[0], lines[1].replace(b"ack:a", b"ack:b"), *lines[2:]], ":4: the"),
            (lambda lines: [lines[0].replace(b'"version":1', b'"version":2')], "version 2, and"),
            (lambda lines: [lines[0].replace(b"run_id", b"x")], ":1: the header is damaged"),
            (lambda lines: [b'{"format":"another","version":1}\n'], ":1: is no plan; --dry-run"),
            (lambda lines: [b"keys:\n"], ":1: is no plan"),
            (lambda lines: [b"[" * 100_000], ":1: is no plan"),
            (lambda lines: [b"\x1f\x8b and no gzip"], ":1: "),
            (lambda lines: [], ":1: is no plan"),
        ],
    )
    def test_what_is_wrong_is_told_with_its_line(
        self, tmp_path: Path, change: Any, message: str
    ) -> None:
        path = written(tmp_path, PLAN)
        path.write_bytes(b"".join(change(path.read_bytes().splitlines(keepends=True))))
        with pytest.raises(ConfigError) as caught:
            read(path)
        assert message in str(caught.value)
        assert "\n" not in str(caught.value)

    def test_counts_that_the_header_does_not_have(self, tmp_path: Path) -> None:
        path = tmp_path / "plan"
        write(path, header_of(PLAN), PLAN[:1])
        with pytest.raises(ConfigError, match="counts are not those of the header"):
            read(path)

    def test_one_that_is_not_there_or_no_file(self, tmp_path: Path) -> None:
        with pytest.raises(ConfigError, match=r"can't be read .No such file or directory"):
            read(tmp_path / "none")
        with pytest.raises(ConfigError, match="is no file"):
            read(tmp_path)


class TestWriting:
    def test_an_older_plan_is_replaced_and_nothing_else_is(self, tmp_path: Path) -> None:
        for name in ("plan", "plan.gz"):
            path = written(tmp_path, PLAN, name)
            plan_file.require_writable(path)
            path.write_bytes(path.read_bytes()[:-20])
            plan_file.require_writable(path)  # a damaged one was a plan too
        empty, other = tmp_path / "empty", tmp_path / "other"
        empty.touch()
        plan_file.require_writable(empty)
        for content in (b"a: 1\n", b"{}", b"\x1f\x8b", b"\0" * 2_000_000):
            other.write_bytes(content)
            with pytest.raises(ConfigError, match="is there, and is no plan of cleanup-job's"):
                plan_file.require_writable(other)

    @pytest.mark.parametrize("name", ["-", "/dev/null", "/"])
    def test_what_is_no_file_is_refused(self, name: str) -> None:
        with pytest.raises(ConfigError, match="is no file; name one"):
            plan_file.require_writable(Path(name))

    def test_a_folder_that_is_not_there(self, tmp_path: Path) -> None:
        path = tmp_path / "none" / "plan"
        with pytest.raises(ConfigError, match="can't be written; name a file in a folder"):
            plan_file.require_writable(path)
        with pytest.raises(ConfigError, match=r"can't be written .No such file or directory"):
            write(path, header_of([]), [])

    def test_one_that_fails_in_the_middle_leaves_the_old_one(self, tmp_path: Path) -> None:
        path = written(tmp_path, PLAN)
        before = path.read_bytes()

        def failing() -> Any:
            yield PLAN[0]
            raise OSError(28, "No space left on device")

        with pytest.raises(ConfigError, match=r"can't be written .No space left on device"):
            write(path, header_of(PLAN), failing())
        assert path.read_bytes() == before
        assert [*tmp_path.iterdir()] == [path]


def servers(*run_ids: str, slots: bool = True) -> Target:
    found = tuple(
        Server(
            endpoint=Endpoint(port=number),
            product="valkey",
            version="9.1.2",
            node_id="",
            run_id=run_id,
            keys=0,
            order=Order.SEQUENCE,
            tracks_idle_time=True,
            cpu_s=0.0,
            used_memory=0,
            **({} if slots else {"slots": ()}),
        )
        for number, run_id in enumerate(run_ids, 1)
    )
    return Target("cluster", Routes(Access(Endpoint()), (), clustered=True), found)


class TestRefusals:
    def found(self, folder: Path, header: Header | None = None) -> plan_file.PlanFile:
        path = folder / "plan"
        write(path, header or header_of([]), [])
        return read(path)

    @pytest.mark.parametrize(
        ("now", "message"),
        [
            (Config(stale_after=599), "was made with stale_after = 600, which is now smaller: 599"),
            (
                Config(keys=Keys(heartbeat="hb:{id}")),
                'keys.heartbeat = "blocking:heartbeat:{id}", which is now "hb:{id}"',
            ),
            (
                Config(keys=Keys(timestamp=Timestamp(fields=("at",)))),
                'keys.timestamp.fields = ["timestamp","lastHeartbeat"], which is now ["at"]',
            ),
            (
                Config(keys=Keys(timestamp=Timestamp(unit="s"))),
                'keys.timestamp.unit = "ms", which is now "s"',
            ),
            (
                Config(keys=Keys(owned={"signal": "blocking:signal:{id}"})),
                'keys.owned.ack = "blocking:ack:{id}:*", which is now not set',
            ),
            (
                Config(keys=Keys(owned={**Keys().owned, "more": "more:{id}"})),
                'keys.owned.more = not set, which is now "more:{id}"',
            ),
        ],
    )
    def test_other_settings(self, tmp_path: Path, now: Config, message: str) -> None:
        with pytest.raises(RefusedError) as caught:
            plan_file.require_settings(self.found(tmp_path), now, 0)
        assert message in str(caught.value)
        assert str(caught.value).endswith("; nothing was deleted; make a new plan with --dry-run")

    def test_settings_that_only_spare_more(self, tmp_path: Path) -> None:
        found = self.found(tmp_path)
        owned = dict(reversed(Keys().owned.items()))
        for config in (Config(stale_after=601), Config(keys=Keys(owned=owned)), Config(nice=1)):
            plan_file.require_settings(found, config, 0)

    def test_a_smaller_grace_where_orphans_are_purged(self, tmp_path: Path) -> None:
        header = structs.replace(header_of([]), orphans="purge")
        found = self.found(tmp_path, header)
        plan_file.require_settings(found, Config(orphan_grace=5), 0)
        plan_file.require_settings(found, Config(orphans="purge", orphan_grace=700), 0)
        with pytest.raises(RefusedError, match="orphan_grace = 600, which is now smaller: 599"):
            plan_file.require_settings(found, Config(orphans="purge", orphan_grace=599), 0)

    def test_another_database(self, tmp_path: Path) -> None:
        with pytest.raises(RefusedError, match="is for database 0, and this is 3"):
            plan_file.require_settings(self.found(tmp_path), Config(), 3)

    def test_other_servers(self, tmp_path: Path) -> None:
        header = structs.replace(
            header_of([]), target=PlannedTarget.of(servers("aa", "bb", "cc"), 0)
        )
        found = self.found(tmp_path, header)
        plan_file.require_target(found, servers("cc", "aa", "bb"))
        with pytest.raises(RefusedError) as caught:
            plan_file.require_target(found, servers("aa", "dd", "cc"))
        assert "is for 127.0.0.1:2 (run_id bb), and here is 127.0.0.1:2 (run_id dd): another" in (
            str(caught.value)
        )
        with pytest.raises(RefusedError, match=r"is for 127.0.0.1:3 .run_id cc.: another server"):
            plan_file.require_target(found, servers("aa", "bb"))
        with pytest.raises(RefusedError, match="does not know all servers, and here is 127"):
            plan_file.require_target(found, servers("aa", "bb", "cc", "dd"))

    def test_servers_that_have_no_run_id_are_nobody_we_know(self, tmp_path: Path) -> None:
        header = structs.replace(header_of([]), target=PlannedTarget.of(servers(""), 0))
        with pytest.raises(RefusedError, match="run_id unknown"):
            plan_file.require_target(self.found(tmp_path, header), servers(""))

    @pytest.mark.parametrize(
        ("later_s", "message"),
        [
            (3600, None),
            (3601, "is 3,601 s old, more than max_plan_age (3,600 s); nothing was deleted; "),
            (-5, None),
            (-6, "was made 6 s in the future by the server's clock; nothing was deleted"),
        ],
    )
    def test_age(self, tmp_path: Path, later_s: int, message: str | None) -> None:
        found = self.found(tmp_path)
        now_ms = AT_MS + later_s * 1000
        if message is None:
            plan_file.require_young(found, now_ms, Config())
            return
        with pytest.raises(RefusedError) as caught:
            plan_file.require_young(found, now_ms, Config())
        assert message in str(caught.value)
