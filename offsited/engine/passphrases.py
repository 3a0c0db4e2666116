# SPDX-License-Identifier: GPL-3.0-or-later
"""The passphrases of vaults: proving one, coming by one without a person, keeping and forgetting it. Nobody here reads any."""

import asyncio
import os
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from offsited import names
from offsited.core import unit
from offsited.core.unit import UnitEnd
from offsited.engine.known import KnownVault
from offsited.engine.outside import Keys, Units
from offsited.errors import ConfigInvalid, Exit, Failed, InvalidArgs, Locked, WrongPassphrase

_Descriptor = TypeVar("_Descriptor", int, int | None)


class Passphrases:
    """Those of all vaults."""

    def __init__(self, keys: Keys, units: Units, unlocked: Callable[[str], None]) -> None:
        """`unlocked` is told of each vault whose passphrase was proven and is kept from now on."""
        self._keys = keys
        self._units = units
        self._unlocked = unlocked
        self._fetching: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)

    def vaults(self) -> frozenset[str]:
        """Vaults of which one is kept."""
        return self._keys.vaults()

    def drop(self, vault: str) -> None:
        """Forget a vault's."""
        self._keys.drop(vault)

    async def enter(self, vault: str, descriptor: int) -> None:
        """Prove a vault's and keep it. Raise InvalidArgs, WrongPassphrase, ConfigInvalid, Busy or Failed."""
        self._keys.check(descriptor)
        await self._prove(vault, descriptor)
        self._keys.keep(vault, descriptor)
        self._unlocked(vault)

    async def fetch(self, vault: KnownVault) -> None:
        """Come by a vault's as its file says, and keep it. Raise Locked if that does not help, or if it says no way."""
        async with self._fetching[vault.name]:
            await self._fetch(vault)

    async def of(self, vault: KnownVault) -> int:
        """Return a descriptor of a vault's, if need be from its credential or command. Raise Locked."""
        key = self._keys.open(vault.name)
        if key is None and vault.config.entered_by != "person":
            key = await self._fetched(vault)
        if key is None:
            raise Locked(f"vault {vault.name} is locked", hint=f"Enter its passphrase once: offsitectl unlock {vault.name}")
        return key

    async def _fetched(self, vault: KnownVault) -> int | None:
        """As `of`. Of several that need it at once the first fetches it."""
        async with self._fetching[vault.name]:
            key = self._keys.open(vault.name)
            if key is None:
                await self._fetch(vault)
                key = self._keys.open(vault.name)
            return key

    async def _fetch(self, vault: KnownVault) -> None:
        source = vault.config.entered_by
        if source == "person":
            raise Locked(f"vault {vault.name} has neither a credential nor a passphrase command")
        with closing(self._keys.empty()) as memfd:
            end = await self._run(unit.ask_unit(vault.config), stdout=memfd)
            if not end.exited or end.exit_status != 0:
                raise Locked(f"the passphrase {source} of vault {vault.name} failed", hint=_by_hand(vault.name))
            self._keys.seal(memfd)
            try:
                await self.enter(vault.name, memfd)
            except (InvalidArgs, WrongPassphrase) as error:
                message = f"the passphrase {source} of vault {vault.name} gave none: {error.message}"
                raise Locked(message, hint=_by_hand(vault.name)) from None

    async def _prove(self, vault: str, descriptor: int) -> None:
        with closing(self._keys.reopen(descriptor)) as key:
            end = await self._run(unit.prove_unit(vault), stdin=key)
        status = end.exit_status if end.exited else Exit.FAILED
        if status == Exit.LOCKED:
            raise WrongPassphrase(f"this passphrase does not open vault {vault}")
        if status == Exit.CONFIG:
            raise ConfigInvalid(
                f"the key file of vault {vault} is missing or damaged, or gocryptfs is not installed",
                hint=f"See: journalctl {names.FIELD_VAULT}={vault}",
            )
        if status != Exit.DONE:
            raise Failed(f"the passphrase of vault {vault} could not be tried: {end.result}", hint="See: journalctl -u offsited")

    async def _run(self, spec: unit.UnitSpec, *, stdin: int | None = None, stdout: int | None = None) -> UnitEnd:
        """Run a short unit to its end."""
        started = await self._units.start(spec, lambda _text: None, stdin, {}, stdout)
        try:
            return await started.ended()
        finally:
            self._units.forget(spec.name)


@contextmanager
def closing(descriptor: _Descriptor) -> Iterator[_Descriptor]:
    """Within, a descriptor or None; it is closed afterwards."""
    try:
        yield descriptor
    finally:
        if descriptor is not None:
            os.close(descriptor)


def _by_hand(vault: str) -> str:
    return f"Enter it by hand: offsitectl unlock {vault}. See why: journalctl {names.FIELD_VAULT}={vault}"
