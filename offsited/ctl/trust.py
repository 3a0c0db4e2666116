# SPDX-License-Identifier: GPL-3.0-or-later
"""target trust: pins the key of an ssh target's host, and of its jump host, in our own known_hosts, once a person has compared it.

ssh itself asks the host, so that it must prove the key, by the way that jobs take. Nobody is logged in. The daemon has no network, and no
part in this.
"""

import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import click

from offsited import names
from offsited.core import ssh
from offsited.core.config import SshTarget
from offsited.core.outcome import ADVICE, Reason
from offsited.core.ssh import HostKey
from offsited.ctl import root
from offsited.ctl.output import Output
from offsited.errors import ConfigInvalid, Exit, Failed, InvalidArgs, NoSuchTarget, TargetAbsent
from offsited.store import Store, write_whole

_ENVIRONMENT: Final = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C", "HOME": "/"}
_TIMEOUT: Final = 60.0
"""Seconds for one host to show its key; ssh gives up earlier unless the host trickles."""


@dataclass(frozen=True)
class Hop:
    """One host on the way."""

    title: str
    host: str
    """Its name in known_hosts."""
    jump: bool


@dataclass(frozen=True)
class Seen:
    """What a host has shown, beside what is known of it."""

    hop: Hop
    key: HostKey
    known: tuple[HostKey, ...]

    @property
    def is_known(self) -> bool:
        return any((known.kind, known.key) == (self.key.kind, self.key.key) for known in self.known)

    def as_json(self, *, pinned: bool) -> dict[str, object]:
        return {
            "host": self.hop.host,
            "type": self.key.kind,
            "fingerprint": self.key.fingerprint,
            "previous": [] if self.is_known else [known.fingerprint for known in self.known],
            "pinned": pinned,
        }


def trust(out: Output, store: Store, vault: str, target: str, fingerprints: tuple[str, ...]) -> int:
    """Pin the keys of a target's hosts, those of `fingerprints` without asking; return the exit status.

    Raise NoSuchTarget, InvalidArgs, TargetAbsent, or Failed for a key that is none of `fingerprints`. What was pinned before stays then.
    """
    root.require("known_hosts is root's to write")
    chosen = _ssh_target(store, vault, target)
    told: list[dict[str, object]] = []
    for hop in _hops(chosen):
        seen = _look(store, vault, chosen, hop)
        pinned = not seen.is_known
        if pinned:
            _check(out, seen, fingerprints)
            pin(store.etc / names.KNOWN_HOSTS, seen.key)
        out.say(f"{hop.title} {hop.host} is {'now' if pinned else 'already'} known by this key: {_shown(seen.key)}")
        told.append(seen.as_json(pinned=pinned))
    out.put({"vault": vault, "target": target, "hosts": told})
    return Exit.DONE


def _ssh_target(store: Store, vault: str, name: str) -> SshTarget:
    target = store.read_vault(vault).find_target(name)
    if target is None:
        raise NoSuchTarget(f"vault {vault} has no target {name}", hint=f"See the targets: offsitectl status {vault}")
    if not isinstance(target, SshTarget):
        raise InvalidArgs(f"target {name} is a disk: there is no host to trust")
    return target


def _hops(target: SshTarget) -> Iterator[Hop]:
    """The jump host first: the other is reached through it."""
    if target.jump:
        yield Hop("Jump host", ssh.known_as(*ssh.hop(target.jump)), jump=True)
    yield Hop("Host", ssh.known_as(target.host, target.port), jump=False)


def _look(store: Store, vault: str, target: SshTarget, hop: Hop) -> Seen:
    """Have a host show its key. Raise TargetAbsent."""
    known_hosts = store.etc / names.KNOWN_HOSTS
    known = tuple(find(known_hosts, hop.host))
    with tempfile.TemporaryDirectory(prefix="offsited-trust-") as directory:
        into = Path(directory, "known_hosts")
        tool, kinds = store.read_settings().tools.ssh, [key.kind for key in known]
        complaints = _run(ssh.scan(tool, target, into, known_hosts, kinds, jump=hop.jump))
        found = ssh.host_keys(into.read_text()) if into.is_file() else []
    if not found:
        hint = _hint(ssh.meaning(complaints) or Reason.TARGET_UNREACHABLE, vault, target)
        raise TargetAbsent(f"{hop.host} did not show its key: {complaints.strip() or 'it said nothing'}", hint=hint)
    return Seen(hop, found[0], known)


