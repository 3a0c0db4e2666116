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


def _shortest(path: bytes) -> bytes:
    parts = [part for part in path.split(b"/") if part not in {b"", b"."}]
    if path.startswith(b"/") or b".." in parts:
        raise JobFailed(Reason.PATH_NOT_IN_BACKUP, "paths to restore are relative to the top of the snapshot, without '..'")
    return b"/".join(parts)
