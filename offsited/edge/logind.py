# SPDX-License-Identifier: GPL-3.0-or-later
"""Inhibitor locks. org.freedesktop.login1(5), systemd-inhibit(1)."""

import os
from contextlib import ExitStack
from typing import Final

from offsited.edge.bus import Bus, BusError
from offsited.errors import Failed

_SERVICE: Final = "org.freedesktop.login1"
_PATH: Final = "/org/freedesktop/login1"
_MANAGER: Final = f"{_SERVICE}.Manager"


class Logind:
    """The `Sleep` of the engine."""

    def __init__(self, bus: Bus) -> None:
        self._bus = bus

    async def inhibit(self, why: str) -> tuple[int, ...]:
        """Block sleep, and delay a shutdown by logind.conf(5) InhibitDelayMaxSec=, until the descriptors returned are closed. Raise Failed.

        A shutdown is not blocked: systemd stops the job in good order, and the next sync goes on where it was.
        """
        with ExitStack() as unless_both:  # whoever asked may be cancelled in between, too
            held = []
            for what, mode in (("sleep", "block"), ("shutdown", "delay")):
                held.append(await self._inhibit(what, why, mode))
                unless_both.callback(os.close, held[-1])
            unless_both.pop_all()
        return tuple(held)

    async def _inhibit(self, what: str, why: str, mode: str) -> int:
        try:
            (descriptor,) = await self._bus.call(_SERVICE, _PATH, _MANAGER, "Inhibit", "ssss", what, "offsited", why, mode)
        except BusError as error:
            raise Failed(f"logind gives no inhibitor lock: {error.name}") from error
        return int(descriptor)
