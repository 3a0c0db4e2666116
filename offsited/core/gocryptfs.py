# SPDX-License-Identifier: GPL-3.0-or-later
"""gocryptfs as values: command lines, exit statuses, and the shape of what it makes (file sizes, companions of names).

Sources: gocryptfs(1); upstream's exitcodes.go and doc/file-format.md; measured with 2.5.1.
"""

import base64
import hashlib
import re
from pathlib import Path
from typing import Final

from offsited import names
from offsited.core.outcome import Reason

MINIMUM: Final = (2, 5, 1)
"""Older ones lose or corrupt files in reverse mode without an error (upstream #802, and hard links with long names)."""

LONG_NAME: Final = 176
"""Bytes from which on a plain name is stored as a hash, with its real name in a companion file."""
_SHARE, _LEAST = 8, 256 << 20
"""Of the machine's memory, and bytes: what a mount may take before it collects more often."""
REVERSE_FILE_SYSTEM: Final = "fuse.gocryptfs-reverse"
FORWARD_FILE_SYSTEM: Final = "fuse.gocryptfs"
INODE_BITS: Final = (1 << 48) - 1
"""A view's inode number is the plain one in these bits, with the file system's index above them."""

HEADER, BLOCK, OVERHEAD = 18, 4096, 32
"""Bytes: at the head of an encrypted file; of content in a block; what a block has more when it is encrypted (doc/file-format.md)."""
_LONG_PREFIX: Final = "gocryptfs.longname."
_SHOWN: Final = re.compile(r"[A-Za-z0-9_-]+|gocryptfs\.(?:conf|diriv|longname\.[A-Za-z0-9_-]+(?:\.name)?)")

EXITS: Final[dict[int, Reason]] = {
    6: Reason.GOCRYPTFS_FAILED,  # CIPHERDIR missing
    8: Reason.KEY_FILE_DAMAGED,
    9: Reason.LOCKED,  # no passphrase came
    10: Reason.GOCRYPTFS_FAILED,  # mount point
    11: Reason.KEY_FILE_DAMAGED,
    12: Reason.WRONG_PASSPHRASE,
    13: Reason.KEY_FILE_DAMAGED,  # scrypt parameters
    14: Reason.KEY_FILE_DAMAGED,
    15: Reason.GOCRYPTFS_FAILED,  # SIGTERM
    19: Reason.GOCRYPTFS_FAILED,  # FUSE
    20: Reason.GOCRYPTFS_FAILED,  # control socket
    22: Reason.LOCKED,  # empty passphrase
    23: Reason.KEY_FILE_DAMAGED,
    27: Reason.KEY_FILE_DAMAGED,  # a format or flag that this version does not know
}
XRAY_WRONG_PASSPHRASE: Final = 8
"""gocryptfs-xray's exit status for a passphrase that does not open the key file."""


