# SPDX-License-Identifier: GPL-3.0-or-later
"""A plan as lines: what a person sees of thousands of entries."""

from typing import Any

import click
import pytest

from offsited.ctl.diff import common, page


def shown(*documents: dict[str, Any]) -> list[str]:
    return [click.unstyle(line) for line in page(documents)]


def entry(path: str, change: str, *, kind: str = "f", size: int = 0, held: bool = False) -> dict[str, Any]:
    return {"path": path, "change": change, "type": kind, "size": size, "held": held}


@pytest.mark.parametrize(
    ("old", "new", "prefixes"),
    [
        ("a", "b", ("a", "b")),
        ("d/a", "d/b", ("d/a", "d/b")),
        ("photos/2025/a.jpg", "photos/old/a.jpg", ("photos/2025", "photos/old")),
        ("photos/2025/x/a.jpg", "archive/x/a.jpg", ("photos/2025", "archive")),
        ("a", "d/a", ("a", "d/a")),
        ("d/a", "a", ("d/a", "a")),
        ("d/a", "e/b", ("d/a", "e/b")),
    ],
)
def test_what_two_paths_have_in_common_at_their_end_is_left_out(old: str, new: str, prefixes: tuple[str, str]) -> None:
    assert common(old, new) == prefixes


def test_one_line_each_with_its_sign() -> None:
    assert shown(
        entry("changed", "replaced", size=2048),
        entry("gone", "deleted", held=True, size=10),
        entry("mode", "attributes"),
        entry("new", "added", size=3),
        {"path": "bad", "change": "unreadable", "error": "Input/output error"},
    ) == ["~ changed  2.0 KiB", "- gone  10 B  held", "a mode  attributes", "+ new  3 B", "? bad  Input/output error"]


def test_what_comes_or_goes_with_its_directory_is_one_line() -> None:
    assert shown(
        entry("d", "deleted", kind="d"),
        entry("d-not-in-it", "deleted", size=1),
        entry("d/a", "deleted", size=1000),
        entry("d/e", "deleted", kind="d"),
        entry("d/e/b", "deleted", size=24),
    ) == ["- d/  2 entries, 1.0 KiB", "- d-not-in-it  1 B"]


def test_what_is_held_is_apart_from_what_is_not() -> None:
    assert shown(
        entry("d", "deleted", kind="d", held=True), entry("d/a", "deleted", held=True, size=1), entry("d/b", "replaced", size=1)
    ) == ["- d/  1 entry, 1 B  held", "~ d/b  1 B"]


def test_a_directory_that_moved_is_one_line_and_says_what_it_costs() -> None:
    moved = [entry(f"new/{name}", "renamed", size=1 << 30) | {"from": f"old/{name}"} for name in "abc"]
    assert shown(entry("new", "added", kind="d"), *moved, entry("old", "deleted", kind="d")) == [
        "> old -> new  3 entries, 3.0 GiB to send again"
    ]


def test_an_empty_directory_is_shown_and_its_attributes_are_not() -> None:
    assert shown(entry("empty", "added", kind="d"), entry("other", "attributes", kind="d")) == ["+ empty/  0 entries, 0 B"]


def test_a_name_cannot_write_to_the_terminal() -> None:
    assert shown(entry("a\x1b[31m\n\udcff", "added")) == ["+ a\\x1b[31m\\x0a\\udcff  0 B"]
