# SPDX-License-Identifier: GPL-3.0-or-later
"""What a verification left for the next sync to mend: paths that are sent again whatever size and time say."""

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from offsited.core.commit import digest
from offsited.core.verification import Mending, decode_path
from offsited.worker.confirmed import MENDING_FILE
from offsited.worker.ledger import Doubt, Ledger

_NOTHING: Final = Mending(whole=False)
_DAMAGED: Final = Mending(whole=True)


def asked(directory: Path) -> Mending:
    """What is to be mended at a target. A file that cannot be read asks for a comparison of everything."""
    try:
        with (directory / MENDING_FILE).open("rb") as file:
            return Mending.decode(file.readline())
    except FileNotFoundError:
        return _NOTHING
    except (OSError, ValueError, KeyError, TypeError):
        return _DAMAGED


def may_replace(directory: Path, found: bytes | None) -> bool:
    """Whether the commit file that lies at a target, encrypted, is the one that was found to be damaged."""
    return found is not None and asked(directory).commit == digest(found)


def enter(directory: Path, ledger: Ledger) -> None:
    """Put the paths in doubt: the next plan sends each again, or deletes it."""
    if (directory / MENDING_FILE).exists():
        ledger.doubt(Doubt(path, 0, 0, 0, again=True, directory=False) for path in _paths(directory))


def _paths(directory: Path) -> Iterator[bytes]:
    with (directory / MENDING_FILE).open("rb") as file:
        for line in itertools.islice(file, 1, None):
            try:
                yield decode_path(line)
            except (ValueError, KeyError, TypeError):
                continue
