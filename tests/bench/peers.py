# SPDX-License-Identifier: GPL-3.0-or-later
"""The tools that are compared, each with the settings that a person would choose who knows it well and wants it fast.

Each sees the snapshot at the same path every day, as its caches want it: `SNAPSHOT`, a bind mount. Each has a key, an empty place at the
target, and a passphrase.
"""

import json
import os
import shlex
import shutil
import subprocess
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import ClassVar, Final

from system.disks import Disk
from system.machine import must, write
from system.remote import HOST, Remote, at_remote, host_key
from system.vaults import ETC, Vault

SNAPSHOT: Final = Path("/snapshot")
PASSPHRASE: Final = "a passphrase of the benchmark"
ROOT: Final = MappingProxyType({"HOME": "/root"})
"""Where root's own way to the remote is described."""
EMPTY: Final[Mapping[str, str]] = MappingProxyType({})
_ENVIRONMENT: Final = {"PATH": os.environ["PATH"], "LC_ALL": "C.UTF-8", "PASSPHRASE": PASSPHRASE}


class Site:
    """Where the target lies: on a disk here, or on the same kind of disk at the remote."""

    def __init__(self, corpus: Path, disk: Disk, work: Path, *, remote: bool) -> None:
        self.corpus = corpus
        self.disk = disk
        self.remote = remote
        self.work = work
        """An empty directory here, for caches and mount points."""
        self.here = work / "target"
        """Where it is mounted on this machine; over ssh there is nothing."""
        self.there = "/target"

    @contextmanager
    def mounted(self) -> Iterator[None]:
        """Have it mounted, by whoever needs it so."""
        if self.remote:
            at_remote(f"mkdir -p {self.there} && mount {self.disk.device} {self.there}")
        else:
            self.here.mkdir(exist_ok=True)
            must("mount", self.disk.device, self.here)
        try:
            yield
        finally:
            if self.remote:
                at_remote(f"umount {self.there}")
            else:
                must("umount", self.here)

    @property
    def place(self) -> str:
        """As rsync names it."""
        return f"admin:{self.there}" if self.remote else str(self.here)


class Failed(Exception):
    """A tool did not do all that it was asked for."""


class Peer(ABC):
    """One tool with one target."""

    name: ClassVar[str]
    version: ClassVar[tuple[str, ...]]
    """The command that prints it."""

    def __init__(self, site: Site) -> None:
        self.site = site
        self.work = site.work

    @abstractmethod
    def prepare(self) -> None:
        """Whatever is done once."""

    @abstractmethod
    def backup(self) -> None:
        """Bring the snapshot to the target."""

    @abstractmethod
    def restore(self, to: Path, path: str = "") -> None:
        """Bring everything, or one file, into an empty directory."""

    def run(self, *command: str | Path, stdin: str = "", cwd: Path = SNAPSHOT, environment: Mapping[str, str] = EMPTY) -> None:
        """Run one command of the tool. Raise Failed unless it succeeds."""
        own = {"HOME": str(self.work), **environment}
        with tempfile.TemporaryFile() as said:  # no pipe: a file system that goes to the background would hold it open
            ended = subprocess.run(
                list(map(str, command)), input=stdin.encode(), env=_ENVIRONMENT | own, cwd=cwd, stdout=said, stderr=said, check=False
            )
            said.seek(0)
            if ended.returncode:
                last = said.read()[-1000:].decode(errors="replace").strip()
                raise Failed(f"{command[0]} ended with status {ended.returncode}: {last}")

    def show(self, snapshot: Path) -> None:
        """Take this as the snapshot of the day."""
        must("mount", "--bind", snapshot, SNAPSHOT)

    def end(self) -> None:  # noqa: B027 - most leave nothing
        """It is not needed any more."""


class PlainRsync(Peer):
    """No encryption: the floor."""

    name = "plain rsync"
    version = ("rsync", "--version")

    def prepare(self) -> None:
        return

    def backup(self) -> None:
        self.run("rsync", "-aAXH", "--numeric-ids", "--delete", f"{SNAPSHOT}/", f"{self.site.place}/mirror/")

    def restore(self, to: Path, path: str = "") -> None:
        listed = ["-R", f"{self.site.place}/mirror/./{path}"] if path else [f"{self.site.place}/mirror/"]
        self.run("rsync", "-aAXH", "--numeric-ids", *listed, f"{to}/")


