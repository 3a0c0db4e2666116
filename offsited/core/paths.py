# SPDX-License-Identifier: GPL-3.0-or-later
"""Paths that a person asks to have restored: bytes, relative to the top of the snapshot."""

from offsited.core.outcome import Reason
from offsited.errors import JobFailed


def parse(content: bytes) -> tuple[bytes, ...]:
    """Given NUL-separated paths, return them in their shortest form; none = everything, and so does ".".

    Raise JobFailed for a path that is absolute or leads upwards.
    """
    found = tuple(dict.fromkeys(_shortest(path) for path in content.split(b"\0") if path))
    return () if b"" in found else found


def parent(path: bytes) -> bytes:
    """Given a path, return that of its directory, "." at the top."""
    return path.rpartition(b"/")[0] or b"."


def exclude_line(path: bytes) -> str:
    """Return the line of a vault file that excludes a path: a pattern of gitignore(5), anchored, as a string of TOML.

    An undecodable byte or the end of a line has no place in them; it is matched by a class of such alone, never by `?`: who follows the
    line must not lose anything else.
    """
    pattern = "/" + "".join(_as_pattern(character) for character in path.decode("utf-8", "surrogateescape"))
    return f'exclude = ["{"".join(_as_toml(character) for character in pattern)}"]'


def _as_pattern(character: str) -> str:
    if character in "\r\n":
        return "[\t-\x0e]"
    if "\ud800" <= character <= "\udfff":
        return "[!\x01-\ud7ff\ue000-\U0010ffff]"
    if character != " " and character.isspace():  # at the end it would not count
        return f"[{character}]"
    return f"\\{character}" if character in "\\*?[ " else character


def _as_toml(character: str) -> str:
    if character in '"\\':
        return f"\\{character}"
    return character if character.isprintable() else f"\\U{ord(character):08x}"


def _shortest(path: bytes) -> bytes:
    parts = [part for part in path.split(b"/") if part not in {b"", b"."}]
    if path.startswith(b"/") or b".." in parts:
        raise JobFailed(Reason.PATH_NOT_IN_BACKUP, "paths to restore are relative to the top of the snapshot, without '..'")
    return b"/".join(parts)
