# SPDX-License-Identifier: GPL-3.0-or-later
"""What can be said of a snapshot from text alone: the path that names it, the date in its name, whether it may be synced now."""

import os
import re
import time
from collections.abc import Iterable, Iterator
from datetime import datetime
from pathlib import PurePosixPath
from typing import Final

from offsited.core.outcome import Reason
from offsited.errors import JobFailed

LASTDST_MAX: Final = 4096
"""Bytes of a `lastdst` file at most, PATH_MAX of Linux; one trailing newline comes on top."""

_SECOND: Final = 1_000_000
_FUTURE: Final = 24 * 3600 * _SECOND
"""A snapshot may be dated this much ahead: clocks and time zones of machines differ."""

_DATED: Final = re.compile(
    r"(?<!\d)(?P<date>(?:19|20)\d\d(?P<sep>[-_.]?)\d\d(?P=sep)\d\d)"
    r"(?:[T_@ .-]?(?P<time>\d\d[-:._h]?\d\d(?:[-:._m]?\d\d)?)(?P<zone>Z|[+-]\d\d:?\d\d)?)?(?!\d)"
)
"""2026-11-24, 20261124, 2026-11-24_03-00-01, 2026-11-24T03:00, 20261124T030001Z; whatever stands before and after."""


def parse_lastdst(content: bytes) -> str:
    """Given the bytes of a `lastdst` file, return the absolute path in it, decoded as os.fsdecode does.

    Raise JobFailed unless it is exactly one path, with at most one newline after it.
    """
    path = content.removesuffix(b"\n")
    if len(path) > LASTDST_MAX or not path.startswith(b"/") or b"\0" in path or b"\n" in path or b".." in path.split(b"/"):
        raise JobFailed(Reason.SOURCE_MALFORMED, "not exactly one absolute path without '..'")
    return os.fsdecode(path)


def below_root(path: str, root: str, *, itself: bool = False) -> str:
    """Given two absolute paths, return the first one relative to the second; "." if `itself` allows them to be the same.

    Raise JobFailed if the path does not lie below the root.
    """
    pure, top = (PurePosixPath("/" + os.path.normpath(text).lstrip("/")) for text in (path, root))
    if not pure.is_relative_to(top) or (pure == top and not itself):
        raise JobFailed(Reason.SNAPSHOT_OUTSIDE_ROOT, f"{path} does not lie below {root}")
    return str(pure.relative_to(top))


def date_of(path: str) -> int:
    """Given a snapshot's path relative to its root, return the date that its name gives, or failing that a parent's.

    Microseconds since the epoch, 0 = undated. Without a zone in the name it is local time; without a time it is midnight.
    """
    return next((date for name in reversed(PurePosixPath(path).parts) for date in _dates(name)), 0)


def newest(paths: Iterable[str]) -> str | None:
    """Given relative paths, return the one dated last (among equals the last by name), or None if there is none."""
    dated = [(date_of(path), os.fsencode(path), path) for path in paths]
    return max(dated)[2] if dated else None


def check_age(dated: int, last: int, now: int) -> None:
    """Given a snapshot's date, that of the one committed last (0 = undated, none) and the time: raise JobFailed if it may not go."""
    if dated > now + _FUTURE:
        raise JobFailed(Reason.SNAPSHOT_FUTURE)
    if dated and dated < last:
        raise JobFailed(Reason.SNAPSHOT_OLDER)


def printable(text: str) -> str:
    """Given text that may hold undecodable bytes of a file name, return it with those as escapes, fit for JSON."""
    return text.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def _dates(name: str) -> Iterator[int]:
    for match in _DATED.finditer(name):
        moment = _moment(re.sub(r"\D", "", match["date"]), re.sub(r"\D", "", match["time"] or ""), match["zone"] or "")
        if moment:
            yield moment


def _moment(date: str, clock: str, zone: str) -> int:
    """Given digits of a date and a time of day, and a zone, return microseconds since the epoch, 0 if there is no such moment."""
    try:
        moment = datetime.strptime(date + clock.ljust(6, "0") + (zone or "Z"), "%Y%m%d%H%M%S%z")
        if zone:
            return round(moment.timestamp()) * _SECOND
        return round(time.mktime((*moment.timetuple()[:8], -1))) * _SECOND
    except (ValueError, OverflowError):
        return 0
