# SPDX-License-Identifier: GPL-3.0-or-later
"""Inhibitor locks. org.freedesktop.login1(5), systemd-inhibit(1)."""

import os
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
        held: list[int] = []
        try:
            for what, mode in (("sleep", "block"), ("shutdown", "delay")):
                held += await self._bus.call(_SERVICE, _PATH, _MANAGER, "Inhibit", "ssss", what, "offsited", why, mode)
        except BusError as error:
            for descriptor in held:
                os.close(descriptor)
            raise Failed(f"logind gives no inhibitor lock: {error.name}") from error
        return tuple(held)
