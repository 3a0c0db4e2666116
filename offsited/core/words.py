# SPDX-License-Identifier: GPL-3.0-or-later
"""Numbers, times and names as a person reads them. Pure; times are microseconds since the epoch, 0 = never."""

from datetime import UTC, datetime, tzinfo
from typing import Final

PREPOSITIONS: Final = {"sync": "to", "restore": "from", "verify": "of", "restore-test": "from", "mount": "of", "seal": "of", "adopt": "at"}
"""Between what a job does and its target."""
_UNITS: Final = ("KiB", "MiB", "GiB", "TiB", "PiB")
_MINUTE, _HOUR, _DAY = 60, 3600, 86400


def printable(text: str) -> str:
    """Given a name from a file or the bus, return it without anything that a terminal would obey or that would hide a line."""
    return "".join(char if char.isprintable() else _escaped(char) for char in text)


def _escaped(char: str) -> str:
    code = ord(char)
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"


def size(count: int) -> str:
    """Bytes in binary units, three digits or so: 999 B, 1.5 KiB, 20.3 GiB."""
    if count < 1024:
        return f"{count} B"
    value = float(count)
    for unit in _UNITS:
        value /= 1024
        if value < 1023.95 or unit == _UNITS[-1]:
            break
    return f"{value:.1f} {unit}"


def number(count: int, noun: str = "") -> str:
    """1,234 with separators; with a noun in the singular: '1 entry', '2 entries'."""
    if not noun:
        return f"{count:,}"
    return f"{count:,} {noun if count == 1 else _plural(noun)}"


def _plural(noun: str) -> str:
    return noun.removesuffix("y") + "ies" if noun.endswith("y") else noun + "s"


def deletions_and_changes(deleted: int, deleted_bytes: int, changed: int, changed_bytes: int) -> str:
    """'31 deletions (2.0 MiB)', '12 changes (3.0 GiB)', or both."""
    kinds = ((deleted, deleted_bytes, "deletion"), (changed, changed_bytes, "change"))
    return " and ".join(f"{number(entries, noun)} ({size(count)})" for entries, count, noun in kinds if entries)


def duration(seconds: float) -> str:
    """How long something took: 0.4 s, 12 s, 3 min 20 s, 2 h 05 min, 3 d 4 h."""
    if seconds < 10:
        return f"{max(seconds, 0):.1f} s"
    whole = round(seconds)
    if whole < _MINUTE:
        return f"{whole} s"
    if whole < _HOUR:
        return f"{whole // _MINUTE} min {whole % _MINUTE:02d} s"
    if whole < _DAY:
        return f"{whole // _HOUR} h {whole % _HOUR // _MINUTE:02d} min"
    return f"{whole // _DAY} d {whole % _DAY // _HOUR} h"


def span(seconds: float) -> str:
    """About how long, in one unit: 40 s, 12 min, 9 h, 3 d."""
    whole = max(int(seconds), 0)
    for unit, length in (("d", _DAY), ("h", _HOUR), ("min", _MINUTE)):
        if whole >= 2 * length or (unit == "min" and whole >= length):
            return f"{whole // length} {unit}"
    return f"{whole} s"


def age(then: int, now: int) -> str:
    """How long ago `then` was at `now`; a time in the future says so."""
    seconds = (now - then) / 1e6
    return f"{span(seconds)} old" if seconds >= 0 else f"{span(-seconds)} in the future"


def ago(then: int, now: int) -> str:
    """The same of an event."""
    seconds = (now - then) / 1e6
    return f"{span(seconds)} ago" if seconds >= 0 else f"in {span(-seconds)}"


def moment(then: int, zone: tzinfo | None = None) -> str:
    """Date and time to the minute, in the local time zone or in `zone`."""
    return local(then, zone).strftime("%Y-%m-%d %H:%M")


def clock(then: int, zone: tzinfo | None = None) -> str:
    """Time of day to the second."""
    return local(then, zone).strftime("%H:%M:%S")


def local(then: int, zone: tzinfo | None = None) -> datetime:
    """Date and time in the local time zone or in `zone`."""
    try:
        return datetime.fromtimestamp(then // 1_000_000, UTC).astimezone(zone)
    except (OverflowError, ValueError, OSError):
        return datetime.max.replace(tzinfo=UTC)
