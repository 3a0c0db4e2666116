# SPDX-License-Identifier: GPL-3.0-or-later
"""Runs the comparison on a machine that `tests/bench/run` has booted, and writes one line of JSON for each figure to standard output."""

import argparse
import json
import os
import shutil
import stat
import subprocess
from collections.abc import Callable, Generator, Iterator
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

from system.disks import Disk
from system.machine import must
from system.remote import at_remote, forbearing

from offsited.core.gocryptfs import sealed_size

from . import corpus, idle
from .figures import LARGE, MANY, Figures, Watch
from .peers import PEERS, SNAPSHOT, Failed, Offsited, Peer, Site, version_of

_ROOM: Final = 8192
"""Bytes that a small file takes of a disk beside its content, its directory's share included."""
PLACE: Final = Path("/disks")
"""Where everything lies."""


def main() -> None:
    arguments = _arguments()
    chosen = [peer for peer in PEERS if not arguments.peers or peer.name in arguments.peers]
    for peer in chosen:
        _say(kind="version", peer=peer.name, version=version_of(peer))
    if arguments.ssh:
        forbearing()
        at_remote("echo Subsystem sftp internal-sftp >> /etc/ssh/admin_config && systemctl restart admin.service")
    with _corpus(arguments.files, arguments.median) as (top, size):
        changed, entries = _changed(top)
        _say(
            kind="corpus",
            files=arguments.files,
            median=arguments.median,
            bytes=size,
            ssh=arguments.ssh,
            changed_bytes=changed,
            changed_entries=entries,
        )
        for number in range(arguments.rounds):
            for peer in chosen[number % len(chosen) :] + chosen[: number % len(chosen)]:  # no one always comes first
                with closing(_operate(peer, top, size, arguments)) as operations:
                    for operation, figures, trouble in operations:
                        told = {"trouble": trouble} if trouble else {}
                        _say(kind="figures", peer=peer.name, round=number, operation=operation, **asdict(figures), **told)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="tests/bench/run", description=__doc__)
    parser.add_argument("--files", type=int, default=20_000, help="of the corpus; 0 = eight large ones")
    parser.add_argument("--median", type=int, default=corpus.MEDIAN, help="bytes of a file; with 1024 a million need 12 GiB")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--ssh", action="store_true", help="the target is at the other machine")
    parser.add_argument("--peers", type=lambda names: names.split(","), default=[])
    parser.add_argument("--without", type=lambda names: names.split(","), default=[], metavar="OPERATIONS")
    parser.add_argument("--idle", action="store_true", help="also what offsited costs while nothing is to be done")
    return parser.parse_args()


def _say(**facts: object) -> None:
    print(json.dumps(facts), flush=True)


@contextmanager
def _corpus(files: int, median: int) -> Iterator[tuple[Path, int]]:
    """The days of the corpus on a file system of their own, and the bytes of the first."""
    SNAPSHOT.mkdir(exist_ok=True)
    (PLACE / "corpus").mkdir(exist_ok=True)
    disk = Disk(PLACE, "ext4", (5 << 30) + files * 20_000)
    must("mount", disk.device, PLACE / "corpus")
    try:
        top = PLACE / "corpus" / "days"
        corpus.many_files(top, files, median) if files else corpus.large_files(top)
        measured = subprocess.run(["du", "-sb", top / corpus.DAYS[0]], capture_output=True, check=True, text=True).stdout
        yield top, int(measured.split()[0])
    finally:
        must("umount", PLACE / "corpus")
        disk.remove()


def _changed(top: Path) -> tuple[int, int]:
    """What the last day has that the one before it has not: bytes once they are encrypted, and entries of any kind, those that went too."""
    before, after = map(_census, sorted(top.iterdir())[-2:])
    news = [facts for path, facts in after.items() if before.get(path) != facts]
    return sum(sealed_size(size) for _, _, size in news), len(news) + len(before.keys() - after.keys())


