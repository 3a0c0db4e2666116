# SPDX-License-Identifier: GPL-3.0-or-later
"""The manifest as values: a row, its JSON form, the header of a segment, the list of segments and its root hash.

offsited-manifest(5) documents the form for people who read it without offsited; this module is the other half of that page.
"""

import base64
import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

from offsited.errors import Failed

FORMAT: Final = 1
KINDS: Final = "fdlpscb"
"""File, directory, symbolic link, pipe, socket, character and block device."""
TOP: Final = b""
"""The path of the snapshot's own directory."""
HOLES_KEPT: Final = 1024
"""Of more holes the longest are kept: what is lost then is space, never content."""
SHA256_SIZE: Final = 32

Ranges = tuple[tuple[int, int], ...]
Xattrs = tuple[tuple[str, bytes], ...]


class ManifestDamaged(Failed):
    """A manifest, or the ledger made from it, is not what it must be. Never a reason not to restore."""


class Row(NamedTuple):
    """One entry of a snapshot as a target holds it. A tuple, because there are millions of them.

    Defaults stand for "none". `path` is relative to the snapshot's top, which is itself the row of path "".
    """

    path: bytes
    kind: str
    mode: int
    """Permission bits, without the type."""
    uid: int = 0
    gid: int = 0
    size: int = 0
    """Of a regular file, else 0."""
    mtime: int = 0
    """Nanoseconds since the epoch; beyond 64 bits after the year 2262."""
    link: int = 0
    """Number of the hard-link group; 0 where the tree has no second name for it."""
    rdev: tuple[int, int] = (0, 0)
    target: bytes = b""
    """Of a symbolic link."""
    xattrs: Xattrs = ()
    """Names and values, sorted; ACLs are among them as system.posix_acl_access and system.posix_acl_default."""
    flags: str = ""
    """The letters of chattr(1), of those that can be set."""
    holes: Ranges = ()
    """Offset and length, ascending."""
    sha256: bytes = b""
    """Of a regular file's content."""
    held: bool = False
    """A limit holds a change of this entry back; the row is the one that the target has."""
    unreadable: bool = False
    """The entry could not be read last time; the row is the one that the target has."""
    carried: bool = False
    """Only the manifest carries this entry, not the encrypted tree."""
    inode: int = 0
    """Local alone, never written into a segment. 0 = not known."""


def parent(path: bytes) -> bytes:
    """The path of the directory that holds an entry; the top holds itself."""
    return path.rpartition(b"/")[0]


def parents(path: bytes) -> Iterator[bytes]:
    """The paths of the directories that hold an entry, from the nearest to the top."""
    while path != TOP:
        path = parent(path)
        yield path


def below(directory: bytes, name: bytes) -> bytes:
    """The path of an entry of a directory."""
    return directory + b"/" + name if directory else name


def encode_row(row: Row) -> str:
    """Return a row as one line of JSON, without its end."""
    document: dict[str, Any] = {"path": _text(row.path), "type": row.kind, "mode": f"{row.mode:04o}"}
    for key in _PLAIN:
        if value := getattr(row, key):
            document[key] = value
    if row.rdev != (0, 0):
        document["rdev"] = row.rdev
    if row.target:
        document["target"] = _text(row.target)
    if row.xattrs:
        document["xattrs"] = {name: base64.b64encode(value).decode() for name, value in row.xattrs}
    if row.sha256:
        document["sha256"] = row.sha256.hex()
    return _dump(document)


def encode_gone(path: bytes) -> str:
    """Return the line that says: an earlier segment's row of this path counts no more."""
    return _dump({"path": _text(path), "gone": True})


def decode_line(line: bytes) -> tuple[bytes, Row | None]:
    """Given a line of a segment, return its path and row, None for one that is gone. Raise ManifestDamaged for anything else."""
    try:
        document = json.loads(line)
        path = checked_path(document["path"])
        return path, None if document.get("gone") is True else _decode(path, document)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ManifestDamaged(f"a line of the manifest is not a row: {type(error).__name__}") from None


def checked_path(text: str) -> bytes:
    """Given a path as a row spells it, return its bytes. Raise ValueError for one that could lead out of the snapshot."""
    path = text.encode("utf-8", "surrogateescape")
    if path and (b"\0" in path or not _PARTS_REFUSED.isdisjoint(path.split(b"/"))):
        raise ValueError("not a path below the top")
    return path


class Line(NamedTuple):
    """A line of a segment, still encoded: what is merged need not be understood."""

    path: bytes
    text: bytes
    """Without its end."""
    gone: bool


