# SPDX-License-Identifier: GPL-3.0-or-later
"""Proving a master key, from a recovery kit: does it make of our last commit the very file that a target was found to hold?

What gocryptfs makes in reverse mode depends on path, content and key alone. So neither the passphrase nor the target is needed.
"""

import asyncio
import os
import sys
import tempfile
from pathlib import Path

from offsited import names
from offsited.core import gocryptfs
from offsited.errors import ConfigInvalid, Exit, JobFailed, NoSuchVault
from offsited.store import Store
from offsited.worker import mounts
from offsited.worker.confirmed import COMMIT_FILE, Confirmed, Standing
from offsited.worker.view import mounted


def prove_key(store: Store, vault: str) -> Exit:
    """Given the key as a line on standard input, print the name of a target that it opens and return DONE.

    Return LOCKED if it opens none, ABSENT if of none it is known what it holds, CONFIG if the vault or gocryptfs cannot be used.
    Mounts at a place of its own below /run: to be run in a mount namespace of its own.
    """
    try:
        targets = [target.name for target in store.read_vault(vault).target]
        tool = store.read_settings().tools.gocryptfs
    except (ConfigInvalid, NoSuchVault) as error:
        print(error.message, file=sys.stderr)
        return Exit.CONFIG
    found = {target: Confirmed.read(store.vault_files(vault).target(target)) for target in targets}
    known = {target: confirmed for target, confirmed in found.items() if confirmed.commit and confirmed.sealed.history}
    if not known:
        return Exit.ABSENT
    try:
        return asyncio.run(_any(tool, known))
    except JobFailed as error:
        print(error.detail, file=sys.stderr)
        return Exit.CONFIG


async def _any(tool: str, known: dict[str, Confirmed]) -> Exit:
    with os.fdopen(os.memfd_create("offsited-master-key", os.MFD_CLOEXEC), "w+b") as key:
        key.write(sys.stdin.buffer.readline())
        key.flush()
        for target, confirmed in known.items():
            if await _makes(tool, confirmed, key.fileno()):
                print(target)
                return Exit.DONE
    return Exit.LOCKED


async def _makes(tool: str, confirmed: Confirmed, key: int) -> bool:
    """Whether the key makes what lies at the target as its commit file, at its very path."""
    with tempfile.TemporaryDirectory(prefix="offsited-prove-", dir="/run") as work:
        plain, point = Path(work) / "plain", Path(work) / "view"
        (plain / names.OFFSITED_DIR).mkdir(parents=True)
        (plain / names.OFFSITED_DIR / COMMIT_FILE).write_bytes(confirmed.content or b"")
        typed = os.open(f"/proc/self/fd/{key}", os.O_RDONLY | os.O_CLOEXEC)
        try:
            command = gocryptfs.key_mount(tool, plain, point, notify=os.getpid())
            async with mounted(command, point, gocryptfs.REVERSE_FILE_SYSTEM, key=typed) as view:
                found = await view.guard(view.look(lambda: _read(point / confirmed.sealed.commit_path)))
        finally:
            os.close(typed)
            mounts.detach(point)  # gocryptfs that is ended as soon as it is ready may leave its mount
    return confirmed.standing(found) is Standing.CONFIRMED


def _read(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except OSError:
        return None
