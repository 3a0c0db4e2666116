# SPDX-License-Identifier: GPL-3.0-or-later
"""The passphrase is nowhere, names of files reach nobody, and no mount is seen: during a sync, after it, after crashes."""

import os
import pwd
import signal
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import pytest
from bus.peer import DRIVER, close

from .asking import questions
from .daemon import SERVICE, Watch, connect, main_pid, objects, outcome, plain
from .machine import PATIENCE, journal, kill, mounts, mounts_of, must, processes, run, write
from .vaults import BULK, OnDisk

NAME = "conspicuous-name"
"""In names of files; quotes nothing and means nothing."""


def _readable_of_processes() -> dict[str, bytes]:
    """Command line and environment of every process."""
    found = {}
    for process in Path("/proc").glob("[0-9]*"):
        for file in ("cmdline", "environ", "comm"):
            try:
                found[f"{process}/{file}"] = (process / file).read_bytes()
            except (FileNotFoundError, ProcessLookupError):
                continue
    return found


def _with(word: str, contents: dict[str, bytes]) -> list[str]:
    return [name for name, content in contents.items() if word.encode() in content]


def _files_with(word: str, since: Path) -> list[str]:
    """Regular files written since then that hold a word, on every file system where anything of ours could be; core files too."""
    places = ["/", "/run", "/tmp", "/dev/shm", "/var/lib/offsited", "/var/tmp", "/disks"]
    script = 'find "$@" -xdev -type f -newer "$SINCE" -size -100M -print0 | xargs -0r grep -lF -- "$WORD"'
    environment = {"PATH": os.environ["PATH"], "SINCE": str(since), "WORD": word}
    command = ["sh", "-c", script, "sh", *(place for place in places if Path(place).is_dir())]
    return subprocess.run(command, capture_output=True, text=True, env=environment, check=False).stdout.split()


@pytest.fixture
def since(tmp_path: Path) -> Path:
    """A file as old as the test."""
    mark = tmp_path / "since"
    mark.touch()
    return mark


def test_no_mount_is_seen(home: OnDisk) -> None:
    home.vault.next_snapshot(home.first, bulk=BULK)
    before = mounts()
    with home.vault.slow_sync() as job:
        during = mounts()
        (worker,) = (pid for pid, name in processes(job.unit).items() if name == "python3")
        own = mounts_of(worker)
        assert job.end()["outcome"] == "done"
    assert any(line.endswith("fuse.gocryptfs-reverse") for line in own), own
    assert any(line.endswith(" xfs") for line in own), own
    assert during == before
    assert mounts() == before


def test_the_passphrase_is_nowhere(home: OnDisk, canary: str, since: Path) -> None:
    """However it is entered. Looked for by a word that is known to be found: in a process's arguments, journal, bus, and a file."""
    home.vault.next_snapshot(home.first, bulk=BULK)
    must("logger", "known-word-in-the-journal")
    write(Path("/var/tmp/known"), "known-word-on-disk")
    home.vault.lock()
    with _monitor() as passed:
        assert home.vault.unlock("not " + canary).status == 3
        assert home.vault.unlock().status == 0
        home.vault.lock()
        _answer_at_boot(home, canary)
        _change_it(home, canary)
    assert home.vault.name in "".join(passed)
    assert canary not in "".join(passed)
    with home.vault.slow_sync() as job, _process_with("known-word-in-a-command-line"):
        during = _readable_of_processes()
        unit = must("systemctl", "show", "--all", job.unit, SERVICE)
        assert job.end()["outcome"] == "done"
    assert _with("known-word-in-a-command-line", during)
    assert _with(canary, during) == []
    assert canary not in unit
    assert "known-word-in-the-journal" in journal()
    assert canary not in journal()
    assert _files_with("known-word-on-disk", since) != []
    assert _files_with(canary, since) == []


def _answer_at_boot(home: OnDisk, canary: str) -> None:
    """To the question that is put after a boot; look around before it is answered, too."""
    with questions(home.vault.name) as asked, Watch() as watch:
        must("systemctl", "start", f"offsited-unlock@{home.vault.name}.service")
        asked.next().answer("not " + canary)
        question = asked.next()
        assert _with(canary, _readable_of_processes()) == []
        question.answer(canary)
        watch.until_changed(home.vault.path, Locked=False)
        asked.until_none()


