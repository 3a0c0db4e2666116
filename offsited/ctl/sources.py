# SPDX-License-Identifier: GPL-3.0-or-later
"""What a vault's source looks like on this machine right now: for `init` and `check-config`, which look before any job does."""

import glob
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from offsited.core import snapshot
from offsited.core.config import Source
from offsited.core.outcome import ADVICE, parse_reason
from offsited.errors import JobFailed


class Severity(StrEnum):
    """An error keeps jobs from running; a warning may pass by itself, such as a disk that is not mounted."""

    ERROR = "error"
    WARNING = "warning"


@dataclass(frozen=True)
class Finding:
    """One thing that is not as it should be: in which file, at which key ("" = the whole of it), what."""

    severity: Severity
    file: str
    key: str
    message: str


def examine(source: Source, file: str) -> Iterator[Finding]:
    """What is wrong with the source that the vault file `file` names."""
    if not os.path.isdir(source.root):
        yield _of(file, "source.root", source.root, there=os.path.exists(source.root), wanted="a directory")
        return
    match source.kind:
        case "lastdst":
            yield from _examine_lastdst(source, file)
        case "newest":
            if not any(os.path.isdir(path) for path in glob.iglob(source.path)):
                yield Finding(Severity.WARNING, file, "source.path", f"no directory matches {source.path} yet")
        case "path":
            if not os.path.isdir(source.path):
                yield _of(file, "source.path", source.path, there=os.path.exists(source.path), wanted="a directory")


def _examine_lastdst(source: Source, file: str) -> Iterator[Finding]:
    try:
        content = _read(Path(source.path))
    except OSError as error:
        yield Finding(Severity.WARNING, file, "source.path", f"{source.path} cannot be read: {error.strerror}")
        return
    if content is None:
        yield _of(file, "source.path", source.path, there=True, wanted="a regular file")
        return
    try:
        snapshot.below_root(snapshot.parse_lastdst(content), source.root)
    except JobFailed as error:
        yield Finding(Severity.WARNING, file, "source.path", f"{source.path}: {ADVICE[parse_reason(error.reason)].sentence}")


def _read(path: Path) -> bytes | None:
    """As a job reads it; None if it is no regular file."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    with os.fdopen(descriptor, "rb") as file:
        return file.read(snapshot.LASTDST_MAX + 2) if stat.S_ISREG(os.fstat(descriptor).st_mode) else None


def _of(file: str, key: str, path: str, *, there: bool, wanted: str) -> Finding:
    if there:
        return Finding(Severity.ERROR, file, key, f"{path} is not {wanted}")
    return Finding(Severity.WARNING, file, key, f"{path} does not exist now")
