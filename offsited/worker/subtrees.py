# SPDX-License-Identifier: GPL-3.0-or-later
"""A first plan, cut into subtrees of which everything travels: rsync walks those by itself, at half the cost of being told each name.

Where something must not travel (excluded, unreadable, kept by the manifest alone), the directories above it are told entry by entry, as
every directory is in a later plan: there a name that came since the survey would travel unseen. Of a first plan nothing counts
if the snapshot changed meanwhile, and all of it is compared with the target next time.
"""

import itertools
from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

from offsited.core.limits import NOTHING, Count
from offsited.core.manifest import TOP, parent, parents
from offsited.worker.pending import Pending


class Division(NamedTuple):
    """How a plan is cut."""

    told: frozenset[bytes]
    """Directories of which each entry is named, `Pending.told_in`."""
    lots: list[list[bytes]]
    """Topmost directories of subtrees, those of one transfer together: all of them in one directory."""


def divide(pending: Pending, limit: int, weight: int) -> Division:
    """Given a plan against nothing, return it cut, with lots of at most `limit` entries and `weight` bytes each."""
    counts = {path: Count(entries, size) for path, entries, size in pending.crowd()}
    unfit = {one for path in pending.kept_out() for one in (path, TOP, *parents(path))}
    below = _below(counts)
    sizes = _sizes(counts)
    told: set[bytes] = set()
    roots: list[tuple[bytes, Count]] = []
    left = [TOP]
    while left:
        path = left.pop()
        whole = sizes.get(path, NOTHING)
        if path not in unfit and whole.entries <= limit and whole.bytes <= weight:
            roots.append((path, whole))
        else:
            told.add(path)
            left += below.get(path, ())
    gathered = itertools.groupby(sorted(roots, key=lambda root: (parent(root[0]), root)), key=lambda root: parent(root[0]))
    return Division(frozenset(told), [lot for _, within in gathered for lot in _lots(within, limit, weight)])


def _below(counts: Mapping[bytes, Count]) -> dict[bytes, list[bytes]]:
    """The directories with entries in each directory."""
    found: dict[bytes, list[bytes]] = {}
    for path in counts:
        if path != TOP:
            found.setdefault(parent(path), []).append(path)
    return found


def _sizes(counts: Mapping[bytes, Count]) -> dict[bytes, Count]:
    """What lies below each directory, at any depth."""
    sizes = dict(counts)
    for path in sorted(counts, key=lambda path: path.count(b"/"), reverse=True):
        if path != TOP:
            sizes[parent(path)] = sizes.get(parent(path), NOTHING).plus(sizes[path])
    return sizes


def _lots(roots: Iterable[tuple[bytes, Count]], limit: int, weight: int) -> Iterator[list[bytes]]:
    lot: list[bytes] = []
    taken = NOTHING
    for path, whole in roots:
        together = taken.plus(whole)
        if lot and (together.entries + len(lot) + 1 > limit or together.bytes > weight):
            yield lot
            lot, together = [], whole
        lot.append(path)
        taken = together
    if lot:
        yield lot
