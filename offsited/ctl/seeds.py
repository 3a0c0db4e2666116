# SPDX-License-Identifier: GPL-3.0-or-later
"""target seal and target adopt: a disk leaves, and is recognized where it has arrived."""

import os
import shlex
from collections.abc import Iterator
from typing import Final

from offsited import names
from offsited.core.config import DiskTarget, SshTarget, Vault
from offsited.core.rsync import FAKE_SUPER
from offsited.core.seeding import heirs
from offsited.ctl import agent, jobs, objects
from offsited.ctl.client import Client, Request
from offsited.ctl.output import Output
from offsited.ctl.verify import show_findings
from offsited.errors import ConfigInvalid, Exit, NoSuchVault
from offsited.store import Store

_OPTIONS: Final = "nosuid,nodev,noexec,noatime"
_POINT: Final = "/mnt/offsited-seed"


def seal(out: Output, client: Client, store: Store, vault: str, target: str) -> int:
    """Seal a disk; return the exit status. When it is done, say what to do with the disk."""
    client.subscribe()
    with agent.on_terminal():
        request = Request(jobs.vault_path(client, vault), names.VAULT, "Seal", "sa{sv}", (target, {}), acts=True)
        reply = client.call(request)
    status = jobs.see_through(out, client, vault, int(objects.leaf(reply.body[0])), quiet=False)
    if status == Exit.DONE:
        lines = list(_told(store, vault, target))
        out.put({"vault": vault, "target": target, "sealed": True, "told": lines})
        out.say("\n".join(lines))
    return status


def adopt(out: Output, client: Client, vault: str, target: str, seed: str) -> int:
    """Adopt a seed at a target; return the exit status. What differs is named."""
    client.subscribe()
    findings = os.memfd_create("offsited-findings", os.MFD_CLOEXEC)
    try:
        with agent.on_terminal():
            path = jobs.vault_path(client, vault)
            reply = client.call(Request(path, names.VAULT, "Adopt", "ssha{sv}", (target, seed, 0, {}), fds=(findings,), acts=True))
        status = jobs.see_through(out, client, vault, int(objects.leaf(reply.body[0])), quiet=False)
        show_findings(out, findings)
    finally:
        os.close(findings)
    if status == Exit.DONE:
        out.say(f"Next: offsitectl sync {vault} --target {target}; it sends only what has changed since")
    return status


def _told(store: Store, name: str, target: str) -> Iterator[str]:
    """What to do with a sealed disk. Who may not read the vault file is told less."""
    try:
        vault = store.read_vault(name)
    except (ConfigInvalid, NoSuchVault):
        vault = None
    disk = vault.find_target(target) if vault else None
    if vault is None or not isinstance(disk, DiskTarget):
        yield "The disk is complete and unmounted: it is safe to remove. Where it is used: man offsitectl, target seal"
        return
    yield from journey(vault, disk)


def journey(vault: Vault, disk: DiskTarget) -> Iterator[str]:
    """What becomes of a sealed disk, as lines: commands are indented. Pure."""
    if disk.path:
        yield "The disk is complete. It is safe to remove once you have unmounted it:"
        yield f"    umount {shlex.quote(disk.path)}"
    else:
        yield "The disk is complete and unmounted: it is safe to remove."
    for heir in heirs(vault, disk.name):
        yield f"Where target {heir.name} is, as root, with the disk attached:"
        yield from (f"    {command}" for command in _installed(disk, heir))
        yield "Then, here:"
        yield f"    offsitectl target adopt {vault.name} {heir.name} --from {disk.name}"


def _installed(disk: DiskTarget, heir: SshTarget) -> Iterator[str]:
    """The commands that bring the disk's directory to the heir's, by a mount, or for an account that is not root's by a copy."""
    device = f"UUID={disk.uuid}" if disk.uuid else f"LABEL={disk.label}"
    directory, user = shlex.quote(heir.directory), heir.host.rpartition("@")[0] or "ACCOUNT"
    if FAKE_SUPER in heir.rsync_options:
        yield f"mkdir -p {_POINT} {directory}"
        yield f"mount -o ro,{_OPTIONS} {device} {_POINT}"
        yield f"chown {user}: {directory}"
        # The account itself must write, or what is root's is kept as its own. What rsync calls is `runuser -u ACCOUNT -- HOST rsync ...`,
        # and env(1) in the place of a host runs just that.
        places = f"{shlex.quote(f'{_POINT}/{disk.directory}/')} env:{shlex.quote(f'{heir.directory}/')}"
        yield f"rsync -aH --numeric-ids {FAKE_SUPER} -e 'runuser -u {user} --' {places}"
        yield f"umount {_POINT}"
    elif heir.directory.endswith(f"/{disk.directory}") and heir.directory != f"/{disk.directory}":
        point = shlex.quote(heir.directory.removesuffix(f"/{disk.directory}"))
        yield f"mkdir -p {point}"
        yield f"mount -o {_OPTIONS} {device} {point}"
        yield f"echo {device} {point} auto {_OPTIONS},nofail 0 0 >> /etc/fstab"
    else:
        yield f"mkdir -p {_POINT} {directory}"
        yield f"mount -o {_OPTIONS} {device} {_POINT}"
        yield f"mount --bind {shlex.quote(f'{_POINT}/{disk.directory}')} {directory}"
        yield f"echo {device} {_POINT} auto {_OPTIONS},nofail 0 0 >> /etc/fstab"
        yield f"echo {shlex.quote(f'{_POINT}/{disk.directory}')} {directory} none bind,nofail 0 0 >> /etc/fstab"
