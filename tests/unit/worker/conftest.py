# SPDX-License-Identifier: GPL-3.0-or-later
"""What a job's unit gives to a worker, without systemd: a mount namespace of its own, a runtime directory, the passphrase in a memfd."""

import asyncio
import ctypes
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any, TypeVar

import pytest

import offsited
from offsited import names
from offsited.core import config, gocryptfs
from offsited.core.record import JobRecord, Kind, Options
from offsited.store import VaultFiles
from offsited.worker import report, surveying
from offsited.worker.job import Job
from offsited.worker.transfer import Transfers

from .machine import PASSPHRASE, Machine, memfd

TOOLS = config.Tools()
DISK = "32M"
PROJECT = str(Path(offsited.__file__).parent.parent)

_CLONE_NEWNS, _MS_REC, _MS_PRIVATE, _MNT_DETACH = 0x20000, 0x4000, 1 << 18, 2
_libc = ctypes.CDLL(None, use_errno=True)
_Result = TypeVar("_Result")


def _checked(result: int) -> None:
    if result:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


@pytest.fixture(scope="session")
def namespace() -> None:
    """From here on this process has a mount namespace of its own, which the kernel takes away with it, as with a job's unit."""
    if os.geteuid() or not os.access("/dev/fuse", os.W_OK):
        pytest.skip("mounting needs root and /dev/fuse")
    _checked(_libc.unshare(_CLONE_NEWNS))
    for line in Path("/proc/self/mountinfo").read_bytes().splitlines():
        if b" shared:" in line:
            point = line.split(b" ")[4].replace(b"\\040", b" ")
            _checked(_libc.mount(b"none", point, None, ctypes.c_ulong(_MS_REC | _MS_PRIVATE), None))


@pytest.fixture
def mountable(namespace: None, tmp_path: Path) -> Iterator[Path]:
    """A directory below which one may mount; afterwards nothing is mounted there."""
    yield tmp_path
    unmount_below(tmp_path)


def unmount_below(directory: Path) -> None:
    """What the kernel does when a unit's mount namespace ends."""
    points = [line.split(b" ")[4] for line in Path("/proc/self/mountinfo").read_bytes().splitlines()]
    for point in reversed(points):
        if point.startswith(os.fsencode(directory) + b"/"):
            _libc.umount2(re.sub(rb"\\([0-7]{3})", lambda match: bytes((int(match[1], 8),)), point), _MNT_DETACH)


@pytest.fixture
def tmpfs(mountable: Path) -> Callable[[str, str], Path]:
    """Mounts a small file system: name, options."""

    def mount(name: str, options: str) -> Path:
        point = mountable / name
        point.mkdir()
        subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(point)], check=True)
        return point

    return mount


@pytest.fixture
def key() -> Iterator[int]:
    """The passphrase."""
    descriptor = memfd(PASSPHRASE)
    yield descriptor
    os.close(descriptor)


@pytest.fixture(scope="session")
def key_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A key file that the passphrase opens, made by gocryptfs, at no cost: a real one takes a second for each use, on purpose."""
    plain = tmp_path_factory.mktemp("key")
    tool, *options = gocryptfs.init_command(TOOLS.gocryptfs, plain)
    subprocess.run([tool, "-scryptn=10", *options], input=PASSPHRASE, check=True, capture_output=True)
    return plain / names.KEY_FILE


@pytest.fixture
def files(tmp_path: Path, key_file: Path) -> VaultFiles:
    """A vault's files, with its key file."""
    files = VaultFiles(tmp_path / "vault")
    files.create()
    shutil.copy(key_file, files.key_file)
    return files


@pytest.fixture
def talk(files: VaultFiles) -> report.Report:
    """The report of a job."""
    return report.Report(files, JobRecord(job=1, kind=Kind.SYNC, vault="home", target="seed", unit="u.service", requested=1))


@pytest.fixture
def runtime(tmp_path: Path) -> Path:
    """The unit's directory below /run."""
    runtime = tmp_path / "runtime"
    runtime.mkdir(mode=0o700)
    return runtime


@pytest.fixture
def job(files: VaultFiles, talk: report.Report, runtime: Path, key: int) -> Job:
    """A sync to a disk."""
    target = config.DiskTarget(name="seed", kind="disk", label="L", directory="d")
    vault = config.Vault(name="home", source=config.Source(kind="path", path="/data"), target=(target,))
    return Job(1, Options(), vault, target, TOOLS, files, runtime / "known_hosts", runtime, talk, key)


@pytest.fixture
def transfers(runtime: Path, talk: report.Report) -> Transfers:
    """Transfers of one job."""
    return Transfers(TOOLS, runtime, talk)


def run(work: Coroutine[Any, Any, _Result]) -> _Result:
    """Run a worker's coroutine to its end; nothing of it may be left."""

    async def alone() -> _Result:
        result = await work
        left = asyncio.all_tasks() - {asyncio.current_task()}
        assert not left, f"left behind: {left}"
        return result

    return asyncio.run(asyncio.wait_for(alone(), 60))


@pytest.fixture
def new_device(mountable: Path) -> Iterator[Callable[[str], str]]:
    """Makes loop devices; afterwards they are given back."""
    devices: list[str] = []

    def make(size: str) -> str:
        image = mountable / f"disk-{len(devices)}"
        subprocess.run(["truncate", "-s", size, str(image)], check=True)
        found = subprocess.run(["losetup", "--find", "--show", str(image)], check=True, capture_output=True, text=True)
        devices.append(found.stdout.strip())
        return devices[-1]

    yield make
    unmount_below(mountable)
    for device in devices:
        subprocess.run(["losetup", "-d", device], check=True)


@pytest.fixture
def new_disk(new_device: Callable[[str], str]) -> Callable[[str], str]:
    """Makes a loop device with a file system."""

    def make(size: str) -> str:
        device = new_device(size)
        subprocess.run(["mkfs.ext4", "-q", "-m", "0", "-L", "SEED", device], check=True)
        return device

    return make


@pytest.fixture
def machine(mountable: Path, key_file: Path, new_disk: Callable[[str], str], monkeypatch: pytest.MonkeyPatch) -> Machine:
    found = Machine(mountable, key_file, new_disk(DISK), lambda: unmount_below(mountable))
    # There is no udev here to make links of labels.
    monkeypatch.setattr(config.DiskTarget, "device", property(lambda _target: found.device))
    # Nor is the package installed.
    program = f"import sys; sys.path.insert(0, {PROJECT!r}); from offsited.worker import survey; sys.exit(survey.main())"
    monkeypatch.setattr(surveying, "COMMAND", (sys.executable, "-I", "-c", program))
    return found
