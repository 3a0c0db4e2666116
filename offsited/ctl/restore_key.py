# SPDX-License-Identifier: GPL-3.0-or-later
"""restore-key: a key file that was damaged or lost here, from a target's copy, after the passphrase has proven that copy."""

import os
import shlex
import shutil
import sys
from pathlib import Path

from offsited.ctl import keyfile, passphrase
from offsited.ctl.client import Client
from offsited.ctl.output import Output
from offsited.ctl.unlock import hand_over
from offsited.errors import AccessDenied, Exit, Failed, InvalidArgs
from offsited.store import KeyRecord, Store, sync_directory

_COPY = "key.new"


def restore_key(out: Output, client: Client, store: Store, vault: str, *, copy: str, file: str | None) -> int:
    """Put a copy of the key file in its place and unlock the vault. Raise WrongPassphrase or what else hinders; nothing is changed then."""
    if os.geteuid() != 0:
        raise AccessDenied("the key file is root's to write", hint=shlex.join(["sudo", "offsitectl", *sys.argv[1:]]))
    store.read_vault(vault)
    files = store.vault_files(vault)
    if files.key_record() is not None and files.key_file_is_right():
        raise InvalidArgs(f"{files.key_file} is as offsitectl left it: there is nothing to restore")
    new = files.state / _COPY
    try:
        _take(Path(copy), new)
        with passphrase.from_file(file) if file is not None else passphrase.from_prompt("Passphrase of that copy: ") as secret:
            keyfile.master_key(store.read_settings().tools, new, secret)
            before = files.key_record() or KeyRecord(sha256="")
            files.write_key_record(before.model_copy(update={"sha256": keyfile.synced_digest(new), "next": ""}))
            new.replace(files.key_file)
            sync_directory(files.plain)
            hand_over(client, vault, secret)
    finally:
        new.unlink(missing_ok=True)
    out.put({"vault": vault, "restored": True})
    out.say(f"{vault}: the key file is restored, and the vault is unlocked")
    return Exit.DONE


def _take(source: Path, to: Path) -> None:
    """Copy it, so that what is proven is what is put in place."""
    to.unlink(missing_ok=True)
    try:
        shutil.copyfile(source, to)
    except OSError as error:
        raise Failed(f"{source} cannot be read: {error.strerror}", hint="Check --from") from None
    to.chmod(0o400)
