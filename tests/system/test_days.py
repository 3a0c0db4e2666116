# SPDX-License-Identifier: GPL-3.0-or-later
"""Day after day of random changes: after each good sync the target decrypts equal to the snapshot, and the manifest says what is there.

OFFSITED_DAYS and OFFSITED_SEED choose more days, or the same again: tests/run system -k days.
"""

import gzip
import json
import os
import random
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from offsited import names

from .changes import Day
from .conftest import MakeDisk, MakeVault
from .daemon import Watch, outcome
from .machine import PATIENCE, must, run
from .remote import Remote, at_remote
from .trees import Tree, census, copy_linked, differences
from .vaults import Vault

DAYS = int(os.environ.get("OFFSITED_DAYS", "8"))
SEED = int(os.environ.get("OFFSITED_SEED", str(random.SystemRandom().randrange(10**6))))
LONG_TARGET = 736
"""Bytes of a link's target that only the manifest can keep."""


@contextmanager
def served(*command: str, point: Path, passphrase: str) -> Iterator[Path]:
    """gocryptfs at `point`, as long as it is wanted."""
    options = ["-fg", "-q", "-passfile=/dev/stdin", f"-notifypid={os.getpid()}"]
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1])
    with subprocess.Popen(["gocryptfs", *options, *command, str(point)], stdin=subprocess.PIPE) as process:
        assert process.stdin is not None
        process.stdin.write(passphrase.encode())
        process.stdin.close()
        assert signal.sigtimedwait([signal.SIGUSR1], PATIENCE), "gocryptfs did not mount it"
        try:
            yield point
        finally:
            must("umount", str(point))


class Mirror:
    """The encrypted tree of a target, as stock gocryptfs shows it."""

    def __init__(self, vault: Vault, current: Path) -> None:
        self._vault = vault
        self._current = current

    @contextmanager
    def clear(self) -> Iterator[Path]:
        with (
            tempfile.TemporaryDirectory(prefix="clear-") as point,
            served("-ro", "--", str(self._current), point=Path(point), passphrase=self._vault.passphrase) as clear,
        ):
            yield clear

    def left_to_do(self, snapshot: Path) -> list[str]:
        """What rsync would still send or delete, judged by content: of the whole view of a snapshot, made by stock gocryptfs."""
        with tempfile.TemporaryDirectory(prefix="view-") as directory:
            plain, point, key = Path(directory, "plain"), Path(directory, "view"), self._vault.directory / names.PLAIN_DIR / names.KEY_FILE
            for made in (plain / "backup", point):
                made.mkdir(parents=True)
            left_out = [f"-exclude=backup/{os.fsdecode(path)}" for path in census(snapshot).keys() - kept_by_tree(census(snapshot)).keys()]
            must("mount", "--bind", str(snapshot), str(plain / "backup"))
            try:
                options = ["-reverse", f"-config={key}", *left_out, "--", str(plain)]
                with served(*options, point=point, passphrase=self._vault.passphrase) as view:
                    return self._compare(view)
            finally:
                must("umount", str(plain / "backup"))

    def _compare(self, view: Path) -> list[str]:
        (backup,) = (name for name in os.listdir(view) if (view / name).is_dir())
        options = ["-n", "-c", "-aH", "--numeric-ids", "--delete", "--itemize-changes", "--out-format=%i %n"]
        lines = must("rsync", *options, f"{view / backup}/", f"{self._current / backup}/").splitlines()
        return [line for line in lines if not self._is_linked(view / backup, line)]

    @staticmethod
    def _is_linked(top: Path, line: str) -> bool:
        """Which of a group's names its ciphertext is made by is open: another one's differs, and is as good."""
        changes, _, name = line.partition(" ")
        return not changes.startswith("*") and (top / name).lstat().st_nlink > 1


def kept_by_tree(tree: Tree) -> Tree:
    """Without what the view cannot show."""
    return {path: facts for path, facts in tree.items() if not (facts[0] == b"l" and len(facts[6]) >= LONG_TARGET)}


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
        assert found == [], [manifest(clear / "offsited").get(entry[0]) for entry in found[:5]]  # type: ignore[index]
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
