# SPDX-License-Identifier: GPL-3.0-or-later
"""systemd's manager on the bus: starts transient units, follows them, reads how they ended. org.freedesktop.systemd1(5)."""

import asyncio
from collections.abc import Callable, Mapping
from typing import Any, Final

from offsited.core.unit import Property, UnitEnd, UnitSpec
from offsited.edge.bus import Bus, BusError, Signal, Variant, Watch
from offsited.errors import Busy, Failed, Internal

SERVICE: Final = "org.freedesktop.systemd1"
ROOT: Final = "/org/freedesktop/systemd1"
MANAGER: Final = f"{SERVICE}.Manager"
UNIT: Final = f"{SERVICE}.Unit"
_SERVICE_INTERFACE: Final = f"{SERVICE}.Service"
_PROPERTIES: Final = "org.freedesktop.DBus.Properties"
_NO_SUCH_UNIT: Final = f"{SERVICE}.NoSuchUnit"
_UNIT_EXISTS: Final = f"{SERVICE}.UnitExists"
_ENDED: Final = frozenset({"inactive", "failed"})


def unit_path(name: str) -> str:
    """Object path of a unit: each byte but letters and digits as _xx, and so a leading digit. sd_bus_path_encode(3)."""
    label = "".join(chr(byte) if _plain(byte, first=index == 0) else f"_{byte:02x}" for index, byte in enumerate(name.encode()))
    return f"{ROOT}/unit/{label}"


def _plain(byte: int, *, first: bool) -> bool:
    char = chr(byte)
    return char.isascii() and (char.isalpha() or (char.isdigit() and not first))


class Unit:
    """A unit that we hold a reference to, so that systemd keeps its result until we have read it."""

    def __init__(self, bus: Bus, name: str, on_status: Callable[[str], None]) -> None:
        self.name = name
        self._bus = bus
        self._path = unit_path(name)
        self._on_status = on_status
        self._watch: Watch | None = None
        self._started = asyncio.Event()
        self._news = asyncio.Event()

    async def watch(self) -> None:
        """Follow the unit's properties."""
        self._watch = await self._bus.watch(
            sender=SERVICE, path=self._path, interface=_PROPERTIES, member="PropertiesChanged", handler=self._properties_changed
        )

    def _properties_changed(self, signal: Signal) -> None:
        changed: Mapping[str, object] = signal.body[1]
        if "ActiveState" in changed:
            self._news.set()
        status = changed.get("StatusText")
        if isinstance(status, str) and status:
            self._on_status(status)

    def started(self) -> None:
        """The unit's start job is over, well or badly: from now on `inactive` means ended, not yet to be started."""
        self._started.set()

    def vanished(self) -> None:
        """systemd has dropped the unit."""
        self._started.set()
        self._news.set()

    async def ended(self) -> UnitEnd:
        """Wait until the unit has ended; return how, and give the reference back."""
        await self._started.wait()
        while (await self.properties(UNIT)).get("ActiveState", "inactive") not in _ENDED:
            await self._news.wait()
            self._news.clear()
        end = _end(await self.properties(UNIT), await self.properties(_SERVICE_INTERFACE))
        await self.release()
        return end

    async def properties(self, interface: str) -> Mapping[str, Any]:
        """All properties of one interface of the unit; empty when it is gone."""
        try:
            (found,) = await self._bus.call(SERVICE, self._path, _PROPERTIES, "GetAll", "s", interface)
        except BusError:
            return {}
        return dict(found)

    async def release(self) -> None:
        """Give back what keeps the unit known to systemd: a held reference refuses the next start of that name."""
        await self.abandon()
        try:
            await self._bus.call(SERVICE, ROOT, MANAGER, "UnrefUnit", "s", self.name)
        except BusError:
            return

    async def abandon(self) -> None:
        """Stop following a unit that we hold no reference to."""
        if self._watch is not None:
            await self._watch.close()
            self._watch = None


def _end(unit: Mapping[str, Any], service: Mapping[str, Any]) -> UnitEnd:
    """A unit that is gone reads as success: LoadState tells."""
    known = unit.get("LoadState") == "loaded"
    return UnitEnd(
        known=known,
        result=str(service.get("Result", "")) if known else "gone",
        exit_status=int(service.get("ExecMainStatus", 0)) if known else -1,
        exited=known and service.get("ExecMainCode") == 1,
    )


