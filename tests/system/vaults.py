# SPDX-License-Identifier: GPL-3.0-or-later
"""Vaults as a user makes and uses them."""

import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from .daemon import VAULT as VAULT_INTERFACE
from .daemon import Running, Watch, get, vault_path
from .disks import Disk
from .machine import Ended, must, offsitectl, run, write
from .trees import Tree, census, copy_linked

ETC = Path("/etc/offsited")
VAR = Path("/var/lib/offsited")
SNAPSHOTS = Path("/srv/snapshots")
FIRST, SECOND, THIRD = "2026-01-01", "2026-01-02", "2026-01-03"
"""Names of snapshots: dates that have passed when this is read."""
SLOW = "100K"
"""Bytes a second; see `Vault.slow_sync`."""
BULK = 300_000
"""Bytes that take a while at that rate."""


class Vault:
    """One vault: its snapshots, its files on this machine, and what is done with it."""

    def __init__(self, name: str, passphrase: str) -> None:
        self.name = name
        self.passphrase = passphrase
        self.root = SNAPSHOTS / name
        self.lastdst = self.root / "lastdst"
        self.file = ETC / "vaults.d" / f"{name}.toml"
        self.directory = VAR / "vaults" / name
        self.identity = ETC / f"id_{name}"
        self.drop_ins = Path("/etc/systemd/system")
        self.unit = f"offsited-job-{name}.service"
        self.path = vault_path(name)

    # --- snapshots -------------------------------------------------------------------------------------------------

    def snapshot(self, name: str = FIRST, **files: str | bytes) -> Path:
        """Make a snapshot with these files, and name it the newest."""
        top = self.root / name
        top.mkdir(parents=True)
        for file, content in (files or {"one": "first", "two": "second", "three": "third"}).items():
            (top / file).write_bytes(content.encode() if isinstance(content, str) else content)
        self.point_at(top)
        return top

    def next_snapshot(self, old: Path, name: str = SECOND, *, bulk: int = 0, without: tuple[str, ...] = ()) -> Path:
        """Make the next snapshot: the files of the old one, less some, and with `bulk` bytes that do not compress."""
        top = copy_linked(old, self.root / name)
        for file in without:
            (top / file).unlink()
        if bulk:
            (top / "bulk").write_bytes(os.urandom(bulk))
        self.point_at(top)
        return top

    def point_at(self, snapshot: Path | str) -> None:
        """Name the newest snapshot, as a snapshot tool does when it has made one."""
        self.root.mkdir(parents=True, exist_ok=True)
        new = self.root / "lastdst.new"
        new.write_text(f"{snapshot}\n")
        new.rename(self.lastdst)

    # --- the vault -------------------------------------------------------------------------------------------------

    def init(self, *targets: str, key: Path | None = None) -> Ended:
        """Make the vault, with a new key, or with the key file in a directory."""
        chosen = [word for target in targets for word in ("--target", target)]
        imported = ["--import", str(key)] if key else []
        source = ["--source", f"lastdst:{self.lastdst}"]
        ended = offsitectl("init", self.name, *source, *chosen, *imported, "--passphrase-file", "-", "--json", stdin=self.passphrase)
        assert ended.status == 0, ended.told
        return ended

    def edit(self, pattern: str, replacement: str) -> None:
        """Change the vault file as with an editor, and have it read again."""
        text, count = re.subn(pattern, replacement, self.file.read_text(), flags=re.MULTILINE)
        assert count, f"{pattern} is not in\n{text}"
        self.rewrite(text)

    def without_limits(self) -> None:
        """A day changes much of a tree of few files."""
        self.edit(r"^\[limits\]\n", '[limits]\nmax_delete = "100%"\nmax_change = "100%"\n')

    def set_target(self, setting: str) -> None:
        """Add a setting to the first target."""
        self.edit(r"\A((?s:.)*?^\[\[target\]\]\n)", rf"\1{setting}\n")

    def rewrite(self, text: str) -> None:
        """Replace the vault file, and have it read again."""
        write(self.file, text)
        must("systemctl", "reload", "offsited.service")

    def unlock(self, passphrase: str | None = None) -> Ended:
        return offsitectl("unlock", self.name, "--passphrase-file", "-", stdin=self.passphrase if passphrase is None else passphrase)

    def lock(self) -> Ended:
        return offsitectl("lock", self.name)

    def is_locked(self) -> bool:
        return bool(get(self.path, VAULT_INTERFACE, "Locked"))

    # --- jobs ------------------------------------------------------------------------------------------------------

    def sync(self, *arguments: str) -> Ended:
        """Sync, and wait until it has ended."""
        return offsitectl("sync", self.name, "--json", *arguments)

    def synced(self, *arguments: str) -> dict[str, Any]:
        """Sync; it has to be done. Return what it says."""
        ended = self.sync(*arguments)
        assert ended.status == 0, ended.told
        told = ended.json
        assert told["outcome"] == "done"
        return told

    @contextmanager
    def slow_sync(self, rate: str = SLOW) -> Iterator[Running]:
        """A sync that is sending and takes its time; the snapshot must have `BULK` bytes that are new. Afterwards, speed is back."""
        self.set_target(f'bandwidth = "{rate}"')
        with Watch() as watch:
            running = self.start(watch)
            running.until_sending()
            yield running
        self.edit(rf'^bandwidth = "{rate}"\n', "")

    def start(self, watch: Watch) -> Running:
        """Ask for a sync and do not wait."""
        ended = self.sync("--no-block")
        assert ended.status == 0, ended.told
        return Running(watch, int(ended.json["job"]), self.name)

    def restored(self, to: Path, *paths: str | bytes, target: str = "") -> Tree:
        """Restore everything, or these paths, into a directory, and return what is there."""
        chosen = ["--target", target] if target else []
        ended = offsitectl("restore", self.name, *chosen, "--to", to, "--", *(os.fsdecode(path) for path in paths))
        assert ended.status == 0, ended.told
        return census(to)

    def remove(self) -> None:
        """Forget the vault, as its owner would by hand. Nothing of it may be left running."""
        units = [f"offsited-sync@{self.name}.{kind}" for kind in ("timer", "path", "service")]
        units += [f"offsited-verify@{self.name}.{kind}" for kind in ("timer", "service")]
        run("systemctl", "stop", *units, self.unit)
        for path in (self.file, self.identity, self.identity.with_suffix(".pub")):
            path.unlink(missing_ok=True)
        shutil.rmtree(self.directory, ignore_errors=True)
        for path in self.drop_ins.glob(f"offsited-sync@{self.name}.*.d"):
            shutil.rmtree(path)
        must("systemctl", "reload-or-restart", "offsited.service")
        shutil.rmtree(self.root, ignore_errors=True)


class OnDisk:
    """A vault and its disk. `first` is the snapshot that its source names, `second` the place of the next one."""

    def __init__(self, vault: Vault, disk: Disk, key: Path) -> None:
        self.vault = vault
        self.disk = disk
        self.key = key
        self.first = vault.snapshot()
        self.second = vault.root / SECOND
        vault.init(f"disk=disk:UUID={disk.uuid}", key=key)
