# SPDX-License-Identifier: GPL-3.0-or-later
"""Passphrases as sealed memfds in systemd's descriptor store. Nothing here ever reads one.

sd_notify(3) FDSTORE, FDSTOREREMOVE, FDNAME; memfd_create(2), fcntl(2) F_GET_SEALS.
"""

import ctypes
import fcntl
import logging
import mmap
import os
import stat
from typing import Final

from systemd import daemon as sd

from offsited import names
from offsited.errors import InvalidArgs

_log = logging.getLogger(__name__)

MAX_BYTES: Final = 4096
_SEALS: Final = fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE


def check(descriptor: int) -> None:
    """Given a descriptor from a caller, raise InvalidArgs unless it is a fully sealed memfd of 1 to MAX_BYTES bytes."""
    try:
        seals = fcntl.fcntl(descriptor, fcntl.F_GET_SEALS)
    except OSError:
        raise InvalidArgs("the passphrase must come in a memfd") from None
    if seals & _SEALS != _SEALS:
        raise InvalidArgs("the memfd of the passphrase must be sealed: seal, shrink, grow, write")
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode) or not 1 <= status.st_size <= MAX_BYTES:
        raise InvalidArgs(f"a passphrase has 1 to {MAX_BYTES} bytes")


def empty() -> int:
    """Return a new memfd for a passphrase that a program is about to write; `seal` it afterwards."""
    return os.memfd_create("offsited-passphrase", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)


def seal(descriptor: int) -> None:
    """Make a memfd unchangeable for good."""
    fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, _SEALS)


def reopen(descriptor: int) -> int:
    """Return a new read-only descriptor of the same memfd, with an offset of its own."""
    return os.open(f"/proc/self/fd/{descriptor}", os.O_RDONLY | os.O_CLOEXEC)


class KeyStore:
    """One passphrase per vault, kept by systemd across crash, restart and upgrade of the daemon."""

    def __init__(self, stored: dict[str, int]) -> None:
        self._descriptors: dict[str, int] = {}
        self._pages: dict[str, _LockedPages] = {}
        for vault, descriptor in stored.items():
            self._remember(vault, descriptor)

    @classmethod
    def from_systemd(cls) -> "KeyStore":
        """Take over what systemd kept for us. A descriptor that is not what we stored is closed and dropped."""
        stored: dict[str, int] = {}
        for descriptor, name in sd.listen_fds_with_names().items():
            vault = name.removeprefix(names.KEY_FD_PREFIX)
            try:
                check(descriptor)
            except InvalidArgs:
                os.close(descriptor)
                sd.notify(f"FDSTOREREMOVE=1\nFDNAME={name}")
            else:
                stored[vault] = descriptor
        return cls(stored)

    check = staticmethod(check)
    empty = staticmethod(empty)
    seal = staticmethod(seal)
    reopen = staticmethod(reopen)

    def vaults(self) -> frozenset[str]:
        """Vaults whose passphrase is known."""
        return frozenset(self._descriptors)

    def open(self, vault: str) -> int | None:
        """Return a fresh descriptor of a vault's passphrase, which the caller closes, or None if the vault is locked."""
        descriptor = self._descriptors.get(vault)
        return None if descriptor is None else reopen(descriptor)

    def keep(self, vault: str, descriptor: int) -> None:
        """Store a proven passphrase in place of any other; the caller's descriptor stays the caller's."""
        self.drop(vault)
        own = reopen(descriptor)
        self._remember(vault, own)
        sd.notify(f"FDSTORE=1\nFDNAME={names.KEY_FD_PREFIX}{vault}", unset_environment=False, pid=0, fds=[own])

    def drop(self, vault: str) -> None:
        """Forget a vault's passphrase, here and at systemd."""
        sd.notify(f"FDSTOREREMOVE=1\nFDNAME={names.KEY_FD_PREFIX}{vault}")
        pages = self._pages.pop(vault, None)
        if pages is not None:
            pages.close()
        descriptor = self._descriptors.pop(vault, None)
        if descriptor is not None:
            os.close(descriptor)

    def _remember(self, vault: str, descriptor: int) -> None:
        self._descriptors[vault] = descriptor
        try:
            self._pages[vault] = _LockedPages(descriptor)
        except OSError as error:
            _log.warning("the passphrase of vault %s may be swapped out: %s", vault, error)


class _LockedPages:
    """A mapping that keeps a memfd's pages out of swap, mlock(2), until it is closed. The pages are mapped, never read."""

    def __init__(self, descriptor: int) -> None:
        self._length = os.fstat(descriptor).st_size
        address = _libc.mmap(None, self._length, mmap.PROT_READ, mmap.MAP_SHARED, descriptor, 0)
        if address == _MAP_FAILED:
            raise OSError(ctypes.get_errno(), "mmap")
        self._address = ctypes.c_void_p(address)
        if _libc.mlock(self._address, ctypes.c_size_t(self._length)) != 0:
            number = ctypes.get_errno()
            self.close()
            raise OSError(number, "mlock")

    def close(self) -> None:
        """Give the mapping back; the lock ends with it."""
        _libc.munmap(self._address, ctypes.c_size_t(self._length))


_MAP_FAILED: Final = ctypes.c_void_p(-1).value
_libc: Final = ctypes.CDLL(None, use_errno=True)
_libc.mmap.restype = ctypes.c_void_p
_libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long]
