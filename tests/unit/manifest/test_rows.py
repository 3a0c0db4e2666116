# SPDX-License-Identifier: GPL-3.0-or-later
"""Rows, headers and the list of segments as values: what is written is read again, and nothing else is read."""

import gzip
import hashlib
import json
import subprocess
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from offsited.core.manifest import (
    FORMAT,
    KINDS,
    Header,
    ManifestDamaged,
    Row,
    SegmentFile,
    checked_path,
    decode_line,
    encode_gone,
    encode_row,
    root_hash,
    to_merge,
)
from offsited.worker.columns import flatten, unflatten

numbers = st.integers(0, (1 << 63) - 1)
names = st.binary(min_size=1, max_size=20).filter(lambda name: name not in {b".", b".."} and not set(name) & {0, 47})
paths = st.lists(names, max_size=4).map(b"/".join)
texts = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1, max_size=10)
rows = st.builds(
    Row,
    path=paths,
    kind=st.sampled_from(KINDS),
    mode=st.integers(0, 0o7777),
    uid=st.integers(0, (1 << 32) - 2),
    gid=st.integers(0, (1 << 32) - 2),
    size=numbers,
    mtime=st.integers(-(1 << 40), 1 << 66),
    link=numbers,
    rdev=st.tuples(st.integers(0, 4095), st.integers(0, 1 << 20)),
    target=st.binary(max_size=20).filter(lambda target: 0 not in target),
    xattrs=st.dictionaries(texts, st.binary(max_size=10), max_size=3).map(lambda found: tuple(sorted(found.items()))),
    flags=st.text("aAcCdD", max_size=3),
    holes=st.lists(st.tuples(numbers, numbers), max_size=3).map(tuple),
    sha256=st.one_of(st.just(b""), st.binary(min_size=32, max_size=32)),
    held=st.booleans(),
    unreadable=st.booleans(),
    carried=st.booleans(),
)


@given(rows)
def test_a_row_is_read_as_it_was_written(row: Row) -> None:
    line = encode_row(row).encode()
    assert b"\n" not in line
    assert decode_line(line) == (row.path, row._replace(inode=0))


@given(rows, st.integers(0, (1 << 64) - 1))
def test_a_row_survives_the_ledger(row: Row, inode: int) -> None:
    row = row._replace(inode=inode)
    assert unflatten(row.path, flatten(row)) == row


@given(paths)
def test_a_tombstone_names_its_path(path: bytes) -> None:
    assert decode_line(encode_gone(path).encode()) == (path, None)


def test_defaults_are_left_out() -> None:
    assert json.loads(encode_row(Row(b"a", "d", 0o755))) == {"path": "a", "type": "d", "mode": "0755"}


@given(st.binary(max_size=60))
def test_no_line_does_worse_than_being_refused(line: bytes) -> None:
    for decode in (decode_line, Header.decode):
        try:
            decode(line)
        except ManifestDamaged:
            continue


@given(st.recursive(st.none() | st.booleans() | st.integers() | st.text(max_size=5), lambda inner: st.lists(inner, max_size=3)))
@pytest.mark.parametrize("key", ["path", "type", "mode", "uid", "size", "mtime", "rdev", "target", "xattrs", "flags", "holes", "sha256"])
def test_a_value_of_another_shape_is_refused_or_sound(key: str, value: object) -> None:
    line = json.dumps({"path": "a", "type": "f", "mode": "0644", key: value}).encode()
    try:
        path, row = decode_line(line)
    except ManifestDamaged:
        return
    assert row is not None
    assert decode_line(encode_row(row).encode()) == (path, row)


@pytest.mark.parametrize("path", ["/etc/passwd", "..", "a/../b", "a//b", "a/", ".", "./a", "a\0b", "a/."])
def test_a_path_that_leads_elsewhere_is_refused(path: str) -> None:
    with pytest.raises(ValueError, match="not a path below"):
        checked_path(path)
    with pytest.raises(ManifestDamaged):
        decode_line(json.dumps({"path": path, "type": "f", "mode": "0644"}).encode())


def test_a_later_format_is_refused_by_its_number() -> None:
    with pytest.raises(ManifestDamaged, match=f"format {FORMAT + 1}"):
        Header.decode(Header("v", "t", 1, FORMAT + 1).encode().encode())


def test_the_root_hash_is_that_of_what_sha256sum_prints(tmp_path: Path) -> None:
    found = []
    for name in ("manifest-1", "manifest-2"):
        (tmp_path / name).write_bytes(gzip.compress(name.encode()))
        found.append(SegmentFile(name, hashlib.sha256((tmp_path / name).read_bytes()).hexdigest(), 1, 1))
    printed = subprocess.run(["sha256sum", "manifest-1", "manifest-2"], cwd=tmp_path, stdout=subprocess.PIPE, check=True).stdout
    assert root_hash(found) == hashlib.sha256(printed).hexdigest()
    assert root_hash(found[::-1]) != root_hash(found)


@given(st.lists(st.integers(1, 100_000), min_size=1, max_size=300))
def test_segments_stay_few_and_rows_are_rewritten_seldom(sizes: list[int]) -> None:
    segments: list[int] = []
    written = 0
    for size in sizes:
        segments.append(size)
        count = to_merge(segments)
        assert 1 <= count <= len(segments)
        segments[-count:] = [sum(segments[-count:])]
        written += segments[-1]
        assert all(older >= 2 * newer for older, newer in pairwise(segments))
    total = sum(sizes)
    assert len(segments) <= total.bit_length()
    assert written <= total * (total.bit_length() + 1)