class Systemd:
    """The `Units` of the engine."""

    def __init__(self, bus: Bus) -> None:
        self._bus = bus
        self._units: dict[str, Unit] = {}

    async def connect(self) -> None:
        """Ask systemd for its signals. AddMatch comes first, so that none is lost."""
        await self._bus.watch(sender=SERVICE, path=ROOT, interface=MANAGER, member="UnitRemoved", handler=self._unit_removed)
        await self._bus.watch(sender=SERVICE, path=ROOT, interface=MANAGER, member="JobRemoved", handler=self._job_removed)
        await self._bus.call(SERVICE, ROOT, MANAGER, "Subscribe")

    def _unit_removed(self, signal: Signal) -> None:
        unit = self._units.get(signal.body[0])
        if unit is not None:
            unit.vanished()

    def _job_removed(self, signal: Signal) -> None:
        unit = self._units.get(signal.body[2])
        if unit is not None:
            unit.started()

    async def start(
        self, spec: UnitSpec, on_status: Callable[[str], None], stdin: int | None, extra: Mapping[str, int], stdout: int | None = None
    ) -> Unit:
        """Start a transient service. Raise Busy if a unit of that name exists, Failed if systemd refuses it."""
        if spec.name in self._units:
            raise Busy(f"{spec.name} runs already")
        unit = self._units[spec.name] = Unit(self._bus, spec.name, on_status)
        await unit.watch()
        properties, descriptors = _with_descriptors(spec.properties, stdin, extra, stdout)
        try:
            await self._bus.call(
                SERVICE, ROOT, MANAGER, "StartTransientUnit", "ssa(sv)a(sa(sv))", spec.name, "fail", properties, [], fds=descriptors
            )
        except BusError as error:
            self.forget(spec.name)
            await unit.abandon()
            if error.name == _UNIT_EXISTS:
                raise Busy(f"{spec.name} runs already") from None
            raise Failed(f"systemd refused to start {spec.name}: {error.name}") from error
        return unit

    async def adopt(self, name: str, on_status: Callable[[str], None]) -> Unit | None:
        """Take up a unit that an earlier daemon started. Return None if there is none that still runs."""
        unit = Unit(self._bus, name, on_status)
        await unit.watch()
        try:
            await self._bus.call(SERVICE, ROOT, MANAGER, "RefUnit", "s", name)
        except BusError:
            await unit.abandon()
            return None
        found = await unit.properties(UNIT)
        if found.get("LoadState") != "loaded" or found.get("ActiveState") in _ENDED:
            await unit.release()
            return None
        self._units[name] = unit
        unit.started()
        status = (await unit.properties(_SERVICE_INTERFACE)).get("StatusText")
        if status:
            on_status(str(status))
        return unit

    async def identity(self, unit: str) -> tuple[str, str]:
        """Return a loaded unit's InvocationID (hex) and Description, or ("", "")."""
        try:
            (found,) = await self._bus.call(SERVICE, unit_path(unit), _PROPERTIES, "GetAll", "s", UNIT)
        except BusError:
            return "", ""
        return bytes(found.get("InvocationID", b"")).hex(), str(found.get("Description", ""))

    async def stop(self, unit: str) -> None:
        """Ask systemd to stop a unit; return at once."""
        try:
            await self._bus.call(SERVICE, ROOT, MANAGER, "StopUnit", "ss", unit, "replace")
        except BusError as error:
            if error.name != _NO_SUCH_UNIT:
                raise Internal(f"systemd could not stop {unit}: {error.name}") from error

    def forget(self, unit: str) -> None:
        """The unit has ended and its result was read."""
        self._units.pop(unit, None)


def _with_descriptors(
    properties: tuple[Property, ...], stdin: int | None, extra: Mapping[str, int], stdout: int | None
) -> tuple[list[tuple[str, Variant]], list[int]]:
    """Descriptors travel beside the message; the properties hold their positions."""
    listed = [(name, Variant(signature, value)) for name, signature, value in properties]
    descriptors: list[int] = []
    for name, descriptor in (("StandardInputFileDescriptor", stdin), ("StandardOutputFileDescriptor", stdout)):
        if descriptor is not None:
            listed.append((name, Variant("h", len(descriptors))))
            descriptors.append(descriptor)
    if extra:
        start = len(descriptors)
        listed.append(("ExtraFileDescriptors", Variant("a(hs)", [(start + index, name) for index, name in enumerate(extra)])))
        descriptors.extend(extra.values())
    return listed, descriptors
