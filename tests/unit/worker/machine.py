# SPDX-License-Identifier: GPL-3.0-or-later
"""A machine to run whole jobs on: snapshots, a vault, a disk, all real but systemd. Jobs run in this process; their mounts go with them."""

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from offsited.core.outcome import Outcome, Reason
from offsited.core.record import JobRecord, Kind, Options
from offsited.store import Store
from offsited.worker import job
from offsited.worker.restore import restore
from offsited.worker.sync import sync

from .trees import tree

PASSPHRASE = b"correct horse"
BODIES = {Kind.SYNC: sync, Kind.RESTORE: restore}


def memfd(content: bytes) -> int:
    """A descriptor as systemd hands a stored passphrase over: each reader that opens it anew starts at its beginning."""
    descriptor = os.memfd_create("test", os.MFD_CLOEXEC)
    os.write(descriptor, content)
    os.lseek(descriptor, 0, os.SEEK_SET)
    return descriptor


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


def done(record: JobRecord) -> JobRecord:
    assert (record.outcome, record.reason) == (Outcome.DONE, ""), record.detail
    return record


def failed(record: JobRecord, reason: Reason) -> JobRecord:
    assert (record.outcome, record.reason) == (Outcome.FAILED, reason.value), record.detail
    assert record.commit == ""
    return record


def holds(machine: Machine, snapshot: Path) -> None:
    """The target decrypts to exactly this snapshot."""
    to = machine.top / "restored"
    done(machine.restore(to))
    restored, wanted = tree(to), tree(snapshot)
    subprocess.run(["rm", "-rf", str(to)], check=True)
    assert restored == wanted
