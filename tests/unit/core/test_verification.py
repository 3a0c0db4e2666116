# SPDX-License-Identifier: GPL-3.0-or-later
"""Verifications as values."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from offsited.core.verification import Difference, Mending, What, decode_path, due, encode_path

DAY = 86_400_000_000
NAME = st.binary(min_size=1).filter(lambda name: not {b"", b".", b".."} & set(name.split(b"/")) and b"\0" not in name)


@given(st.binary(), st.sampled_from(What), st.text(), st.booleans())
def test_a_difference_is_one_line_and_comes_back(path: bytes, what: What, detail: str, own: bool) -> None:  # noqa: FBT001
    line = Difference(path, what, detail, own).encode()
    assert line.count(b"\n") == 1
    assert line.endswith(b"\n")
    assert Difference.decode(line) == Difference(path, what, detail, own)


@given(NAME)
def test_a_path_to_mend_comes_back(path: bytes) -> None:
    assert decode_path(encode_path(path)) == path


@pytest.mark.parametrize("line", [b"", b"{}", b"[]", b'{"path": "../etc"}', b'{"path": "/etc"}', b"\xff"])
def test_what_is_no_path_to_mend(line: bytes) -> None:
    with pytest.raises((ValueError, KeyError, TypeError)):
        decode_path(line)


@pytest.mark.parametrize("mending", [Mending(whole=True), Mending(whole=False, commit="ab")])
def test_what_a_repair_asks_for_comes_back(mending: Mending) -> None:
    assert Mending.decode(mending.encode()) == mending


@pytest.mark.parametrize(
    ("total", "since", "days", "expected"),
    [
        (1000, 7 * DAY, 80, 100),  # a week's share, and a day's more
        (1000, 0, 80, 100),  # never yet: as after a week
        (1000, 79 * DAY, 80, 1000),
        (1000, 800 * DAY, 80, 1000),
        (0, 7 * DAY, 80, 0),
        (1, 1, 3650, 1),
    ],
)
def test_how_much_is_due(total: int, since: int, days: int, expected: int) -> None:
    assert due(total, since, days) == expected


@given(st.integers(1, 10**15), st.integers(1, 400), st.lists(st.integers(1, 20), min_size=1, max_size=60))
def test_every_byte_is_read_in_time(total: int, days: int, gaps: list[int]) -> None:
    """However the runs come, as long as they come: what they read within the days is all there is."""
    passed = read = 0
    for gap in gaps:
        passed += gap
        read += due(total, gap * DAY, days)
        if passed >= days:
            assert read >= total
            return
