# SPDX-License-Identifier: GPL-3.0-or-later
"""What `init` shows: what it is about to make, the master key once, and what comes next."""

import os
from collections.abc import Iterator
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

from offsited import names
from offsited.core.config import DiskTarget, SshTarget, Vault
from offsited.ctl import keyfile
from offsited.ctl.output import Output

if TYPE_CHECKING:
    from offsited.ctl.init import Places, Plan


def preview(plan: "Plan", places: "Places") -> str:
    """What will be made, as lines."""
    vault = plan.vault
    lines = [f"Vault {vault.name}", f"  source    {vault.source.kind} {vault.source.path}, below {vault.source.root}"]
    lines += [
        f"  target    {target.name}: {place(target)}{' (default)' if target is vault.default_target else ''}" for target in vault.target
    ]
    lines.append(f"  settings  {places.store.vault_file(vault.name)}")
    lines.append(f"  key file  {plan.files.key_file}{f', taken from {plan.imported}' if plan.imported else ''}")
    if plan.needs_ssh_key:
        lines.append(f"  ssh key   {places.identity(vault.name)}")
    return "\n".join(lines)


def place(target: DiskTarget | SshTarget) -> str:
    """Where a target is, in a few words."""
    if isinstance(target, DiskTarget):
        return f"disk with {f'UUID {target.uuid}' if target.uuid else f'label {target.label}'}, directory {target.directory}"
    return f"ssh {target.host}{f' port {target.port}' if target.port != 22 else ''}, directory {target.directory}"


def authorized_line(public_key: str) -> str:
    """The line for the remote's authorized_keys: nothing but commands and transfers."""
    return f"restrict {public_key}"


def show(out: Output, plan: "Plan", places: "Places", master_key: str, public_key: str) -> None:
    """Say what was made. The master key goes to a terminal only: a log must not keep it."""
    vault = plan.vault
    line = authorized_line(public_key) if public_key else ""
    steps = list(next_steps(vault, line))
    out.put({
        "vault": vault.name,
        "vault_file": str(places.store.vault_file(vault.name)),
        "key_file": str(plan.files.key_file),
        "authorized_keys": line,
        "next": steps,
    })  # fmt: skip
    out.say(f"\nVault {vault.name} is made and unlocked.\n")
    out.note(_key_notice(plan, shown=_on_terminal(_key_text(master_key))))
    out.say("\nWhat to do next:")
    for step in steps:
        out.say(f"  * {step}")


def next_steps(vault: Vault, authorized_keys: str) -> Iterator[str]:
    """The commands that make the vault work by itself."""
    for target in vault.target:
        if isinstance(target, SshTarget):
            yield f"On {target.host}: install rsync, make {target.directory} writable, add to authorized_keys:\n      {authorized_keys}"
            yield from _limited(target, authorized_keys)
            yield f"Make {target.name}'s host known, and compare its fingerprint: offsitectl target trust {vault.name} {target.name}"
        else:
            yield f"Attach the disk of target {target.name} ({place(target)}); it need not be mounted"
    yield from (f"First sync: offsitectl sync {vault.name} --target {target.name}" for target in vault.target)
    kit = f"offsitectl recovery-kit {vault.name}"
    yield f"For the day when this machine is gone: {kit} --output FILE.html; print it; prove it after the first sync: {kit} --confirm"
    yield f"Daily from then on: systemctl enable --now {names.sync_timer(vault.name)}"
    if vault.source.kind == "lastdst":
        yield f"And whenever {vault.source.path} changes: systemctl enable --now {names.sync_path_unit(vault.name)}"
    yield f"After each boot, once: offsitectl unlock {vault.name}"


def _limited(target: SshTarget, authorized_keys: str) -> Iterator[str]:
    """The same line, for a key that may do no more than rsync in one directory: the target's parent."""
    above = str(PurePosixPath(target.directory).parent)
    if above != "/":
        options, _, key = authorized_keys.partition(" ")
        yield (
            f'Or let that key do nothing but rsync below {above}; then set rrsync = "{above}" in the vault file:\n'
            f'      {options},command="rrsync -no-lock {above}" {key}'
        )


def _key_text(master_key: str) -> str:
    grouped = "\n".join(f"    {line}" for line in keyfile.grouped(master_key).splitlines())
    return (
        f"The MASTER KEY, shown this once:\n\n{grouped}\n\n"
        "It opens the backup without passphrase and key file. Write it down, keep it away from this machine, show it to nobody.\n"
    )


def _key_notice(plan: "Plan", *, shown: bool) -> str:
    again = f"{plan.tools.gocryptfs_xray} -dumpmasterkey {plan.files.key_file}"
    if shown:
        return f"Keep the master key and the passphrase elsewhere. To see the key again, with the passphrase: {again}"
    return f"The master key is not shown, because there is no terminal. Write it down from there, and keep it elsewhere: {again}"


def _on_terminal(text: str) -> bool:
    """Show `text` on the terminal itself, where no log and no pipe gets it; whether that was possible."""
    try:
        terminal = os.open("/dev/tty", os.O_WRONLY | os.O_NOCTTY | os.O_CLOEXEC)
    except OSError:
        return False
    with os.fdopen(terminal, "w") as file:
        file.write(text)
    return True
