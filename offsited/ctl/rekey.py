# SPDX-License-Identifier: GPL-3.0-or-later
"""change-passphrase: another passphrase for the same master key. A copy of the key file gets it, is proven, and replaces the old one."""

import shutil
import time
from dataclasses import dataclass
from pathlib import Path

from offsited import names
from offsited.core.config import Tools
from offsited.ctl import enroll, jobs, keyfile, objects, passphrase, root
from offsited.ctl.client import Client
from offsited.ctl.jobs import SyncWish, vault_path
from offsited.ctl.output import INTERRUPTED, Output
from offsited.ctl.page import OLDER_KEY_FILE
from offsited.ctl.passphrase import Passphrase
from offsited.ctl.unlock import ATTEMPTS, hand_over
from offsited.errors import Busy, ConfigInvalid, Exit, Failed, OffsitedError
from offsited.store import KeyRecord, Store, VaultFiles


@dataclass(frozen=True)
class Wish:
    """What was typed."""

    vault: str
    old_file: str | None = None
    new_file: str | None = None
    sync: bool = True


def change_passphrase(out: Output, client: Client, store: Store, wish: Wish) -> int:
    """Change a vault's passphrase here and at once, then bring it to each target that can be reached. Raise what hinders the change."""
    files, tools = _check(client, store, wish.vault)
    with passphrase.from_file_or_prompt(wish.old_file, f"Passphrase of vault {wish.vault} as it is now: ") as old:
        key = keyfile.master_key(tools, files.key_file, old)
        with _new(out, wish) as new:
            _replace(files, tools, old, new, key)
            _hand_over(client, wish.vault, new)
            _enroll(out, store, wish.vault, new)
    out.put({"vault": wish.vault, "changed": True})
    out.say(f"{wish.vault}: the passphrase is changed, and the vault is unlocked with it")
    out.note(
        "Whoever has an old copy of the key file, or of a target, still opens it with the old passphrase: the master key is the same.\n"
        "If the old passphrase is in wrong hands, only a new vault helps."
    )
    return _bring(out, client, wish) if wish.sync else _tell_older(out, client, wish.vault)


def _check(client: Client, store: Store, vault: str) -> tuple[VaultFiles, Tools]:
    """Raise AccessDenied, NoSuchVault, ConfigInvalid or Busy; nothing was asked yet."""
    root.require("the key file is root's to write")
    path = vault_path(client, vault)
    files = store.vault_files(vault)
    if not files.key_file_is_right():
        raise ConfigInvalid(f"{files.key_file} is damaged: it is not as offsitectl left it", hint=keyfile.restoring(vault))
    if client.get(path, names.VAULT)["Job"] != "/":
        raise Busy(f"a job writes to vault {vault}, and sends the key file as it is now")
    return files, store.read_settings().tools


def _new(out: Output, wish: Wish) -> Passphrase:
    if wish.new_file is not None:
        secret = passphrase.from_file(wish.new_file)
    else:
        secret = passphrase.twice(f"New passphrase for vault {wish.vault}: ", ATTEMPTS, out.note)
    passphrase.warn_if_short(secret, out.note)
    return secret


def _replace(files: VaultFiles, tools: Tools, old: Passphrase, new: Passphrase, key: str) -> None:
    """Whatever dies meanwhile: the key file is the old one or the new one, whole, and known as the vault's."""
    with keyfile.work_directory(files) as work:
        copy = Path(shutil.copyfile(files.key_file, work / names.KEY_FILE))
        copy.chmod(0o400)
        keyfile.change(tools, copy, files.plain, old, new)
        if keyfile.master_key(tools, copy, new) != key:
            raise Failed("the new key file does not hold the same master key; nothing was changed")
        _put_in_place(files, copy)


def _put_in_place(files: VaultFiles, copy: Path) -> None:
    before = files.key_record() or KeyRecord(sha256=files.key_digest())
    digest = keyfile.synced_digest(copy)
    files.write_key_record(before.model_copy(update={"next": digest}))
    keyfile.put_in_place(files, copy)
    files.write_key_record(before.model_copy(update={"sha256": digest, "next": "", "changed": time.time_ns() // 1000}))


def _hand_over(client: Client, vault: str, new: Passphrase) -> None:
    try:
        hand_over(client, vault, new)
    except OffsitedError as error:
        hint = f"Hand it to the daemon: offsitectl unlock {vault}"
        raise Failed(f"the passphrase is changed, but the daemon did not take it: {error.message}", hint=hint) from None


def _enroll(out: Output, store: Store, vault: str, new: Passphrase) -> None:
    """Have what opens the vault after a boot follow, as far as that is ours. The passphrase is changed whether or not it does."""
    config = store.read_vault(vault)
    if config.passphrase_command:
        out.note("The vault's passphrase_command must print the new passphrase from now on.")
    if config.credential:
        try:
            enroll.encrypt(config.credential, new)
        except (OffsitedError, OSError) as error:
            out.note(f"The credential {config.credential} still holds the old passphrase ({error}): offsitectl unlock {vault} --enroll")


def _bring(out: Output, client: Client, wish: Wish) -> int:
    """Sync to each target in turn. One that is absent gets it with its next sync: the passphrase is changed all the same."""
    out.say("Bringing it to the targets:")
    for target in jobs.targets_of(client, wish.vault):
        try:
            status = jobs.sync(out, client, wish.vault, target, SyncWish())
        except OffsitedError as error:
            status = out.complain(error, wish.vault)
        if status == INTERRUPTED:
            return INTERRUPTED
    return _tell_older(out, client, wish.vault)


def _tell_older(out: Output, client: Client, vault: str) -> int:
    for found in objects.vaults(client.managed_objects()):
        older = [target.name for target in found.targets if target.key_file == OLDER_KEY_FILE and found.name == vault]
        if older:
            out.note(f"Until its next sync still opened by the old passphrase: {', '.join(older)}. Keep the old passphrase until then.")
    return Exit.DONE
