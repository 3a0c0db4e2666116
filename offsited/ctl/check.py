# SPDX-License-Identifier: GPL-3.0-or-later
"""check-config: every configuration file, its permissions, and what it names on this machine."""

import importlib.util
import os
import stat
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Final

from offsited import names
from offsited.core import words
from offsited.core.config import Notify, Settings, SshTarget, Vault
from offsited.ctl import keyfile, sources, swap, trust
from offsited.ctl.output import Output
from offsited.ctl.sources import Finding, Severity
from offsited.errors import AccessDenied, ConfigInvalid, Exit
from offsited.store import Store

_TOOLS: Final = ("gocryptfs", "rsync", "ssh", "setpriv", "mount")
_KEY_SEPARATOR: Final = ": "


def check_config(out: Output, store: Store) -> int:
    """Print every problem; return Exit.CONFIG if one of them is an error. Raise AccessDenied for who may not read the files."""
    if os.geteuid() != 0:
        raise AccessDenied("the configuration is root's to read", hint="sudo offsitectl check-config")
    findings = list(examine(store))
    errors = [finding for finding in findings if finding.severity is Severity.ERROR]
    out.put({"findings": [asdict(finding) for finding in findings], "vaults": store.vault_names()})
    for finding in findings:
        out.say(words.printable(line(finding)))
    if not findings:
        out.say(f"{words.number(len(store.vault_names()), 'vault file')}: no problem found")
    return Exit.CONFIG if errors else Exit.DONE


def line(finding: Finding) -> str:
    """One problem as a line."""
    return ": ".join(part for part in (finding.severity, finding.file, finding.key, finding.message) if part)


def examine(store: Store) -> Iterator[Finding]:
    """Everything that is wrong, or may be."""
    yield from _settings(store)
    yield from (Finding(Severity.WARNING, "", "", sentence) for sentence in swap.warnings())
    for name in store.vault_names():
        yield from _vault(store, name)


def _settings(store: Store) -> Iterator[Finding]:
    path = store.etc / names.SETTINGS_FILE
    if path.exists():
        yield from _permissions(path)
    try:
        settings = store.read_settings()
    except ConfigInvalid as error:
        yield from _problems(path, error)
        return
    yield from _tools(settings, path)
    yield from _notify(settings.notify, path)


def _notify(notify: Notify, path: Path) -> Iterator[Finding]:
    if notify.mail and not os.access(names.SENDMAIL, os.X_OK):
        yield Finding(Severity.WARNING, str(path), "notify.mail", f"{names.SENDMAIL} cannot be run: install a mail transfer agent")
    if notify.apprise and importlib.util.find_spec("apprise") is None:
        yield Finding(Severity.WARNING, str(path), "notify.apprise", "the package apprise is not installed")
    if notify.prometheus and not Path(notify.prometheus).parent.is_dir():
        yield Finding(Severity.ERROR, str(path), "notify.prometheus", f"{Path(notify.prometheus).parent} is no directory")


def _tools(settings: Settings, path: Path) -> Iterator[Finding]:
    for tool in _TOOLS:
        program = str(getattr(settings.tools, tool))
        if not os.access(program, os.X_OK):
            yield Finding(Severity.ERROR, str(path), f"tools.{tool}", f"{program} cannot be run")
    if os.access(settings.tools.gocryptfs, os.X_OK):
        try:
            keyfile.check_version(settings.tools)
        except ConfigInvalid as error:
            yield Finding(Severity.ERROR, str(path), "tools.gocryptfs", error.message)


def _vault(store: Store, name: str) -> Iterator[Finding]:
    path = store.vault_file(name)
    if not names.NAME_PATTERN.fullmatch(name):
        yield Finding(
            Severity.ERROR, str(path), "", "a vault's name must be 1 to 32 of a-z, 0-9 and _, starting with a letter: rename the file"
        )
        return
    yield from _permissions(path)
    try:
        vault = store.read_vault(name)
    except ConfigInvalid as error:
        yield from _problems(path, error)
        return
    yield from sources.examine(vault.source, str(path))
    yield from _key_file(store, name)
    yield from _ssh(store, vault, path)


def _problems(path: Path, error: ConfigInvalid) -> Iterator[Finding]:
    """The store puts the file before each line, and core.config the key."""
    for text in error.message.splitlines():
        key, separator, message = text.removeprefix(f"{path}: ").partition(_KEY_SEPARATOR)
        yield Finding(Severity.ERROR, str(path), key if separator else "", message or key)


def _permissions(path: Path) -> Iterator[Finding]:
    try:
        status = path.stat()
    except OSError as error:
        yield Finding(Severity.ERROR, str(path), "", f"cannot be read: {error.strerror}")
        return
    if status.st_uid != 0:
        yield Finding(Severity.ERROR, str(path), "", f"belongs to user {status.st_uid}, not to root: chown root {path}")
    if stat.S_IMODE(status.st_mode) & 0o077:
        yield Finding(Severity.ERROR, str(path), "", f"is open to others (mode {stat.S_IMODE(status.st_mode):04o}): chmod 600 {path}")


def _key_file(store: Store, name: str) -> Iterator[Finding]:
    files = store.vault_files(name)
    if not files.key_file.is_file():
        yield Finding(Severity.ERROR, str(files.key_file), "", "the vault's key file is missing: was the vault made with offsitectl init?")
        return
    yield from _permissions(files.key_file)
    if not files.key_file_is_right():
        yield Finding(Severity.ERROR, str(files.key_file), "", f"it is damaged: not as offsitectl left it. {keyfile.restoring(name)}")
    try:
        files.identity()
    except ConfigInvalid as error:
        yield Finding(Severity.ERROR, str(files.state), "", error.message)


def _ssh(store: Store, vault: Vault, path: Path) -> Iterator[Finding]:
    for target in vault.target:
        if not isinstance(target, SshTarget):
            continue
        identity = Path(target.identity)
        if identity.is_file():
            yield from _permissions(identity)
        else:
            yield Finding(Severity.ERROR, str(path), f"target {target.name}.identity", f"{identity} does not exist")
        for host in trust.unknown(store, target):
            message = f"{host} is not known yet: offsitectl target trust {vault.name} {target.name}"
            yield Finding(Severity.WARNING, str(path), f"target {target.name}.host", message)
