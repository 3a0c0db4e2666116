# SPDX-License-Identifier: GPL-3.0-or-later
"""What a job's unit runs: `python3 -I -m offsited.worker KIND VAULT TARGET JOB`, KIND one of sync, seal, adopt, restore, verify,
restore-test and mount; `unmount` likewise, or `prove VAULT`, `prove-key VAULT`."""

import importlib
import sys
from collections.abc import Callable, Sequence
from typing import Any, Final

from offsited.core.record import Kind
from offsited.errors import Exit
from offsited.store import Store
from offsited.worker import job

BODIES: Final = {
    Kind.SYNC: "sync.sync",
    Kind.RESTORE: "restore.restore",
    Kind.VERIFY: "verify.verify",
    Kind.RESTORE_TEST: "restore_test.restore_test",
    Kind.MOUNT: "mounting.mount",
    Kind.SEAL: "sealing.seal",
    Kind.ADOPT: "adopting.adopt",
}
"""Modules of offsited.worker and a function of each. A job loads its own alone: with all of them it begins 0.1 s later."""


def main(arguments: Sequence[str], store: Store) -> int:
    """Given the command line without the program's name, do what it says and return the exit status."""
    match arguments:
        case ["prove", vault]:
            return int(_function("prove.prove")(store, vault))
        case ["unmount", vault, _, number] if number.isdecimal():
            return int(_function("mounting.unmount")(store.vault_files(vault), int(number)))
        case ["prove-key", vault]:
            return int(_function("prove_key.prove_key")(store, vault))
        case [kind, vault, target, number] if kind in set(Kind) and number.isdecimal():
            record = store.vault_files(vault).read_record(int(number))
            if record is None or (record.kind, record.target) != (kind, target):
                print(f"job {number} of vault {vault} has no record of this kind and target", file=sys.stderr)
                return Exit.FAILED
            return job.run(record, store, _function(BODIES[record.kind]))
        case _:
            print(__doc__, file=sys.stderr)
            return Exit.USAGE


def _function(name: str) -> Callable[..., Any]:
    module, _, function = name.partition(".")
    found: Callable[..., Any] = getattr(importlib.import_module(f"offsited.worker.{module}"), function)
    return found


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:], Store()))