def _census(day: Path) -> dict[str, tuple[int, int, int]]:
    """Inode, mtime and size of each path; of a directory the inode says nothing, nor does its size."""
    found = {}
    for directory, below, files in os.walk(day):
        for name in (*below, *files):
            path = os.path.join(directory, name)
            status = os.lstat(path)
            file = stat.S_ISREG(status.st_mode)
            facts = (status.st_ino, status.st_mtime_ns, status.st_size) if file else (0, status.st_mtime_ns, 0)
            found[os.path.relpath(path, day)] = facts
    return found


def _operate(kind: type[Peer], top: Path, size: int, arguments: argparse.Namespace) -> Generator[tuple[str, Figures, str]]:
    """All operations of one tool on fresh file systems, with what each took, and why it did not do all of it."""
    wanted = [operation for operation in (MANY if arguments.files else LARGE) if operation not in arguments.without]
    days = dict(zip((["seed", "no change", "1 %"] if arguments.files else ["seed", "32 blocks"]), corpus.DAYS, strict=False))
    one = _some_file(top / corpus.DAYS[0])
    room = size * 2 + arguments.files * _ROOM + (1 << 30)
    with _disk(room) as disk, _scratch(room) as scratch:
        work = scratch / "work"
        work.mkdir()
        site = Site(top, disk, work, remote=arguments.ssh)
        with _reachable(site, kind):
            peer = kind(site)
            _show(peer, top / corpus.DAYS[0])
            peer.prepare()
            try:
                watch = Watch(disk.device)
                for operation in wanted:
                    attempt = _Attempt(peer, scratch / "restored", one if operation == "restore one" else "")
                    if operation in days:
                        _show(peer, top / days[operation])
                        yield operation, watch.measure(attempt.backup, None if arguments.ssh else _flushed(site, kind)), attempt.trouble
                    else:
                        attempt.to.mkdir()
                        yield operation, watch.measure(attempt.restore, scratch), attempt.trouble
                        shutil.rmtree(attempt.to)
                if kind is Offsited and arguments.idle:
                    _say(kind="idle", **idle.measure())
            finally:
                peer.end()
                if SNAPSHOT.is_mount():
                    must("umount", "--lazy", SNAPSHOT)  # a program that has ended may leave its ssh there for a moment


@dataclass
class _Attempt:
    """One operation of a tool; its failure is a result."""

    peer: Peer
    to: Path
    path: str
    trouble: str = ""

    def backup(self) -> None:
        self._try(self.peer.backup)

    def restore(self) -> None:
        self._try(lambda: self.peer.restore(self.to, self.path))

    def _try(self, work: Callable[[], None]) -> None:
        try:
            work()
        except Failed as failure:
            self.trouble = str(failure)


def _flushed(site: Site, kind: type[Peer]) -> Path | None:
    """A job has a disk mounted for itself alone, and leaves it flushed."""
    return None if kind is Offsited else site.here


@contextmanager
def _reachable(site: Site, kind: type[Peer]) -> Iterator[None]:
    if kind is Offsited and not site.remote:
        yield
    else:
        with site.mounted():
            yield


def _show(peer: Peer, snapshot: Path) -> None:
    if SNAPSHOT.is_mount():
        must("umount", "--lazy", SNAPSHOT)  # a program that has ended may leave its ssh there for a moment
    peer.show(snapshot)


def _some_file(top: Path) -> str:
    return next(str(path.relative_to(top)) for path in sorted(top.rglob("*0")) if path.is_file())


@contextmanager
def _disk(size: int) -> Iterator[Disk]:
    disk = Disk(PLACE, "xfs", size)
    try:
        yield disk
    finally:
        disk.remove()


@contextmanager
def _scratch(size: int) -> Iterator[Path]:
    point = PLACE / "scratch"
    point.mkdir(exist_ok=True)
    with _disk(size) as disk:
        must("mount", disk.device, point)
        try:
            yield point
        finally:
            must("umount", point)


if __name__ == "__main__":
    main()
