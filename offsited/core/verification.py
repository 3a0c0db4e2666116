# SPDX-License-Identifier: GPL-3.0-or-later
"""A verification as values: how deep it looks, what it can find, how much of the content is due."""

import json
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from offsited.core.manifest import checked_path

SEALED_IV: Final = 16
"""Bytes of a directory's IV, gocryptfs.diriv."""
_DAY: Final = 86_400_000_000


class Level(StrEnum):
    """How deep a verification looks; each includes those before it."""

    COMMIT = "commit"
    """Whose the target is, its commit, its history, its key file."""
    METADATA = "metadata"
    """Every entry that lies there, without reading content; and the manifest itself."""
    DATA = "data"
    """Every byte, decrypted and hashed."""


class What(StrEnum):
    """What a difference is; open for more."""

    MISSING = "missing"
    EXTRA = "extra"
    TYPE = "type"
    MODE = "mode"
    OWNER = "owner"
    TIME = "time"
    SIZE = "size"
    DEVICE = "device"
    LINK_TARGET = "link-target"
    CONTENT = "content"
    NAMES = "names"
    """What gocryptfs keeps for the names: a directory's IV, a long name. Its own or, by it, the entries'."""
    COMMIT = "commit"
    ROLLED_BACK = "rolled-back"
    HISTORY = "history"
    MANIFEST = "manifest"
    KEY_FILE = "key-file"


WHOLE: Final = frozenset({What.EXTRA, What.COMMIT, What.ROLLED_BACK, What.HISTORY, What.MANIFEST, What.KEY_FILE})
"""What sending single entries again does not mend: everything is compared with the target."""


@dataclass(frozen=True)
class Difference:
    """One thing that is not as the manifest says."""

    path: bytes
    """Of the snapshot; of a file of offsited's own its name; of what cannot be decrypted its encrypted path."""
    what: What
    detail: str = ""
    own: bool = False
    """It is no entry of the snapshot."""

    def encode(self) -> bytes:
        """Return it as a line of JSON."""
        document: dict[str, object] = {"path": self.path.decode("utf-8", "surrogateescape"), "what": self.what.value, "detail": self.detail}
        if self.own:
            document["own"] = True
        return json.dumps(document).encode() + b"\n"

    @classmethod
    def decode(cls, line: bytes) -> "Difference":
        """Raise ValueError or KeyError for a line that is none."""
        document = json.loads(line)
        path = str(document["path"]).encode("utf-8", "surrogateescape")
        return cls(path, What(document["what"]), str(document["detail"]), document.get("own") is True)


@dataclass(frozen=True)
class Mending:
    """What a repair asks of the next sync; the first line of its file, before the paths."""

    whole: bool
    """Compare everything with the target, too."""
    commit: str = ""
    """SHA-256, in hex, of a commit file at the target that is damaged: it may be replaced."""

    def encode(self) -> bytes:
        return json.dumps({"format": 1, "whole": self.whole, "commit": self.commit}).encode() + b"\n"

    @classmethod
    def decode(cls, line: bytes) -> "Mending":
        """Raise ValueError or KeyError for a line that is none."""
        document = json.loads(line)
        return cls(document["whole"] is True, str(document["commit"]))


def decode_path(line: bytes) -> bytes:
    """Given a line of a repair's file, return the path in it. Raise ValueError or KeyError."""
    return checked_path(json.loads(line)["path"])


def encode_path(path: bytes) -> bytes:
    """Return the line of a path."""
    return json.dumps({"path": path.decode("utf-8", "surrogateescape")}).encode() + b"\n"


def due(total: int, since: int, days: int) -> int:
    """Given the bytes that a target holds, the microseconds since content was read last (0 = never), and the days within which every byte
    is to be read, return how many bytes are due now. A run that comes a day late finds no more than its share waiting."""
    elapsed = min(since or 7 * _DAY, days * _DAY)
    return min(total, -(-total * (elapsed + _DAY) // (days * _DAY)))
