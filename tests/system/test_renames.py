# SPDX-License-Identifier: GPL-3.0-or-later
"""A directory that was renamed: whatever happens on the way, each of its files is at the target all the time, by one name or the other."""

import os
import random
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from .machine import run
from .trees import copy_linked
from .vaults import OnDisk

COUNT = 60
LARGE = 1_000_000
TIMES = int(os.environ.get("OFFSITED_TIMINGS", "3"))


def sizes(top: Path) -> Iterator[int]:
    """Lengths of all large files below a directory; what goes meanwhile is not there."""
    for directory, _, names in os.walk(top):
        for name in names:
            try:
                size = os.lstat(os.path.join(directory, name)).st_size
            except FileNotFoundError:
                continue
            if size > LARGE:
                yield size


class Watch(threading.Thread):
    """Looks at the target over and over, through a mount of its own of the same disk."""

    def __init__(self, mirror: Path, wanted: set[int]) -> None:
        super().__init__()
        self._mirror = mirror
        self._wanted = wanted
        self._over = threading.Event()
        self.looks = 0
        self.missing: set[int] = set()

    def run(self) -> None:
        """A file may move from where is still to be looked to where was looked already, so two looks must miss it."""
        before: set[int] = set()
        while not self._over.is_set():
            missing = self._wanted - set(sizes(self._mirror))
            self.missing |= missing & before
            before = missing
            self.looks += 1

    def stop(self) -> None:
        self._over.set()
        self.join()


def test_no_file_of_a_renamed_directory_is_missing_at_any_moment(home: OnDisk) -> None:
    """Each file has a length of its own, by which it is known at the target whatever its encrypted name."""
    lengths = {LARGE + 3 + 4096 * number for number in range(COUNT)}
    (home.first / "old").mkdir()
    for length in lengths:
        with (home.first / "old" / f"file-{length}").open("wb") as file:
            file.truncate(length)
    home.vault.synced()
    with home.disk.mounted() as top:
        sealed = sorted(sizes(top / home.vault.name / "current"))
    assert len(set(sealed)) == COUNT
    copy_linked(home.first, home.second)
    (home.second / "old").rename(home.second / "new")
    home.vault.point_at(home.second)
    with home.disk.mounted(writing=True) as top:
        watch = Watch(top / home.vault.name / "current", set(sealed))
        watch.start()
        for _ in range(TIMES):
            started = home.vault.sync("--no-block")
            assert started.status == 0, started.told
            threading.Event().wait(random.SystemRandom().random() * 2)
            run("systemctl", "kill", "--signal=KILL", home.vault.unit)
            run("systemctl", "stop", home.vault.unit)
        ended = home.vault.sync()
        watch.stop()
        left = sorted(sizes(top / home.vault.name / "current"))
    assert ended.status == 0, ended.told
    assert not watch.missing
    assert watch.looks > 10
    assert left == sealed, "each is there once, by its new name"


@pytest.fixture(autouse=True)
def nothing_failed() -> Iterator[None]:
    """Killed units are forgotten."""
    yield
    run("systemctl", "reset-failed")
