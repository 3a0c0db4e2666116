# SPDX-License-Identifier: GPL-3.0-or-later
"""The encrypted tree of a target, looked at with stock gocryptfs and rsync: programs that are not ours."""

import os
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from offsited import names

from .machine import PATIENCE, must, run
from .trees import Tree, census
from .vaults import Vault

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
        ended = run("rsync", *options, f"{view / backup}/", f"{self._current / backup}/")
        complaints = [line for line in ended.stderr.splitlines() if line.startswith("rsync: ") and not _is_too_long(line)]
        assert (complaints, ended.status in {0, 23}) == ([], True), ended.told
        lines = [line for line in ended.stdout.splitlines() if not line.startswith("IO error encountered")]
        return [line for line in lines if not self._is_as_good(view / backup, line)]

    @staticmethod
    def _is_as_good(top: Path, line: str) -> bool:
        """Which of a group's names its ciphertext is made by is open: another one's differs, and is as good.

        So does that of a file which had other names when it was sent, in older snapshots perhaps, or whose inode did before it was written
        anew. Where nothing but the ciphertext differs, what it decrypts to says whether it is right: `clear`.
        """
        changes, _, name = line.partition(" ")
        return not changes.startswith("*") and (changes.rstrip(".") == ">fc" or (top / name).lstat().st_nlink > 1)


def kept_by_tree(tree: Tree) -> Tree:
    """Without what the view cannot show."""
    return {path: facts for path, facts in tree.items() if not (facts[0] == b"l" and len(facts[6]) >= LONG_TARGET)}


def _is_too_long(complaint: str) -> bool:
    """gocryptfs does not leave out a link with a name that is no UTF-8, and cannot show its target where that is too long."""
    return "readlink_stat(" in complaint and complaint.endswith("(36)")
