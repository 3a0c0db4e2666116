# SPDX-License-Identifier: GPL-3.0-or-later
"""Paths to restore, and paths to exclude."""

import tomllib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from offsited.core import paths
from offsited.core.outcome import Reason
from offsited.errors import JobFailed
from offsited.worker.excludes import excludes


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


NAMES = st.binary(min_size=1, max_size=8).filter(lambda name: not {0, 47} & set(name) and name not in {b".", b".."})
STRANGE = [b"a b ", b"#x", b"!x", b"**", b"[a]", b'"', b"\\", b"\\*", b"\x7f", b"\xff", b"\n", b"\r", b"\x1c", b"\xc2\xa0"]


@settings(deadline=None)  # the first one imports
@given(st.lists(NAMES | st.sampled_from(STRANGE), min_size=1, max_size=3))
def test_a_line_excludes_its_path_as_git_reads_it(parts: list[bytes]) -> None:
    path = b"/".join(parts)
    line = paths.exclude_line(path)
    assert line.isprintable()
    (pattern,) = tomllib.loads(line)["exclude"]
    excluded = excludes([pattern])
    assert excluded is not None
    assert excluded(path, is_directory=False)
    assert excluded(path, is_directory=True)
    assert not excluded(b"elsewhere/" + path, is_directory=False)
    assert not excluded(b"other" + path, is_directory=False)


@pytest.mark.parametrize("other", [b"IMG_a.jpg", b"IMG_.jpg", b"IMG_\xc3\xa9.jpg", b"IMG_?.jpg", b"IMG_ab.jpg"])
@pytest.mark.parametrize("path", [b"IMG_\xe9.jpg", b"IMG_\n.jpg", b"IMG_*.jpg"])
def test_a_line_excludes_nothing_else(path: bytes, other: bytes) -> None:
    excluded = excludes(tomllib.loads(paths.exclude_line(path))["exclude"])
    assert excluded is not None
    assert excluded(path, is_directory=False)
    assert not excluded(other, is_directory=False)
