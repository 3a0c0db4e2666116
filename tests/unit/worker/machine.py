# SPDX-License-Identifier: GPL-3.0-or-later
"""A machine to run whole jobs on: snapshots, a vault, a disk, all real but systemd. Jobs run in this process; their mounts go with them."""

import os
import shutil
import stat
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from offsited.core.record import JobRecord, Kind, Options
from offsited.store import Store
from offsited.worker import job
from offsited.worker.restore import restore
from offsited.worker.sync import sync

from .conftest import PASSPHRASE, memfd

BODIES = {Kind.SYNC: sync, Kind.RESTORE: restore}

Entry = tuple[int, int, int, int, bytes, int]
"""Mode, owner, group, mtime in ns, content or target of a link, number of names within the tree."""


def tree(top: Path) -> dict[bytes, Entry]:
    """Every entry below a directory, and the directory itself as `.`."""
    found: dict[bytes, os.stat_result] = {b".": os.lstat(top)}
    for directory, directories, names in os.walk(os.fsencode(top)):
        for name in (*directories, *names):
            path = directory + b"/" + name
            found[os.path.relpath(path, os.fsencode(top))] = os.lstat(path)
    inodes = [status.st_ino for status in found.values()]
    return {path: _entry(os.fsencode(top) + b"/" + path, status, inodes.count(status.st_ino)) for path, status in found.items()}


def _entry(path: bytes, status: os.stat_result, names: int) -> Entry:
    content = b""
    if stat.S_ISREG(status.st_mode):
        content = Path(os.fsdecode(path)).read_bytes()
    elif stat.S_ISLNK(status.st_mode):
        content = os.readlink(path)
    return status.st_mode, status.st_uid, status.st_gid, status.st_mtime_ns, content, 1 if stat.S_ISDIR(status.st_mode) else names


class Machine:
    """One vault `home` with one disk target `seed`."""

    def __init__(self, top: Path, key_file: Path, device: str, unmount: Callable[[], None]) -> None:
        self.top = top
        self.device = device
        self.store = Store(top / "etc", top / "var")
        self.snapshots = top / "backup"
        self._unmount = unmount
        self.settings: dict[str, str] = {}
        self.exclude: list[str] = []
        self.passphrase = PASSPHRASE
        (self.store.etc / "vaults.d").mkdir(parents=True)
        self.files = self.store.vault_files("home")
        self.files.create()
        shutil.copy(key_file, self.files.key_file)
        self.snapshots.mkdir()

    # --- what a person does --------------------------------------------------------------------------------------

    def snapshot(self, name: str) -> Path:
        """A new snapshot, which becomes the newest; its directory, to be filled."""
        directory = self.snapshots / name
        directory.mkdir()
        (self.snapshots / "lastdst").write_text(f"{directory}\n")
        return directory

    def copy(self, old: Path, name: str) -> Path:
        """A new snapshot that links every file of an old one."""
        directory = self.snapshot(name)
        subprocess.run(["cp", "-al", f"{old}/.", str(directory)], check=True)
        shutil.copystat(old, directory)
        return directory

    def tool(self, name: str, script: str) -> None:
        """Put a shell script in the place of a program; `"$@"` is what it was called with."""
        path = self.top / name
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o700)
        self.settings[name] = str(path)

    def sync(self, **options: bool) -> JobRecord:
        return self._run(Kind.SYNC, Options(**options))

    def restore(self, to: Path, paths: bytes | None = None) -> JobRecord:
        to.mkdir(exist_ok=True)
        given = {"destination": os.open(to, os.O_RDONLY)} | ({} if paths is None else {"paths": memfd(paths)})
        with _replaced("offsited.worker.restore.handed_over", lambda: given):
            return self._run(Kind.RESTORE, Options())

    @contextmanager
    def disk(self) -> Iterator[Path]:
        """The disk, mounted: its directory `home`."""
        point = self.top / "look"
        point.mkdir(exist_ok=True)
        subprocess.run(["mount", self.device, str(point)], check=True)
        try:
            yield point / "home"
        finally:
            subprocess.run(["umount", str(point)], check=True)

    # --- what systemd does ---------------------------------------------------------------------------------------

    def _run(self, kind: Kind, options: Options) -> JobRecord:
        self._configure()
        number = self.store.next_job()
        record = JobRecord(job=number, kind=kind, vault="home", target="seed", options=options, unit="u.service", requested=1)
        self.files.write_record(record)
        runtime = self.top / f"run-{number}"
        runtime.mkdir(mode=0o700)
        os.environ["RUNTIME_DIRECTORY"] = str(runtime)
        kept = os.dup(0)
        os.dup2(memfd(self.passphrase), 0)
        try:
            status = job.run(record, self.store, BODIES[kind])
        finally:
            os.dup2(kept, 0)
            os.close(kept)
            self._unmount()
        ended = self.files.read_record(number)
        assert ended is not None
        assert ended.outcome is not None
        assert (status == 0) is (ended.outcome == "done")
        return ended

    def _configure(self) -> None:
        source = f'[source]\nkind = "lastdst"\npath = "{self.snapshots}/lastdst"\nexclude = {self.exclude!r}\n'
        target = '[[target]]\nname = "seed"\nkind = "disk"\nlabel = "SEED"\ndirectory = "home"\n'
        self.store.vault_file("home").write_text(source + target)
        lines = [f'{name} = "{path}"' for name, path in self.settings.items()]
        (self.store.etc / "offsited.toml").write_text("\n".join(["[tools]", *lines]))


@contextmanager
def _replaced(name: str, value: object) -> Iterator[None]:
    import pytest  # noqa: PLC0415 - this alone needs it

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(name, value)
        yield
