# SPDX-License-Identifier: GPL-3.0-or-later
"""The daemon's log: the journal where there is one, else standard error. Fields come as `extra` of a log call."""

import logging
import os

from systemd import journal

from offsited import names


class _JournalHandler(logging.Handler):
    """Sends the message, its priority, and those extras that are fields of ours: no paths of source files, no thread names."""

    def emit(self, record: logging.LogRecord) -> None:
        fields = {name: str(getattr(record, name)) for name in names.JOURNAL_FIELDS if hasattr(record, name)}
        try:
            journal.send(self.format(record), PRIORITY=str(_priority(record.levelno)), SYSLOG_IDENTIFIER="offsited", **fields)
        except Exception:
            self.handleError(record)


def configure() -> None:
    """Let everything that is logged go where systemd connected us to. systemd.exec(5), $JOURNAL_STREAM."""
    handler: logging.Handler = _JournalHandler() if os.environ.get("JOURNAL_STREAM") else logging.StreamHandler()
    logging.basicConfig(level=logging.INFO, handlers=[handler], format="%(message)s", force=True)


def _priority(level: int) -> int:
    """syslog(3) priorities."""
    for at_least, priority in ((logging.CRITICAL, 2), (logging.ERROR, 3), (logging.WARNING, 4), (logging.INFO, 6)):
        if level >= at_least:
            return priority
    return 7
