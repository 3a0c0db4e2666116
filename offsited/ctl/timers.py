# SPDX-License-Identifier: GPL-3.0-or-later
"""When systemd starts a vault's next sync. org.freedesktop.systemd1(5)."""

from collections.abc import Sequence
from typing import Final

from offsited import names
from offsited.ctl.client import PROPERTIES, Client, Reply, Request
from offsited.errors import OffsitedError

_SYSTEMD: Final = "org.freedesktop.systemd1"
_NOT_AVAILABLE: Final = 2**64 - 1


def next_runs(client: Client, vaults: Sequence[str]) -> dict[str, int | None]:
    """For each vault when its timer fires next, microseconds since the epoch: 0 = active without a date, None = no timer is active."""
    replies = client.call_all([request for vault in vaults for request in _requests(vault)])
    return {vault: _next_run(*replies[2 * index : 2 * index + 2]) for index, vault in enumerate(vaults)}


def _requests(vault: str) -> tuple[Request, Request]:
    return _get(vault, "Unit", "ActiveState"), _get(vault, "Timer", "NextElapseUSecRealtime")


def _get(vault: str, interface: str, name: str) -> Request:
    path = f"/org/freedesktop/systemd1/unit/{escaped(names.sync_timer(vault))}"
    return Request(path, PROPERTIES, "Get", "ss", (f"{_SYSTEMD}.{interface}", name), destination=_SYSTEMD)


def _next_run(active: Reply | OffsitedError, elapse: Reply | OffsitedError) -> int | None:
    if not isinstance(active, Reply) or not isinstance(elapse, Reply) or active.body[0] != "active":
        return None
    return int(elapse.body[0]) if elapse.body[0] != _NOT_AVAILABLE else 0


def escaped(unit: str) -> str:
    """A unit's name as the last part of its object path: sd_bus_path_encode(3)."""
    return "".join(char if _plain(char, first=not index) else f"_{ord(char):02x}" for index, char in enumerate(unit))


def _plain(char: str, *, first: bool) -> bool:
    return char.isascii() and (char.isalpha() or (char.isdigit() and not first))
