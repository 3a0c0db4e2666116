# SPDX-License-Identifier: GPL-3.0-or-later
"""A machine to run whole jobs on: snapshots, a vault, a disk, all real but systemd. Jobs run in this process; their mounts go with them."""

import ctypes
import functools
import hashlib
import itertools
import json
import os
import shutil
import signal
import sqlite3
import stat
import subprocess
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from pkgutil import resolve_name
from typing import Any

import pytest

from offsited.core.commit import Commit
from offsited.core.manifest import Row
from offsited.core.outcome import Outcome, Reason
from offsited.core.record import JobRecord, Kind, Options
from offsited.core.verification import Difference
from offsited.store import Store
from offsited.worker import job
from offsited.worker.confirmed import Confirmed
from offsited.worker.ledger import LEDGER_FILE, Ledger
from offsited.worker.restore import restore
from offsited.worker.restore_test import restore_test
from offsited.worker.sync import sync
from offsited.worker.verify import verify

from .trees import tree

PR_SET_CHILD_SUBREAPER = 36
libc = ctypes.CDLL(None)
PASSPHRASE = b"correct horse"
BODIES = {Kind.SYNC: sync, Kind.RESTORE: restore, Kind.VERIFY: verify, Kind.RESTORE_TEST: restore_test}


def memfd(content: bytes) -> int:
    """A descriptor as systemd hands a stored passphrase over: each reader that opens it anew starts at its beginning."""
    descriptor = os.memfd_create("test", os.MFD_CLOEXEC)
    os.write(descriptor, content)
    os.lseek(descriptor, 0, os.SEEK_SET)
    return descriptor


