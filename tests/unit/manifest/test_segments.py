# SPDX-License-Identifier: GPL-3.0-or-later
"""Segments on disk: the same lines give the same bytes, merging says what the parts said, and damage is found before it is believed."""

import gzip
import tempfile
from collections.abc import Iterable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from offsited.core.manifest import Header, Line, ManifestDamaged, Row, SegmentFile, encode_gone, encode_row
from offsited.worker import segments
from offsited.worker.segments import append, describe, header, listed, merged, rows

HEAD = Header("vault", "seed", 1)
days = st.lists(
    st.dictionaries(st.sampled_from([b"a", b"a/b", b"a-", b"\xff", b"c"]), st.one_of(st.none(), st.integers(1, 9))), max_size=12
)


def lines(day: dict[bytes, int | None]) -> Iterable[Line]:
    for path, size in sorted(day.items()):
        text = encode_gone(path) if size is None else encode_row(Row(path, "f", 0o644, size=size))
        yield Line(path, text.encode(), size is None)


@given(days)
def test_all_segments_together_say_what_the_days_said(found: list[dict[bytes, int | None]]) -> None:
    with tempfile.TemporaryDirectory() as directory:
        kept: tuple[SegmentFile, ...] = ()
        truth: dict[bytes, int | None] = {}
        for number, day in enumerate(found, 1):
            kept = append(Path(directory), kept, Header("vault", "seed", number), lines(day))
            truth.update(day)
            assert {row.path: row.size for row in listed(Path(directory), kept)} == {p: size for p, size in truth.items() if size}
            assert kept == tuple(describe(Path(directory) / one.name) for one in kept)
            assert [row.path for row in listed(Path(directory), kept)] == sorted(path for path, size in truth.items() if size)
        oldest = rows(Path(directory) / kept[0].name) if kept else []
        assert all(row for _, row in oldest), "nothing is gone from what nothing is older than"


def test_the_same_lines_give_the_same_bytes(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        append(tmp_path / name, (), HEAD, lines({b"a": 1, b"b": 2}))
    first, second = (next((tmp_path / name).iterdir()) for name in ("one", "two"))
    assert first.read_bytes() == second.read_bytes()
    assert first.read_bytes()[4:8] == bytes(4), "no time in it"


def test_without_news_no_segment_is_written(tmp_path: Path) -> None:
    kept = append(tmp_path, (), HEAD, lines({b"a": 1}))
    assert append(tmp_path, kept, Header("vault", "seed", 2), []) == kept
    assert [entry.name for entry in tmp_path.iterdir()] == [kept[0].name]


def test_a_segment_says_whose_it_is(tmp_path: Path) -> None:
    (only,) = append(tmp_path, (), HEAD, lines({b"a": 1}))
    assert header(tmp_path / only.name) == HEAD


def test_what_is_gone_stays_gone_when_newer_segments_are_merged(tmp_path: Path) -> None:
    kept = append(tmp_path, (), HEAD, lines({b"%05d" % number: 1 for number in range(100)}))
    kept = append(tmp_path, kept, Header("vault", "seed", 2), lines({b"00007": None}))
    kept = append(tmp_path, kept, Header("vault", "seed", 3), lines({b"00008": 2}))
    assert [segment.rows for segment in kept] == [100, 2]
    assert b"00007" not in {row.path for row in listed(tmp_path, kept)}


def test_a_small_day_does_not_rewrite_the_large_segment(tmp_path: Path) -> None:
    large = append(tmp_path, (), HEAD, lines({b"%05d" % number: 1 for number in range(1000)}))
    kept = append(tmp_path, large, Header("vault", "seed", 2), lines({b"a": 1}))
    assert kept[0] == large[0]
    assert kept[1].bytes < 300


@pytest.fixture
def only(tmp_path: Path) -> tuple[Path, SegmentFile]:
    (found,) = append(tmp_path, (), HEAD, lines({b"%05d" % number: number + 1 for number in range(1000)}))
    return tmp_path / found.name, found


def test_every_flipped_byte_is_found(only: tuple[Path, SegmentFile]) -> None:
    file, expected = only
    sound = file.read_bytes()
    for position in range(0, len(sound), 37):
        file.write_bytes(sound[:position] + bytes([sound[position] ^ 0x40]) + sound[position + 1 :])
        with pytest.raises(ManifestDamaged):
            next(rows(file, expected))
    file.write_bytes(sound)
    assert len(list(rows(file, expected))) == 1000


@pytest.mark.parametrize("cut", [0, 1, 9, 10, 200, -9, -1])
def test_a_cut_segment_is_refused_even_without_its_hash(only: tuple[Path, SegmentFile], cut: int) -> None:
    file, _ = only
    file.write_bytes(file.read_bytes()[:cut])
    with pytest.raises(ManifestDamaged):
        list(rows(file))


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{}\n",
        b"[]\n",
        HEAD.encode().encode(),
        HEAD.encode().encode() + b'\n{"path": "a"}\n',
        HEAD.encode().encode() + b'\n{"path": "b", "gone": true}\n{"path": "a", "gone": true}\n',
        HEAD.encode().encode() + b'\n{"path": "a", "gone": true}\n{"path": "a", "gone": true}\n',
        HEAD.encode().encode() + b"\n" + b"[" * 100_000 + b"\n",
    ],
)
def test_what_is_no_segment_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "s").write_bytes(gzip.compress(content))
    with pytest.raises(ManifestDamaged):
        list(rows(tmp_path / "s"))
    if b'"path": "a"}' not in content:
        with pytest.raises(ManifestDamaged):
            list(merged([(tmp_path / "s", None)]))


def test_a_line_longer_than_any_row_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(segments, "LINE_LIMIT", 100)
    (tmp_path / "s").write_bytes(gzip.compress(HEAD.encode().encode() + b'\n{"path": "' + b"a" * 200 + b'"}\n'))
    with pytest.raises(ManifestDamaged, match="longer"):
        list(rows(tmp_path / "s"))


def test_a_missing_segment_is_damage(tmp_path: Path) -> None:
    with pytest.raises(ManifestDamaged):
        list(rows(tmp_path / "nothing"))


def test_a_failed_merge_leaves_the_old_segments(tmp_path: Path) -> None:
    kept = append(tmp_path, (), HEAD, lines({b"a": 1, b"b": 1}))
    sound = (tmp_path / kept[0].name).read_bytes()
    (tmp_path / kept[0].name).write_bytes(sound[:-4])
    with pytest.raises(ManifestDamaged):
        append(tmp_path, kept, Header("vault", "seed", 2), lines({b"c": 1, b"d": 1}))
    (tmp_path / kept[0].name).write_bytes(sound)
    again = append(tmp_path, kept, Header("vault", "seed", 2), lines({b"c": 1, b"d": 1}))
    assert [row.path for row in listed(tmp_path, again)] == [b"a", b"b", b"c", b"d"]
