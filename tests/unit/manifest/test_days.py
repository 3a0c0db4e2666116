# SPDX-License-Identifier: GPL-3.0-or-later
"""Day after day: whatever happens to a tree, wherever a run is cut off, the plan brings the target to it, and the manifest tells the truth.

The snapshots are made as `rsync --link-dest` or `cp -al` make them: what did not change is the same inode. The target is a model that has
rsync's habits: it takes size and mtime for the content, and a change of attributes reaches every name of a hard link.
"""

import os
import random
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from offsited.worker import segments
from offsited.worker.ledger import LEDGER_FILE, Ledger

from .workshop import Bench, Node, groups, groups_on_disk, remote_groups, seen, without_numbers

NAMES = [b"a", b"b", b"c", b"\xff\xfe", b"new\nline", b"-x", "ü".encode(), b"a-", b"a.txt", b"L" * 200]
MTIMES = [1_000_000_000_000_000_000, 1_000_000_000_000_000_001, 1_500_000_000_500_000_000]
MODES = [0o644, 0o600, 0o4755]


class Day:
    """One day's changes to a snapshot, drawn by chance."""

    def __init__(self, top: Path, chance: random.Random) -> None:
        self.top = os.fsencode(top)
        self.chance = chance

    def change(self) -> None:
        self.chance.choice(self._kinds())()

    def _kinds(self) -> list[Callable[[], None]]:
        return [
            self.write, self.write, self.write, self.rewrite, self.mkdir, self.mkdir, self.remove, self.rename, self.rename, self.link,
            self.link, self.symlink, self.fifo, self.chmod, self.unlink_and_copy, self.xattr, self.touch_directory,
        ]  # fmt: skip

    def paths(self, kinds: str = "fdlp") -> list[bytes]:
        found = []
        for directory, directories, files in os.walk(self.top):
            found += [os.path.join(directory, name) for name in directories + files]
        return sorted(path for path in found if Node.of(path).kind in kinds)

    def place(self) -> bytes:
        """A path in some directory, free: what was there is gone."""
        directory = self.chance.choice([self.top, *self.paths("d")])
        path = os.path.join(directory, self.chance.choice(NAMES))
        _remove(path)
        return path

    def write(self) -> None:
        path = self.place()
        Path(os.fsdecode(path)).write_bytes(self.chance.choice([b"", b"one", b"two", b"three"]))
        self._dated(path)

    def rewrite(self) -> None:
        """A file in place of itself, often of the same size and mtime."""
        if files := self.paths("f"):
            path = self.chance.choice(files)
            mtime = os.stat(path).st_mtime_ns
            os.unlink(path)
            Path(os.fsdecode(path)).write_bytes(self.chance.choice([b"one", b"two"]))
            os.utime(path, ns=(0, mtime))

    def mkdir(self) -> None:
        path = self.place()
        os.mkdir(path)
        self._dated(path)

    def remove(self) -> None:
        if paths := self.paths():
            _remove(self.chance.choice(paths))

    def rename(self) -> None:
        if paths := self.paths():
            path, new = self.chance.choice(paths), self.place()
            if os.path.lexists(path) and not new.startswith(path + b"/"):
                os.rename(path, new)

    def link(self) -> None:
        if paths := self.paths("fpl"):
            path, new = self.chance.choice(paths), self.place()
            if os.path.lexists(path):
                os.link(path, new, follow_symlinks=False)

    def symlink(self) -> None:
        path = self.place()
        os.symlink(self.chance.choice([b"a", b"\xff", b"t" * 3100]), path)
        self._dated(path)

    def fifo(self) -> None:
        path = self.place()
        os.mkfifo(path)
        self._dated(path)

    def chmod(self) -> None:
        """In place: an older snapshot that shares the inode changes with it."""
        if paths := self.paths("fdp"):
            path = self.chance.choice(paths)
            os.chmod(path, self.chance.choice(MODES) | 0o700)

    def xattr(self) -> None:
        if paths := self.paths("fd"):
            os.setxattr(self.chance.choice(paths), "user.colour", self.chance.choice([b"red", b"\x00\xff"]))

    def unlink_and_copy(self) -> None:
        """A name leaves its group and stays what it was, but for its mode."""
        if files := self.paths("f"):
            path = self.chance.choice(files)
            content, status = Path(os.fsdecode(path)).read_bytes(), os.stat(path)
            os.unlink(path)
            Path(os.fsdecode(path)).write_bytes(content)
            os.chmod(path, self.chance.choice(MODES))
            os.utime(path, ns=(0, status.st_mtime_ns))

    def touch_directory(self) -> None:
        self._dated(self.chance.choice([self.top, *self.paths("d")]))

    def _dated(self, path: bytes) -> None:
        os.utime(path, ns=(0, self.chance.choice(MTIMES)), follow_symlinks=False)


