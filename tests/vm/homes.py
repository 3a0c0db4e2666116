# SPDX-License-Identifier: GPL-3.0-or-later
"""A vault on a virtual machine, made as a user makes it; somebody gets its mail."""

import re
import secrets
from typing import Any

from .guest import Guest

NAME = "home"
SYNC = f"offsited-sync@{NAME}.service"
JOB = f"offsited-job-{NAME}.service"
SNAPSHOTS = "/srv/snapshots"
_USER = "alice"


class Home:
    """The vault `home`. A new key takes seconds for each use, on purpose: this one's passphrase costs no time."""

    def __init__(self, guest: Guest, *targets: str) -> None:
        """`targets`: as they are typed, NAME=SPEC."""
        self._guest = guest
        self.passphrase = secrets.token_hex(16)
        guest.must("useradd", "--create-home", _USER)
        guest.write("/etc/offsited/offsited.toml", f'[notify]\nmail = ["{_USER}"]\nstale_after = "5000w"\n')
        self.snapshot("2026-01-01")
        guest.must("mkdir", "/root/key")
        guest.must("gocryptfs", "-q", "-init", "-reverse", "-scryptn", "10", "-passfile", "/dev/stdin", "/root/key", stdin=self.passphrase)
        chosen = [word for target in targets for word in ("--target", target)]
        source = ["--source", f"lastdst:{SNAPSHOTS}/lastdst", "--import", "/root/key", "--passphrase-file", "-"]
        made = guest.run("offsitectl", "init", NAME, *source, *chosen, "--json", stdin=self.passphrase)
        assert made.status == 0, made
        self.authorized_keys = str(made.json["authorized_keys"])
        """The line that lets its key in where a target is ssh."""

    def edit(self, pattern: str, replacement: str) -> None:
        """Change the vault file as with an editor, and have it read again."""
        file = f"/etc/offsited/vaults.d/{NAME}.toml"
        text, count = re.subn(pattern, replacement, self._guest.must("cat", file), flags=re.MULTILINE)
        assert count, f"{pattern} is not in\n{text}"
        self._guest.must("tee", file, stdin=text)
        self._guest.must("systemctl", "reload", "offsited.service")

    def snapshot(self, name: str, **files: str) -> None:
        """Make a snapshot and name it the newest: a file that is the same in each, and these."""
        for file, content in {"one": "first", **files}.items():
            self._guest.write(f"{SNAPSHOTS}/{name}/{file}", content)
        self._guest.must("touch", "--date=2026-01-01", f"{SNAPSHOTS}/{name}/one")
        self._guest.write(f"{SNAPSHOTS}/lastdst", f"{SNAPSHOTS}/{name}\n")

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
