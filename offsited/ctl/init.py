# SPDX-License-Identifier: GPL-3.0-or-later
"""init: a new vault. Everything is checked before anything is written; what fails later leaves nothing behind that was not there before."""

import contextlib
import os
import shutil
import socket
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from offsited import names
from offsited.core.config import SshTarget, Tools, Vault, parse_vault
from offsited.ctl import keyfile, passphrase, root, sources, welcome
from offsited.ctl.client import Client, Request
from offsited.ctl.output import Output
from offsited.ctl.passphrase import Passphrase
from offsited.ctl.unlock import ATTEMPTS, hand_over
from offsited.ctl.vaultfile import SourceSpec, TargetSpec, vault_text
from offsited.errors import ConfigInvalid, Exit, InvalidArgs, OffsitedError
from offsited.store import KeyRecord, Store, VaultFiles, write_whole

_SYSTEMD: Final = "org.freedesktop.systemd1"


@dataclass(frozen=True)
class Wish:
    """What was typed."""

    vault: str
    source: SourceSpec
    targets: tuple[TargetSpec, ...]
    passphrase_file: str | None = None
    import_from: str | None = None


@dataclass(frozen=True)
class Places:
    """Where a vault's files go."""

    store: Store
    units: Path = names.SYSTEM_UNITS

    def identity(self, vault: str) -> Path:
        return self.store.etc / f"{names.IDENTITY_PREFIX}{vault}"

    def drop_in(self, vault: str) -> Path:
        """Tells systemd which file's change starts a sync."""
        return self.units / f"{names.sync_path_unit(vault)}.d" / "lastdst.conf"


@dataclass(frozen=True)
class Plan:
    """What will be made: checked, and not begun."""

    vault: Vault
    text: str
    tools: Tools
    files: VaultFiles
    imported: Path | None
    """An existing key file to take over."""

    @property
    def needs_ssh_key(self) -> bool:
        return any(isinstance(target, SshTarget) for target in self.vault.target)


def init(out: Output, wish: Wish, places: Places) -> int:
    """Make a vault, unlock it, say what comes next. Raise what keeps it from being made."""
    os.umask(0o077)
    plan = check(wish, places)
    with Client() as client:
        client.get(names.ROOT_PATH, names.MANAGER)  # a daemon that does not answer is better known before anything is typed
        for finding in sources.examine(plan.vault.source, "source"):
            out.note(f"{finding.severity}: {finding.message}")
        out.say(welcome.preview(plan, places))
        with _secret(out, plan, wish.passphrase_file) as secret:
            key = make(client, plan, places, secret)
    public = places.identity(wish.vault).with_suffix(".pub")
    public_key = public.read_text("utf-8").strip() if plan.needs_ssh_key else ""
    welcome.show(out, plan, places, key, public_key)
    return Exit.DONE


def check(wish: Wish, places: Places) -> Plan:
    """Return what will be made. Raise AccessDenied, InvalidArgs or ConfigInvalid; nothing is written."""
    root.require("init writes below /etc and /var: it needs root")
    text = vault_text(wish.vault, wish.source, wish.targets, str(places.identity(wish.vault)))
    try:
        vault = parse_vault(wish.vault, text)
    except ConfigInvalid as error:
        raise InvalidArgs(error.message, hint="See: man offsitectl") from None
    check_free(wish.vault, places)
    check_source(vault)
    tools = places.store.read_settings().tools
    keyfile.check_version(tools)
    imported = _key_file_in(wish.import_from) if wish.import_from else None
    return Plan(vault, text, tools, places.store.vault_files(wish.vault), imported)


def make(client: Client, plan: Plan, places: Places, secret: Passphrase) -> str:
    """Make everything, unlock the vault, return the master key. If anything fails, take back what was made and raise."""
    with contextlib.ExitStack() as undo:
        undo.callback(reload_quietly, client)
        undo.callback(shutil.rmtree, plan.files.directory, ignore_errors=True)
        key = _make_key(plan, secret)
        if plan.needs_ssh_key:
            make_ssh_key(places.identity(plan.vault.name), plan.vault.name, undo)
        make_vault_file(places.store.vault_file(plan.vault.name), plan.text, undo)
        if plan.vault.source.kind == "lastdst":
            make_drop_in(places.drop_in(plan.vault.name), plan.vault, undo)
        reload(client)
        hand_over(client, plan.vault.name, secret)
        undo.pop_all()
    return key


