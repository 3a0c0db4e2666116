# SPDX-License-Identifier: GPL-3.0-or-later
"""Whether a vault is locked, as systemd knows it, which holds the passphrases whatever has become of the daemon.

org.freedesktop.systemd1(5), sd_pid_notify_with_fds(3).
"""

import json
import subprocess
from typing import Final

from offsited import names

_ASK: Final = (
    "/usr/bin/busctl", "--json=short", "call", "org.freedesktop.systemd1", "/org/freedesktop/systemd1", "org.freedesktop.systemd1.Manager",
    "DumpUnitFileDescriptorStore", "s", names.SERVICE,
)  # fmt: skip
_TIMEOUT: Final = 60.0


def is_locked(vault: str) -> bool | None:
    """Return whether systemd holds no passphrase of the vault; None if it cannot be asked."""
    try:
        ended = subprocess.run(_ASK, stdin=subprocess.DEVNULL, capture_output=True, timeout=_TIMEOUT, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return f"{names.KEY_FD_PREFIX}{vault}" not in stored(ended.stdout) if ended.returncode == 0 else None


def stored(answer: bytes) -> set[str]:
    """Given what busctl prints, return the names of the descriptors."""
    return {entry[0] for entry in json.loads(answer)["data"][0]}
