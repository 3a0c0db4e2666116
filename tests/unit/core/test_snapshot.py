# SPDX-License-Identifier: GPL-3.0-or-later
"""What can be said of a snapshot from text alone."""

import os
import time
from collections.abc import Iterator
from datetime import datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from offsited.core import snapshot
from offsited.core.outcome import Reason
from offsited.errors import JobFailed

SECOND = 1_000_000
DAY = 24 * 3600 * SECOND


@pytest.fixture(autouse=True, params=["UTC", "Europe/Berlin", "America/New_York"])
def zone(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Every test here in three time zones."""
    monkeypatch.setenv("TZ", request.param)
    time.tzset()
    yield request.param
    monkeypatch.undo()
    time.tzset()


def local(*fields: int) -> int:
    return round(time.mktime(datetime(*fields).timetuple())) * SECOND  # type: ignore[arg-type] # noqa: DTZ001 - local time is meant


@pytest.mark.parametrize(
    ("content", "path"),
    [
        (b"/backup/2026-11-24", "/backup/2026-11-24"),
        (b"/backup/2026-11-24\n", "/backup/2026-11-24"),
        (b"/a b/\xff", "/a b/\udcff"),
        (b"/" + b"a" * 4095 + b"\n", "/" + "a" * 4095),
        (b"/a\r", "/a\r"),
        (b"/..a/b..", "/..a/b.."),
    ],
)
def test_a_lastdst_file(content: bytes, path: str) -> None:
    assert snapshot.parse_lastdst(content) == path


@pytest.mark.parametrize(
    "content",
    [b"", b"\n", b"backup", b" /backup", b"/a\n\n", b"/a\n/b", b"/a\0", b"/a/../b", b"/..", b"/" + b"a" * 4096, b"\xef\xbb\xbf/a"],
)
def test_what_is_not_exactly_one_path(content: bytes) -> None:
    with pytest.raises(JobFailed) as caught:
        snapshot.parse_lastdst(content)
    assert caught.value.reason == Reason.SOURCE_MALFORMED


@given(st.binary() | st.binary().map(lambda tail: b"/" + tail))
def test_any_lastdst_is_a_path_or_refused(content: bytes) -> None:
    try:
        path = snapshot.parse_lastdst(content)
    except JobFailed:
        return
    assert os.fsencode(path) == content.removesuffix(b"\n")
    assert path.startswith("/")
    assert not {"\0", "\n"} & set(path)
    assert ".." not in path.split("/")


@pytest.mark.parametrize(
    ("path", "root", "relative"),
    [
        ("/backup/x", "/backup", "x"),
        ("/backup/x/y/", "/backup/", "x/y"),
        ("/x", "/", "x"),
        ("//backup//x", "/backup", "x"),
        ("/backup/./x", "/backup", "x"),
    ],
)
def test_below_the_root(path: str, root: str, relative: str) -> None:
    assert snapshot.below_root(path, root) == relative


def test_the_root_itself_only_where_it_is_meant() -> None:
    assert snapshot.below_root("/data", "/data", itself=True) == "."
    with pytest.raises(JobFailed) as caught:
        snapshot.below_root("/data/", "/data")
    assert caught.value.reason == Reason.SNAPSHOT_OUTSIDE_ROOT


@pytest.mark.parametrize("path", ["/elsewhere", "/backup2/x", "/", "/backup/../etc"])
def test_outside_the_root(path: str) -> None:
    with pytest.raises(JobFailed) as caught:
        snapshot.below_root(path, "/backup", itself=True)
    assert caught.value.reason == Reason.SNAPSHOT_OUTSIDE_ROOT


@pytest.mark.parametrize(
    ("name", "fields"),
    [
        ("2026-11-24", (2026, 11, 24)),
        ("20261124", (2026, 11, 24)),
        ("2026_11_24", (2026, 11, 24)),
        ("2026.11.24", (2026, 11, 24)),
        ("home-2026-11-24-full", (2026, 11, 24)),
        ("2026-11-24_03-00-01", (2026, 11, 24, 3, 0, 1)),
        ("2026-11-24T03:00", (2026, 11, 24, 3, 0)),
        ("2026-11-24 03.05.09", (2026, 11, 24, 3, 5, 9)),
        ("20261124T030001", (2026, 11, 24, 3, 0, 1)),
        ("20261124030001", (2026, 11, 24, 3, 0, 1)),
        ("@GMT-2026.11.24-03.00.01", (2026, 11, 24, 3, 0, 1)),
        ("2026-11-24_03h00m01", (2026, 11, 24, 3, 0, 1)),
        ("2026-11-24_7", (2026, 11, 24)),
        ("2026-02-30.x.2026-03-01", (2026, 3, 1)),
        ("2026-11-24_25-00-00", None),
        ("2026-11-24.1", (2026, 11, 24)),
        ("daily.0", None),
        ("1226-11-24", None),
        ("2026-13-24", None),
        ("2026-11.24", None),
        ("120261124", None),
        ("202611241", None),
        ("", None),
    ],
)
def test_the_date_in_a_name(name: str, fields: tuple[int, ...] | None) -> None:
    assert snapshot.date_of(name) == (local(*fields) if fields else 0)


@pytest.mark.parametrize(
    ("name", "moment"),
    [
        ("20261124T030001Z", "2026-11-24T03:00:01+00:00"),
        ("2026-11-24T03:00:01+0130", "2026-11-24T03:00:01+01:30"),
        ("2026-11-24T03:00:01-05:00", "2026-11-24T03:00:01-05:00"),
    ],
)
def test_a_zone_in_a_name(name: str, moment: str) -> None:
    assert snapshot.date_of(name) == round(datetime.fromisoformat(moment).timestamp()) * SECOND


def test_the_last_component_that_is_dated_counts() -> None:
    assert snapshot.date_of("2026-01-01/2026-11-24") == local(2026, 11, 24)
    assert snapshot.date_of("2026-01-01/home") == local(2026, 1, 1)
    assert snapshot.date_of(".") == 0


@given(st.text() | st.from_regex(r"(19|20)\d\d-?\d\d-?\d\d[T_ ]?\d\d:?\d\d(:?\d\d)?(Z|[+-]\d\d:?\d\d)?"))
def test_no_name_crashes(name: str) -> None:
    assert snapshot.date_of(name) >= -(2**63)


def test_the_newest() -> None:
    assert snapshot.newest([]) is None
    assert snapshot.newest(["2026-11-24", "2026-12-01", "zzz", "2025-12-31"]) == "2026-12-01"
    assert snapshot.newest(["b", "a", "c"]) == "c"
    assert snapshot.newest(["x/2026-11-24", "y/2026-11-24"]) == "y/2026-11-24"
    assert snapshot.newest(["a\udcff", "a"]) == "a\udcff"


NOW = 1_800_000_000 * SECOND


@pytest.mark.parametrize(
    ("dated", "last", "reason"),
    [
        (NOW, 0, None),
        (NOW, NOW, None),
        (0, 0, None),
        (0, NOW, None),
        (NOW - 1, NOW, Reason.SNAPSHOT_OLDER),
        (NOW + DAY, NOW, None),
        (NOW + DAY + 1, NOW, Reason.SNAPSHOT_FUTURE),
        (NOW + DAY + 1, 0, Reason.SNAPSHOT_FUTURE),
    ],
)
def test_what_may_go_by_its_age(dated: int, last: int, reason: Reason | None) -> None:
    if reason is None:
        snapshot.check_age(dated, last, NOW)
        return
    with pytest.raises(JobFailed) as caught:
        snapshot.check_age(dated, last, NOW)
    assert caught.value.reason == reason


@given(st.binary())
def test_what_is_printable_fits_json(name: bytes) -> None:
    snapshot.printable(os.fsdecode(name)).encode("utf-8")


def test_what_is_printable_already_stays() -> None:
    assert snapshot.printable("Grüße") == "Grüße"
    assert snapshot.printable("a\udcff") == "a\\xff"