@dataclass(frozen=True)
class Header:
    """The first line of a segment: whose it is."""

    vault: str
    target: str
    job: int
    format: int = FORMAT

    def encode(self) -> str:
        """Return the line, without its end."""
        return _dump({"format": self.format, "vault": self.vault, "target": self.target, "job": self.job})

    @classmethod
    def decode(cls, line: bytes) -> "Header":
        """Raise ManifestDamaged for a line that is no header, or one of a later format."""
        try:
            document = json.loads(line)
            header = cls(str(document["vault"]), str(document["target"]), int(document["job"]), int(document["format"]))
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise ManifestDamaged(f"the first line of a manifest is no header: {type(error).__name__}") from None
        if header.format != FORMAT:
            raise ManifestDamaged(f"the manifest has format {header.format}; this version reads {FORMAT}")
        return header


@dataclass(frozen=True)
class SegmentFile:
    """A segment as a commit lists it."""

    name: str
    sha256: str
    """Of the file, in hex."""
    rows: int
    bytes: int


SEGMENT_NAME: Final = re.compile(r"manifest-[0-9]{8,19}\.jsonl\.gz", re.ASCII)
"""What `segment_name` returns: a commit is read from a target, and names in it are opened."""


def segment_name(job: int) -> str:
    """The name of the one segment that a job writes."""
    return f"manifest-{job:08d}.jsonl.gz"


def root_hash(segments: Sequence[SegmentFile]) -> str:
    """SHA-256, in hex, of what sha256sum(1) prints for the segments, oldest first."""
    return hashlib.sha256("".join(f"{segment.sha256}  {segment.name}\n" for segment in segments).encode()).hexdigest()


def to_merge(rows: Sequence[int]) -> int:
    """Given the segments' numbers of rows, oldest first, return how many of the newest are to become one.

    Afterwards each segment has at least twice as many rows as the next newer one: there are O(log n) of them, and a row is rewritten
    O(log n) times in its life.
    """
    count, total = 1, rows[-1]
    while count < len(rows) and rows[-count - 1] < 2 * total:
        count += 1
        total += rows[-count]
    return count


def _decode(path: bytes, document: Mapping[str, Any]) -> Row:
    kind = document["type"]
    if kind not in KINDS or len(kind) != 1:
        raise ValueError("no such type")
    digest = bytes.fromhex(document.get("sha256", ""))
    if digest and len(digest) != SHA256_SIZE:
        raise ValueError("not a SHA-256")
    major, minor = document.get("rdev", (0, 0))
    return Row(
        path,
        kind,
        int(document["mode"], 8) & 0o7777,
        _number(document.get("uid", 0)),
        _number(document.get("gid", 0)),
        _number(document.get("size", 0)),
        _integer(document.get("mtime", 0)),
        _number(document.get("link", 0)),
        (_number(major), _number(minor)),
        _bytes(document.get("target", "")),
        _xattrs(document.get("xattrs", {})),
        _string(document.get("flags", "")),
        _ranges(document.get("holes", ())),
        digest,
        document.get("held") is True,
        document.get("unreadable") is True,
        document.get("carried") is True,
    )


def _xattrs(document: Mapping[str, str]) -> Xattrs:
    return tuple(sorted((_string(name), base64.b64decode(value, validate=True)) for name, value in document.items()))


def _ranges(document: Iterable[Sequence[int]]) -> Ranges:
    return tuple((_number(offset), _number(length)) for offset, length in document)


def _integer(value: object) -> int:
    if type(value) is not int or not _LEAST_MTIME <= value < -_LEAST_MTIME:
        raise ValueError("not a number that fits")
    return value


def _number(value: object) -> int:
    if type(value) is not int or not 0 <= value < 1 << 63:
        raise ValueError("not a number that fits")
    return value


def _string(value: object) -> str:
    if type(value) is not str or "\0" in value:
        raise ValueError("not a string")
    return value


def _bytes(value: object) -> bytes:
    return _string(value).encode("utf-8", "surrogateescape")


def _text(value: bytes) -> str:
    return value.decode("utf-8", "surrogateescape")


_dump = json.JSONEncoder(separators=(",", ":")).encode
_PLAIN: Final = ("uid", "gid", "size", "mtime", "link", "flags", "holes", "held", "unreadable", "carried")
_PARTS_REFUSED: Final = frozenset((b"", b".", b".."))
_LEAST_MTIME: Final = -(1 << 70)
