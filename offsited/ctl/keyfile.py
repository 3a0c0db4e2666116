# SPDX-License-Identifier: GPL-3.0-or-later
"""The programs that `init` and `check-config` run: gocryptfs, gocryptfs-xray, ssh-keygen.

The passphrase reaches them on standard input alone.
"""

import hashlib
import os
import subprocess
from pathlib import Path
from typing import Final

from offsited import names
from offsited.core import gocryptfs
from offsited.core.config import Tools
from offsited.core.outcome import Reason
from offsited.ctl import passphrase
from offsited.ctl.passphrase import Passphrase
from offsited.errors import ConfigInvalid, Failed, WrongPassphrase

_ENVIRONMENT: Final = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C", "HOME": "/"}
_TIMEOUT: Final = 120.0
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
