# SPDX-License-Identifier: GPL-3.0-or-later
"""What the engine asks of the outside. `offsited.edge` has it for real."""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Protocol

from offsited.core.config import DiskTarget
from offsited.core.unit import UnitEnd, UnitSpec

if TYPE_CHECKING:
    from offsited.engine.jobs import Job
    from offsited.engine.known import KnownVault


class Unit(Protocol):
    """A transient unit that runs, or has ended and was not yet let go."""

    async def ended(self) -> UnitEnd:
        """Wait until it has ended and return how."""


class Units(Protocol):
    """systemd."""

    async def start(
        self,
        spec: UnitSpec,
        on_status: Callable[[str], None],
        stdin: int | None,
        extra: Mapping[str, int],
        stdout: int | None = None,
    ) -> Unit:
        """Start a unit; `on_status` is given each StatusText. Descriptors stay the caller's.

        Raise Busy if a unit of that name exists, Failed if systemd refuses it.
        """

    async def adopt(self, name: str, on_status: Callable[[str], None]) -> Unit | None:
        """Take up a unit that an earlier daemon started; None if it does not run any more."""

    async def identity(self, unit: str) -> tuple[str, str]:
        """Return a unit's InvocationID in hex and its description; empty if it is not loaded."""

    async def stop(self, unit: str) -> None:
        """Ask for a unit to be stopped; return at once."""

    def forget(self, unit: str) -> None:
        """The unit's end was read; one of its name may start."""


class Keys(Protocol):
    """Passphrases in systemd's keeping; never read here. Descriptors that come out are the caller's to close."""

    def check(self, descriptor: int) -> None:
        """Raise InvalidArgs unless it is a sealed memfd of a sensible size."""

    def reopen(self, descriptor: int) -> int:
        """Return the same passphrase with an offset of its own."""

    def empty(self) -> int:
        """Return a new memfd for a program to write a passphrase into."""

    def seal(self, descriptor: int) -> None:
        """Make it unchangeable."""

    def vaults(self) -> frozenset[str]:
        """Vaults that are unlocked."""

    def open(self, vault: str) -> int | None:
        """Return a vault's passphrase, or None if the vault is locked."""

    def keep(self, vault: str, descriptor: int) -> None:
        """Store a proven passphrase. The descriptor stays the caller's."""

    def drop(self, vault: str) -> None:
        """Forget a passphrase."""


class Disks(Protocol):
    """The block devices of this machine."""

    def present(self, target: DiskTarget) -> bool:
        """Whether the target's file system is on a device that is there now."""

    def cloned(self, target: DiskTarget) -> bool:
        """Whether several file systems have the target's UUID or label, so that nobody can say which one is meant."""

    def arrival(self, target: DiskTarget) -> str:
        """Return what tells one arrival of the target's file system from another, also across a restart of the daemon; "" = it is not
        there, or cloned."""

    def hollow(self, target: DiskTarget) -> str:
        """Return the kernel's name of a device that has the target's file system while all that it lies on is gone; "" = there is none."""


class Sleep(Protocol):
    """Whoever puts this machine to sleep and shuts it down."""

    async def inhibit(self, why: str) -> tuple[int, ...]:
        """Block sleep, and delay a shutdown a little, until the descriptors returned are closed. Raise Failed if nobody listens."""


class Announcer(Protocol):
    """Who is told what has changed. Called from the event loop; must not raise."""

    def vault_added(self, vault: "KnownVault") -> None:
        """A vault is configured now."""

    def vault_removed(self, vault: "KnownVault") -> None:
        """A vault is configured no longer, or otherwise than before."""

    def vault_changed(self, vault: "KnownVault", *properties: str) -> None:
        """Properties of a vault have new values; named as the bus names them."""

    def target_changed(self, vault: "KnownVault", target: str, *properties: str) -> None:
        """Properties of one of its targets have new values."""

    def invalid_changed(self) -> None:
        """There are other invalid vault files than before."""

    def job_added(self, job: "Job") -> None:
        """A job runs."""

    def job_changed(self, job: "Job") -> None:
        """It has made progress."""

    def job_removed(self, job: "Job") -> None:
        """It has ended, and its record says how."""
