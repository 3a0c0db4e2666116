# SPDX-License-Identifier: GPL-3.0-or-later
"""Transfers side by side, cut anywhere: each day comes out as if there were one."""

import os
import random
from collections import Counter
from pathlib import Path

import pytest

from offsited.core import rsync
from offsited.core.outcome import Reason
from offsited.worker import deletion, disk, outgoing

from .machine import Machine, done, failed, holds

_LATER = 10_000_000_000
"""Nanoseconds that a view's IV is younger than its directory."""


@pytest.fixture(autouse=True)
def cut(monkeypatch: pytest.MonkeyPatch) -> None:
    """Transfers of a few entries each."""
    monkeypatch.setattr(outgoing, "_WORTHWHILE", 1)
    monkeypatch.setattr(deletion, "_WORTHWHILE", 1)
    monkeypatch.setattr(outgoing, "BATCH", 9)


def plant(top: Path, chance: random.Random) -> Path:
    directories = [top]
    for number in range(40):
        made = chance.choice(directories) / f"d{number}"
        made.mkdir()
        directories.append(made)
        for name in range(chance.randrange(8)):
            (made / f"f{name}").write_bytes(chance.randbytes(chance.randrange(5000)))
    for path in chance.sample(directories[1:], 5):
        (path / ("long" * 60)).write_text("of a long name")
        (path / "soft").symlink_to("nowhere")
        (path / "one").write_text("two names")
        os.link(path / "one", path / "two")
    return top


def edit(top: Path, chance: random.Random) -> Path:
    """As programs do it: no file of an older snapshot is written into."""
    directories = [Path(directory) for directory, _, _ in os.walk(top)][1:]
    for directory in directories:
        for path in sorted(directory.iterdir()):
            if path.is_dir() or path.is_symlink():
                continue
            match chance.randrange(12):
                case 0:
                    path.unlink()
                case 1:
                    path.rename(path.with_name(path.name[:50] + "-renamed"))
                case 2 | 3 | 4 | 5:
                    path.unlink()
                    path.write_bytes(chance.randbytes(chance.randrange(5000)))
        (directory / f"new{chance.randrange(9)}").write_text("new")
    moved = chance.choice([path for path in directories if path.parent != top])
    moved.rename(top / f"moved-{moved.name}-{chance.randrange(99)}")
    return top


def times(top: Path) -> Counter[tuple[bool, int]]:
    """How often each time of a directory, or of something else, is there."""
    found: Counter[tuple[bool, int]] = Counter()
    for directory, _, names in os.walk(top):
        found[True, os.lstat(directory).st_mtime_ns] += 1
        for name in names:
            if name != "gocryptfs.diriv" and not name.endswith(".name"):
                found[False, os.lstat(f"{directory}/{name}").st_mtime_ns] += 1
    return found


def mirrored(machine: Machine, snapshot: Path) -> None:
    holds(machine, snapshot)
    with machine.disk() as home:
        size = len(times(snapshot))
        (backup,) = [path for path in (home / "current").iterdir() if path.is_dir() and len(times(path)) >= size]
        assert times(backup) == times(snapshot)
        ivs = {Path(directory) / "gocryptfs.diriv": os.lstat(directory).st_mtime_ns + _LATER for directory, _, _ in os.walk(backup)}
        assert {path: path.stat().st_mtime_ns for path in ivs} == ivs, "as in the view"


@pytest.mark.parametrize("seed", range(3))
def test_each_day_is_mirrored(machine: Machine, seed: int) -> None:
    chance = random.Random(seed)  # noqa: S311 - no secret
    snapshot = plant(machine.snapshot("2026-11-20"), chance)
    done(machine.sync())
    mirrored(machine, snapshot)
    for day in (21, 22):
        snapshot = edit(machine.copy(snapshot, f"2026-11-{day}"), chance)
        done(machine.sync())
        mirrored(machine, snapshot)


def test_an_iv_that_is_cut_off_is_sent_again(machine: Machine) -> None:
    """Of one that is as long as it should be the time alone is given, whatever it holds: that is for a verification to see."""
    snapshot = plant(machine.snapshot("2026-11-20"), random.Random(6))  # noqa: S311 - no secret
    done(machine.sync())
    with machine.disk() as home:
        for file in (home / "current").rglob("gocryptfs.diriv"):
            os.truncate(file, 15)
    snapshot = machine.copy(snapshot, "2026-11-21")
    for directory, _, _ in os.walk(snapshot):
        (Path(directory) / "new").write_text("new")
    done(machine.sync())
    mirrored(machine, snapshot)


def test_a_receiver_that_is_not_root_gets_the_directories_above_too(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    """rsync makes a directory writable for it only if it is a part of the transfer."""
    monkeypatch.setattr(disk, "Place", lambda *given, **named: rsync.Place(*given, **(named | {"unhindered": False})))
    told = machine.top / "told"
    machine.tool("rsync", f'printf "%s\\n" "$@" >>{told}; exec rsync "$@"')
    snapshot = plant(machine.snapshot("2026-11-20"), random.Random(5))  # noqa: S311 - no secret
    done(machine.sync())
    mirrored(machine, snapshot)
    into = [line for line in told.read_text().splitlines() if "/target/current/" in line and "/./" not in line]
    assert into
    assert all(line.endswith("/target/current/") for line in into)


def test_an_iv_that_is_right_is_not_sent_and_another_one_is(machine: Machine) -> None:
    names = ("kept", "damaged", "owned", "gone")
    first = machine.snapshot("2026-11-20")
    for name in names:
        (first / name).mkdir()
        (first / name / "file").write_text(name)
    done(machine.sync())
    second = machine.copy(first, "2026-11-21")
    for name in names:
        (second / name / "new").write_text("new")
    os.chown(second / "owned", 5, 6)
    with machine.disk() as home:
        by_time = {path.stat().st_mtime_ns - _LATER: path for path in (home / "current").rglob("gocryptfs.diriv")}
        standing = {name: by_time[(first / name).stat().st_mtime_ns] for name in names}
        standing["damaged"].chmod(0o600)
        standing["damaged"].write_bytes(b"x" * 16)
        standing["gone"].unlink()
        paths = {name: str(path.relative_to(home / "current")) for name, path in standing.items()}
    told = machine.top / "told"
    machine.tool("rsync", f'printf "%s\\n" "$@" >>{told}; exec rsync "$@"')
    done(machine.sync())
    machine.settings.clear()
    sent = {name for name, path in paths.items() if f"/{path}\n" in told.read_text().replace("/./", "/")}
    assert sent == {"damaged", "owned", "gone"}
    mirrored(machine, second)


def test_a_lane_that_fails_ends_the_other_and_the_next_sync_mends_it(machine: Machine) -> None:
    chance = random.Random(7)  # noqa: S311 - no secret
    first = plant(machine.snapshot("2026-11-20"), chance)
    done(machine.sync())
    second = edit(machine.copy(first, "2026-11-21"), chance)
    calls = machine.top / "calls"
    machine.tool("rsync", f'echo >>{calls}; [ "$(wc -l <{calls})" -lt 14 ] || exit 1; exec rsync "$@"')
    failed(machine.sync(), Reason.RSYNC_FAILED)
    assert len(calls.read_text().splitlines()) >= 14
    machine.settings.clear()
    done(machine.sync())
    mirrored(machine, second)
