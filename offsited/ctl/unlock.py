# SPDX-License-Identifier: GPL-3.0-or-later
"""unlock and lock: handing a vault's passphrase to the daemon, and taking it back."""

import os
from collections.abc import Sequence
from typing import Final

from offsited import names
from offsited.ctl import agent, objects, passphrase
from offsited.ctl.client import Client, Request
from offsited.ctl.jobs import vault_path, worst
from offsited.ctl.output import Output
from offsited.ctl.passphrase import Passphrase
from offsited.errors import Exit, OffsitedError, WrongPassphrase
from offsited.store import Store

ATTEMPTS: Final = 3
"""How often a person may try."""


def unlock(out: Output, client: Client, store: Store, vaults: Sequence[str], file: str | None) -> int:
    """Unlock the vaults named, or all that are locked; return the most alarming exit status."""
    chosen = list(vaults) or [vault.name for vault in objects.vaults(client.managed_objects()) if vault.locked]
    if not chosen:
        out.say("no vault is locked")
    given = passphrase.from_file(file) if file is not None and chosen else None
    try:
        return worst([_unlock_told(out, client, store, vault, given) for vault in chosen])
    finally:
        if given is not None:
            given.close()


def lock(out: Output, client: Client, vault: str) -> int:
    """Make the daemon forget a vault's passphrase."""
    with agent.on_terminal():
        client.call(Request(vault_path(client, vault), names.VAULT, "Lock", "a{sv}", ({},), acts=True))
    out.put({"vault": vault, "locked": True})
    out.say(f"{vault}: locked")
    return Exit.DONE


def hand_over(client: Client, vault: str, secret: Passphrase) -> None:
    """Give the daemon a passphrase, which proves it. Raise WrongPassphrase and others."""
    path = vault_path(client, vault)
    with agent.on_terminal():
        client.call(Request(path, names.VAULT, "Unlock", "ha{sv}", (0, {}), fds=(secret.fileno(),), acts=True))


def _unlock_told(out: Output, client: Client, store: Store, vault: str, given: Passphrase | None) -> int:
    try:
        vault_path(client, vault)
        _unlock(out, client, vault, given, _command(store, vault))
    except OffsitedError as error:
        return out.complain(error, vault)
    out.put({"vault": vault, "locked": False})
    out.say(f"{vault}: unlocked")
    return Exit.DONE


def _unlock(out: Output, client: Client, vault: str, given: Passphrase | None, command: tuple[str, ...]) -> None:
    """With what was given, else with what the vault's `passphrase_command` prints, else with what a person types."""
    if given is not None:
        hand_over(client, vault, given)
    elif command:
        with passphrase.from_command(command) as secret:
            hand_over(client, vault, secret)
    else:
        _unlock_asking(out, client, vault)


def _unlock_asking(out: Output, client: Client, vault: str) -> None:
    for attempts_left in reversed(range(ATTEMPTS)):
        with passphrase.from_prompt(f"Passphrase of vault {vault}: ") as secret:
            try:
                return hand_over(client, vault, secret)
            except WrongPassphrase:
                if not attempts_left:
                    raise
                out.note("That is not it; try again.")
    return None


def _command(store: Store, vault: str) -> tuple[str, ...]:
    """The vault's `passphrase_command`: root alone reads the vault file, and runs it as itself."""
    return store.read_vault(vault).passphrase_command if os.geteuid() == 0 else ()
