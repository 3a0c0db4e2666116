# SPDX-License-Identifier: GPL-3.0-or-later
"""restore-key: a key file that was damaged or lost here, from a target's copy, after the passphrase has proven that copy."""

import shutil
from pathlib import Path

from offsited import names
from offsited.ctl import keyfile, passphrase, root
from offsited.ctl.client import Client
from offsited.ctl.output import Output
from offsited.ctl.unlock import hand_over
from offsited.errors import Exit, Failed, InvalidArgs, TargetAbsent, WrongPassphrase
from offsited.store import KeyRecord, Store


def restore_key(out: Output, client: Client, store: Store, vault: str, *, copy: str, file: str | None) -> int:
    """Put a copy of the key file in its place and unlock the vault.

    Raise WrongPassphrase or what else hinders; nothing is changed then, unless it is the daemon that does not take the passphrase.
    """
    root.require("the key file is root's to write")
    store.read_vault(vault)
    files = store.vault_files(vault)
    if files.key_record() is not None and files.key_file_is_right():
        raise InvalidArgs(f"{files.key_file} is as offsitectl left it: there is nothing to restore")
    with keyfile.work_directory(files) as work:
        new = _take(Path(copy), work / names.KEY_FILE)
        with passphrase.from_file_or_prompt(file, "Passphrase of that copy: ") as secret:
            key = keyfile.master_key(store.read_settings().tools, new, secret)
            before, digest = files.key_record() or KeyRecord(sha256=""), keyfile.synced_digest(new)
            if not before.allows(digest):
                check_ours(vault, key)
            files.write_key_record(before.model_copy(update={"sha256": digest, "next": ""}))
            keyfile.put_in_place(files, new)
            hand_over(client, vault, secret)
    out.put({"vault": vault, "restored": True})
    out.say(f"{vault}: the key file is restored, and the vault is unlocked")
    return Exit.DONE


def check_ours(vault: str, key: str) -> None:
    """Raise InvalidArgs for another vault's key, of the same passphrase, say: the next sync would mix the two at the targets."""
    try:
        keyfile.opened_by(vault, key)
    except TargetAbsent:
        return  # nothing is anywhere yet
    except WrongPassphrase:
        raise InvalidArgs(
            "that copy is another vault's key file: it does not open what the targets hold", hint=f"Take the copy of a target of {vault}"
        ) from None


def _take(source: Path, to: Path) -> Path:
    """Copy it, so that what is proven is what is put in place."""
    try:
        shutil.copyfile(source, to)
    except OSError as error:
        raise Failed(f"{source} cannot be read: {error.strerror}", hint="Check --from") from None
    to.chmod(0o400)
    return to
