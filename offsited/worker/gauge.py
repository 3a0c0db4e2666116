# SPDX-License-Identifier: GPL-3.0-or-later
"""How far a phase is in which transfers run side by side."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Final

from offsited.core.progress import Progress
from offsited.worker.report import Report

_EVERY: Final = 0.1
"""Seconds between two sums of what running transfers tell: they do so for each file."""


class Gauge:
    """The progress of one phase."""

    def __init__(self, report: Report, start: Progress) -> None:
        self._report = report
        self._done = start
        self._running: dict[object, tuple[int, int]] = {}
        self._due = 0.0
        self._tell()

    @contextmanager
    def transfer(self) -> Iterator[Callable[[int, int], None]]:
        """Within: a transfer, which tells how many bytes and entries it has done. What it told is forgotten when it ends."""
        key = object()

        def told(size: int, entries: int) -> None:
            self._running[key] = (size, entries)
            if time.monotonic() >= self._due:
                self._tell()

        try:
            yield told
        finally:
            self._running.pop(key, None)

    def advance(self, size: int, entries: int) -> None:
        """So much is done for good."""
        self._done = replace(self._done, bytes_done=self._done.bytes_done + size, entries_done=self._done.entries_done + entries)
        self._tell()

    def _tell(self) -> None:
        size, entries = (sum(numbers) for numbers in zip((0, 0), *self._running.values(), strict=True))
        done = self._done
        self._report.progress(replace(done, bytes_done=done.bytes_done + size, entries_done=done.entries_done + entries))
        self._due = time.monotonic() + _EVERY
