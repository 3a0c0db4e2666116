# SPDX-License-Identifier: GPL-3.0-or-later
"""What one target is known to hold: the files in `state/targets/T/`.

commit.json     the commit last confirmed there, in clear
sealed.json     where it lies there and what it looks like encrypted, so that it can be recognised without the key
tree/           what goes to the target beside the snapshot; bound at plain/offsited
"""

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from pydantic import BaseModel, ConfigDict, ValidationError

from offsited.core.commit import Commit, digest, parse_commit
from offsited.store import write_whole

COMMIT_FILE: Final = "commit.json"


class Sealed(BaseModel):
    """`sealed.json`."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    format: int = 1
    path: str = ""
    """The commit file's encrypted path below `current/`."""
    digest: str = ""
    """SHA-256 of the encrypted file, in hex."""


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
        return cls(directory, content, commit, _parse_sealed(_content(directory / "sealed.json")) if commit else Sealed())

    @property
    def tree(self) -> Path:
        return self.directory / "tree"

    @property
    def dated(self) -> int:
        """Date of the snapshot confirmed last, 0 = none or undated."""
        return self.commit.snapshot_dated if self.commit else 0

    @property
    def digest(self) -> str:
        """How the next commit refers to this one."""
        return digest(self.content) if self.content else ""

    def is_at_target(self, found: bytes | None) -> bool:
        """Whether the commit file that was found at the target is the one confirmed last."""
        return found is not None and digest(found) == self.sealed.digest

    def new_tree(self) -> None:
        """Make `tree/`, empty: a fresh view never sees an older file of the same name."""
        shutil.rmtree(self.tree, ignore_errors=True)
        self.tree.mkdir(mode=0o700, parents=True)

    def confirm(self, content: bytes, path: str, sealed: bytes) -> None:
        """Keep a commit that is at the target now."""
        write_whole(self.directory / "sealed.json", Sealed(path=path, digest=digest(sealed)).model_dump_json().encode())
        write_whole(self.directory / COMMIT_FILE, content)


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