def _remove(path: bytes) -> None:
    if os.path.isdir(path) and not os.path.islink(path):
        shutil.rmtree(path)
    elif os.path.lexists(path):
        os.unlink(path)


def snapshot_of(old: Path, new: Path) -> None:
    """As `cp -al`."""
    os.mkdir(new)
    for entry in sorted(os.scandir(os.fsencode(old)), key=lambda entry: entry.name):
        target = os.path.join(os.fsencode(new), entry.name)
        if entry.is_dir(follow_symlinks=False):
            snapshot_of(Path(os.fsdecode(entry.path)), Path(os.fsdecode(target)))
        else:
            os.link(entry.path, target, follow_symlinks=False)
    shutil.copystat(old, new)


def check(bench: Bench, top: Path) -> None:
    """The manifest equals the snapshot row by row; so do the segments; and the target is equal to it."""
    truth, rows = seen(top), bench.rows()
    carried = {path for path, row in truth.items() if len(row.target) >= 736}
    told = {path: row._replace(carried=False) for path, row in without_numbers(rows).items()}
    assert told == truth
    assert {path for path, row in rows.items() if row.carried} == carried
    assert groups(rows) == groups_on_disk(top)
    assert bench.listed() == rows
    assert bench.remote.nodes == {path: Node.of(os.path.join(os.fsencode(top), path)) for path in truth.keys() - carried}
    assert remote_groups(bench.remote) == {group for group in groups_on_disk(top) if not group & carried}


def passing(directory: Path, seed: int, days: int) -> Iterator[tuple[random.Random, Path]]:
    """Some days' snapshots, each with the chance that made it. Those before may be gone."""
    chance = random.Random(seed)  # noqa: S311 - the same days again for the same seed
    top = directory / "0"
    top.mkdir()
    for number in range(days):
        if number:
            new = directory / str(number)
            snapshot_of(top, new)
            if chance.random() < 0.7:
                shutil.rmtree(top)
            top = new
        day = Day(top, chance)
        for _ in range(chance.randrange(8)):
            day.change()
        yield chance, top


def live(directory: Path, seed: int, days: int) -> Bench:
    """Some days; a third of the runs are cut off at a random point and followed by the next day's snapshot."""
    (directory / "state").mkdir()
    bench = Bench(directory / "state")
    for chance, top in passing(directory, seed, days):
        if chance.random() < 1 / 3:
            bench.sync(top, cut=chance.randrange(12))
        if not bench.in_doubt() or chance.random() < 0.5:
            bench.sync(top, thorough=chance.random() < 0.2)
            check(bench, top)
    bench.sync(top)
    check(bench, top)
    return bench


@settings(max_examples=int(os.environ.get("OFFSITED_DAYS", "40")), deadline=None, suppress_health_check=list(HealthCheck))
@given(seed=st.integers(0, 1 << 32))
@example(seed=11508)  # symbolic links that part, and lead elsewhere
def test_whatever_happens_the_target_follows(seed: int) -> None:
    with tempfile.TemporaryDirectory() as directory:
        live(Path(directory), seed, days=8)


@pytest.mark.parametrize("seed", range(5))
def test_the_ledger_can_be_made_anew_from_the_segments(tmp_path: Path, seed: int) -> None:
    bench = live(tmp_path, seed, days=6)
    with Ledger.opened(bench.directory / LEDGER_FILE) as ledger:
        before = sorted(row._replace(inode=0) for row in ledger.rows())
        digest = ledger.commit_digest
    (bench.directory / LEDGER_FILE).unlink()
    with Ledger.opened(bench.directory / LEDGER_FILE) as ledger:
        ledger.rebuild([segments.rows(bench.directory / one.name, one) for one in bench.segments], digest)
        assert sorted(ledger.rows()) == before
        assert (ledger.commit_digest, ledger.signatures()) == (digest, {})