class Script(Peer):
    """gocryptfs's reverse mode and rsync over the whole view: what a script of a few lines does."""

    name = "gocryptfs + rsync"
    version = ("gocryptfs", "--version")

    def prepare(self) -> None:
        self.plain, self.view = self.work / "plain", self.work / "view"
        for directory in (self.plain / "backup", self.view):
            directory.mkdir(parents=True)
        self.run("gocryptfs", "-init", "-reverse", "-q", "-passfile=/dev/stdin", self.plain, stdin=PASSPHRASE)

    @contextmanager
    def _showing(self, *command: str | Path) -> Iterator[None]:
        self.run("gocryptfs", "-q", "-nosyslog", "-passfile=/dev/stdin", *command, stdin=PASSPHRASE)
        try:
            yield
        finally:
            must("umount", command[-1])

    def backup(self) -> None:
        must("mount", "--bind", SNAPSHOT, self.plain / "backup")
        try:
            with self._showing("-reverse", self.plain, self.view):
                self.run("rsync", "-aAXH", "--numeric-ids", "--delete", f"{self.view}/", f"{self.site.place}/mirror/")
        finally:
            must("umount", self.plain / "backup")

    def restore(self, to: Path, path: str = "") -> None:
        """Over ssh everything is fetched first: sshfs would cut times and hard links."""
        if self.site.remote:
            sealed = self.work / "sealed"
            self.run("rsync", "-aAXH", "--numeric-ids", f"{self.site.place}/mirror/", f"{sealed}/")
        else:
            sealed = self.site.here / "mirror"
        with self._showing("-ro", sealed, self.view):
            chosen = ["-R", f"{self.view}/backup/./{path}"] if path else [f"{self.view}/backup/"]
            self.run("rsync", "-aAXH", "--numeric-ids", *chosen, f"{to}/")
        if self.site.remote:
            shutil.rmtree(sealed)


class EncFs(Script):
    """The same by EncFS's reverse mode."""

    name = "encfs + rsync"
    version = ("encfs", "--version")

    def prepare(self) -> None:
        self.plain, self.view = self.work / "plain", self.work / "view"
        for directory in (self.plain / "backup", self.view):
            directory.mkdir(parents=True)
        self.run("encfs", "--standard", "-S", "--reverse", self.plain, self.view, stdin=f"{PASSPHRASE}\n")
        must("umount", self.view)

    @contextmanager
    def _showing(self, *command: str | Path) -> Iterator[None]:
        reverse = ["--reverse"] if "-reverse" in command else []
        config = str(self.plain / ".encfs6.xml")
        self.run("encfs", "-S", *reverse, *command[-2:], stdin=f"{PASSPHRASE}\n", environment={"ENCFS6_CONFIG": config})
        try:
            yield
        finally:
            must("umount", command[-1])


class Restic(Peer):
    name = "restic"
    version = ("restic", "version")

    def _restic(self, *arguments: str | Path) -> None:
        repository = f"sftp:admin:{self.site.there}/repository" if self.site.remote else f"{self.site.here}/repository"
        own = {"RESTIC_PASSWORD": PASSPHRASE, "RESTIC_CACHE_DIR": str(self.work / "cache"), **ROOT}
        through = ["-o", "sftp.command=ssh admin -s sftp"] if self.site.remote else []
        self.run("restic", "-q", *through, "-r", repository, *arguments, environment=own)

    def prepare(self) -> None:
        self._restic("init")

    def backup(self) -> None:
        self._restic("backup", "--ignore-ctime", "--no-scan", ".")

    def restore(self, to: Path, path: str = "") -> None:
        chosen = ["--include", f"/{path}"] if path else []
        self._restic("restore", "latest", "--target", to, *chosen)


class Borg(Peer):
    name = "borg"
    version = ("borg", "--version")

    def _borg(self, *arguments: str | Path, cwd: Path = SNAPSHOT) -> None:
        repository = f"ssh://admin{self.site.there}/repository" if self.site.remote else f"{self.site.here}/repository"
        own = {"BORG_REPO": repository, "BORG_PASSPHRASE": PASSPHRASE, "BORG_BASE_DIR": str(self.work)}
        self.run("borg", *arguments, cwd=cwd, environment={**own, **ROOT})

    def prepare(self) -> None:
        self.count = 0
        self._borg("init", "--encryption=repokey-blake2")

    def backup(self) -> None:
        self.count += 1
        self._borg("create", "--files-cache=mtime,size", "--compression=lz4", f"::day-{self.count}", ".")

    def restore(self, to: Path, path: str = "") -> None:
        self._borg("extract", "--numeric-ids", f"::day-{self.count}", *([path] if path else []), cwd=to)


