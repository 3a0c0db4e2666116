# SPDX-License-Identifier: GPL-3.0-or-later
"""Proving a passphrase: does what is on standard input open the vault's key file? The exit status is the answer."""

import subprocess
import sys

from offsited.core import gocryptfs
from offsited.errors import ConfigInvalid, Exit
from offsited.store import Store


def prove(store: Store, vault: str) -> Exit:
    """Return DONE, LOCKED for a passphrase that is wrong, or CONFIG for a key file or a tool that is missing or damaged."""
    try:
        tool = store.read_settings().tools.gocryptfs_xray
    except ConfigInvalid as error:
        print(error.message, file=sys.stderr)
        return Exit.CONFIG
    files = store.vault_files(vault)
    if not files.key_file_is_right():
        # A damaged one says 'wrong passphrase' to any.
        print(f"{files.key_file} is damaged: it is not as offsitectl left it", file=sys.stderr)
        return Exit.CONFIG
    command = gocryptfs.prove_command(tool, files.key_file)
    try:
        status = subprocess.run(command, stdin=0, stdout=subprocess.DEVNULL, check=False).returncode
    except OSError as error:
        print(f"{tool}: {error.strerror}", file=sys.stderr)
        return Exit.CONFIG
    return _ANSWERS.get(status, Exit.CONFIG)


_ANSWERS = {0: Exit.DONE, gocryptfs.XRAY_WRONG_PASSPHRASE: Exit.LOCKED}
