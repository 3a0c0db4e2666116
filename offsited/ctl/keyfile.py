# SPDX-License-Identifier: GPL-3.0-or-later
"""Key files, and the programs that make and open them: gocryptfs, gocryptfs-xray, ssh-keygen.

The passphrase reaches them on standard input alone.
"""

import contextlib
import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from offsited import names
from offsited.core import gocryptfs
from offsited.core.config import Tools
from offsited.core.outcome import Reason
from offsited.ctl import passphrase
from offsited.ctl.passphrase import Passphrase
from offsited.errors import ConfigInvalid, Exit, Failed, TargetAbsent, WrongPassphrase
from offsited.store import VaultFiles, sync_directory

_ENVIRONMENT: Final = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C", "HOME": "/"}
_TIMEOUT: Final = 120.0
_WORK: Final = "key.new"
_WORKER: Final = ("unshare", "--mount", "--propagation", "private", "--", sys.executable, "-I", "-m", "offsited.worker")
"""In a mount namespace of its own, where nobody sees what is mounted."""
_INSTALL: Final = "Install gocryptfs 2.5.1 or newer, or set [tools] gocryptfs in /etc/offsited/offsited.toml"


def check_version(tools: Tools) -> None:
    """Raise ConfigInvalid unless gocryptfs runs and is new enough."""
    try:
        told = _run(gocryptfs.version_command(tools.gocryptfs))
    except Failed as error:
        raise ConfigInvalid(error.message, hint=_INSTALL) from None
    version = gocryptfs.parse_version(told.stdout.decode(errors="replace"))
    if version is None or version < gocryptfs.MINIMUM:
        found = "has a version that cannot be read" if version is None else f"is {'.'.join(map(str, version))}"
        raise ConfigInvalid(f"{tools.gocryptfs} {found}; before 2.5.1 it can lose files without an error", hint=_INSTALL)


def create(tools: Tools, plain: Path, secret: Passphrase) -> None:
    """Make a new key file in `plain` (gocryptfs -init -reverse). Raise Failed."""
    with secret.as_input() as typed:
        ended = _run(gocryptfs.init_command(tools.gocryptfs, plain), typed)
    if ended.returncode != 0:
        raise Failed(f"gocryptfs -init ended with status {ended.returncode}: {_last_line(ended.stderr)}")


def change(tools: Tools, key_file: Path, plain: Path, old: Passphrase, new: Passphrase) -> None:
    """Give a key file another passphrase, in place (gocryptfs -passwd): it must be a copy. Raise WrongPassphrase or Failed."""
    with passphrase.as_lines(old, new) as both:
        ended = _run(gocryptfs.change_command(tools.gocryptfs, key_file, plain), both)
    if gocryptfs.EXITS.get(ended.returncode) is Reason.WRONG_PASSPHRASE:
        raise WrongPassphrase("the old passphrase does not open the key file", hint="Nothing was changed; run it again")
    if ended.returncode != 0:
        raise Failed(f"gocryptfs -passwd ended with status {ended.returncode}: {_last_line(ended.stderr)}")


def master_key(tools: Tools, key_file: Path, secret: Passphrase) -> str:
    """Return the master key, 64 hex digits, and prove the passphrase by that. Raise WrongPassphrase or ConfigInvalid."""
    with secret.as_input() as typed:
        ended = _run(gocryptfs.prove_command(tools.gocryptfs_xray, key_file), typed)
    if ended.returncode == gocryptfs.XRAY_WRONG_PASSPHRASE:
        raise WrongPassphrase(f"the passphrase does not open {key_file}", hint="Run it again with the passphrase of that key file")
    if ended.returncode != 0:
        raise ConfigInvalid(f"{key_file} cannot be read as a key file: {_last_line(ended.stderr)}", hint="Is it gocryptfs's, and whole?")
    return ended.stdout.decode("ascii", errors="replace").strip()


def opened_by(vault: str, key: str) -> str:
    """Given a master key, return the name of a target that it opens, by what was last found there.

    Raise WrongPassphrase, TargetAbsent if of none it is known what it holds, or Failed.
    """
    ended = subprocess.run([*_WORKER, "prove-key", vault], input=f"{key}\n", capture_output=True, text=True, check=False)
    match ended.returncode:
        case Exit.DONE:
            return ended.stdout.strip()
        case Exit.LOCKED:
            hint = f"Make the kit anew: offsitectl recovery-kit {vault} --output FILE.html"
            raise WrongPassphrase("this key does not open what the targets hold: it is another vault's", hint=hint)
        case Exit.ABSENT:
            raise TargetAbsent("no target holds anything yet that the key could be tried on", hint=f"Sync first: offsitectl sync {vault}")
        case status:
            raise Failed(f"the key could not be tried (status {status}): {ended.stderr.strip()}", hint="See: offsitectl check-config")


@contextlib.contextmanager
def work_directory(files: VaultFiles) -> Iterator[Path]:
    """An empty directory for a key file to be, gone after the block. Whatever died in an earlier one is in nobody's way.

    gocryptfs -passwd refuses to work where an interrupted one has left its temporary file.
    """
    work = files.state / _WORK
    shutil.rmtree(work, ignore_errors=True)
    files.state.mkdir(mode=0o700, exist_ok=True)
    work.mkdir(mode=0o700)
    try:
        yield work
    finally:
        shutil.rmtree(work, ignore_errors=True)


def put_in_place(files: VaultFiles, new: Path) -> None:
    """Make a file of the same file system the vault's key file, in one step that survives power loss."""
    new.replace(files.key_file)
    sync_directory(files.plain)


def synced_digest(path: Path) -> str:
    """Bring a file to stable storage; return its SHA-256, in hex."""
    with path.open("rb") as file:
        os.fsync(file.fileno())
        return hashlib.sha256(file.read()).hexdigest()


def restoring(vault: str) -> str:
    """What to do about a damaged key file."""
    return (
        f"Take it back from a target: offsitectl restore-key {vault} --from FILE, a copy of that target's current/{names.TARGET_KEY_FILE}"
    )


def create_ssh_key(path: Path, comment: str) -> None:
    """Make an ed25519 key without a passphrase at `path` and `path`.pub, ssh-keygen(1). Raise Failed."""
    ended = _run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", comment, "-f", str(path)])
    if ended.returncode != 0:
        raise Failed(f"ssh-keygen ended with status {ended.returncode}: {_last_line(ended.stderr)}")


def grouped(key: str) -> str:
    """A master key as gocryptfs prints it: eight digits, a dash, in two lines."""
    groups = [key[start : start + 8] for start in range(0, len(key), 8)]
    return "\n".join("-".join(groups[start : start + 4]) + ("-" if start + 4 < len(groups) else "") for start in range(0, len(groups), 4))


def _run(command: list[str], stdin: int = subprocess.DEVNULL) -> subprocess.CompletedProcess[bytes]:
    try:
        return subprocess.run(command, stdin=stdin, capture_output=True, timeout=_TIMEOUT, check=False, env=_ENVIRONMENT)
    except subprocess.TimeoutExpired:
        raise Failed(f"{command[0]} did not end within {_TIMEOUT:.0f} s") from None
    except OSError as error:
        raise Failed(f"{command[0]} cannot be run: {error.strerror}", hint=f"Install {Path(command[0]).name}") from None


def _last_line(complaints: bytes) -> str:
    lines = complaints.decode(errors="replace").strip().splitlines()
    return lines[-1] if lines else "it did not say why"
