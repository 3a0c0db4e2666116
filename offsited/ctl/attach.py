# SPDX-License-Identifier: GPL-3.0-or-later
"""attach: a vault on a new machine, from what lies at one of its targets. Afterwards the next sync sends only what has changed."""

import contextlib
import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from offsited import names
from offsited.core.config import parse_vault
from offsited.core.record import Options
from offsited.ctl import bare, init, meter, root, sources
from offsited.ctl.bare import BareWish, Bench
from offsited.ctl.client import Client
from offsited.ctl.init import Places
from offsited.ctl.output import Output
from offsited.ctl.passphrase import Passphrase
from offsited.ctl.unlock import hand_over
from offsited.ctl.vaultfile import SourceSpec, SshSpec, TargetSpec
from offsited.ctl.welcome import authorized_line
from offsited.errors import Exit, Failed


@dataclass(frozen=True)
class AttachWish:
    """What was typed."""

    vault: str
    source: SourceSpec
    target: TargetSpec
    bare: BareWish


def attach(out: Output, wish: AttachWish, places: Places) -> int:
    """Make the vault, unlock it, say what comes next; return the exit status. Raise what keeps it from being made."""
    root.require("attach writes below /etc and /var: it needs root")
    os.umask(0o077)
    text = bare.bare_text(wish.vault, wish.source, wish.target, wish.bare, str(places.identity(wish.vault)))
    init.check_free(wish.vault, places)
    vault = parse_vault(wish.vault, text)
    init.check_source(vault)
    with Client() as client:
        client.get(names.ROOT_PATH, names.MANAGER)
        for finding in sources.examine(vault.source, "source"):
            out.note(f"{finding.severity}: {finding.message}")
        if isinstance(wish.target, SshSpec):
            _have_identity(out, wish, places)
        with bare.secret(wish.bare) as secret, Bench.made(wish.vault, wish.target.name) as bench:
            bench.prepare(text, Options())
            bare.run(bench, ["attach"], secret, {}, meter.Silence())
            record = bench.files.read_record(1)
            if record is None or record.reason or record.outcome is None:
                return bare.tell(out, bench)
            _take_over(client, wish, places, bench, secret)
    message = f"{wish.vault}: attached to target {wish.target.name}, which holds snapshot {record.snapshot}"
    out.put({"vault": wish.vault, "target": wish.target.name, "snapshot_dated": record.snapshot_dated, "commit": record.commit})
    out.say(f"{message}\nNext: offsitectl sync {wish.vault}; it sends only what has changed")
    return Exit.DONE


def _take_over(client: Client, wish: AttachWish, places: Places, bench: Bench, secret: Passphrase) -> None:
    """Put into its place what the worker has made; if anything fails, nothing of it stays."""
    files = places.store.vault_files(wish.vault)
    text = bench.store.vault_file(wish.vault).read_text()
    bench.files.remove_record(1)
    with contextlib.ExitStack() as undo:
        undo.callback(init.reload_quietly, client)
        undo.callback(shutil.rmtree, files.directory, ignore_errors=True)
        files.directory.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        shutil.copytree(bench.files.directory, files.directory, symlinks=True)
        init.make_vault_file(places.store.vault_file(wish.vault), text, undo)
        if wish.source.kind == "lastdst":
            init.make_drop_in(places.drop_in(wish.vault), parse_vault(wish.vault, text), undo)
        init.reload(client)
        hand_over(client, wish.vault, secret)
        undo.pop_all()


def _have_identity(out: Output, wish: AttachWish, places: Places) -> None:
    """The vault's ssh key: the one that was given, the one that is there, or a new one, of which the remote must be told first."""
    path = places.identity(wish.vault)
    if wish.bare.identity:
        _copy_identity(Path(wish.bare.identity), path)
    elif not path.exists():
        with contextlib.ExitStack() as kept:
            init.make_ssh_key(path, wish.vault, kept)
            kept.pop_all()
        out.note(
            f"A new ssh key was made. If the remote refuses it, add this line to authorized_keys there, and run this again:\n{_line(path)}"
        )


def _line(path: Path) -> str:
    return authorized_line(path.with_suffix(".pub").read_text("utf-8").strip())


def _copy_identity(given: Path, path: Path) -> None:
    """Take over a private key, and make its public half. Raise Failed."""
    try:
        content = given.read_bytes()
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        path.write_bytes(content)
        path.chmod(0o600)
        public = subprocess.run(["ssh-keygen", "-y", "-f", str(path)], capture_output=True, check=True, stdin=subprocess.DEVNULL).stdout
        path.with_suffix(".pub").write_bytes(public)
    except (OSError, subprocess.CalledProcessError) as error:
        raise Failed(f"the ssh key {given} cannot be used: {error}", hint="Give a private key without a passphrase") from None