FAR: Final = {
    "RCLONE_CONFIG_FAR_TYPE": "sftp",
    "RCLONE_CONFIG_FAR_HOST": HOST,
    "RCLONE_CONFIG_FAR_PORT": "2222",
    "RCLONE_CONFIG_FAR_USER": "root",
    "RCLONE_CONFIG_FAR_KEY_FILE": "/root/.ssh/admin",
}


class Rclone(Peer):
    name = "rclone crypt"
    version = ("rclone", "version")

    def _rclone(self, *arguments: str | Path) -> None:
        hidden = subprocess.run(["rclone", "obscure", PASSPHRASE], capture_output=True, text=True, check=True).stdout.strip()
        below = FAR if self.site.remote else {}
        settings = {
            "RCLONE_CONFIG_SEALED_TYPE": "crypt",
            "RCLONE_CONFIG_SEALED_REMOTE": f"far:{self.site.there}/mirror" if self.site.remote else f"{self.site.here}/mirror",
            "RCLONE_CONFIG_SEALED_PASSWORD": hidden,
            "RCLONE_CONFIG_SEALED_FILENAME_ENCODING": "base64",
        }
        options = ["--config=/dev/null", "--links", "--metadata", "--transfers=8", "--checkers=16"]
        self.run("rclone", *arguments, *options, environment={**settings, **below, **ROOT})

    def prepare(self) -> None:
        return

    def backup(self) -> None:
        self._rclone("sync", SNAPSHOT, "sealed:", "--create-empty-src-dirs")

    def restore(self, to: Path, path: str = "") -> None:
        self._rclone(*(("copyto", f"sealed:{path}", to / "one") if path else ("copy", "sealed:", to)))


class Duplicity(Peer):
    name = "duplicity"
    version = ("duplicity", "--version")

    def _duplicity(self, *arguments: str | Path) -> None:
        options = [f"--archive-dir={self.work}/archive", "--no-compression", "--volsize=200"]
        self.run("duplicity", *arguments, *options, environment=ROOT)

    @property
    def _url(self) -> str:
        return f"rsync://admin/{self.site.there}/repository" if self.site.remote else f"file://{self.site.here}/repository"

    def prepare(self) -> None:
        self._begun = False
        if self.site.remote:
            at_remote(f"mkdir -p {self.site.there}/repository")

    def backup(self) -> None:
        self._duplicity("incremental" if self._begun else "full", SNAPSHOT, self._url)
        self._begun = True

    def restore(self, to: Path, path: str = "") -> None:
        self._duplicity("restore", *(["--path-to-restore", path] if path else []), self._url, to / "restored")


class Offsited(Peer):
    """Everything from the command line's start to its end; a restore too."""

    name = "offsited"
    version = ("offsitectl", "--version")

    def __init__(self, site: Site) -> None:
        super().__init__(site)
        self.vault = Vault("bench", PASSPHRASE)

    def prepare(self) -> None:
        source = f"lastdst:{self.vault.lastdst}"
        target = f"far=ssh:root@{HOST}{self.site.there}/vault" if self.site.remote else f"disk=disk:UUID={self.site.disk.uuid}"
        command = ("offsitectl", "init", "bench", "--source", source, "--root", self.site.corpus, "--target", target)
        told = must(*command, "--passphrase-file", "-", "--json", stdin=PASSPHRASE)
        if self.site.remote:
            Remote("").let_in(json.loads(told.splitlines()[-1])["authorized_keys"])
            write(ETC / "known_hosts", host_key())
        must("systemctl", "stop", "offsited-sync@bench.timer", "offsited-verify@bench.timer")

    def show(self, snapshot: Path) -> None:
        self.vault.point_at(snapshot)

    def backup(self) -> None:
        self.run("offsitectl", "sync", "bench", "--json")

    def restore(self, to: Path, path: str = "") -> None:
        self.run("offsitectl", "restore", "bench", "--to", to, *([path] if path else []))

    def end(self) -> None:
        self.vault.remove()


PEERS: Final[tuple[type[Peer], ...]] = (Offsited, Script, PlainRsync, Restic, Borg, Rclone, Duplicity, EncFs)


def version_of(peer: type[Peer]) -> str:
    """The first line in which it names its version."""
    ended = subprocess.run(peer.version, capture_output=True, text=True, check=False)
    return next((line for line in (ended.stdout + ended.stderr).splitlines() if any(c.isdigit() for c in line)), shlex.join(peer.version))
