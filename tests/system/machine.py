# SPDX-License-Identifier: GPL-3.0-or-later
"""This machine, as an administrator sees it: commands, units, processes."""

import contextlib
import json
import os
import select
import signal
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

PATIENCE = 60.0
"""Seconds that anything may take before it counts as hung."""
CGROUPS = Path("/sys/fs/cgroup")


@dataclass(frozen=True)
class Ended:
    """A command that has ended."""

    status: int
    stdout: str
    stderr: str

    @property
    def told(self) -> str:
        """All that a person reads."""
        return self.stdout + self.stderr

    @property
    def json(self) -> dict[str, Any]:
        """The last object of a command that printed --json."""
        document: dict[str, Any] = json.loads(self.stdout.splitlines()[-1])
        return document


def run(*command: str | Path, stdin: str | bytes = b"", user: str = "", patience: float = PATIENCE) -> Ended:
    """Run a command to its end, as root or as another user, and return how it ended."""
    as_user = ["setpriv", f"--reuid={user}", f"--regid={user}", "--init-groups", "--"] if user else []
    text = stdin.encode() if isinstance(stdin, str) else stdin
    try:
        ended = subprocess.run([*as_user, *map(str, command)], input=text, capture_output=True, timeout=patience, check=False)
    except subprocess.TimeoutExpired:
        print(_who_waits())  # shown with the failure
        raise
    return Ended(ended.returncode, ended.stdout.decode(errors="surrogateescape"), ended.stderr.decode(errors="surrogateescape"))


def _who_waits() -> str:
    """What each program of a job waits for: a hang cannot be understood afterwards."""
    told = subprocess.run(["ps", "-eo", "pid,ppid,stat,wchan:32,args"], capture_output=True, check=False, text=True).stdout
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if (process / "comm").read_text().strip() in {"rsync", "gocryptfs", "python3", "ssh"}:
                open_files = [os.readlink(entry) for entry in (process / "fd").iterdir()]
                told += f"\n{process.name}: {(process / 'stack').read_text()}{open_files}\n"
    return told


def must(*command: str | Path, stdin: str | bytes = b"") -> str:
    """Run a command that has to succeed, and return what it printed."""
    ended = run(*command, stdin=stdin)
    assert ended.status == 0, f"{command}: {ended.status}\n{ended.told}"
    return ended.stdout


def offsitectl(*arguments: str | Path, stdin: str | bytes = b"", user: str = "") -> Ended:
    """Run offsitectl as a user does."""
    return run("offsitectl", *arguments, stdin=stdin, user=user)


def shown(unit: str, name: str) -> str:
    """A property of a unit."""
    return must("systemctl", "show", "--property", name, "--value", unit).strip()


def processes(unit: str) -> dict[int, str]:
    """The processes of a unit, with their programs' names."""
    group = shown(unit, "ControlGroup")
    found = {}
    for listed in (CGROUPS / group.lstrip("/")).rglob("cgroup.procs") if group else ():
        for pid in map(int, listed.read_text().split()):
            try:
                found[pid] = Path(f"/proc/{pid}/comm").read_text().strip()
            except (FileNotFoundError, ProcessLookupError):
                continue
    return found


def kill(unit: str, program: str, number: signal.Signals = signal.SIGKILL) -> None:
    """Send a signal to every process of a unit that runs this program; there must be one."""
    victims = [pid for pid, name in processes(unit).items() if name == program]
    assert victims, f"no {program} in {unit}: {processes(unit)}"
    for pid in victims:
        os.kill(pid, number)


def wait_for_end(pid: int) -> None:
    """Wait until a process that is not our child has ended."""
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    with os.fdopen(descriptor) as process:
        assert select.select([process], [], [], PATIENCE)[0], f"process {pid} does not end"


def mounts() -> list[str]:
    """What is mounted in the namespace that a login sees."""
    return sorted(must("findmnt", "--raw", "--noheadings", "--output", "TARGET,SOURCE,FSTYPE").splitlines())


def mounts_of(pid: int) -> list[str]:
    """What is mounted where a process lives."""
    return must("findmnt", "--raw", "--noheadings", "--output", "TARGET,FSTYPE", "--task", str(pid)).splitlines()


def journal(*match: str) -> str:
    """All that the journal has, with every field."""
    must("journalctl", "--sync")
    return must("journalctl", "--output=export", "--all", "--no-pager", *match)


def write(path: Path, text: str, mode: int = 0o600) -> None:
    """Write a file, with its directories."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(mode)
