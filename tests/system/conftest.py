# SPDX-License-Identifier: GPL-3.0-or-later
"""What each test has: fresh vaults and disks on a machine where the package is installed. What packaging/bed provides is named here."""

import os
import pwd
import secrets
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from . import remote as second
from .disks import SIZE, Disk
from .machine import journal, mounts, must, run, write
from .remote import Remote
from .vaults import ETC, OnDisk, Vault

BED = Path("/bed")
"""The package."""
DISKS = Path("/disks")
"""Room for images of disks."""
USER = "alice"
"""Somebody without any rights."""

KINDS = ("job", "restore", "verify", "restore-test", "mount", "prove")
"""Of units that run for a while."""

MakeVault = Callable[[], Vault]
MakeDisk = Callable[..., Disk]


@pytest.fixture(scope="session", autouse=True)
def machine() -> None:
    """Refuse to run anywhere but in the bed: these tests purge packages and kill services."""
    missing = [
        what
        for what, there in {
            "root": os.geteuid() == 0,
            f"a package in {BED}": any(BED.glob("offsited_*_all.deb")),
            f"a directory {DISKS}": DISKS.is_dir(),
            "the installed package": shutil.which("offsitectl") is not None,
            f"the host `{second.ADMIN}` in root's ssh configuration": run("ssh", "-G", second.ADMIN).stdout.find("hostname remote") >= 0,
        }.items()
        if not there
    ]
    if missing:
        pytest.exit(f"no bed: {', '.join(missing)} missing. Start the system tests by tests/run system, see packaging/bed", returncode=3)


@pytest.fixture(scope="session")
def package() -> Path:
    """The package file."""
    return next(BED.glob("offsited_*_all.deb"))


@pytest.fixture(scope="session")
def canary() -> str:
    """The passphrase of every vault: a word that is nowhere unless it leaked."""
    return f"canary-{secrets.token_hex(16)}"


@pytest.fixture(scope="session")
def key(tmp_path_factory: pytest.TempPathFactory, canary: str) -> Path:
    """A directory with a key file that costs no time: a new key takes seconds for each use, on purpose."""
    directory = tmp_path_factory.mktemp("key")
    command = ["gocryptfs", "-q", "-init", "-reverse", "-scryptn", "10", "-passfile", "/dev/stdin", "--", str(directory)]
    subprocess.run(command, input=canary.encode(), check=True, capture_output=True)
    return directory


@pytest.fixture
def disk() -> Iterator[MakeDisk]:
    """Makes disks."""
    with ExitStack() as stack:
        yield lambda *options, **more: stack.enter_context(fresh_disk(*options, **more))


@pytest.fixture
def vault(canary: str, disk: MakeDisk) -> Iterator[MakeVault]:
    """Makes names for vaults that are not made yet. What they need later on is ended before their disks go."""
    with ExitStack() as stack:
        yield lambda: stack.enter_context(fresh_vault(canary))


@pytest.fixture
def home(vault: MakeVault, disk: MakeDisk, key: Path) -> OnDisk:
    """A vault with one snapshot and a disk to sync it to."""
    return OnDisk(vault(), disk(), key)


@pytest.fixture
def remote() -> Iterator[Remote]:
    """A directory at the remote that does not exist yet; the remote's host key is known here."""
    with fresh_remote() as made:
        yield made


@contextmanager
def fresh_disk(file_system: str = "xfs", *, size: int = SIZE) -> Iterator[Disk]:
    """A disk, and its removal: for those who share one."""
    made = Disk(DISKS, file_system, size)
    try:
        yield made
    finally:
        made.remove()


@contextmanager
def fresh_remote() -> Iterator[Remote]:
    """The same for those who share one."""
    made = Remote(f"/srv/{secrets.token_hex(4)}")
    known = ETC / "known_hosts"
    second.forbearing()
    write(known, second.host_key())
    try:
        yield made
    finally:
        made.remove()
        known.unlink(missing_ok=True)


@contextmanager
def fresh_vault(passphrase: str) -> Iterator[Vault]:
    """A name for a vault that is not made yet, and its removal."""
    made = Vault(f"v{secrets.token_hex(4)}", passphrase)
    try:
        yield made
    finally:
        made.remove()


@pytest.fixture(scope="session")
def user() -> Iterator[pwd.struct_passwd]:
    """An unprivileged user."""
    must("useradd", "--create-home", USER)
    yield pwd.getpwnam(USER)
    must("userdel", "--remove", USER)


@pytest.fixture(autouse=True)
def nothing_left(request: pytest.FixtureRequest) -> Iterator[None]:
    """Whatever a test did: no mount, no job, no file of ours below /run is left, and no defect was logged."""
    before = mounts()
    cursor = must("journalctl", "--lines=0", "--show-cursor", "--quiet").strip().removeprefix("-- cursor: ")
    yield
    assert mounts() == before
    units = must("systemctl", "list-units", "--all", "--plain", "--no-legend", *(f"offsited-{kind}-*" for kind in KINDS))
    assert not units.split(), units
    assert not list(Path("/run").glob("offsited-*")), "a runtime directory is left"
    assert "Traceback" not in journal(
        f"--after-cursor={cursor}", "SYSLOG_IDENTIFIER=offsited", "SYSLOG_IDENTIFIER=offsited-worker", "SYSLOG_IDENTIFIER=offsited-notify"
    )
