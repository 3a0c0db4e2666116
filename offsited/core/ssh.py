# SPDX-License-Identifier: GPL-3.0-or-later
"""ssh as values: the command that rsync runs to reach a target, and what its complaints mean. Source: ssh_config(5), OpenSSH's messages."""

import base64
import hashlib
import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
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
    "ConnectTimeout=15",
    "ServerAliveInterval=5",
    "ServerAliveCountMax=6",
)
"""Nothing asked, nothing learnt, nobody else's keys; a peer that went away is noticed within half a minute."""

DEFAULT_PORT: Final = 22
CONTROL: Final = "ssh"
"""Name of a job's control socket below its runtime directory. Every ssh of the job has it in its command line."""
SAID: Final = ".said"
"""Suffix of the file beside it that has what the ssh to a jump host complained of: with ControlPersist ssh throws that away."""
_PERSIST: Final = 120
"""Seconds that the shared connection waits for its next use."""

_UNREACHABLE: Final = (
    r"Connection (?:to \S+ (?:port \d+ )?)?(?:refused|timed out|reset|closed)"
    r"|Operation timed out|No route to host|Network is unreachable|Broken pipe"
    r"|Could not resolve hostname|not responding|kex_exchange_identification|banner exchange"
)
_MEANINGS: Final[tuple[tuple[str, Reason], ...]] = (
    ("REMOTE HOST IDENTIFICATION HAS CHANGED", Reason.HOST_KEY_CHANGED),
    (r"Host key verification failed|host key is known for|REVOKED HOST KEY", Reason.HOST_KEY_UNKNOWN),
    (
        r"administratively prohibited|Permission denied \(|Too many authentication failures|Load key .*(?:failed|invalid|bad|denied)",
        Reason.TARGET_REFUSED,
    ),
    (r"rrsync error: ", Reason.RRSYNC_REFUSED),
    (r"(?:bash|sh|zsh|rsync)[^\n]*(?:command not found|: not found|No such file or directory)\s*$", Reason.RSYNC_MISSING),
    (_UNREACHABLE, Reason.TARGET_UNREACHABLE),
)


def command(tool: str, target: SshTarget, known_hosts: Path, control: Path) -> list[str]:
    """The ssh command line up to the host, which rsync adds.

    The first connection of a job serves the later ones through the socket `control`, ssh_config(5) ControlMaster; it ends with the job.
    """
    sharing = ("ControlMaster=auto", f"ControlPath={control}", f"ControlPersist={_PERSIST}")
    said = shlex.quote(f"{control}{SAID}").replace("%", "%%")
    jumping = (f"ProxyCommand={_jump(tool, target, known_hosts, f'{control}-jump')} 2>{said}",) if target.jump else ()
    return _command(tool, target, target.port, (*_OPTIONS, *sharing, f"UserKnownHostsFile={known_hosts}", *jumping))


def _command(tool: str, target: SshTarget, port: int, options: Sequence[str]) -> list[str]:
    return [tool, "-F", "none", "-a", "-x", "-T", "-p", str(port), "-i", target.identity, *(f"-o{option}" for option in options)]


def _jump(tool: str, target: SshTarget, known_hosts: Path, control: str) -> str:
    """What reaches the target's host through its jump host, for ProxyCommand: ProxyJump would take neither our key nor our known hosts.

    A shell executes it, once ssh has put %h and %p in.
    """
    account, port = hop(target.jump or "")
    alone = ("ControlMaster=no", f"ControlPath={control}", f"UserKnownHostsFile={known_hosts}")
    words = _command(tool, target, port, (*_OPTIONS, *alone))
    return f"{shlex.join(words).replace('%', '%%')} -W '[%h]:%p' -- {shlex.quote(account)}"


def hop(jump: str) -> tuple[str, int]:
    """Given USER@HOST[:PORT], return the login as ssh takes it, without brackets, and the port."""
    host, colon, port = jump.rpartition(":")
    if not colon or "]" in port:
        host, port = jump, str(DEFAULT_PORT)
    return host.replace("[", "").replace("]", ""), int(port)


def remote_shell(words: list[str]) -> str:
    """Given a command, return it as the one argument of rsync's `--rsh`, which splits at spaces and knows quotes (rsync(1))."""
    return " ".join(_quoted(word) for word in words)


def login(target: SshTarget) -> str:
    """USER@HOST as ssh takes it: an address without brackets."""
    return target.host.replace("[", "").replace("]", "")


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


# --- host keys -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class HostKey:
    """One line of a known_hosts file, sshd(8)."""

    host: str
    """HOST, or [HOST]:PORT where the port is not 22."""
    kind: str
    """ssh-ed25519, say."""
    key: str
    """In base64."""

    @property
    def line(self) -> str:
        return f"{self.host} {self.kind} {self.key}\n"

    @property
    def fingerprint(self) -> str:
        """As ssh-keygen -l prints it: SHA256:..."""
        return "SHA256:" + base64.b64encode(hashlib.sha256(base64.b64decode(self.key)).digest()).decode().rstrip("=")


def host_keys(text: str) -> list[HostKey]:
    """The plain keys of a known_hosts file, or of what ssh-keygen -F prints of one: no comments, no lines with a marker."""
    found = (line.split() for line in text.splitlines() if not line.startswith(("#", "@")))
    return [HostKey(*words[:3]) for words in found if len(words) >= 3 and _is_base64(words[2])]


def _is_base64(word: str) -> bool:
    try:
        return bool(base64.b64decode(word, validate=True))
    except ValueError:
        return False


def known_as(account: str, port: int) -> str:
    """Given USER@HOST or HOST and a port, return the host's name in known_hosts."""
    host = account.rpartition("@")[2].replace("[", "").replace("]", "").lower()
    return host if port == DEFAULT_PORT else f"[{host}]:{port}"


_ALGORITHMS: Final = {"ssh-rsa": "rsa-sha2-512,rsa-sha2-256"}
"""Signature algorithms of kinds of keys that are not called like them."""


def scan(tool: str, target: SshTarget, into: Path, known_hosts: Path, kinds: Sequence[str], *, jump: bool = False) -> list[str]:
    """The command that has the target's host, or its jump host, prove its key, writes that to `into`, and logs in nowhere.

    `kinds`: those of the keys that are known already, which are asked for first. The jump host must be known in `known_hosts`.
    """
    account, port = hop(target.jump or "") if jump else (login(target), target.port)
    first = ",".join(_ALGORITHMS.get(kind, kind) for kind in kinds)
    options = (
        *(option for option in _OPTIONS if not option.startswith(("StrictHostKeyChecking=", "PreferredAuthentications="))),
        "StrictHostKeyChecking=accept-new",
        "PreferredAuthentications=none",
        f"UserKnownHostsFile={into}",
        *((f"HostKeyAlgorithms=^{first}",) if first else ()),
        *((f"ProxyCommand={_jump(tool, target, known_hosts, 'none')}",) if target.jump and not jump else ()),
    )
    return [*_command(tool, target, port, options), "--", account, "true"]
