# SPDX-License-Identifier: GPL-3.0-or-later
"""The recovery kit: one page to be printed, with which stock tools alone bring everything back. Values in, text or HTML out.

The master key stands in four lines of 16 hex digits, each with a check of its own, so that a typing error is found where it was made.
"""

import hashlib
import html
import re
import shlex
from dataclasses import dataclass
from typing import Final

from offsited import names
from offsited.core import ssh
from offsited.core.config import DiskTarget, SshTarget, Vault
from offsited.core.rsync import FAKE_SUPER
from offsited.errors import InvalidArgs

LINES: Final = 4
_DIGITS: Final = 16
CLEAR: Final = "/run/clear"
ENCRYPTED: Final = "/srv/encrypted"
RESTORED: Final = "/srv/restored"


@dataclass(frozen=True)
class Kit:
    """What the page is made of. `made`: date and time as people write them."""

    vault: Vault
    vault_id: str
    host: str
    made: str
    master_key: str
    """64 hex digits."""
    holding: tuple[str, ...] = ()
    """A line on each target: what it held when this was made."""


def key_lines(key: str) -> list[str]:
    """Given 64 hex digits, return the lines as they are printed and typed back: 16 digits in two groups, and a check."""
    parts = [key[start : start + _DIGITS] for start in range(0, len(key), _DIGITS)]
    return [f"{part[:8]}-{part[8:]}  {_check(number, part)}" for number, part in enumerate(parts, 1)]


def parse_line(number: int, typed: str) -> str:
    """Given what was typed for a line, in any case and grouping, return its 16 digits. Raise InvalidArgs; the message holds none of it."""
    digits = re.sub(r"[\s-]", "", typed).lower()
    if not re.fullmatch(r"[0-9a-f]{20}", digits):
        raise InvalidArgs(f"line {number} has 16 digits, 0 to 9 and a to f, and then its check of 4")
    part, check = digits[:_DIGITS], digits[_DIGITS:]
    if _check(number, part) != check:
        raise InvalidArgs(f"there is an error in line {number}: its check does not fit")
    return part


def _check(number: int, digits: str) -> str:
    """Of line and digits, so that lines that were swapped are found too."""
    return hashlib.sha256(f"{number}:{digits}".encode()).hexdigest()[:4]


@dataclass(frozen=True)
class Way:
    """How one target is restored: what is to be typed, line by line, as root. With the passphrase, and with the master key alone."""

    title: str
    fetch: tuple[str, ...]
    tree: str
    after: tuple[str, ...]

    def commands(self, *, by_key: bool) -> list[str]:
        """Without `-aessiv` gocryptfs shows nothing of it, and says nothing."""
        opening = ["gocryptfs", "-ro", *(["-aessiv", "-masterkey=stdin"] if by_key else []), self.tree, CLEAR]
        copying = f"rsync -aH --numeric-ids {CLEAR}/{names.BACKUP_DIR}/ {RESTORED}/"
        return [*self.fetch, shlex.join(opening), copying, f"umount {CLEAR}", *self.after]


def way(target: DiskTarget | SshTarget) -> Way:
    """Given a target, return how it is restored without offsited."""
    making = f"mkdir -p {CLEAR} {RESTORED}"
    if isinstance(target, DiskTarget):
        tree = f"/mnt/{target.directory}/{names.CURRENT_DIR}"
        fetch = (f"mount -o ro {shlex.quote(target.device)} /mnt", making)
        return Way(
            f"Target {target.name}, the disk with {_identity(target)}", fetch, tree, ("umount -l /mnt",)
        )  # gocryptfs may need a moment to end
    options = ["-aH", "--numeric-ids", *([FAKE_SUPER] if FAKE_SUPER in target.rsync_options else [])]
    way_there = [*(["-p", str(target.port)] if target.port != 22 else []), *(["-J", target.jump] if target.jump else [])]
    shell = ["-e", " ".join(["ssh", *way_there])] if way_there else []
    source = f"{ssh.location(target)}/{names.CURRENT_DIR}/"
    fetch = (f"mkdir -p {ENCRYPTED} {CLEAR} {RESTORED}", shlex.join(["rsync", *options, *shell, source, f"{ENCRYPTED}/"]))
    return Way(f"Target {target.name}, directory {target.directory} on {target.host}", fetch, ENCRYPTED, ())


def _identity(target: DiskTarget) -> str:
    return f"UUID {target.uuid}" if target.uuid else f"label {target.label}"