def check_free(vault: str, places: Places) -> None:
    taken = [path for path in (places.store.vault_file(vault), places.store.vault_files(vault).directory) if path.exists()]
    if taken:
        raise InvalidArgs(
            f"there is something of a vault of this name already: {taken[0]}",
            hint="Choose another name, or move that away if it is no longer needed",
        )


def check_source(vault: Vault) -> None:
    errors = [finding.message for finding in sources.examine(vault.source, "") if finding.severity is sources.Severity.ERROR]
    if errors:
        raise InvalidArgs("\n".join(errors), hint="Check --source and --root")


def _key_file_in(directory: str) -> Path:
    path = Path(directory) / names.KEY_FILE
    if not path.is_file():
        raise InvalidArgs(f"there is no {path}", hint=f"--import DIR takes the directory that holds {names.KEY_FILE}")
    return path


def _secret(out: Output, plan: Plan, file: str | None) -> Passphrase:
    """The passphrase: of a file, of the imported key file, or a new one typed twice."""
    secret = passphrase.from_file(file) if file is not None else _ask(out, plan)
    if plan.imported is None:
        passphrase.warn_if_short(secret, out.note)
    return secret


def _ask(out: Output, plan: Plan) -> Passphrase:
    if plan.imported is not None:
        return passphrase.from_prompt(f"Passphrase of {plan.imported}: ")
    return passphrase.twice(f"New passphrase for vault {plan.vault.name}: ", ATTEMPTS, out.note)


def _make_key(plan: Plan, secret: Passphrase) -> str:
    """Make or take over the key file; return the master key, which proves the passphrase."""
    if plan.imported is not None:
        keyfile.master_key(plan.tools, plan.imported, secret)
    plan.files.directory.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    plan.files.create()
    if plan.imported is not None:
        write_whole(plan.files.key_file, plan.imported.read_bytes(), 0o400)
    else:
        keyfile.create(plan.tools, plan.files.plain, secret)
    plan.files.write_key_record(KeyRecord(sha256=plan.files.key_digest()))
    return keyfile.master_key(plan.tools, plan.files.key_file, secret)


def make_ssh_key(path: Path, vault: str, undo: contextlib.ExitStack) -> None:
    """A key that is there already is kept: a remote may know it."""
    if path.exists():
        return
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    undo.callback(path.with_suffix(".pub").unlink, missing_ok=True)
    undo.callback(path.unlink, missing_ok=True)
    keyfile.create_ssh_key(path, f"offsited {vault}@{socket.gethostname()}")


def make_vault_file(path: Path, text: str, undo: contextlib.ExitStack) -> None:
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    undo.callback(path.unlink, missing_ok=True)
    write_whole(path, text.encode())


def make_drop_in(path: Path, vault: Vault, undo: contextlib.ExitStack) -> None:
    """systemd.path(5); a percent sign is a specifier's in unit files."""
    if not path.parent.exists():
        path.parent.mkdir(parents=True)
        path.parent.chmod(0o755)
        undo.callback(_remove_if_empty, path.parent)
    watched = vault.source.path.replace("%", "%%")
    undo.callback(path.unlink, missing_ok=True)
    write_whole(
        path,
        f"# Made by offsitectl init: a change of this file starts a sync of vault {vault.name}.\n[Path]\nPathChanged={watched}\n".encode(),
        0o644,
    )


def reload(client: Client) -> None:
    """systemd learns of the drop-in, the daemon of the vault. Raise what either answers."""
    client.call(Request("/org/freedesktop/systemd1", f"{_SYSTEMD}.Manager", "Reload", destination=_SYSTEMD, acts=True))
    client.call(Request(names.ROOT_PATH, names.MANAGER, "Reload", "a{sv}", ({},), acts=True))


def reload_quietly(client: Client) -> None:
    with contextlib.suppress(OffsitedError):
        reload(client)


def _remove_if_empty(directory: Path) -> None:
    with contextlib.suppress(OSError):
        directory.rmdir()
