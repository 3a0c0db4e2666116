# SPDX-License-Identifier: GPL-3.0-or-later
"""Day after day of random changes: after each good sync the target decrypts equal to the snapshot, and the manifest says what is there.

OFFSITED_DAYS and OFFSITED_SEED choose more days, or the same again: tests/run system -k days.
"""

import gzip
import json
import os
import random
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from .changes import Day
from .conftest import MakeDisk, MakeVault
from .daemon import Watch, outcome
from .machine import must, run
from .mirrors import Mirror, kept_by_tree
from .remote import Remote, at_remote
from .trees import census, copy_linked, differences
from .vaults import Vault

DAYS = int(os.environ.get("OFFSITED_DAYS", "8"))
SEED = int(os.environ.get("OFFSITED_SEED", str(random.SystemRandom().randrange(10**6))))


def manifest(offsited: Path) -> dict[bytes, dict[str, object]]:
    """The rows of a manifest, read as its man page says."""
    rows: dict[bytes, dict[str, object]] = {}
    for segment in json.loads((offsited / "commit.json").read_text())["segments"]:
        with gzip.open(offsited / segment["name"], "rt") as file:
            next(file)
            for line in file:
                row = json.loads(line)
                rows[os.fsencode(row["path"])] = row
    return {path: row for path, row in rows.items() if not row.get("gone")}


def check_manifest(rows: dict[bytes, dict[str, object]], top: Path) -> None:
    """Every entry of the snapshot has its row, and nothing else has."""
    tree = census(top)
    assert differences(dict.fromkeys(rows, ()), dict.fromkeys(tree, ())) == []
    for path, (kind, mode, uid, gid, mtime, size, target, *rest) in tree.items():
        row = rows[path]
        seconds, _, fraction = mtime.partition(b".")
        assert (row["type"], int(str(row["mode"]), 8)) == (kind.decode(), int(mode, 8)), path
        assert (row.get("uid", 0), row.get("gid", 0)) == (int(uid), int(gid)), path
        assert row.get("mtime", 0) == int(seconds) * 10**9 + int(fraction[:9]), path
        assert os.fsencode(str(row.get("target", ""))) == target
        full = os.path.join(os.fsencode(top), path)
        names = os.listxattr(full, follow_symlinks=False)
        assert sorted(row.get("xattrs", {})) == sorted(names), path  # type: ignore[call-overload]
        if kind == b"f":
            assert (row.get("size", 0), row["sha256"]) == (int(size), rest[0].decode()), path


def check(vault: Vault, current: Path, snapshot: Path) -> None:
    """By programs that are not ours: find, sha256sum, gocryptfs."""
    assert Mirror(vault, current).left_to_do(snapshot) == []
    with Mirror(vault, current).clear() as clear:
        found = differences(kept_by_tree(census(snapshot)), census(clear / "backup"))
        assert found == [], [manifest(clear / "offsited").get(entry[0]) for entry in found[:5]]
        check_manifest(manifest(clear / "offsited"), snapshot)


def interrupt(vault: Vault, after: float) -> object:
    """Kill a sync with all that belongs to it, at some moment; or let it end, if it is faster. Return how it ended."""
    with Watch() as watch:
        ended = vault.sync("--no-block")
        assert ended.status == 0, ended.told
        time.sleep(after)
        run("systemctl", "kill", "--signal=KILL", vault.unit)
        return outcome(watch.until_removed(vault.name))


def live(vault: Vault, days: int, draw: random.Random) -> Iterator[Path]:
    """Let days pass; yield each snapshot that was synced to the end. A third of the syncs are killed, and meet another snapshot next."""
    vault.without_limits()
    snapshot = vault.snapshot("day-0000", a="a", b="b")
    (snapshot / "d").mkdir()
    (snapshot / "d" / "c").write_text("c")
    old: list[Path] = []
    for number in range(1, days + 1):
        if number > 1 and draw.random() < 1 / 3:
            ended = interrupt(vault, draw.random() * 1.5)
            print(f"{snapshot.name}: killed: {ended}")  # shown when a day fails
        else:
            chosen = ["--reconcile"] if draw.random() < 0.3 else []
            print(f"{snapshot.name}: {vault.synced(*chosen)}")
            yield snapshot
        old = [*old, snapshot][-3:]
        snapshot = copy_linked(snapshot, vault.root / f"day-{number:04}")
        Day(snapshot, draw.randrange(10**9), old).pass_by()
        vault.point_at(snapshot)
        for past in vault.root.glob("day-*"):
            if past.name < old[0].name:
                shutil.rmtree(past)


@pytest.mark.parametrize("seed", [SEED])
def test_days_on_a_disk(vault: MakeVault, disk: MakeDisk, key: Path, seed: int) -> None:
    made, target = vault(), disk("ext4")
    made.root.mkdir(parents=True)
    made.lastdst.write_text("/\n")
    made.init(f"disk=disk:UUID={target.uuid}", key=key)
    for snapshot in live(made, DAYS, random.Random(seed)):  # noqa: S311
        with target.mounted() as top:
            check(made, top / made.name / "current", snapshot)


@pytest.mark.parametrize("seed", [SEED + 1])
def test_days_over_ssh(vault: MakeVault, remote: Remote, key: Path, seed: int, tmp_path: Path) -> None:
    made = vault()
    made.root.mkdir(parents=True)
    made.lastdst.write_text("/\n")
    remote.let_in(str(made.init(f"vps={remote.spec}", key=key).json["authorized_keys"]))
    copy = tmp_path / "copy"
    for snapshot in live(made, DAYS // 2, random.Random(seed)):  # noqa: S311
        shutil.rmtree(copy, ignore_errors=True)
        must("rsync", "-aH", "--numeric-ids", f"admin:{remote.directory}/current/", f"{copy}/")
        check(made, copy, snapshot)
    made.synced()  # the last one may have been killed
    assert at_remote(f"ls {remote.directory}/partial") == ""
