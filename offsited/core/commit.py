# SPDX-License-Identifier: GPL-3.0-or-later
"""The commit file of a target, and its owner marker: small JSON documents, pure values here."""

import hashlib
from typing import Self

from pydantic import BaseModel, ConfigDict, ValidationError, model_validator

from offsited.core.manifest import SEGMENT_NAME, SegmentFile, root_hash

FORMAT = 1


class OwnerMarker(BaseModel):
    """`offsited.json` at the top of a target's directory: whose this is. In clear; holds nothing but the vault's id."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    format: int = FORMAT
    vault: str


class Commit(BaseModel):
    """What a target holds. Written last, renamed into place, encrypted along with the tree."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    format: int = FORMAT
    vault: str
    """The vault's id."""
    target: str
    job: int
    previous: str = ""
    """SHA-256 of the commit file before this one, in hex; "" = the first."""
    snapshot: str
    snapshot_dated: int
    """Microseconds since the epoch; 0 = undated."""
    opened: int
    """When the snapshot was opened, microseconds since the epoch."""
    committed: int
    reconciled: int
    """When everything was last compared with the target."""
    entries: int
    bytes: int
    segments: tuple[SegmentFile, ...]
    """The manifest, oldest segment first."""
    root: str
    """The hash over the segments' hashes."""

    @model_validator(mode="after")
    def _segments_fit(self) -> Self:
        if not all(SEGMENT_NAME.fullmatch(segment.name) for segment in self.segments):
            raise ValueError("not the name of a segment")
        if self.root != root_hash(self.segments):
            raise ValueError("the root hash is not that of the segments")
        return self


def encode(document: BaseModel) -> bytes:
    """Return the file's bytes."""
    return document.model_dump_json(indent=1).encode() + b"\n"


def digest(content: bytes) -> str:
    """SHA-256 in hex: how a commit is referred to."""
    return hashlib.sha256(content).hexdigest()


def parse_owner(content: bytes) -> OwnerMarker | None:
    """Given the bytes of an owner marker, return it, or None if it is none."""
    try:
        return OwnerMarker.model_validate_json(content)
    except ValidationError:
        return None


def parse_commit(content: bytes) -> Commit | None:
    """Given the bytes of a commit file, return it, or None if it is none."""
    try:
        return Commit.model_validate_json(content)
    except ValidationError:
        return None
