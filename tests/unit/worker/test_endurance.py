# SPDX-License-Identifier: GPL-3.0-or-later
"""Restores that are killed wherever it may be, and targets whose commit or manifest is damaged wherever it may be.

OFFSITED_KILLS and OFFSITED_SEED choose how often, or the same again:
OFFSITED_KILLS=100 python3 -m pytest tests/unit/worker/test_endurance.py
"""

import contextlib
import functools
import os
import random
import shutil
import subprocess
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from pkgutil import resolve_name
from typing import Any

import pytest

from offsited.core.outcome import Outcome, Reason

from .faults import untimed
from .machine import Machine, done
from .test_restore import furnish, furnished, same  # noqa: F401
from .test_verify import mirror, own
from .trees import tree

KILLS = int(os.environ.get("OFFSITED_KILLS", "3"))
SEED = int(os.environ.get("OFFSITED_SEED", str(random.SystemRandom().randrange(10**6))))
POINTS = (
    "destination.Destination.begin", "destination.Destination.is_of", "destination.Destination.made", "destination.Destination.finish",
    "rebuilding._make", "rebuilding.Rebuilding._split", "writing.Writer.write", "writing.Writer._is_written", "writing.Writer._copy",
    "writing._write_around", "writing.Writer._dress", "writing.Writer._set_xattrs", "writing.Writer._set_flags", "writing.Writer._check",
    "writing.Writer._make_other", "writing.Writer.link", "writing.Writer.finish_directory", "writing.Writer.finish_linked",
)  # fmt: skip
"""What a restore calls, again and again."""


@contextlib.contextmanager
def counted(calls: Counter[str]) -> Iterator[None]:
    """Within: how often each of POINTS is called."""
    with pytest.MonkeyPatch.context() as patch:
        for point in POINTS:
            place, _, name = f"offsited.worker.{point}".rpartition(".")
            real = getattr(resolve_name(place), name)

            @functools.wraps(real)
            def watched(*args: Any, _real: Any = real, _point: str = point, **options: Any) -> Any:
                calls[_point] += 1
                return _real(*args, **options)

            patch.setattr(f"offsited.worker.{point}", watched)
        yield


def clear(to: Path) -> None:
    subprocess.run(["chattr", "-R", "-f", "-ia", str(to)], check=False, capture_output=True)
    shutil.rmtree(to)


def test_a_restore_that_is_killed_anywhere_ends_equal(machine: Machine, furnished: Path) -> None:  # noqa: F811
    print(f"OFFSITED_SEED={SEED} OFFSITED_KILLS={KILLS}")
    draw = random.Random(SEED)  # noqa: S311
    to = machine.top / "to"
    calls: Counter[str] = Counter()
    with counted(calls):
        done(machine.restore(to))
    clear(to)
    chances = [(point, time) for point, count in sorted(calls.items()) for time in range(1, count + 1)]
    assert len(chances) > 100
    for point, time in draw.sample(chances, min(KILLS, len(chances))):
        print(f"killed in {point}, call {time}")
        machine.killed(lambda: machine.restore(to), f"offsited.worker.{point}", time=time)
        record = machine.restore(to)
        if point == "destination.Destination.finish":  # all was written: there is nothing to be taken up, or all of it
            assert record.outcome is Outcome.DONE or record.reason == Reason.DESTINATION_OCCUPIED.value
        else:
            done(record)
        same(to, furnished)
        clear(to)


@pytest.mark.parametrize("name", ["commit.json", "segment"])
def test_damage_of_what_describes_the_target_blocks_no_restore(machine: Machine, furnished: Path, name: str) -> None:  # noqa: F811
    """The machine is new, and knows nothing of its own."""
    draw = random.Random(SEED)  # noqa: S311
    print(f"OFFSITED_SEED={SEED} OFFSITED_KILLS={KILLS}")
    with mirror(machine) as opened:
        file = own(machine, opened, name)
        place, good = file.relative_to(machine.top / "look/home"), file.read_bytes()
    shutil.rmtree(machine.files.target("seed"))
    wanted = {path: entry for path, entry in tree(furnished).items() if path != b"long-link"}  # the manifest alone has that one
    for _ in range(max(KILLS // 2, 1)):
        byte = draw.randrange(len(good))
        print(f"{name}: byte {byte} of {len(good)}")
        with machine.disk() as directory, untimed(directory / place):
            (directory / place).write_bytes(good[:byte] + bytes((good[byte] ^ 1 << draw.randrange(8),)) + good[byte + 1 :])
        to = machine.top / "to"
        record = machine.restore(to)
        assert (record.outcome, record.reason) == (Outcome.FAILED, Reason.MANIFEST_DAMAGED.value), record.detail
        assert os.listdir(to) == []
        record = done(machine.restore(to, without_manifest=True))
        assert "nothing is checked against it" in record.detail
        if name == "commit.json":
            assert "the commit cannot be read" in record.detail
        assert tree(to) == wanted
        clear(to)
