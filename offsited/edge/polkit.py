# SPDX-License-Identifier: GPL-3.0-or-later
"""Who may do what. org.freedesktop.PolicyKit1.Authority, polkit(8).

The subject is the caller's unique name on the bus, never its process: a process number can be another one's by the time it is looked up.
"""

import secrets
from typing import Final

from offsited.edge.bus import Bus, BusError, Call
from offsited.edge.bus.vocabulary import NO_REPLY
from offsited.errors import AccessDenied, InteractiveAuthorizationRequired

_SERVICE: Final = "org.freedesktop.PolicyKit1"
_PATH: Final = "/org/freedesktop/PolicyKit1/Authority"
_AUTHORITY: Final = "org.freedesktop.PolicyKit1.Authority"
_ALLOW_USER_INTERACTION: Final = 1
_ANSWER_WITHIN: Final = 25.0
_PERSON_WITHIN: Final = 120.0
"""Seconds; for a wrong password polkit may never answer."""
_ROOT: Final = 0


class Polkit:
    """Asks polkit before anything is done for a caller."""

    def __init__(self, bus: Bus) -> None:
        self._bus = bus

    async def check(self, call: Call, action: str) -> None:
        """Raise AccessDenied or InteractiveAuthorizationRequired unless the caller may do this. Root may, with or without polkit."""
        if call.user == _ROOT:
            return
        cancellation = secrets.token_hex(16)
        try:
            authorized, challenge, _details = await self._ask(call, action, cancellation)
        except BusError as error:
            if error.name == NO_REPLY:
                await self._cancel(cancellation)
            raise AccessDenied(f"{action}: polkit does not answer: {error.name}") from None
        if not authorized:
            raise _refusal(call, action, challenge=challenge)

    async def _ask(self, call: Call, action: str, cancellation: str) -> tuple[bool, bool, dict[str, str]]:
        subject = ("system-bus-name", {"name": call.sender})
        flags = _ALLOW_USER_INTERACTION if call.interactive else 0
        (result,) = await self._bus.call(
            _SERVICE,
            _PATH,
            _AUTHORITY,
            "CheckAuthorization",
            "(sa{sv})sa{ss}us",
            subject,
            action,
            {},
            flags,
            cancellation,
            timeout=_PERSON_WITHIN if call.interactive else _ANSWER_WITHIN,
        )
        return result  # type: ignore[no-any-return]

    async def _cancel(self, cancellation: str) -> None:
        """Take the question back, so that no dialog stays open."""
        try:
            await self._bus.call(_SERVICE, _PATH, _AUTHORITY, "CancelCheckAuthorization", "s", cancellation)
        except BusError:
            return


def _refusal(call: Call, action: str, *, challenge: bool) -> AccessDenied | InteractiveAuthorizationRequired:
    if challenge and not call.interactive:
        return InteractiveAuthorizationRequired(f"{action}: interactive authorization is required")
    return AccessDenied(f"{action}: not authorized")
