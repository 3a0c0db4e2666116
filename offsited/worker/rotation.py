# SPDX-License-Identifier: GPL-3.0-or-later
"""How far the content of a target was read: `rotation.json` in its directory here. Run by run, and again from the beginning."""

import json
from pathlib import Path
from typing import Final

from pydantic import BaseModel, ConfigDict, ValidationError

from offsited.store import write_whole

_FILE: Final = "rotation.json"


class Rotation(BaseModel):
    """Where the next run goes on."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    format: int = 1
    cursor: str | None = None
    """The path that was read last; None = from the beginning."""
    read: int = 0
    """When the last run ended, microseconds since the epoch; 0 = never."""

    @classmethod
    def at(cls, path: bytes | None, when: int) -> "Rotation":
        """A run ended after this path."""
        return cls(cursor=None if path is None else path.decode("utf-8", "surrogateescape"), read=when)

    @classmethod
    def load(cls, directory: Path) -> "Rotation":
        """What is on record for a target; from the beginning, if nothing is, or it cannot be read."""
        try:
            return cls.model_validate_json((directory / _FILE).read_bytes())
        except (OSError, ValidationError):
            return cls()

    @property
    def path(self) -> bytes | None:
        return None if self.cursor is None else self.cursor.encode("utf-8", "surrogateescape")

    def write(self, directory: Path) -> None:
        """Keep it. (JSON has no lone surrogates in UTF-8: they are escaped.)"""
        write_whole(directory / _FILE, json.dumps(self.model_dump()).encode())
