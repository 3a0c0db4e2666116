# SPDX-License-Identifier: GPL-3.0-or-later
"""The commit file and the owner marker."""

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from offsited.core.commit import Commit, OwnerMarker, digest, encode, parse_commit, parse_owner

COMMIT = Commit(
    vault="v", target="seed", job=7, previous="ab", snapshot="2026-11-24", snapshot_dated=5, opened=6, committed=8, entries=3, bytes=9
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
