# SPDX-License-Identifier: GPL-3.0-or-later
"""unlock --enroll: the passphrase as an encrypted credential of this machine, for boots without a person. systemd-creds(1)."""

import re
import subprocess
from pathlib import Path
from typing import Final

from offsited import names
from offsited.core.config import parse_vault
from offsited.ctl import passphrase, root
from offsited.ctl.client import Client, Request
from offsited.ctl.jobs import vault_path
from offsited.ctl.output import Output
from offsited.ctl.passphrase import Passphrase
from offsited.ctl.unlock import fetch, hand_over, warn_of_swap
from offsited.errors import Exit, Failed, InvalidArgs, OffsitedError
from offsited.store import Store, sync_directory, write_whole

_TIMEOUT: Final = 120.0


def enroll(out: Output, client: Client, store: Store, vault: str, file: str | None) -> int:
    """Prove the passphrase, encrypt it, name the credential in the vault file, and have the daemon open the vault by it.

    Raise what hinders that; a credential that the daemon cannot open stays, and a person is asked as before.
    """
    root.require("a credential is root's to make")
    path, config = vault_path(client, vault), store.read_vault(vault)
    if config.passphrase_command:
        raise InvalidArgs(
            "the vault has a passphrase_command", hint=f"Remove it from {store.vault_file(vault)}; the two exclude each other"
        )
    credential = config.credential or f"offsited-{vault}"
    warn_of_swap(out)
    with passphrase.from_file_or_prompt(file, f"Passphrase of vault {vault}: ") as secret:
        hand_over(client, vault, secret)
        encrypt(credential, secret)
    if not config.credential:
        _name(client, store, vault, credential)
    fetch(client, path)  # as after a boot
    out.put({"vault": vault, "credential": credential, "tpm2": _has_tpm2()})
    out.say(f"{vault}: enrolled. After a boot it is unlocked by itself, by {names.CREDSTORE / credential}")
    out.note(_trade_off())
    return Exit.DONE


def encrypt(credential: str, secret: Passphrase) -> None:
    """Write a passphrase as an encrypted credential, in place of an older one. Raise Failed; then the older one stays."""
    names.CREDSTORE.mkdir(mode=0o700, exist_ok=True)
    new = names.CREDSTORE / f".{credential}.new"
    new.unlink(missing_ok=True)
    with secret.as_input() as typed:
        _run(["systemd-creds", "encrypt", f"--name={credential}", "-", str(new)], typed)
    new.chmod(0o600)
    new.replace(names.CREDSTORE / credential)
    sync_directory(names.CREDSTORE)


def _run(command: list[str], stdin: int) -> None:
    try:
        ended = subprocess.run(command, stdin=stdin, capture_output=True, timeout=_TIMEOUT, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise Failed(f"systemd-creds cannot be run: {error}") from None
    if ended.returncode != 0:
        complaint = ended.stderr.decode(errors="replace").strip().splitlines() or ["it did not say why"]
        raise Failed(f"systemd-creds encrypt ended with status {ended.returncode}: {complaint[-1]}")


def _name(client: Client, store: Store, vault: str, credential: str) -> None:
    """Add the setting to the vault file, at the end of those of the vault; take it back if the daemon does not like it."""
    file = store.vault_file(vault)
    before = file.read_text("utf-8")
    after = with_credential(before, credential)
    parse_vault(vault, after)
    write_whole(file, after.encode())
    try:
        _reload(client)
    except OffsitedError:
        write_whole(file, before.encode())
        raise


def with_credential(text: str, credential: str) -> str:
    """Given the text of a vault file without the setting, return it with it, before the first table."""
    first = re.search(r"^[ \t]*\[", text, flags=re.MULTILINE)
    place = first.start() if first else len(text)
    return f'{text[:place]}credential = "{credential}"\n\n{text[place:]}'


def _reload(client: Client) -> None:
    client.call(Request(names.ROOT_PATH, names.MANAGER, "Reload", "a{sv}", ({},), acts=True))


def _has_tpm2() -> bool:
    return Path("/sys/class/tpmrm").is_dir() and any(Path("/sys/class/tpmrm").iterdir())


def _trade_off() -> str:
    if _has_tpm2():
        return "Its TPM2 decrypts it as long as the machine boots as it does now: whoever has this machine and boots it opens the vault."
    return (
        "There is no TPM2: the key that decrypts it is /var/lib/systemd/credential.secret, on this machine's disk. Whoever steals that\n"
        "has the passphrase, and opens a target with it; whoever has a target alone does not."
    )
