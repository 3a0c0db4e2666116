# SPDX-License-Identifier: GPL-3.0-or-later
"""What a job's unit runs: `python3 -I -m offsited.worker KIND VAULT TARGET JOB`, KIND one of sync, seal, adopt, restore, verify,
restore-test and mount; `unmount` likewise, or `prove VAULT`, `prove-key VAULT`."""

import sys
from collections.abc import Sequence

from offsited.core.record import Kind
from offsited.errors import Exit
from offsited.store import Store
from offsited.worker import job
from offsited.worker.adopting import adopt
from offsited.worker.mounting import mount, unmount
from offsited.worker.prove import prove
from offsited.worker.prove_key import prove_key
from offsited.worker.restore import restore
from offsited.worker.restore_test import restore_test
from offsited.worker.sealing import seal
from offsited.worker.sync import sync
from offsited.worker.verify import verify

_BODIES = {
    Kind.SYNC: sync,
    Kind.RESTORE: restore,
    Kind.VERIFY: verify,
    Kind.RESTORE_TEST: restore_test,
    Kind.MOUNT: mount,
    Kind.SEAL: seal,
    Kind.ADOPT: adopt,
}


def main(arguments: Sequence[str], store: Store) -> int:
    """Given the command line without the program's name, do what it says and return the exit status."""
    match arguments:
        case ["prove", vault]:
            return prove(store, vault)
        case ["unmount", vault, _, number] if number.isdecimal():
            return unmount(store.vault_files(vault), int(number))
        case ["prove-key", vault]:
            return prove_key(store, vault)
        case [kind, vault, target, number] if kind in set(Kind) and number.isdecimal():
            record = store.vault_files(vault).read_record(int(number))
            if record is None or (record.kind, record.target) != (kind, target):
                print(f"job {number} of vault {vault} has no record of this kind and target", file=sys.stderr)
                return Exit.FAILED
            return job.run(record, store, _BODIES[record.kind])
        case _:
            print(__doc__, file=sys.stderr)
            return Exit.USAGE


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:], Store()))
