# SPDX-License-Identifier: GPL-3.0-or-later
"""restore: paths of a vault, out of a target, into a directory that the caller opens."""

import contextlib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from offsited import names
from offsited.ctl import agent, bare, objects
from offsited.ctl.bare import BareWish
from offsited.ctl.client import Client, Request, option
from offsited.ctl.jobs import see_through, vault_path
from offsited.ctl.output import Output
from offsited.errors import Failed, InvalidArgs


def restore(out: Output, client: Client, vault: str, paths: Sequence[str], *, to: str, target: str, without_manifest: bool = False) -> int:
    """Restore `paths` (none = everything) into the directory `to`; return the exit status."""
    wanted = path_list(paths)
    options = {"without_manifest": option("b", value=True)} if without_manifest else {}
    client.subscribe()
    path = vault_path(client, vault)
    with _directory(Path(to)) as destination, _memfd(wanted) as listed, agent.on_terminal():
        request = Request(path, names.VAULT, "Restore", "shha{sv}", (target, 0, 1, options), fds=(destination, listed), acts=True)
        reply = client.call(request)
    return see_through(out, client, vault, int(objects.leaf(reply.body[0])), quiet=False)


def restore_from(out: Output, wish: BareWish, paths: Sequence[str], *, to: str, without_manifest: bool) -> int:
    """The same on a machine that knows nothing, out of what lies at a target."""
    wanted = path_list(paths)
    with _directory(Path(to)) as destination:
        return bare.restore_from(out, wish, wanted, destination, without_manifest=without_manifest)


def path_list(paths: Sequence[str]) -> bytes:
    """Given paths as typed, return them relative to the top of the snapshot, separated by NUL; b"" = everything. Raise InvalidArgs."""
    relative = [_relative(path) for path in paths]
    return b"" if b"" in relative else b"\0".join(relative)


def _relative(path: str) -> bytes:
    """'/etc/fstab', './etc/fstab' and 'etc/fstab' are the same entry; the top itself is b""."""
    parts = [part for part in os.fsencode(path).split(b"/") if part not in {b"", b"."}]
    if not path or b".." in parts:
        raise InvalidArgs("a path to restore is empty or contains '..'", hint="Paths are those of the snapshot, relative to its top")
    return b"/".join(parts)


@contextlib.contextmanager
def _directory(path: Path) -> Iterator[int]:
    """Open the destination, made if only its last part is missing. Raise Failed."""
    try:
        with contextlib.suppress(FileExistsError):
            path.mkdir(mode=0o700)
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise Failed(
            f"the destination {path} cannot be used: {error.strerror}",
            hint="Give --to DIR: a directory, or a name for a new one in an existing directory",
        ) from None
    try:
        yield descriptor
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def _memfd(content: bytes) -> Iterator[int]:
    descriptor = os.memfd_create("offsited-paths", os.MFD_CLOEXEC)
    try:
        with open(descriptor, "wb", closefd=False) as file:
            file.write(content)
        os.lseek(descriptor, 0, os.SEEK_SET)
        yield descriptor
    finally:
        os.close(descriptor)