def _hint(reason: Reason, vault: str, target: SshTarget) -> str:
    if reason is Reason.TARGET_REFUSED and target.jump:
        return f"The jump host must let the vault's key forward: restrict,port-forwarding and {target.identity}.pub in its authorized_keys"
    return ADVICE[reason].hint.format(vault=vault, target=target.name)


def _check(out: Output, seen: Seen, fingerprints: tuple[str, ...]) -> None:
    """Return if the key is to be trusted: it was named, or a person says so. Raise Failed, click.Abort, click.UsageError otherwise."""
    if seen.known:
        out.note(f"{seen.hop.title} {seen.hop.host} has ANOTHER KEY THAN BEFORE: it was set up anew, or this is another machine")
        for known in seen.known:
            out.note(f"  before: {_shown(known)}")
        out.note(f"  now:    {_shown(seen.key)}")
    if fingerprints:
        if seen.key.fingerprint not in fingerprints:
            hint = f"Nothing was changed. Compare it at the host: ssh-keygen -lf /etc/ssh/ssh_host_{_short(seen.key)}_key.pub"
            raise Failed(f"{seen.hop.host} shows another key than the one named: {_shown(seen.key)}", hint=hint)
        return
    if not sys.stdin.isatty() or out.json:
        raise click.UsageError(f"Where nobody can be asked, name the key that {seen.hop.host} must have: --fingerprint SHA256:...")
    out.say(f"{seen.hop.title} {seen.hop.host} shows this key: {_shown(seen.key)}")
    out.say(f"Compare it, on the host itself: ssh-keygen -lf /etc/ssh/ssh_host_{_short(seen.key)}_key.pub")
    click.confirm("Replace the old key, and trust this one?" if seen.known else "Is it the same? Trust it?", abort=True)


def find(known_hosts: Path, host: str) -> list[HostKey]:
    """The keys that are pinned for a host."""
    return ssh.host_keys(_keygen("-F", host, known_hosts)) if known_hosts.is_file() else []


def unknown(store: Store, target: SshTarget) -> list[str]:
    """Those of a target's hosts of which no key is pinned."""
    return [hop.host for hop in _hops(target) if not find(store.etc / names.KNOWN_HOSTS, hop.host)]


def pin(known_hosts: Path, key: HostKey) -> None:
    """Make this the one key of its host. Raise Failed."""
    kept = _without(known_hosts, key.host) if known_hosts.is_file() else ""
    kept += "\n" if kept and not kept.endswith("\n") else ""
    known_hosts.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    write_whole(known_hosts, (kept + key.line).encode())


def _without(known_hosts: Path, host: str) -> str:
    """The file's lines but those of a host. Raise Failed."""
    if not find(known_hosts, host):
        return known_hosts.read_text()
    with tempfile.TemporaryDirectory(prefix="offsited-trust-") as directory:
        copy = Path(directory, "known_hosts")
        copy.write_bytes(known_hosts.read_bytes())
        _keygen("-R", host, copy)
        if find(copy, host):
            raise Failed(f"the old key of {host} cannot be taken out of {known_hosts}", hint="Remove its line with an editor")
        return copy.read_text()


def _keygen(what: str, host: str, file: Path) -> str:
    """Find (-F) or remove (-R) a host's lines in a known_hosts file, hashed ones too, ssh-keygen(1)."""
    command = ["ssh-keygen", what, host, "-f", str(file)]
    return subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False, env=_ENVIRONMENT).stdout


def _run(command: list[str]) -> str:
    """Return what ssh complained of; it always does, since nobody is logged in. Raise ConfigInvalid."""
    try:
        ended = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, timeout=_TIMEOUT, check=False, env=_ENVIRONMENT)
    except subprocess.TimeoutExpired:
        return f"nothing within {_TIMEOUT:.0f} seconds"
    except OSError as error:
        raise ConfigInvalid(f"{command[0]} cannot be run: {error.strerror}", hint="Install openssh-client") from None
    return ended.stderr.decode(errors="replace")


def _shown(key: HostKey) -> str:
    return f"{key.fingerprint} ({_short(key).upper()})"


def _short(key: HostKey) -> str:
    """ed25519, rsa, ecdsa."""
    return key.kind.removeprefix("sk-").removeprefix("ssh-").partition("-")[0]
