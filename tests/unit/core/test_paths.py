# SPDX-License-Identifier: GPL-3.0-or-later
"""Paths to restore."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from offsited.core import paths
from offsited.core.outcome import Reason
from offsited.errors import JobFailed


@pytest.mark.parametrize(
    ("content", "found"),
    [
        (b"", ()),
        (b"\0", ()),
        (b".", ()),
        (b"a\0.\0b\0", ()),
        (b"./", ()),
        (b"a", (b"a",)),
        (b"a\0b", (b"a", b"b")),
        (b"a\0b\0", (b"a", b"b")),
        (b"./a//b/./c/", (b"a/b/c",)),
        (b"a\0./a\0a/", (b"a",)),
        (b" a\n\xff ", (b" a\n\xff ",)),
        (b"..a/b..", (b"..a/b..",)),
        (b"-rf", (b"-rf",)),
    ],
)
def test_paths_in_their_shortest_form(content: bytes, found: tuple[bytes, ...]) -> None:
    assert paths.parse(content) == found


@pytest.mark.parametrize("content", [b"/", b"/etc", b"..", b"../a", b"a/../../b", b"a/..", b"ok\0../a"])
def test_nothing_leads_upwards_or_away(content: bytes) -> None:
    with pytest.raises(JobFailed) as caught:
        paths.parse(content)
    assert caught.value.reason == Reason.PATH_NOT_IN_BACKUP


@given(st.binary() | st.lists(st.sampled_from([b"a", b"/", b"..", b".", b"\0", b"b"])).map(b"".join))
def test_what_is_let_pass_stays_below_the_top(content: bytes) -> None:
    try:
        found = paths.parse(content)
    except JobFailed:
        return
    assert len(set(found)) == len(found)
    for path in found:
        assert path
        assert not {b"", b".", b".."} & set(path.split(b"/"))
        assert paths.parse(path) == (path,)


@pytest.mark.parametrize(("path", "parent"), [(b"a", b"."), (b"a/b", b"a"), (b"a/b/c", b"a/b")])
def test_parents(path: bytes, parent: bytes) -> None:
    assert paths.parent(path) == parent
