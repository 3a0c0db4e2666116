# SPDX-License-Identifier: GPL-3.0-or-later
"""What one target is known to hold: the files in `state/targets/T/`.

commit.json         the commit last confirmed there, in clear
sealed.json         where it lies there, and what it and its predecessors look like encrypted: recognised without the key
pending.json        a commit that is on its way: until the next look nobody knows whether it has arrived
intent.jsonl.gz     what an uncommitted job may have changed there
segments/           the manifest's segments, as the commit lists them
manifest.sqlite     the same manifest, made ready for questions (worker.ledger)
mending.jsonl       what a verification found, for the next sync to send again
tree/               what goes to the target beside the snapshot; bound at plain/offsited
"""

import gzip
import os
import shutil
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum, auto
from pathlib import Path
from typing import Final

from pydantic import BaseModel, ConfigDict, ValidationError

from offsited.core.commit import Commit, digest, parse_commit
from offsited.core.intent import parse_header
from offsited.store import sync_directory, write_whole

COMMIT_FILE: Final = "commit.json"
PREVIOUS_FILE: Final = "previous.json"
"""At the target: the commit before."""
INTENT_FILE: Final = "intent.jsonl.gz"
MENDING_FILE: Final = "mending.jsonl"
"""Here: what a verification left for the next sync to mend (worker.mending)."""
PENDING_FILE: Final = "pending.json"
SEALED_FILE: Final = "sealed.json"
SEGMENTS_DIR: Final = "segments"
_HISTORY_KEPT: Final = 10_000


class Sealed(BaseModel):
    """`sealed.json`."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    format: int = 1
    commit_path: str = ""
    """The commit file's encrypted path below `current/`."""
    history: tuple[str, ...] = ()
    """SHA-256, in hex, of each commit confirmed there as it is encrypted, the last one last."""
    key_file: str = ""
    """SHA-256 of the key file that was sent there last, in hex; "" = not known."""


class Announced(BaseModel):
    """`pending.json`."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    format: int = 1
    content: str
    """The commit file."""
    commit_path: str
    sealed: str
    """SHA-256 of the file as it is encrypted."""
    key_file: str = ""
    """SHA-256 of the key file that was sent along."""

    def arrived(self, found: bytes | None) -> bool:
        """Given the commit file as it lies at the target, whether it is this one."""
        return found is not None and digest(found) == self.sealed


class Standing(Enum):
    """How the commit that lies at a target stands to what we know."""

    NOTHING = auto()
    """There is none, and there should be none."""
    CONFIRMED = auto()
    """The one confirmed last."""
    LOST = auto()
    """There is none where there should be one."""
    ROLLED_BACK = auto()
    """An older one of ours."""
    UNKNOWN = auto()
    """Not one that we made."""


@dataclass(frozen=True)
class Confirmed:
    """The place of these files, and what they say."""

    directory: Path
    content: bytes | None
    """The commit file as it was written."""
    commit: Commit | None
    sealed: Sealed

    @classmethod
    def read(cls, directory: Path) -> "Confirmed":
        """Read what is there; nothing, if nothing was confirmed yet or it cannot be read."""
        content = _content(directory / COMMIT_FILE)
        commit = parse_commit(content) if content else None
        return cls(directory, content if commit else None, commit, _parse_sealed(_content(directory / SEALED_FILE)))

    @property
    def tree(self) -> Path:
        return self.directory / "tree"

    @property
    def segments(self) -> Path:
        return self.directory / SEGMENTS_DIR

    @property
    def manifest(self) -> Path:
        return self.directory / "manifest.sqlite"

    @property
    def intent(self) -> Path:
        return self.directory / INTENT_FILE

    @property
    def interrupted(self) -> bool:
        """Whether an uncommitted job left an intent."""
        return self.intent.exists()

    @property
    def intends_all(self) -> bool:
        """Whether an uncommitted job was about to change anything at the target, or may have been: its intent cannot be read."""
        header = parse_header(next(self.intent_lines(), b""))
        return self.interrupted and (header is None or header.whole)

    def intent_lines(self) -> Iterator[bytes]:
        """The lines of the intent that an uncommitted job left, as far as it can be read; the last one is b"" if it cannot to its end."""
        try:
            with gzip.open(self.intent, "rb") as file:
                yield from file
        except FileNotFoundError:
            return
        except (OSError, EOFError, zlib.error):
            yield b""

    @property
    def settled(self) -> bool:
        """Whether nothing waits at the target that a limit held when everything was compared with it."""
        return self.commit is None or self.commit.reconciled > 0

    @property
    def dated(self) -> int:
        """Date of the snapshot confirmed last, 0 = none or undated."""
        return self.commit.snapshot_dated if self.commit else 0

    @property
    def digest(self) -> str:
        """How the next commit refers to this one."""
        return digest(self.content) if self.content else ""

    def standing(self, found: bytes | None) -> Standing:
        """Given the commit file as it lies at the target, encrypted, None = none, say what to make of it."""
        if found is None:
            return Standing.LOST if self.sealed.history else Standing.NOTHING
        sealed = digest(found)
        if self.commit and self.sealed.history[-1:] == (sealed,):
            return Standing.CONFIRMED
        return Standing.ROLLED_BACK if sealed in self.sealed.history else Standing.UNKNOWN

    def announced(self) -> Announced | None:
        """A commit that an interrupted job had on its way."""
        try:
            return Announced.model_validate_json(_content(self.directory / PENDING_FILE) or b"")
        except ValidationError:
            return None

    def announce(self, announced: Announced) -> None:
        """Record what is about to be committed, before it is sent."""
        write_whole(self.directory / PENDING_FILE, announced.model_dump_json().encode())

    def confirm(self, announced: Announced) -> "Confirmed":
        """Keep a commit that is at the target now. The ledger must hold it already."""
        history = (*self.sealed.history, announced.sealed)[-_HISTORY_KEPT:]
        sealed = Sealed(commit_path=announced.commit_path, history=history, key_file=announced.key_file)
        write_whole(self.directory / SEALED_FILE, sealed.model_dump_json().encode())
        write_whole(self.directory / COMMIT_FILE, announced.content.encode())
        for done in (self.intent, self.directory / PENDING_FILE, self.directory / MENDING_FILE):
            done.unlink(missing_ok=True)
        sync_directory(self.directory)
        return Confirmed.read(self.directory)

    def new_tree(self) -> None:
        """Make `tree/`, empty: a fresh view never sees an older file of the same name."""
        shutil.rmtree(self.tree, ignore_errors=True)
        self.tree.mkdir(mode=0o700, parents=True)
        self.segments.mkdir(mode=0o700, exist_ok=True)

    def stage(self, file: Path, name: str = "") -> None:
        """Show a file of ours in `tree/`, hence in the view."""
        os.link(file, self.tree / (name or file.name))


def _parse_sealed(content: bytes | None) -> Sealed:
    try:
        return Sealed.model_validate_json(content or b"{}")
    except ValidationError:
        return Sealed()


def _content(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except OSError:
        return None
