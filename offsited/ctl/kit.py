# SPDX-License-Identifier: GPL-3.0-or-later
"""recovery-kit: the page for the day when nothing is left but a target; and the proof that what was printed opens it."""

import io
import socket
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

import segno

from offsited.core import kit, words
from offsited.core.config import Vault
from offsited.core.kit import Kit
from offsited.ctl import keyfile, objects, passphrase, root
from offsited.ctl.client import Client
from offsited.ctl.output import Output
from offsited.errors import Exit, Failed, InvalidArgs
from offsited.store import KeyRecord, Store, write_whole

_ATTEMPTS: Final = 5
"""How often a line may be typed."""


def make(out: Output, client: Client, store: Store, vault: str, *, output: str | None, file: str | None) -> int:
    """Print the kit, or write it to a file, as HTML if its name says so. Raise AccessDenied, WrongPassphrase, ConfigInvalid or Failed."""
    root.require("the key file is root's to read")
    config, files = store.read_vault(vault), store.vault_files(vault)
    with passphrase.from_file_or_prompt(file, f"Passphrase of vault {vault}: ") as secret:
        key = keyfile.master_key(store.read_settings().tools, files.key_file, secret)
    found = Kit(config, files.identity(), socket.gethostname(), words.moment(time.time_ns() // 1000), key, tuple(_holding(client, config)))
    if output is None:
        out.say(_text(found))
    else:
        _write(Path(output), _page(found) if output.endswith((".html", ".htm")) else _text(found))
        out.say(f"{vault}: the recovery kit is in {output}. Print it, keep it elsewhere, and delete the file")
    out.put({"vault": vault, "output": output or ""})
    out.note(f"Prove what was printed by typing the key back: offsitectl recovery-kit {vault} --confirm")
    return Exit.DONE


def confirm(out: Output, store: Store, vault: str) -> int:
    """Have the key typed back, prove that it opens what a target was found to hold, and remember that. Raise what hinders it."""
    root.require("the key file is root's to read")
    store.read_vault(vault)
    files = store.vault_files(vault)
    target = keyfile.opened_by(vault, _typed(out, vault))
    record = files.key_record() or KeyRecord(sha256=files.key_digest())
    files.write_key_record(record.model_copy(update={"kit_confirmed": time.time_ns() // 1000}))
    out.put({"vault": vault, "confirmed": True, "target": target})
    out.say(f"{vault}: this key opens what target {target} holds. The recovery kit is confirmed")
    return Exit.DONE


def _holding(client: Client, config: Vault) -> Iterator[str]:
    """What each target holds now."""
    for found in objects.vaults(client.managed_objects()):
        for target in found.targets if found.name == config.name else ():
            held = f"the snapshot of {words.moment(target.snapshot_dated)}" if target.commit_job else "no snapshot yet"
            yield f"Target {target.name} held {held}."


def _text(found: Kit) -> str:
    drawn = io.StringIO()
    _code(found).terminal(drawn, compact=True, border=2)
    return kit.text(found, drawn.getvalue().rstrip("\n"))


def _page(found: Kit) -> str:
    return kit.page(found, _code(found).svg_inline(border=2, omitsize=True))


def _code(found: Kit) -> segno.QRCode:
    """Upper case fits into a smaller one; gocryptfs takes either."""
    return segno.make_qr(found.master_key.upper(), error="m")


def _write(path: Path, content: str) -> None:
    """Where a link leads to. Raise Failed; what is no file, a device say, is not replaced by one."""
    path = path.resolve()
    if path.exists() and not path.is_file():
        raise Failed(f"{path} is not a regular file", hint="Choose another file with --output")
    try:
        write_whole(path, content.encode())
    except OSError as error:
        raise Failed(f"{path} cannot be written: {error.strerror}", hint="Choose another file with --output") from None


def _typed(out: Output, vault: str) -> str:
    """The key, line by line: from the terminal without echo, else from standard input."""
    ask = _from_terminal if sys.stdin.isatty() else _from_input
    out.note(f"Type the master key of vault {vault} from the kit: {kit.LINES} lines, each with its check.")
    return "".join(_line(out, number, ask) for number in range(1, kit.LINES + 1))


def _line(out: Output, number: int, ask: Callable[[int], str]) -> str:
    for attempts_left in reversed(range(_ATTEMPTS)):
        try:
            return kit.parse_line(number, ask(number))
        except InvalidArgs as error:
            if not attempts_left or ask is _from_input:
                raise
            out.note(f"{error.message}; try again.")
    raise AssertionError


def _from_terminal(number: int) -> str:
    try:
        secret = passphrase.from_prompt(f"Line {number}: ")
    except passphrase.Unfit:
        return ""  # no line of a key either, and to be typed again
    with secret, secret.as_input() as typed, open(typed, "rb", closefd=False) as file:
        return file.read().decode(errors="replace")


def _from_input(_number: int) -> str:
    return sys.stdin.readline()
