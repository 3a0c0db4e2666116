# SPDX-License-Identifier: GPL-3.0-or-later
"""Corpora: snapshots of a server's data, day after day, hard-linked as snapshot tools make them. The same numbers give the same trees."""

import os
import random
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Final

SEED: Final = 1
MEDIAN: Final = 4096
"""Bytes of a file: log-normal, which gives about 10 kB on average."""
_SPREAD, _LARGEST = 1.35, 1 << 20
_DEEPEST: Final = 8
_LINKS: Final = 200
"""Of so many files one is a symbolic link, and one is a hard link to another."""
_LONG: Final = 333
"""Of so many names one is longer than gocryptfs keeps in a name."""
_IMAGE: Final = 1 << 30
_VIDEO: Final = 146 << 20
_VIDEOS: Final = 7
_BLOCKS: Final = 32
_PIECE: Final = 1 << 20

DAYS: Final = ("2026-01-01", "2026-01-02", "2026-01-03")


def many_files(top: Path, count: int, median: int = MEDIAN) -> None:
    """Make three days of `count` files in a tenth as many directories: the first, one without a change, and one of which 1 % changed.

    `median`: bytes of a file.
    """
    chance = random.Random(SEED)  # noqa: S311 - no secret
    first, second, third = (top / day for day in DAYS)
    _plant(first, count, median, chance)
    _link_copy(first, second)
    _link_copy(second, third)
    _change(third, count // 100, median, chance)


def large_files(top: Path) -> None:
    """Make two days of a disk image of 1 GiB and seven files of 146 MiB: the first, and one of which 32 blocks of the image changed."""
    chance = random.Random(SEED)  # noqa: S311 - no secret
    first, second = top / DAYS[0], top / DAYS[1]
    first.mkdir(parents=True)
    for name, size in (("disk.img", _IMAGE), *((f"video-{number}", _VIDEO) for number in range(_VIDEOS))):
        with (first / name).open("wb") as file:
            for _ in range(size // _PIECE):
                file.write(chance.randbytes(_PIECE))
    _link_copy(first, second)
    image = second / "disk.img"
    _unshare(image)
    with image.open("r+b") as file:
        for _ in range(_BLOCKS):
            file.seek(chance.randrange(_IMAGE // 4096) * 4096)
            file.write(chance.randbytes(4096))


def _plant(top: Path, count: int, median: int, chance: random.Random) -> None:
    directories = [(top, 0)]
    top.mkdir(parents=True)
    for number in range(count // 10):
        parent, depth = chance.choice(directories)
        made = parent / f"directory-{number}"
        made.mkdir()
        if depth + 1 < _DEEPEST:
            directories.append((made, depth + 1))
        _fill(made, number * 10, median, chance)
    _settle(top)


def _fill(directory: Path, first: int, median: int, chance: random.Random) -> None:
    file = directory
    for number in range(first, first + 10):
        path = directory / (f"file-{number}" + (f"-{'n' * 180}" if number % _LONG == 0 else ""))
        if number % _LINKS == 1:
            path.symlink_to(file.name)
        elif number % _LINKS == 3:
            path.hardlink_to(file)
        else:
            file = path
            _write(path, median, chance)


def _write(path: Path, median: int, chance: random.Random) -> None:
    """Two thirds of it do not compress."""
    size = min(int(chance.lognormvariate(0, _SPREAD) * median), _LARGEST)
    noise = chance.randbytes(size * 2 // 3)
    path.write_bytes(noise + b"a line of a log that looks like the one before it\n" * ((size - len(noise)) // 50 + 1))
    os.truncate(path, size)


def _change(top: Path, count: int, median: int, chance: random.Random) -> None:
    """Change `count` files: half are rewritten, a fifth is new, a fifth goes, a tenth is renamed; some get another mode or owner. And
    one directory of a thousand is renamed."""
    files = sorted(path for path in _walk(top) if path.is_file() and not path.is_symlink())
    chosen = iter(chance.sample(files, count * 11 // 10))
    for path in _some(chosen, count // 2):
        _unshare(path)
        _write(path, median, chance)
    for path in _some(chosen, count // 5):
        _write(path.with_name(path.name[:100] + "-new"), median, chance)
    for path in _some(chosen, count // 5):
        path.unlink()
    for path in _some(chosen, count // 10):
        path.rename(path.with_name(path.name[:100] + "-renamed"))
    for number, path in enumerate(_some(chosen, count // 10)):
        _unshare(path)
        if number % 2:
            path.chmod(0o640)
        else:
            os.chown(path, 1000, 1000)
    directories = sorted(path for path in _walk(top) if path.is_dir() and not path.is_symlink())
    for path in chance.sample(directories, max(1, len(directories) // 1000)):
        if path.exists():
            path.rename(path.with_name(path.name + "-moved"))


def _some(paths: Iterator[Path], count: int) -> Iterator[Path]:
    for _ in range(count):
        yield next(paths)


def _walk(top: Path) -> Iterator[Path]:
    for directory, below, files in os.walk(top):
        for name in (*below, *files):
            yield Path(directory, name)


def _unshare(path: Path) -> None:
    """Give a file an inode of its own, with the attributes it has: other snapshots keep theirs."""
    new = path.with_name("unshared")
    subprocess.run(["cp", "--preserve=all", "--reflink=never", "--", path, new], check=True)
    new.rename(path)


def _settle(top: Path) -> None:
    """Nothing of it is as young as the snapshot: what changes within its last second is looked at twice by some."""
    for directory, _, files in os.walk(top, topdown=False):
        for path in (*(os.path.join(directory, name) for name in files), directory):
            os.utime(path, (1_700_000_000, 1_700_000_000), follow_symlinks=False)


def _link_copy(old: Path, new: Path) -> None:
    subprocess.run(["cp", "-al", "--", old, new], check=True)
