# SPDX-License-Identifier: GPL-3.0-or-later
"""What one sync may take away. To see how well these tests watch the module: tests/mutate, which changes it in every way it can."""

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from offsited.core.config import Limits
from offsited.core.limits import Baseline, Count, Verdict, bytes_allowed, entries_allowed, judge

NOTHING = Count(0, 0)


@pytest.mark.parametrize(
    ("limit", "files", "allowed"),
    [
        (0, 1000, 0),
        (7, 1000, 7),
        (7, 0, 7),
        ("20%", 1000, 200),
        ("0%", 1000, 10),
        ("20%", 50, 10),
        ("20%", 55, 11),
        ("20%", 54, 10),
        ("20%", 20, 10),
        ("20%", 19, 9),
        ("20%", 3, 1),
        ("20%", 1, 0),
        ("20%", 0, 0),
        ("100%", 5, 5),
        ("0.1%", 1_000_000, 1000),
        ("33.3%", 1000, 333),
    ],
)
def test_entries_allowed(limit: str | int, files: int, allowed: int) -> None:
    assert entries_allowed(limit, files) == allowed


@pytest.mark.parametrize(
    ("limit", "size", "allowed"),
    [
        ("0", 100, 0),
        ("500", 100, 500),
        ("1K", 0, 1024),
        ("2M", 0, 2 << 20),
        ("3G", 0, 3 << 30),
        ("1.5T", 0, 3 << 39),
        ("30%", 1000, 300),
        ("0%", 1000, 0),
        ("30%", 3, 0),
        ("100%", 10**18, 10**18),
    ],
)
def test_bytes_allowed(limit: str, size: int, allowed: int) -> None:
    assert bytes_allowed(limit, size) == allowed


@given(percent=st.integers(0, 100), files=st.integers(0, 10**9))
def test_a_percentage_is_exact_rounded_down_and_has_a_floor(percent: int, files: int) -> None:
    assert entries_allowed(f"{percent}%", files) == max(int(Fraction(percent * files, 100)), min(10, files // 2))


HUNDRED = Baseline(Count(100, 1000))


@pytest.mark.parametrize(
    ("deleted", "changed", "verdict"),
    [
        (NOTHING, NOTHING, Verdict()),
        (Count(20, 0), Count(60, 0), Verdict()),
        (Count(21, 0), Count(60, 0), Verdict(deletions=True)),
        (Count(20, 0), Count(61, 0), Verdict(changes=True)),
        (Count(21, 0), Count(61, 0), Verdict(deletions=True, changes=True)),
        (Count(1, 10**15), Count(1, 10**15), Verdict()),
    ],
)
def test_each_limit_holds_its_own(deleted: Count, changed: Count, verdict: Verdict) -> None:
    assert judge(Limits(), HUNDRED, deleted=deleted, changed=changed) == verdict


@pytest.mark.parametrize(
    ("limits", "deleted", "changed", "verdict"),
    [
        (Limits(max_delete_bytes="100"), Count(1, 100), NOTHING, Verdict()),
        (Limits(max_delete_bytes="100"), Count(1, 101), NOTHING, Verdict(deletions=True)),
        (Limits(max_delete_bytes="50%"), Count(1, 501), NOTHING, Verdict(deletions=True)),
        (Limits(max_delete_bytes="100"), NOTHING, Count(1, 101), Verdict()),
        (Limits(max_change_bytes="100"), NOTHING, Count(1, 101), Verdict(changes=True)),
        (Limits(max_change_bytes="100"), Count(1, 101), Count(1, 100), Verdict()),
        (Limits(max_delete=0, max_change=0), Count(1, 0), NOTHING, Verdict(deletions=True)),
        (Limits(max_delete=0, max_change=0), NOTHING, Count(1, 0), Verdict(changes=True)),
    ],
)
def test_numbers_and_bytes(limits: Limits, deleted: Count, changed: Count, verdict: Verdict) -> None:
    assert judge(limits, HUNDRED, deleted=deleted, changed=changed) == verdict


@pytest.mark.parametrize("limits", [Limits(), Limits(max_delete="100%", max_change="100%"), Limits(max_delete=10**9)])
def test_where_nothing_is_known_any_deletion_is_held(limits: Limits) -> None:
    unknown = Baseline(Count(100, 1000), known=False)
    assert judge(limits, unknown, deleted=Count(1, 0), changed=NOTHING) == Verdict(deletions=True)
    assert judge(limits, unknown, deleted=NOTHING, changed=NOTHING) == Verdict()
    assert judge(Limits(max_change=1), unknown, deleted=NOTHING, changed=Count(2, 0)) == Verdict(changes=True)


def test_a_verdict_is_true_if_it_holds_anything() -> None:
    assert [bool(verdict) for verdict in (Verdict(), Verdict(deletions=True), Verdict(changes=True))] == [False, True, True]


@given(
    deleted=st.builds(Count, st.integers(0, 500), st.integers(0, 500)),
    changed=st.builds(Count, st.integers(0, 500), st.integers(0, 500)),
    entries=st.integers(0, 500),
    size=st.integers(0, 500),
)
def test_more_is_never_held_less(deleted: Count, changed: Count, entries: int, size: int) -> None:
    limits = Limits(max_delete=entries, max_change=entries, max_delete_bytes=str(size), max_change_bytes=str(size))
    verdict = judge(limits, HUNDRED, deleted=deleted, changed=changed)
    assert verdict.deletions == (deleted.entries > entries or deleted.bytes > size)
    assert verdict.changes == (changed.entries > entries or changed.bytes > size)
