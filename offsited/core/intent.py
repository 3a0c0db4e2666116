# SPDX-License-Identifier: GPL-3.0-or-later
"""The intent: what a job is about to change at a target, written there before the first change and gone with the commit.

Lines of JSON: a header, then a line for each path. It is for whoever finds the target without this machine's state; this machine keeps
the same in its ledger.
"""

import json
from dataclasses import asdict, dataclass

from offsited.core.manifest import checked_path

FORMAT = 1


@dataclass(frozen=True)
class Header:
    """The first line."""

    vault: str
    target: str
    job: int
    whole: bool
    """Anything at the target may change; the lines name only what rsync could take for unchanged."""
    format: int = FORMAT

    def encode(self) -> bytes:
        """Return the line with its end."""
        return json.dumps(asdict(self)).encode() + b"\n"


def parse_header(line: bytes) -> Header | None:
    """Given the first line, return the header, or None if it is none."""
    try:
        document = json.loads(line)
        return Header(str(document["vault"]), str(document["target"]), int(document["job"]), document["whole"] is True)
    except (ValueError, KeyError, TypeError, RecursionError):
        return None


def parse_line(line: bytes) -> bytes | None:
    """Given a later line, return the path in it, or None if it is none."""
    try:
        return checked_path(json.loads(line)["path"])
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None


def encode_line(path: bytes, *, again: bool) -> bytes:
    """Return the line of a path, relative to the snapshot's top; `again`: size and mtime do not tell which content is there."""
    document: dict[str, object] = {"path": path.decode("utf-8", "surrogateescape")}
    if again:
        document["again"] = True
    return json.dumps(document).encode() + b"\n"
