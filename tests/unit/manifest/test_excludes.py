# SPDX-License-Identifier: GPL-3.0-or-later
"""Exclude patterns mean what they mean in a .gitignore; the table is what `git check-ignore --no-index` says of these paths."""

import os

import pytest

from offsited.errors import ConfigInvalid
from offsited.worker.excludes import excludes

PATHS = (
    ".cache/", ".cache/x", "a/", "a/.cache/", "a/.cache/x", "a/b/", "a/b/c", "a/b/d/", "a/b/d/c", "a/c", "a.txt", "c.txt", "d1/",
    "d1/keep.o", "d1/x/", "d1/x/c", "d4/", "d4/d1", "f+", "ff", "foo", "(x)", "x", "keep.o", "trail ", "!x", "\udcff",
)  # fmt: skip


def left_out(patterns: tuple[str, ...]) -> list[str]:
    """The topmost of what the walk does not see."""
    excluded = excludes(patterns)
    if excluded is None:
        return []
    found: list[str] = []
    for path in PATHS:
        below = any(path.startswith(above) for above in found if above.endswith("/"))
        if not below and excluded(os.fsencode(path.rstrip("/")), is_directory=path.endswith("/")):
            found.append(path)
    return found


@pytest.mark.parametrize(
    ("patterns", "expected"),
    [
        ((), []),
        (("",), []),
        (("# a",), []),
        (("d1/",), ["d1/"]),
        (("d1",), ["d1/", "d4/d1"]),
        (("/d1",), ["d1/"]),
        (("**/.cache/",), [".cache/", "a/.cache/"]),
        ((".cache/*",), [".cache/x"]),
        (("d1/**",), ["d1/keep.o", "d1/x/"]),
        (("*.o",), ["d1/keep.o", "keep.o"]),
        (("*.o", "!keep.o"), []),
        (("/d1/*", "!/d1/keep.o"), ["d1/x/"]),
        (("/d1/", "!/d1/keep.o"), ["d1/"]),
        (("a/*/c",), ["a/b/c"]),
        (("a/**/c",), ["a/b/c", "a/b/d/c", "a/c"]),
        (("**/c",), ["a/b/c", "a/b/d/c", "a/c", "d1/x/c"]),
        (("/*.txt",), ["a.txt", "c.txt"]),
        (("f?o",), ["foo"]),
        (("[ab].txt",), ["a.txt"]),
        (("[!ab].txt",), ["c.txt"]),
        (("f+",), ["f+"]),
        (("(x)",), ["(x)"]),
        (("\\!x",), ["!x"]),
        (("trail\\ ",), ["trail "]),
        (("trail ",), []),
        (("\udcff",), ["\udcff"]),
    ],
)
def test_what_a_pattern_leaves_out(patterns: tuple[str, ...], expected: list[str]) -> None:
    assert left_out(patterns) == expected


def test_a_pattern_that_is_none_is_refused() -> None:
    with pytest.raises(ConfigInvalid, match="exclude: "):
        excludes(("!",))
