# SPDX-License-Identifier: GPL-3.0-or-later
"""Segments on disk: writing, reading, and making one of several. offsited-manifest(5) says what they are.

A segment never changes once it has its name. Reading and merging hold a line of each segment in memory, not a segment.
"""

import gzip
import hashlib
import heapq
import json
import os
import zlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from offsited.core.manifest import Header, Line, ManifestDamaged, Row, SegmentFile, checked_path, decode_line, segment_name, to_merge
from offsited.store import sync_directory

LINE_LIMIT: Final = 64 << 20
"""Bytes; no row comes near it, and what does is no row."""
_BUFFER: Final = 1 << 20
_LEVEL: Final = 6


def rows(file: Path, expected: SegmentFile | None = None) -> Iterator[tuple[bytes, Row | None]]:
    """Yield a segment's paths and rows, None for one that is gone, in path order.

    Raise ManifestDamaged if it is damaged, before the first row if its hash is not the `expected` one.
    """
    with _opened(file, expected) as (_, lines):
        last: bytes | None = None
        for line in lines:
            found = decode_line(line)
            last = _after(last, found[0])
            yield found


def header(file: Path) -> Header:
    """Whose segment this is. Raise ManifestDamaged."""
    with _opened(file) as (found, _):
        return found


def is_intact(file: Path, expected: SegmentFile) -> bool:
    """Whether a segment is there, as it was committed."""
    try:
        return _digest(file) == expected.sha256
    except OSError:
        return False


def describe(file: Path) -> SegmentFile:
    """What a commit says of a segment. Raise ManifestDamaged."""
    with _opened(file) as (_, lines):
        count = sum(1 for _ in lines)
    return SegmentFile(file.name, _digest(file), count, file.stat().st_size)


def append(directory: Path, existing: Sequence[SegmentFile], head: Header, news: Iterable[Line]) -> tuple[SegmentFile, ...]:
    """Write the lines of a job, in path order, as a new segment beside the `existing` ones (oldest first), and return the new list.

    The newest of the existing ones are merged into it where `core.manifest.to_merge` says so; their files stay for the caller to remove
    once the new list is committed. Without a line the list stays as it is. Raise ManifestDamaged if one that is merged is damaged.
    """
    name = segment_name(head.job)
    own = _write(directory / name, head, news if existing else (line for line in news if not line.gone))
    if not own.rows:
        (directory / name).unlink()
        return tuple(existing)
    count = to_merge([*(segment.rows for segment in existing), own.rows]) - 1
    if not count:
        return (*existing, own)
    kept, merged = existing[: len(existing) - count], existing[len(existing) - count :]
    return (*kept, _merge_into(directory, merged, own, head, oldest=not kept))


def merged(files: Sequence[tuple[Path, SegmentFile | None]], *, tombstones: bool = False) -> Iterator[Line]:
    """Yield what several segments (oldest first) say together, in path order, of each path its newest line alone."""
    streams = [_aged(file, expected, -age) for age, (file, expected) in enumerate(files)]
    last: bytes | None = None
    for path, _, line in heapq.merge(*streams, key=lambda item: item[:2]):
        if path != last:
            last = path
            if tombstones or not line.gone:
                yield line


def listed(directory: Path, segments: Sequence[SegmentFile]) -> Iterator[Row]:
    """Yield the rows of a whole manifest in path order. Raise ManifestDamaged."""
    for line in merged([(directory / segment.name, segment) for segment in segments]):
        row = decode_line(line.text)[1]
        if row is not None:
            yield row


def _merge_into(directory: Path, merging: Sequence[SegmentFile], own: SegmentFile, head: Header, *, oldest: bool) -> SegmentFile:
    """Replace the new segment by one that holds the merged ones too. Where none is older, what is gone need not be said any more."""
    target = directory / own.name
    fresh = target.with_name(f".{own.name}.new")
    target.rename(fresh)
    try:
        files = [*((directory / segment.name, segment) for segment in merging), (fresh, None)]
        return _write(target, head, merged(files, tombstones=not oldest))
    finally:
        fresh.unlink()


def _aged(file: Path, expected: SegmentFile | None, age: int) -> Iterator[tuple[bytes, int, Line]]:
    with _opened(file, expected) as (_, lines):
        last: bytes | None = None
        for text in lines:
            line = _line(text)
            last = _after(last, line.path)
            yield line.path, age, line


def _after(last: bytes | None, path: bytes) -> bytes:
    if last is not None and path <= last:
        raise ManifestDamaged("the rows of a segment are not in the order of their paths")
    return path


def _line(text: bytes) -> Line:
    try:
        document = json.loads(text)
        return Line(checked_path(document["path"]), text, document.get("gone") is True)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ManifestDamaged(f"a line of the manifest is not a row: {type(error).__name__}") from None


def _write(file: Path, head: Header, lines: Iterable[Line]) -> SegmentFile:
    """Write a whole segment: temporary file, fsync, rename, fsync of the directory. The same lines give the same bytes."""
    temporary = file.with_name(f".{file.name}.tmp")
    count = 0
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    with os.fdopen(descriptor, "wb") as raw:
        with gzip.GzipFile("", "wb", _LEVEL, raw, mtime=0) as packed:
            packed.write(head.encode().encode() + b"\n")
            for chunk, number in _chunks(lines):
                packed.write(chunk)
                count += number
        raw.flush()
        os.fsync(raw.fileno())
        size = raw.tell()
    temporary.replace(file)
    sync_directory(file.parent)
    return SegmentFile(file.name, _digest(file), count, size)


def _chunks(lines: Iterable[Line]) -> Iterator[tuple[bytes, int]]:
    waiting: list[bytes] = []
    size = 0
    for line in lines:
        waiting.append(line.text)
        size += len(line.text)
        if size >= _BUFFER:
            yield b"\n".join(waiting) + b"\n", len(waiting)
            waiting, size = [], 0
    if waiting:
        yield b"\n".join(waiting) + b"\n", len(waiting)


@contextmanager
def _opened(file: Path, expected: SegmentFile | None = None) -> Iterator[tuple[Header, Iterator[bytes]]]:
    """Open a segment: its header, and its lines without their ends. Raise ManifestDamaged for what cannot be read as one."""
    try:
        with file.open("rb") as raw:
            if expected and hashlib.file_digest(raw, "sha256").hexdigest() != expected.sha256:
                raise ManifestDamaged(f"segment {file.name} is not the one that was committed")
            raw.seek(0)
            with gzip.open(raw, "rb") as packed:
                lines = _lines(packed, file.name)
                yield Header.decode(next(lines, b"")), lines
    except (OSError, EOFError, zlib.error) as error:
        raise ManifestDamaged(f"segment {file.name} cannot be read: {error}") from None


def _lines(packed: gzip.GzipFile, name: str) -> Iterator[bytes]:
    while line := packed.readline(LINE_LIMIT):
        if not line.endswith(b"\n"):
            raise ManifestDamaged(f"segment {name} ends within a line, or a line is longer than any row")
        yield line[:-1]


def _digest(file: Path) -> str:
    with file.open("rb") as raw:
        return hashlib.file_digest(raw, "sha256").hexdigest()