def environment(memory: int) -> dict[str, str]:
    """Given the machine's memory in bytes, return what a mount runs with.

    Fewer rounds of Go's garbage collector, which takes a third of its processor time (measured with 2.5.1), but no more memory than an
    eighth of the machine's where it can: it takes five times what is in use.
    """
    return {"GOGC": "400", "GOMEMLIMIT": str(max(memory // _SHARE, _LEAST))}


def exit_reason(status: int) -> Reason:
    """Given how gocryptfs ended before its mount was ready (negative = signal), return why."""
    return EXITS.get(status, Reason.GOCRYPTFS_FAILED)


def version_command(tool: str) -> list[str]:
    return [tool, "-version"]


def parse_version(text: str) -> tuple[int, ...] | None:
    """Given what `gocryptfs -version` prints, return the numbers of the version, or None."""
    match = re.match(r"gocryptfs v?(\d+(?:\.\d+)*)", text)
    return tuple(int(number) for number in match[1].split(".")) if match else None


def reverse_mount(tool: str, plain: Path, view: Path, *, control: Path, notify: int) -> list[str]:
    """The command that shows `plain`, with the key file in it, encrypted at `view`, in the foreground.

    SIGUSR1 to process `notify` says that it is ready. With `-config` the view would lack gocryptfs.conf.
    """
    return [*_mount(tool, notify), "-reverse", f"-ctlsock={control}", "--", str(plain), str(view)]


def names_mount(tool: str, skeleton: Path, view: Path, *, key_file: Path, notify: int, control: Path | None = None) -> list[str]:
    """As `reverse_mount` for a tree without a key file, of which only the encrypted names matter."""
    asking = [f"-ctlsock={control}"] if control else []
    return [*_mount(tool, notify), f"-config={key_file}", "-reverse", *asking, "--", str(skeleton), str(view)]


def key_mount(tool: str, plain: Path, view: Path, *, notify: int) -> list[str]:
    """The command that shows `plain` encrypted by a master key alone, which is a line on standard input."""
    return [tool, "-fg", "-q", "-nosyslog", "-masterkey=stdin", f"-notifypid={notify}", "-reverse", "-aessiv", "--", str(plain), str(view)]


def forward_mount(tool: str, sealed: str, view: Path, *, key_file: Path, notify: int, others: bool = False) -> list[str]:
    """The command that shows the encrypted tree `sealed` in clear at `view`, read-only, in the foreground.

    `others`: not to root alone, but to everybody as owners and modes in it say.
    """
    allowing = ["-allow_other"] if others else []
    return [*_mount(tool, notify), f"-config={key_file}", "-ro", *allowing, "--", sealed, str(view)]


def _mount(tool: str, notify: int) -> list[str]:
    return [tool, "-fg", "-q", "-nosyslog", "-passfile=/dev/stdin", f"-notifypid={notify}"]


def prove_command(tool: str, key_file: Path) -> list[str]:
    """The command that opens a key file with the passphrase on standard input. It prints the master key: discard its output."""
    return [tool, "-dumpmasterkey", str(key_file)]


def init_command(tool: str, plain: Path, *, weak: bool = False) -> list[str]:
    """The command that makes a key file in `plain` for reverse mode, with the passphrase on standard input.

    `weak`: one that takes no time to open, for a passphrase that cannot be guessed anyhow.
    """
    cost = ["-scryptn=10"] if weak else []
    return [tool, "-init", "-reverse", "-q", *cost, "-passfile=/dev/stdin", "--", str(plain)]


def rekey_command(tool: str, plain: Path) -> list[str]:
    """The command that puts a master key into the key file in `plain`; it and the passphrase to be are lines on standard input."""
    return [tool, "-passwd", "-reverse", "-q", "-scryptn=10", "-masterkey=stdin", "--", str(plain)]


def change_command(tool: str, key_file: Path, plain: Path) -> list[str]:
    """The command that gives a key file another passphrase, in place. On standard input the old one and the new one, a line each."""
    return [tool, "-passwd", "-q", "-reverse", f"-config={key_file}", "--", str(plain)]


def plain_size(sealed: int) -> int:
    """Given the size of an encrypted file, return that of its content: 18 bytes of header, then 32 bytes more per block of 4 KiB."""
    if sealed <= HEADER:
        return 0
    blocks = -(-(sealed - HEADER) // (BLOCK + OVERHEAD))
    return sealed - HEADER - blocks * OVERHEAD


def sealed_size(plain: int) -> int:
    """Given the size of a file, return that of its encrypted form."""
    return plain and plain + HEADER + -(-plain // BLOCK) * OVERHEAD


def is_companion(path: bytes) -> bool:
    """Whether an encrypted path is gocryptfs's own (key file, directory IV, long name) and stands for no entry of the tree."""
    name = path.rpartition(b"/")[2]
    return name in _OWN_FILES or (name.startswith(_LONG_PREFIX.encode()) and name.endswith(b".name"))


def may_be_shown(path: str) -> bool:
    """Whether a view could have an entry of this last name; about another one it cannot even be asked (2.5.1: ENOSYS)."""
    return _SHOWN.fullmatch(path.rpartition("/")[2]) is not None


def own_companions(path: str, *, directory: bool = False) -> tuple[str, ...]:
    """Given an encrypted path, return those of the files that gocryptfs keeps for it alone: its long name, a directory's IV."""
    return (*((f"{path}.name",) if has_long_name(path) else ()), *((f"{path}/{names.DIRIV_FILE}",) if directory else ()))


def has_long_name(path: str) -> bool:
    """Whether the last name of an encrypted path is a hash, which has its real name in a companion file beside it."""
    return path.rpartition("/")[2].startswith(_LONG_PREFIX)


def companions(path: str) -> list[str]:
    """Given an encrypted path, return the files that its name needs: the IV of each directory above it, and its long names."""
    parts = path.split("/")
    parents = ["/".join(parts[:depth]) for depth in range(len(parts))]
    ivs = [f"{parent}/{names.DIRIV_FILE}" if parent else names.DIRIV_FILE for parent in parents]
    long_names = ["/".join(parts[: depth + 1]) + ".name" for depth, part in enumerate(parts) if part.startswith(_LONG_PREFIX)]
    return ivs + long_names


_OWN_FILES: Final = (names.DIRIV_FILE.encode(), names.TARGET_KEY_FILE.encode())


IV_BYTES: Final = 16
IV_MODE: Final = 0o444
IV_LATER: Final = 10_000_000_000
"""Nanoseconds by which a view's IV is younger than its directory, whose owner it has (measured with 2.5.1)."""


def expected_iv(path: str) -> bytes:
    """Given the encrypted path of a directory ("" = the top), return its IV as reverse mode makes it (upstream's internal/pathiv)."""
    return hashlib.sha256(path.encode("utf-8", "surrogateescape") + b"\0DIRIV").digest()[:IV_BYTES]


def is_companion_right(path: str, content: bytes) -> bool:
    """Whether a companion (a directory's IV, the real name of a long one) has the content that its encrypted path asks for."""
    directory, _, name = path.rpartition("/")
    if name == names.DIRIV_FILE:
        return content == expected_iv(directory)
    digest = base64.urlsafe_b64encode(hashlib.sha256(content).digest()).decode().rstrip("=")
    return name == f"{_LONG_PREFIX}{digest}.name"
