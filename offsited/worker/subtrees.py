# SPDX-License-Identifier: GPL-3.0-or-later
"""A first plan, cut into subtrees of which everything travels: rsync walks those by itself, at half the cost of being told each name.

Where something must not travel (excluded, unreadable, kept by the manifest alone), the directories above it are told entry by entry, as
every directory is in a later plan: there a name that came since the survey would travel unseen. Of a first plan nothing counts
if the snapshot changed meanwhile, and all of it is compared with the target next time.
"""

import itertools
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from offsited.core.manifest import TOP, parent, parents
from offsited.worker.pending import Pending


class Division(NamedTuple):
    """How a plan is cut."""

    told: frozenset[bytes]
    """Directories of which each entry is named, `Pending.told_in`."""
    lots: list[list[bytes]]
    """Topmost directories of subtrees, those of one transfer together: all of them in one directory."""


def divide(pending: Pending, limit: int) -> Division:
    """Given a plan against nothing, return it cut, with lots of at most `limit` entries each."""
    counts = dict(pending.crowd())
    unfit = {one for path in pending.kept_out() for one in (path, TOP, *parents(path))}
    below = _below(counts)
    sizes = _sizes(counts)
    told: set[bytes] = set()
    roots: list[tuple[bytes, int]] = []
    left = [TOP]
    while left:
        path = left.pop()
        if path not in unfit and sizes.get(path, 0) <= limit:
            roots.append((path, sizes.get(path, 0)))
        else:
            told.add(path)
            left += below.get(path, ())
    gathered = itertools.groupby(sorted(roots, key=lambda root: (parent(root[0]), root)), key=lambda root: parent(root[0]))
    return Division(frozenset(told), [lot for _, within in gathered for lot in _lots(within, limit)])


def _below(counts: dict[bytes, int]) -> dict[bytes, list[bytes]]:
    """The directories with entries in each directory."""
    found: dict[bytes, list[bytes]] = {}
    for path in counts:
        if path != TOP:
            found.setdefault(parent(path), []).append(path)
    return found


def _sizes(counts: dict[bytes, int]) -> dict[bytes, int]:
    """The entries below each directory, at any depth."""
    sizes = dict(counts)
    for path in sorted(counts, key=lambda path: path.count(b"/"), reverse=True):
        if path != TOP:
            sizes[parent(path)] = sizes.get(parent(path), 0) + sizes[path]
    return sizes


def _lots(roots: Iterable[tuple[bytes, int]], limit: int) -> Iterator[list[bytes]]:
    lot: list[bytes] = []
    size = 0
    for path, entries in roots:
        if lot and size + entries + 1 > limit:
            yield lot
            lot, size = [], 0
        lot.append(path)
        size += entries + 1
    if lot:
        yield lot
