# SPDX-License-Identifier: GPL-3.0-or-later
"""`python3 -I -m offsited.notices tell|skipped|start VAULT JOB`, `... watch|booted`, or `... test`.

tell      a job has ended: judge the vault, send what is due          skipped   the same, and a timed run was skipped for this job
start     a job has started: a sign of life                           watch     judge every vault, with or without the daemon
test      try each way, and say on standard output what happened      booted    watch, so long after a boot that each should be unlocked
"""

import os
import signal
import sys
from collections.abc import Callable, Sequence
from typing import Final

from offsited import names
from offsited.errors import Exit
from offsited.notices import journal, sending, trial
from offsited.notices.judging import judge_vault, write_metrics
from offsited.store import Store

NOT_ALL: Final = os.EX_TEMPFAIL
"""It could not all be judged, written and sent, and is tried again. Not 1, as of a program that broke: the watch must not break unseen."""


def main(arguments: Sequence[str], store: Store) -> int:
    """Given the command line without the program's name, do what it says and return the exit status."""
    match arguments:
        case [("tell" | "skipped") as what, vault, number] if number.isdecimal():
            return _each(store, lambda name: judge_vault(store, name, int(number) if what == "skipped" else 0), [vault])
        case ["start", vault, number] if number.isdecimal():
            told = _guarded(vault, lambda: sending.ping_start(store, vault, int(number), store.read_notify()))
            return Exit.DONE if told else NOT_ALL
        case [("watch" | "booted") as what]:
            vaults = [name for name in store.vault_names() if names.NAME_PATTERN.fullmatch(name)]
            return _each(store, lambda name: judge_vault(store, name, booted=what == "booted"), vaults)
        case ["test"]:
            return trial.run(store.read_notify(), print)
        case _:
            print(__doc__, file=sys.stderr)
            return Exit.USAGE


def _each(store: Store, judge: Callable[[str], bool], vaults: Sequence[str]) -> int:
    """Judge first and send afterwards: what one vault's mail takes must not keep another from being judged."""
    judged = [_guarded(vault, lambda vault=vault: judge(vault)) for vault in vaults]  # type: ignore[misc]
    written = _guarded("", lambda: write_metrics(store))
    notify = store.read_notify()
    sent = [_guarded(vault, lambda vault=vault: sending.send_due(store, vault, notify)) for vault in vaults]  # type: ignore[misc]
    return Exit.DONE if all((*judged, written, *sent)) else NOT_ALL


def _guarded(vault: str, act: Callable[[], bool]) -> bool:
    """One vault's trouble must not silence another's."""
    try:
        return act()
    except OSError as error:
        journal.problem(vault, f"notices of {f'vault {vault}' if vault else 'all vaults'}: {error}")
        return False


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda number, _frame: sys.exit(128 + number))
    sys.exit(main(sys.argv[1:], Store()))
