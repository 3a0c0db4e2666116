# SPDX-License-Identifier: GPL-3.0-or-later
"""ssh as values: the command that rsync runs to reach a target, and what its complaints mean. Source: ssh_config(5), OpenSSH's messages."""

import re
from pathlib import Path
from typing import Final

from offsited.core.config import SshTarget
from offsited.core.outcome import Reason
from offsited.names import CURRENT_DIR

_OPTIONS: Final = (
    "BatchMode=yes",
    "StrictHostKeyChecking=yes",
    "UpdateHostKeys=no",
    "GlobalKnownHostsFile=none",
    "IdentitiesOnly=yes",
    "IdentityAgent=none",
    "PreferredAuthentications=publickey",
    "ClearAllForwardings=yes",
    "ConnectTimeout=20",
    "ServerAliveInterval=15",
    "ServerAliveCountMax=4",
)
"""Nothing asked, nothing learnt, nobody else's keys; a peer that went away is noticed within a minute."""

_PERSIST: Final = 120
"""Seconds that the shared connection waits for its next use."""

_UNREACHABLE: Final = (
    r"Connection (?:refused|timed out|reset|closed)|Operation timed out|No route to host|Network is unreachable|Broken pipe"
    r"|Could not resolve hostname|not responding|kex_exchange_identification|banner exchange"
)
_MEANINGS: Final[tuple[tuple[str, Reason], ...]] = (
    ("REMOTE HOST IDENTIFICATION HAS CHANGED", Reason.HOST_KEY_CHANGED),
    (r"Host key verification failed|host key is known for|REVOKED HOST KEY", Reason.HOST_KEY_UNKNOWN),
    (r"Permission denied \(|Too many authentication failures|Load key .*(?:failed|invalid|bad|denied)", Reason.TARGET_REFUSED),
    (r"(?:bash|sh|zsh|rsync)[^\n]*(?:command not found|: not found|No such file or directory)\s*$", Reason.RSYNC_MISSING),
    (_UNREACHABLE, Reason.TARGET_UNREACHABLE),
)


def command(tool: str, target: SshTarget, known_hosts: Path, control: Path) -> list[str]:
    """The ssh command line up to the host, which rsync adds.

    The first connection of a job serves the later ones through the socket `control`, ssh_config(5) ControlMaster; it ends with the job.
    """
    sharing = ("ControlMaster=auto", f"ControlPath={control}", f"ControlPersist={_PERSIST}")
    options = [*_OPTIONS, *sharing, f"UserKnownHostsFile={known_hosts}"]
    return [tool, "-F", "none", "-a", "-x", "-T", "-p", str(target.port), "-i", target.identity, *(f"-o{option}" for option in options)]


def remote_shell(words: list[str]) -> str:
    """Given a command, return it as the one argument of rsync's `--rsh`, which splits at spaces and knows quotes (rsync(1))."""
    return " ".join(_quoted(word) for word in words)


def location(target: SshTarget) -> str:
    """The target's directory as rsync names it."""
    return f"{target.host}:{target.directory}"


def meaning(complaints: str) -> Reason | None:
    """Given what ssh wrote to standard error, return what it means, or None if it says nothing that we know."""
    return next((reason for pattern, reason in _MEANINGS if re.search(pattern, complaints, re.MULTILINE)), None)


def _quoted(word: str) -> str:
    return '"' + word.replace('"', '""') + '"' if re.search(r"[\s'\"]", word) else word


def sshfs(tool: str, target: SshTarget, shell: list[str], point: Path) -> list[str]:
    """The command that shows the target's mirror at `point`, read-only, in the foreground, sshfs(1). A comma in an option is escaped."""
    command = remote_shell(shell).replace("\\", "\\\\").replace(",", "\\,")
    options = f"ro,nosuid,nodev,noexec,idmap=none,dir_cache=yes,ssh_command={command}"
    return [tool, "-f", "-p", str(target.port), "-o", options, f"{target.host}:{target.directory}/{CURRENT_DIR}", str(point)]
