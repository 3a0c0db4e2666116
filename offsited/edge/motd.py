# SPDX-License-Identifier: GPL-3.0-or-later
"""What a login is told while a vault is locked: a file below /run/motd.d, pam_motd(8). It is there no longer than that is so."""

import logging
from collections.abc import Sequence
from pathlib import Path

from offsited import names
from offsited.store import write_whole

_log = logging.getLogger(__name__)


def show(locked: Sequence[str], file: Path = names.MOTD) -> None:
    """Given the vaults that are locked, tell logins of them. That it cannot be told is no reason to stop."""
    try:
        if locked:
            write_whole(file, text(locked).encode(), 0o644)
        else:
            file.unlink(missing_ok=True)
    except OSError as error:
        _log.warning("logins cannot be told which vaults are locked: %s", error)


def text(locked: Sequence[str]) -> str:
    """What is shown, with the one command to type. packaging/offsited-boot-hint says the same, before the daemon has started."""
    return f"offsited: locked until the passphrase is entered: {', '.join(locked)}. Type: sudo offsitectl unlock\n"
