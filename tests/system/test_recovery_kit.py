# SPDX-License-Identifier: GPL-3.0-or-later
"""The recovery kit, used as on the day when nothing is left but a target: its own lines, on a machine that has no offsited."""

import html
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest

from .asking import Terminal
from .conftest import fresh_disk, fresh_remote, fresh_vault
from .disks import Disk
from .machine import journal, must, offsitectl, run
from .remote import HOST, Remote, at_remote
from .vaults import Vault

RESTORED = "/srv/restored"
LIST = "cd {} && find . -printf '%P|%y|%m|%U|%G|%n|%l\\n' | LC_ALL=C sort && find . -type f -print0 | sort -z | xargs -r0 sha256sum"


class Lost:
    """A vault with a disk and a host that hold it; its first snapshot."""

    def __init__(self, vault: Vault, disk: Disk, remote: Remote, key: Path) -> None:
        self.vault = vault
        self.disk = disk
        self.first = vault.snapshot(**{"one": "first", "name with space": "second", "x" * 200: "long"})
        (self.first / "deep").mkdir()
        (self.first / "deep" / "linked").hardlink_to(self.first / "one")
        (self.first / "deep" / "link").symlink_to("../one")
        (self.first / "one").chmod(0o640)
        told = vault.init(f"seed=disk:UUID={disk.uuid}", f"vps={remote.spec}", key=key)
        remote.let_in(told.json["authorized_keys"])
        vault.synced("--all")

    def kit(self, path: Path) -> str:
        """Make it, as a file of this name."""
        made = offsitectl("recovery-kit", self.vault.name, "--output", path, "--passphrase-file", "-", stdin=self.vault.passphrase)
        assert made.status == 0, made.told
        assert path.stat().st_mode & 0o777 == 0o600
        return path.read_text()


@pytest.fixture(scope="module")
def lost(canary: str, key: Path) -> Iterator[Lost]:
    with fresh_disk() as disk, fresh_remote() as remote, fresh_vault(canary) as vault:
        yield Lost(vault, disk, remote, key)


@pytest.fixture
def elsewhere() -> Iterator[None]:
    """The second machine, with a login of its own to where the target is, and nothing restored yet."""
    at_remote("""
        ! command -v offsitectl && ! python3 -c 'import offsited' 2>/dev/null
        mkdir -p -m 700 /root/.ssh && rm -f /root/.ssh/id_ed25519* && ssh-keygen -q -t ed25519 -N '' -f /root/.ssh/id_ed25519
        cat /root/.ssh/id_ed25519.pub >> /root/.ssh/authorized_keys
        echo "remote $(cut -d ' ' -f 1-2 /etc/ssh/ssh_host_ed25519_key.pub)" > /root/.ssh/known_hosts
    """)
    yield
    at_remote(f"rm -rf {RESTORED} /srv/encrypted /root/.ssh/id_ed25519* /root/.ssh/known_hosts; umount -q /run/clear /mnt; true")


def _commands(text: str, heading: str) -> list[str]:
    """The lines to be typed below a heading: those that are indented."""
    below = text[text.index(heading) :].split("\n\n", maxsplit=1)[0]
    return [line.strip() for line in below.splitlines() if line.startswith("    ")]


def _key(text: str) -> str:
    """The key on one line, without the checks, as a person reads it off."""
    lines = re.findall(r"^  [1-4]  ([0-9a-f]{8}-[0-9a-f]{8})  [0-9a-f]{4}$", text, flags=re.MULTILINE)
    assert len(lines) == 4
    return "".join(lines)


def _by_key(text: str, commands: list[str], tree: str) -> list[str]:
    """As the page says: one line in place of another."""
    (instead,) = [line.strip() for line in text.splitlines() if "-masterkey=stdin" in line and tree in line]
    return [instead if command.startswith("gocryptfs ") else command for command in commands]


@pytest.mark.parametrize("by", ["passphrase", "master key"])
@pytest.mark.usefixtures("elsewhere")
def test_its_lines_restore_from_a_host(lost: Lost, by: str, tmp_path: Path) -> None:
    text = lost.kit(tmp_path / "kit.txt")
    commands, typed = _commands(text, "Target vps, directory"), lost.vault.passphrase
    if by == "master key":
        commands, typed = _by_key(text, commands, "/srv/encrypted"), _key(text)
        commands.insert(-3, "rm /srv/encrypted/gocryptfs.conf")  # it is lost
    at_remote("set -e\n" + "\n".join(commands), stdin=f"{typed}\n")
    assert at_remote(LIST.format(RESTORED)) == must("sh", "-c", LIST.format(lost.first))


