# SPDX-License-Identifier: GPL-3.0-or-later
"""A vault on a virtual machine, made as a user makes it; somebody gets its mail."""

import secrets
from typing import Any

from .guest import Guest

NAME = "home"
SYNC = f"offsited-sync@{NAME}.service"
_SNAPSHOTS = "/srv/snapshots"
_USER = "alice"


class Home:
    """The vault `home`. A new key takes seconds for each use, on purpose: this one's passphrase costs no time."""

    def __init__(self, guest: Guest, target: str) -> None:
        """`target`: as it is typed, NAME=SPEC."""
        self._guest = guest
        self.passphrase = secrets.token_hex(16)
        guest.must("useradd", "--create-home", _USER)
        guest.write("/etc/offsited/offsited.toml", f'[notify]\nmail = ["{_USER}"]\nstale_after = "5000w"\n')
        self.snapshot("2026-01-01")
        guest.must("mkdir", "/root/key")
        guest.must("gocryptfs", "-q", "-init", "-reverse", "-scryptn", "10", "-passfile", "/dev/stdin", "/root/key", stdin=self.passphrase)
        source = ("--source", f"lastdst:{_SNAPSHOTS}/lastdst")
        guest.must(
            "offsitectl",
            "init",
            NAME,
            *source,
            "--target",
            target,
            "--import",
            "/root/key",
            "--passphrase-file",
            "-",
            stdin=self.passphrase,
        )

    def snapshot(self, name: str, **files: str) -> None:
        """Make a snapshot and name it the newest: a file that is the same in each, and these."""
        for file, content in {"one": "first", **files}.items():
            self._guest.write(f"{_SNAPSHOTS}/{name}/{file}", content)
        self._guest.must("touch", "--date=2026-01-01", f"{_SNAPSHOTS}/{name}/one")
        self._guest.write(f"{_SNAPSHOTS}/lastdst", f"{_SNAPSHOTS}/{name}\n")

    def synced(self, *arguments: str) -> dict[str, Any]:
        """Sync; it has to be done. Return what it says."""
        ended = self._guest.run("offsitectl", "sync", NAME, "--json", *arguments)
        assert ended.status == 0, ended
        return ended.json

    def jobs(self) -> list[dict[str, Any]]:
        """Those on record, newest first."""
        found: list[dict[str, Any]] = self._guest.run("offsitectl", "history", NAME, "--json").json["jobs"]
        return found

    def told(self) -> list[str]:
        """The events of which mails came, once all that is due is judged, sent and delivered."""
        self._guest.must("systemctl", "start", "offsited-watch.service")
        self._guest.must("timeout", "300", "sh", "-c", "while [ $(exim4 -bpc) != 0 ]; do exim4 -qff; done")
        box = self._guest.run("grep", "^X-Offsited-Event: ", f"/var/mail/{_USER}").stdout
        return [line.split()[1] for line in box.splitlines()]
