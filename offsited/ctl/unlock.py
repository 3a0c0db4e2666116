# SPDX-License-Identifier: GPL-3.0-or-later
"""unlock and lock: handing a vault's passphrase to the daemon, and taking it back."""

import contextlib
from collections.abc import Sequence
from typing import Final

from offsited import names
from offsited.ctl import agent, objects, passphrase, swap
from offsited.ctl.client import Client, NoAnswer, Presence, Request
from offsited.ctl.jobs import vault_path, worst
from offsited.ctl.output import Output
from offsited.ctl.passphrase import Passphrase
from offsited.errors import Exit, Locked, OffsitedError, WrongPassphrase

ATTEMPTS: Final = 3
"""How often a person may try."""
_PERSON: Final = "person"


class _UnlockedMeanwhile(Exception):
    """Somebody else has unlocked the vault that is being asked for."""


def unlock(out: Output, client: Client, vaults: Sequence[str], file: str | None, *, agents: bool = False) -> int:
    """Unlock the vaults named, or all that are locked; return the most alarming exit status.

    `agents`: ask through systemd's password agents, until somebody gives the right answer, there or elsewhere.
    """
    chosen = list(vaults) or [vault.name for vault in objects.vaults(client.managed_objects()) if vault.locked]
    if not chosen:
        out.say("no vault is locked")
    else:
        warn_of_swap(out)
    given = passphrase.from_file(file) if file is not None and chosen else None
    try:
        return worst([_unlock_told(out, client, vault, given, agents=agents) for vault in chosen])
    finally:
        if given is not None:
            given.close()


def warn_of_swap(out: Output) -> None:
    """A passphrase is in memory from now on."""
    for sentence in swap.warnings():
        out.note(f"warning: {sentence}")


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


def fetch(client: Client, path: str) -> None:
    """Have the daemon unlock the vault at `path` by its credential or command. Raise Locked and others."""
    with agent.on_terminal():
        client.call(Request(path, names.VAULT, "FetchPassphrase", "a{sv}", ({},), acts=True))


def _unlock_told(out: Output, client: Client, vault: str, given: Passphrase | None, *, agents: bool) -> int:
    try:
        _unlock(out, client, vault, given, agents=agents)
    except OffsitedError as error:
        return out.complain(error, vault)
    out.put({"vault": vault, "locked": False})
    out.say(f"{vault}: unlocked")
    return Exit.DONE


def _unlock(out: Output, client: Client, vault: str, given: Passphrase | None, *, agents: bool) -> None:
    """With what was given, else as the vault file says, else with what a person enters."""
    if given is not None:
        hand_over(client, vault, given)
    elif not _fetched(out, client, vault):
        (_ask_agents if agents else _ask_here)(out, client, vault)


def _fetched(out: Output, client: Client, vault: str) -> bool:
    """Whether the vault's credential or command, if it has one, has unlocked it."""
    path = vault_path(client, vault)
    if client.get(path, names.VAULT).get("PassphraseSource", _PERSON) == _PERSON:
        return False
    try:
        fetch(client, path)
    except Locked as error:
        out.note(f"{vault}: {error.message}. See why: journalctl {names.FIELD_VAULT}={vault}")
        return False
    return True


def _ask_here(out: Output, client: Client, vault: str) -> None:
    for attempts_left in reversed(range(ATTEMPTS)):
        with passphrase.from_prompt(f"Passphrase of vault {vault}: ") as secret:
            try:
                return hand_over(client, vault, secret)
            except WrongPassphrase:
                if not attempts_left:
                    raise
                out.note("That is not it; try again.")
    return None


def _ask_agents(out: Output, client: Client, vault: str) -> None:
    """Until the vault is unlocked, by an answer or by whoever else. systemd shows the question to who is logged in: it names both ways."""
    client.subscribe()
    question = f"Passphrase of vault {vault} (or: offsitectl unlock {vault})"
    try:
        _check_locked(client, vault)
        while True:
            try:
                with passphrase.from_agents(question, f"offsited:{vault}", lambda answered: _wait(client, vault, answered)) as secret:
                    return hand_over(client, vault, secret)
            except (WrongPassphrase, passphrase.Unfit) as error:
                out.note(f"{vault}: {error.message}")
                question = f"That was not it. Passphrase of vault {vault} (or: offsitectl unlock {vault})"
    except _UnlockedMeanwhile:
        return None


def _wait(client: Client, vault: str, answered: int) -> None:
    """Return once somebody has answered. Raise _UnlockedMeanwhile, NoSuchObject if the vault is gone, NoAnswer if the bus is.

    A daemon that goes away comes back.
    """
    while (event := client.next_event_or(answered)) is not None:
        concerned = event.present if isinstance(event, Presence) else event.path in {names.ROOT_PATH, names.vault_path(vault)}
        if concerned:
            with contextlib.suppress(NoAnswer):
                _check_locked(client, vault)


def _check_locked(client: Client, vault: str) -> None:
    if not client.get(names.vault_path(vault), names.VAULT)["Locked"]:
        raise _UnlockedMeanwhile
