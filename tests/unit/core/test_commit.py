# SPDX-License-Identifier: GPL-3.0-or-later
"""The commit file and the owner marker."""

import hashlib
import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from offsited.core.commit import Commit, OwnerMarker, digest, encode, parse_commit, parse_owner
from offsited.core.manifest import SegmentFile, root_hash

SEGMENTS = (
    SegmentFile("manifest-00000003.jsonl.gz", "1" * 64, 3, 100),
    SegmentFile("manifest-00000007.jsonl.gz", "2" * 64, 1, 50),
)
COMMIT = Commit(
    vault="v",
    target="seed",
    job=7,
    previous="ab",
    snapshot="2026-11-24",
    snapshot_dated=5,
    opened=6,
    committed=8,
    reconciled=4,
    entries=3,
    bytes=9,
    segments=SEGMENTS,
    root=root_hash(SEGMENTS),
)


def test_what_is_encoded_can_be_read() -> None:
    assert parse_commit(encode(COMMIT)) == COMMIT
    assert parse_owner(encode(OwnerMarker(vault="v"))) == OwnerMarker(vault="v")


def test_a_file_of_text_ends_with_a_newline() -> None:
    assert encode(COMMIT).endswith(b"}\n")


def test_an_owner_marker_holds_nothing_but_format_and_id() -> None:
    """It lies at the target in clear."""
    assert encode(OwnerMarker(vault="v")).split() == [b"{", b'"format":', b"1,", b'"vault":', b'"v"', b"}"]


def test_what_a_newer_version_adds_is_passed_over() -> None:
    assert parse_owner(b'{"format": 2, "vault": "v", "more": []}') == OwnerMarker(format=2, vault="v")


@pytest.mark.parametrize("content", [b"", b"{}", b"[]", b"null", b'{"vault": 1}', b"\xff\xfe", encode(COMMIT)[:-20], b"[" * 100_000])
def test_what_is_none_reads_as_none(content: bytes) -> None:
    assert parse_commit(content) is None
    assert parse_owner(content) is None


@given(st.binary())
def test_no_bytes_crash(content: bytes) -> None:
    """A target's content is anybody's."""
    assert parse_commit(content) is None
    assert parse_owner(content) is None


@given(st.integers(min_value=0, max_value=len(encode(COMMIT)) - 3))
def test_a_commit_that_was_cut_is_none(length: int) -> None:
    assert parse_commit(encode(COMMIT)[:length]) is None


def test_commits_are_referred_to_by_sha256() -> None:
    assert digest(b"x") == hashlib.sha256(b"x").hexdigest()


def test_a_commit_lists_its_segments_as_anybody_can_read_them() -> None:
    document = json.loads(encode(COMMIT))
    assert document["segments"][1] == {"name": "manifest-00000007.jsonl.gz", "sha256": "2" * 64, "rows": 1, "bytes": 50}
    printed = "".join(f"{segment['sha256']}  {segment['name']}\n" for segment in document["segments"])
    assert document["root"] == hashlib.sha256(printed.encode()).hexdigest(), "what sha256sum prints for the files, hashed"


TAMPERED: dict[str, Callable[[dict[str, Any]], object]] = {
    "another hash": lambda document: document["segments"][0].update(sha256="3" * 64),
    "another name": lambda document: document["segments"][0].update(name="manifest-00000004.jsonl.gz"),
    "another order": lambda document: document["segments"].reverse(),
    "one less": lambda document: document["segments"].pop(),
    "one more": lambda document: document["segments"].append(document["segments"][0]),
    "another root": lambda document: document.update(root="0" * 64),
    "no root": lambda document: document.pop("root"),
    "no segments": lambda document: document.pop("segments"),
    "a segment without its hash": lambda document: document["segments"][0].pop("sha256"),
}


@pytest.mark.parametrize("tampering", TAMPERED)
def test_a_commit_whose_root_is_not_that_of_its_segments_is_none(tampering: str) -> None:
    document = json.loads(encode(COMMIT))
    TAMPERED[tampering](document)
    assert parse_commit(json.dumps(document).encode()) is None


def test_a_commit_of_nothing_has_a_root_too() -> None:
    empty = COMMIT.model_copy(update={"segments": (), "root": root_hash(())})
    assert parse_commit(encode(empty)) == empty


@pytest.mark.parametrize("name", ["../key", "a/b", "/etc/passwd", "", ".", "..", "commit.json", "manifest-1.jsonl.gz/x", "x\0y"])
def test_a_segments_name_leads_nowhere_else(name: str) -> None:
    """A target's content is anybody's who has the key, and names are opened."""
    segments = (SegmentFile(name, "1" * 64, 1, 1),)
    content = COMMIT.model_copy(update={"segments": segments, "root": root_hash(segments)})
    assert parse_commit(encode(content)) is None
