# SPDX-License-Identifier: GPL-3.0-or-later
"""Paths in the view, for paths below `plain/`, by way of gocryptfs's control socket. Touches neither tree; the paths need not exist.

gocryptfs(1), -ctlsock. One request at a time on a connection, in UTF-8 and below 5,000 bytes; a path that is not UTF-8 would get a wrong
answer and no error, so those take the way of worker.encrypted_names.
"""

import asyncio
import itertools
import json
import socket
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Final, TypeVar

from offsited.core.manifest import parent
from offsited.core.outcome import Reason
from offsited.errors import JobFailed
from offsited.worker import encrypted_names
from offsited.worker.job import Job

_REQUEST_MAX: Final = 4900
_ANSWER_WITHIN: Final = 60.0
"""Seconds for one answer."""
_AT_ONCE: Final = 5000
_SKELETON_MAX: Final = 2000
"""Paths of one skeleton: its directories lie in memory."""


_Thing = TypeVar("_Thing")


def in_parts(things: Iterable[_Thing], size: int = _AT_ONCE) -> Iterator[list[_Thing]]:
    """Lists of so many, or of as many as are asked about at once."""
    left = iter(things)
    while part := list(itertools.islice(left, size)):
        yield part


class SealedPaths:
    """Asks one view."""

    def __init__(self, job: Job, control: Path) -> None:
        self._job = job
        self._control = control

    async def of(self, paths: Sequence[bytes]) -> list[str]:
        """Return the path in the view of each path. Raise JobFailed if gocryptfs does not tell."""
        found: dict[bytes, str] = await asyncio.to_thread(self._ask_all, paths)
        left = [path for path in paths if path not in found]
        for start in range(0, len(left), _SKELETON_MAX):
            found |= await encrypted_names.of(self._job, left[start : start + _SKELETON_MAX])
        return [found[path] for path in paths]

    async def plain(self, sealed: str) -> str:
        """Return the path below `plain/` of an encrypted path, or "" if it is none. (What is not UTF-8 in it is lost.)"""
        return await asyncio.to_thread(self._plain, sealed)

    def _plain(self, sealed: str) -> str:
        request = json.dumps({"DecryptPath": sealed}).encode("utf-8", "replace")
        if len(request) >= _REQUEST_MAX:
            return ""
        try:
            with socket.socket(socket.AF_UNIX) as connection:
                connection.settimeout(_ANSWER_WITHIN)
                connection.connect(str(self._control))
                return _ask(connection, request)
        except ValueError:  # gocryptfs says what is wrong with it
            return ""
        except OSError as error:
            raise JobFailed(Reason.GOCRYPTFS_FAILED, f"control socket: {error!r}") from error

    def _ask_all(self, paths: Sequence[bytes]) -> dict[bytes, str]:
        """Those that the control socket can be asked about. The answer for a path tells those above it, too."""
        found: dict[bytes, str] = {}
        try:
            with socket.socket(socket.AF_UNIX) as connection:
                connection.settimeout(_ANSWER_WITHIN)
                connection.connect(str(self._control))
                for path in sorted(set(paths), reverse=True):  # what is below a directory comes before it
                    if path not in found and (request := _request(path)):
                        above, sealed = path, _ask(connection, request)
                        while above not in found:
                            found[above] = sealed
                            above, sealed = parent(above), sealed.rpartition("/")[0]
                return found
        except (OSError, ValueError) as error:
            raise JobFailed(Reason.GOCRYPTFS_FAILED, f"control socket: {error!r}") from error


def _request(path: bytes) -> bytes | None:
    try:
        request = json.dumps({"EncryptPath": path.decode()}, ensure_ascii=False).encode()
    except UnicodeDecodeError:
        return None
    return request if len(request) < _REQUEST_MAX else None


def _ask(connection: socket.socket, request: bytes) -> str:
    connection.sendall(request)
    answer = b""
    while not answer.endswith(b"\n"):
        data = connection.recv(65536)
        if not data:
            raise OSError("closed by gocryptfs")
        answer += data
    match json.loads(answer):
        case {"ErrNo": 0, "Result": str(result)} if result:
            return result
        case said:
            raise ValueError(said)