@pytest.mark.usefixtures("elsewhere")
def test_its_lines_restore_from_a_disk(lost: Lost, tmp_path: Path) -> None:
    """The disk is carried to the other machine: its image, and a node of its name. What differs from a host is the way there."""
    text = lost.kit(tmp_path / "kit.txt")
    commands = _by_key(text, _commands(text, "Target seed, the disk"), "/mnt/")
    lost.disk.detach()
    must("sh", "-c", f"tar -C {lost.disk.image.parent} --sparse -cf - {lost.disk.image.name} | ssh admin tar -C /srv -xf -")
    image = f"/srv/{lost.disk.image.name}"
    device = at_remote(f"losetup --find --show {image}").strip()
    try:
        at_remote(f"mkdir -p /dev/disk/by-uuid && ln -sf {device} /dev/disk/by-uuid/{lost.disk.uuid}")
        at_remote("set -e\n" + "\n".join(commands), stdin=f"{_key(text)}\n")
        assert at_remote(LIST.format(RESTORED)) == must("sh", "-c", LIST.format(lost.first))
    finally:
        at_remote(f"umount -q /run/clear /mnt; rm -f /dev/disk/by-uuid/{lost.disk.uuid} {image}")
        must("losetup", "--detach", device)
        lost.disk.attach()


def test_the_page_has_the_same_lines_and_the_code(lost: Lost, tmp_path: Path) -> None:
    text, page = lost.kit(tmp_path / "kit.txt"), lost.kit(tmp_path / "kit.html")
    shown = html.unescape(re.sub("<[^>]+>", "", page))
    for command in [*_commands(text, "Target vps, directory"), *_commands(text, "Target seed, the disk")]:
        assert command in shown
    assert "<svg" in page
    assert HOST in shown
    assert lost.vault.passphrase not in text + page
    assert _key(text).replace("-", "") not in journal()


def test_confirming_proves_the_key_on_what_a_target_holds(lost: Lost, tmp_path: Path) -> None:
    text = lost.kit(tmp_path / "kit.txt")
    lines = re.findall(r"^  [1-4]  (.+)$", text, flags=re.MULTILINE)
    assert "type its key back" in offsitectl("status", lost.vault.name).stdout
    refused = offsitectl("recovery-kit", lost.vault.name, "--confirm", stdin="\n".join([lines[1], *lines[1:]]))
    assert (refused.status, "line 1" in refused.stderr) == (2, True)

    terminal = Terminal("offsitectl", "recovery-kit", lost.vault.name, "--confirm")
    for number, line in enumerate(lines, 1):
        terminal.until(f"Line {number}: ")
        if number == 2:
            terminal.type(line[:-1] + "x")
            terminal.until("try again")
            terminal.until("Line 2: ")
        terminal.type(line.upper())
    terminal.until("is confirmed")
    assert terminal.status() == 0
    terminal.leave()
    assert "type its key back" not in offsitectl("status", lost.vault.name).stdout
    must("systemctl", "restart", "offsited.service")
    assert "type its key back" not in offsitectl("status", lost.vault.name).stdout


def test_another_vaults_key_is_not_confirmed(lost: Lost, key: Path, tmp_path: Path) -> None:
    """Of another key file, whose kit was made with the right checks."""
    other = tmp_path / "other"
    other.mkdir()
    must("gocryptfs", "-q", "-init", "-reverse", "-scryptn", "10", "-passfile", "/dev/stdin", "--", other, stdin="x")
    text = lost.kit(tmp_path / "kit.txt")
    own = _key(text).replace("-", "")
    digits = must("gocryptfs-xray", "-dumpmasterkey", other / ".gocryptfs.reverse.conf", stdin="x").strip()
    assert digits != own
    program = "import sys; from offsited.core.kit import key_lines; print('\\n'.join(key_lines(sys.argv[1])))"
    lines = must("python3", "-c", program, digits)
    refused = offsitectl("recovery-kit", lost.vault.name, "--confirm", stdin=lines)
    assert refused.status == 3, refused.told


def test_nothing_to_try_the_key_on_yet(key: Path, canary: str, tmp_path: Path) -> None:
    with fresh_disk() as disk, fresh_vault(canary) as vault:
        vault.snapshot()
        vault.init(f"disk=disk:UUID={disk.uuid}", key=key)
        made = offsitectl("recovery-kit", vault.name, "--passphrase-file", "-", stdin=canary)
        assert made.status == 0, made.told
        lines = re.findall(r"^  [1-4]  (.+)$", made.stdout, flags=re.MULTILINE)
        assert offsitectl("recovery-kit", vault.name, "--confirm", stdin="\n".join(lines)).status == 5
    assert shlex.split(made.stderr.splitlines()[-1])[-1] == "--confirm"
    assert run("findmnt", "--types", "fuse.gocryptfs-reverse").stdout == ""