def _change_it(home: OnDisk, canary: str) -> None:
    """To another one with the same word in it, and back."""
    for old, new in ((canary, "other " + canary), ("other " + canary, canary)):
        given, taken = os.pipe()
        os.write(taken, new.encode())
        os.close(taken)
        command = ["offsitectl", "change-passphrase", home.vault.name, "--no-sync", "--passphrase-file", "-"]
        files = ["--new-passphrase-file", f"/proc/self/fd/{given}"]
        ended = subprocess.run([*command, *files], input=old, text=True, capture_output=True, check=False, pass_fds=[given])
        os.close(given)
        assert ended.returncode == 0, ended.stderr


@contextmanager
def _monitor() -> Iterator[list[str]]:
    """What `busctl monitor` shows root within the block, line by line; there once the block has ended."""
    passed: list[str] = []
    with subprocess.Popen(["busctl", "monitor", "--system"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert "Monitoring" in process.stderr.readline()
        reader = threading.Thread(target=_read_until_last_word, args=(process.stdout, passed))
        reader.start()
        yield passed
        must("busctl", "call", DRIVER, "/org/freedesktop/DBus", DRIVER, "NameHasOwner", "s", LAST_WORD)
        reader.join(PATIENCE)
        assert not reader.is_alive()
        process.terminate()


def _read_until_last_word(lines: IO[str], passed: list[str]) -> None:
    for line in lines:
        passed.append(line)
        if LAST_WORD in line:
            return


@contextmanager
def _process_with(word: str) -> Iterator[None]:
    script = 'echo; cat; true "$1"'
    with subprocess.Popen(["sh", "-c", script, "sh", word], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()  # from now on /proc shows its arguments
        yield


def test_no_core_file_has_the_passphrase(home: OnDisk, canary: str, since: Path) -> None:
    """Whoever had it in memory crashes. The kernel's limit for each of them is 0."""
    home.vault.next_snapshot(home.first, bulk=BULK)
    home.vault.lock()
    assert home.vault.unlock().status == 0
    with home.vault.slow_sync() as job:
        everybody = [*processes(job.unit), main_pid()]
        limits = [line.split()[4:6] for pid in everybody for line in _limits(pid) if line.startswith("Max core file size")]
        os.kill(main_pid(), signal.SIGABRT)
        kill(job.unit, "gocryptfs", signal.SIGSEGV)
        assert job.end()["outcome"] == "failed"
    assert limits == [["0", "0"]] * len(everybody)
    assert _files_with(canary, since) == []
    home.vault.synced()


def _limits(pid: int) -> list[str]:
    return Path(f"/proc/{pid}/limits").read_text().splitlines()


def test_names_of_files_reach_nobody(home: OnDisk, user: pwd.struct_passwd) -> None:
    """The whole traffic of the bus, command lines, environments, what systemd shows of the unit, the journal."""
    second = home.vault.next_snapshot(home.first, bulk=BULK, without=("one",))
    (second / NAME).mkdir()
    (second / NAME / NAME).write_text("content")
    (second / NAME / f"{NAME}-excluded").write_text("content")
    (second / "bulk").rename(second / f"{NAME}.bulk")
    home.vault.edit(r"^\[source\]\n", f'[source]\nexclude = ["{NAME}-excluded"]\n')
    with _traffic() as traffic, home.vault.slow_sync() as job:
        during = _readable_of_processes()
        unit = must("systemctl", "show", "--all", job.unit)
        seen = str(objects())
        end = job.end()
    assert end["outcome"] == "done"
    told = "".join(traffic)
    assert "JobRemoved" in told
    assert "StatusText" in unit
    assert home.vault.path in seen
    assert _with(NAME, during) == []
    for where in (told, unit, seen, str(outcome(job.number)), journal()):
        assert NAME not in where
    peeked = run("sh", "-c", f"cat /run/offsited-*/* /var/lib/offsited/* /etc/offsited/* /proc/{main_pid()}/environ", user=user.pw_name)
    assert peeked.stdout == ""


@contextmanager
def _traffic() -> Iterator[list[str]]:
    """Everything that passes on the system bus within the block, there once the block has ended."""
    passed: list[str] = []
    with connect() as monitor:
        monitor.call(DRIVER, "/org/freedesktop/DBus", f"{DRIVER}.Monitoring", "BecomeMonitor", "asu", [], 0)
        yield passed
        must("busctl", "call", DRIVER, "/org/freedesktop/DBus", DRIVER, "NameHasOwner", "s", LAST_WORD)
        while not passed or LAST_WORD not in passed[-1]:
            message = monitor.receive()
            close(message)
            passed.append(f"{message.path} {message.interface} {message.member} {message.error_name} {plain(message.body)}")


LAST_WORD = "the.last.word"