def _descriptors() -> set[int]:
    """Those of this process that are open."""
    return {int(entry) for entry in os.listdir("/proc/self/fd") if os.path.exists(f"/proc/self/fd/{entry}")}


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
        self.verify_days = 0
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

    def sync(self, **options: Any) -> JobRecord:
        return self._run(Kind.SYNC, Options(**options))

    def approve(self, record: JobRecord) -> JobRecord:
        """Release what a sync has held."""
        assert (record.outcome, record.reason) == (Outcome.HELD, Reason.LIMIT_EXCEEDED), record.detail
        assert record.held is not None
        return self.sync(approved=record.held.plan)

    def killed(self, work: Callable[[], object], at: str = "", *, time: int = 1) -> None:
        """Do it in a process that must be killed before its end: by a tool, or where it calls `at`, a dotted name, for the n-th `time`."""
        libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
        pid = os.fork()
        if pid == 0:
            try:
                if at:
                    _kill_at(at, time)
                work()
            finally:
                os._exit(0)
        status = os.waitpid(pid, 0)[1]
        _kill_orphans()
        self._unmount()
        assert os.WIFSIGNALED(status), "it came to its end"
        assert os.WTERMSIG(status) == signal.SIGKILL

    def restore(self, to: Path, paths: bytes | None = None, **options: bool) -> JobRecord:
        to.mkdir(exist_ok=True)
        given = {"destination": os.open(to, os.O_RDONLY)} | ({} if paths is None else {"paths": memfd(paths)})
        with _replaced("offsited.worker.restore.handed_over", lambda: given):
            return self._run(Kind.RESTORE, Options(**options))

    def verify(self, level: str = "data", **options: Any) -> tuple[JobRecord, list[Difference]]:
        """Verify; how it ended, and what it told the caller."""
        told = memfd(b"")
        with _replaced("offsited.worker.verify.handed_over", lambda: {"findings": os.dup(told)}):
            record = self._run(Kind.VERIFY, Options(level=level, **options))
        with open(told, "rb") as file:
            file.seek(0)
            found = [Difference.decode(line) for line in file]
        assert record.counts.differences == len(found)
        return record, found

    def restore_test(self) -> JobRecord:
        return self._run(Kind.RESTORE_TEST, Options())

    @property
    def known(self) -> Confirmed:
        """What is confirmed of the target."""
        return Confirmed.read(self.files.target("seed"))

    @property
    def confirmed(self) -> Commit:
        found = self.known.commit
        assert found is not None
        return found

    def manifest(self) -> dict[bytes, Row]:
        """What is known of the target, entry by entry."""
        with Ledger.opened(self.files.target("seed") / LEDGER_FILE) as ledger:
            return {row.path: row for row in ledger.rows()}

    @staticmethod
    def damage_table(file: Path, name: str) -> None:
        """Overwrite the page at which a table or an index of a database begins."""
        with closing(sqlite3.connect(file)) as database:
            (page,) = database.execute("SELECT rootpage FROM sqlite_master WHERE name = ?", (name,)).fetchone()
            (size,) = database.execute("PRAGMA page_size").fetchone()
        with file.open("r+b") as opened:
            opened.seek((page - 1) * size)
            opened.write(b"\xa5" * size)

    @contextmanager
    def when(self, name: str, happens: Callable[[], object]) -> Iterator[None]:
        """Within: `happens` happens when a dotted name is called first."""
        place, _, attribute = name.rpartition(".")
        real = getattr(resolve_name(place), attribute)
        times = itertools.count()

        def watched(*args: Any, **options: Any) -> Any:
            if next(times) == 0:
                happens()
            return real(*args, **options)

        with _replaced(name, watched):
            yield

    def leave_mounts(self) -> None:
        """Another process mounts here too: what this one mounted stays until the end."""
        self._unmount = lambda: None

    @staticmethod
    def let_go() -> None:
        """Close directories that jobs of this process have open; with a process of its own they would be closed by its end."""
        for descriptor in sorted(int(name) for name in os.listdir("/proc/self/fd")):
            with suppress(OSError):
                if descriptor > 2 and stat.S_ISDIR(os.fstat(descriptor).st_mode):
                    os.close(descriptor)

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
        before = _descriptors()
        kept = os.dup(0)
        os.dup2(memfd(self.passphrase), 0)
        try:
            status = job.run(record, self.store, BODIES[kind])
        finally:
            os.dup2(kept, 0)
            os.close(kept)
            for descriptor in _descriptors() - before:  # a worker's go with its process
                os.close(descriptor)
            self._unmount()
        ended = self.files.read_record(number)
        assert ended is not None
        assert ended.outcome is not None
        assert (status == 0) is (ended.outcome == "done")
        return ended

    def _configure(self) -> None:
        source = f'[source]\nkind = "lastdst"\npath = "{self.snapshots}/lastdst"\nexclude = {json.dumps(self.exclude)}\n'
        target = '[[target]]\nname = "seed"\nkind = "disk"\nlabel = "SEED"\ndirectory = "home"\n'
        self.store.vault_file("home").write_text(f"verify_days = {self.verify_days}\n{source}{target}")
        lines = [f'{name} = "{path}"' for name, path in self.settings.items()]
        (self.store.etc / "offsited.toml").write_text("\n".join(["[tools]", *lines]))


def _kill_orphans() -> None:
    """What systemd does with the rest of a unit whose main process is gone."""
    for children in Path("/proc/self/task").glob("*/children"):
        for child in children.read_text().split():
            os.kill(int(child), signal.SIGKILL)
    with suppress(ChildProcessError):
        while True:
            os.waitpid(-1, 0)


def _kill_at(name: str, time: int) -> None:
    place, _, attribute = name.rpartition(".")
    real = getattr(resolve_name(place), attribute)
    times = itertools.count(1)

    @functools.wraps(real)
    def watched(*args: Any, **options: Any) -> Any:
        if next(times) == time:
            os.kill(os.getpid(), signal.SIGKILL)
        return real(*args, **options)

    pytest.MonkeyPatch().setattr(name, watched)


@contextmanager
def _replaced(name: str, value: object) -> Iterator[None]:
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
    """The target decrypts to exactly this snapshot, and its manifest says the hash of each file."""
    to = machine.top / "restored"
    done(machine.restore(to))
    restored, wanted = tree(to), tree(snapshot)
    subprocess.run(["rm", "-rf", str(to)], check=True)
    assert restored == wanted
    hashes = {path or b".": row.sha256 for path, row in machine.manifest().items()}
    assert hashes == {path: hashlib.sha256(found[4]).digest() if stat.S_ISREG(found[0]) else b"" for path, found in wanted.items()}
