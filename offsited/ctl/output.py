# SPDX-License-Identifier: GPL-3.0-or-later
"""The one place that prints. Text for a person, or with --json one object per line on standard output; complaints go to standard error."""

import json
import os
import re
import sys
from dataclasses import dataclass
from typing import IO, Final

import click

from offsited.core.words import printable
from offsited.errors import (
    AccessDenied,
    Busy,
    ConfigInvalid,
    Exit,
    Failed,
    Held,
    InteractiveAuthorizationRequired,
    Internal,
    InvalidArgs,
    Locked,
    NoSuchJob,
    NoSuchTarget,
    NoSuchVault,
    OffsitedError,
    TargetAbsent,
    WrongPassphrase,
)  # fmt: skip

PROGRAM: Final = "offsitectl"
INTERRUPTED: Final = 130
"""Exit status after Ctrl-C: 128 + SIGINT, as shells say it."""

_JOURNAL: Final = "The daemon's journal says more: journalctl -u offsited"
_HINTS: Final[dict[type[OffsitedError], str]] = {
    Failed: _JOURNAL,
    Internal: f"This is a defect: please report it. {_JOURNAL}",
    Locked: "Enter its passphrase once: offsitectl unlock {vault}",
    WrongPassphrase: "Try again: offsitectl unlock {vault}",
    Busy: "See what runs: offsitectl status {vault}; follow it: offsitectl monitor {vault}; end it: offsitectl cancel {vault}",
    Held: "See what waits: offsitectl diff {vault}, or for another target than the default one: --target T",
    NoSuchVault: "See the vaults: offsitectl list",
    NoSuchTarget: "See the targets: offsitectl status {vault}",
    NoSuchJob: "See the jobs: offsitectl history {vault}",
    TargetAbsent: "See the targets: offsitectl status {vault}",
    ConfigInvalid: "See what is wrong: sudo offsitectl check-config",
    InvalidArgs: "See: offsitectl --help, man offsitectl",
    AccessDenied: "Run it as root, with sudo, or authenticate as an administrator",
    InteractiveAuthorizationRequired: "Run it as root, with sudo, or on a terminal where you can authenticate",
}
"""What to do next, where whoever raised the error did not say."""


@dataclass
class Output:
    """Where a command's results go. `json` is set by --json before the command runs."""

    json: bool = False

    def say(self, text: str = "") -> None:
        """Print lines for a person; nothing with --json."""
        if not self.json:
            _write(sys.stdout, text)

    def put(self, document: dict[str, object]) -> None:
        """Print one object on one line, with --json alone."""
        if self.json:
            _write(sys.stdout, json.dumps(document, separators=(", ", ": ")))

    def note(self, text: str) -> None:
        """Say something beside the result, on standard error."""
        _write(sys.stderr, text)

    def complain(self, error: OffsitedError, vault: str = "", *, put: bool = True) -> Exit:
        """Print an error, and what to do next; return the exit status. `put=False`: a command has put its own object already."""
        subject = f"{PROGRAM}: {vault}: " if vault else f"{PROGRAM}: "
        hint = _hint(error, vault)
        for line in error.message.splitlines() or [_word(error)]:
            self.note(subject + printable(line))
        if hint:
            self.note(printable(hint))
        if put:
            self.put({"error": _word(error), "vault": vault, "message": error.message, "hint": hint, "exit_status": int(error.exit_status)})
        return error.exit_status


def colours_wanted(stream: IO[str]) -> bool:
    """Whether to colour what goes to `stream`: a terminal that can, and no NO_COLOR (no-color.org)."""
    return stream.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM", "") not in {"", "dumb"}


def _write(stream: IO[str], text: str) -> None:
    click.echo(text, file=stream, color=colours_wanted(stream))
    stream.flush()


def _hint(error: OffsitedError, vault: str) -> str:
    return error.hint or _HINTS.get(type(error), "").format(vault=vault).replace(" ;", ";").rstrip()


def _word(error: OffsitedError) -> str:
    """The error's class as a word: NoSuchVault is no-such-vault."""
    return re.sub(r"(?<=[a-z])(?=[A-Z])", "-", type(error).__name__).lower()