_NEEDED: Final = (
    "On any Linux machine, as root, with gocryptfs 2.0 or later, rsync and ssh (Debian: apt install gocryptfs rsync openssh-client):"
)
_ASKED: Final = "With the passphrase, which gocryptfs asks for:"
_BY_KEY: Final = (
    "With the master key alone, also where gocryptfs.conf is lost: in place of the line that begins with gocryptfs use the one below, and "
    "type the 64 digits of the key on one line, without the checks."
)
_WARNING: Final = (
    "Whoever has this page and a target has everything. Keep it where neither a target nor the server is, and show it to nobody."
)
_MORE: Final = (
    "This brings back contents, names, links, modes, owners and times. ACLs, extended attributes and holes are in the manifest beside it "
    "(offsited/manifest-*.jsonl.gz, JSON lines); offsitectl restore brings them back too."
)


def facts(kit: Kit) -> list[str]:
    """What this is about."""
    return [
        f"Vault {kit.vault.name} of {kit.host}, id {kit.vault_id}",
        f"Source {kit.vault.source.kind} {kit.vault.source.path}. Made {kit.made}.",
        *kit.holding,
    ]


def text(kit: Kit, qr: str) -> str:
    """The page as text; `qr` is the key's QR code as lines of characters."""
    lines = [f"OFFSITED RECOVERY KIT: vault {kit.vault.name}", "", *facts(kit), "", "MASTER KEY (each line with its check)", ""]
    lines += [f"  {number}  {line}" for number, line in enumerate(key_lines(kit.master_key), 1)]
    lines += ["", qr, "", _WARNING, "", _NEEDED]
    for one in map(way, kit.vault.target):
        lines += ["", one.title, _ASKED, *_indented(one.commands(by_key=False))]
    lines += ["", _BY_KEY, ""]
    lines += _indented(_key_commands(kit))
    return "\n".join([*lines, "", _MORE, ""])


def _indented(commands: list[str]) -> list[str]:
    return [f"    {command}" for command in commands]


def _key_commands(kit: Kit) -> list[str]:
    """The line of each target, once each."""
    found = [command for one in map(way, kit.vault.target) for command in one.commands(by_key=True) if command.startswith("gocryptfs ")]
    return list(dict.fromkeys(found))


_STYLE: Final = """
@page { size: A4; margin: 12mm }
body { font: 9.5pt/1.35 sans-serif; margin: 0; max-width: 186mm }
h1 { font-size: 15pt; margin: 0 0 2mm } h2 { font-size: 10pt; margin: 3mm 0 1mm } p { margin: 1mm 0 }
pre { font: 8pt/1.3 monospace; margin: 1mm 0; padding: 1.5mm; border: 0.2mm solid #888; white-space: pre-wrap }
pre span { white-space: nowrap }
.key { display: flex; gap: 8mm; align-items: center } .key pre { font-size: 13pt; border: 0 } .key svg { width: 36mm; height: 36mm }
"""


def page(kit: Kit, qr: str) -> str:
    """The page as HTML that prints on one sheet of A4; `qr` is the key's QR code as SVG."""
    key = "\n".join(f"{number}  {line}" for number, line in enumerate(key_lines(kit.master_key), 1))
    parts = [f"<h1>offsited recovery kit: vault {_escaped(kit.vault.name)}</h1>", *(_paragraph(fact) for fact in facts(kit))]
    parts += ["<h2>Master key, each line with its check</h2>", f'<div class="key"><pre>{key}</pre>{qr}</div>']
    parts += [f"<p><b>{_escaped(_WARNING)}</b></p>", "<h2>Restoring</h2>", _paragraph(_NEEDED)]
    for one in map(way, kit.vault.target):
        parts += [f"<h2>{_escaped(one.title)}</h2>", _paragraph(_ASKED), _block(one.commands(by_key=False))]
    parts += ["<h2>Without the passphrase</h2>", _paragraph(_BY_KEY), _block(_key_commands(kit)), _paragraph(_MORE)]
    title = f"Recovery kit of vault {_escaped(kit.vault.name)}"
    head = f'<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"><title>{title}</title><style>{_STYLE}</style></head>'
    return f"{head}\n<body>\n" + "\n".join(parts) + "\n</body></html>\n"


def _escaped(words: str) -> str:
    return html.escape(words)


def _paragraph(words: str) -> str:
    return f"<p>{_escaped(words)}</p>"


def _block(commands: list[str]) -> str:
    """A line too long for the sheet is broken at spaces alone: a path is not."""
    lines = [" ".join(f"<span>{_escaped(word)}</span>" for word in command.split(" ")) for command in commands]
    return "<pre>" + "\n".join(lines) + "</pre>"
