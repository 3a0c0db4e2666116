# SPDX-License-Identifier: GPL-3.0-or-later
"""Where the life of a seed stands, told by the records of jobs alone."""

from collections import defaultdict
from collections.abc import Iterator

import pytest

from offsited.core.config import Vault, parse_vault
from offsited.core.outcome import Outcome, Reason
from offsited.core.record import JobRecord, Kind, Options
from offsited.core.seeding import Life, awaited, in_transit, stage
from offsited.core.stage import Stage

TARGET = '[[target]]\nname = "{name}"\nkind = "{kind}"\n{more}\n'
SSH = 'host = "h"\ndirectory = "/d"\nidentity = "/i"\n'
DONE, HELD, FAILED, TRANSIT = Outcome.DONE, Outcome.HELD, Outcome.FAILED, Outcome.IN_TRANSIT


def vault(*heirs: str) -> Vault:
    targets = [TARGET.format(name="seed", kind="disk", more='label = "L"\ndirectory = "d"')]
    targets += [TARGET.format(name=heir, kind="ssh", more=f'{SSH}seed = "seed"') for heir in heirs]
    targets.append(TARGET.format(name="other", kind="ssh", more=SSH))
    return parse_vault("home", '[source]\nkind = "path"\npath = "/s"\n' + "".join(targets))


class History:
    """Jobs one after the other, and what is learned of them."""

    def __init__(self, *heirs: str) -> None:
        self.vault = vault(*heirs)
        self.lives: defaultdict[str, Life] = defaultdict(Life)
        self.job = 0

    def then(self, kind: Kind, target: str, outcome: Outcome = DONE, reason: Reason = Reason.NONE, **more: object) -> "History":
        self.job += 1
        base = JobRecord(job=self.job, kind=kind, vault="home", target=target, unit="u", requested=1, started=1, ended=1000 + self.job)
        reached = {"capacity": 1} if target == "seed" and outcome is not TRANSIT else {}
        self.lives[target].take(base.model_copy(update={"outcome": outcome, "reason": reason, **reached, **more}))
        return self

    @property
    def stages(self) -> tuple[str, ...]:
        """Of every target that the vault file names."""
        return tuple(stage(self.vault, target, self.lives.__getitem__).value for target in self.vault.target)

    @property
    def awaits(self) -> list[str]:
        return [target.name for target in self.vault.target if awaited(self.vault, target, self.lives.__getitem__)]

    @property
    def transit(self) -> dict[str, int]:
        return {target: record.job for target, record in in_transit(self.vault, self.lives.__getitem__).items()}


def test_from_the_first_sync_to_the_last_stage() -> None:
    found = History("vps")
    assert (found.stages, found.awaits) == (("seeding", "seeding", ""), ["vps"])
    found.then(Kind.SYNC, "seed")
    assert (found.stages, found.transit) == (("seeding", "seeding", ""), {})
    found.then(Kind.SEAL, "seed")
    assert (found.stages, found.awaits, found.transit) == (("sealed", "sealed", ""), ["vps"], {"seed": 2, "vps": 2})
    found.then(Kind.SYNC, "vps", TRANSIT, Reason.SEED_IN_TRANSIT, started=0)
    assert found.stages == ("sealed", "sealed", "")
    found.then(Kind.ADOPT, "vps", Outcome.PARTIAL, Reason.SEED_DIFFERENT)
    assert found.stages == ("sealed", "sealed", "")
    found.then(Kind.ADOPT, "vps")
    assert (found.stages, found.awaits, found.transit) == (("adopted", "adopted", ""), [], {})
    found.then(Kind.SYNC, "vps", FAILED, Reason.TARGET_UNREACHABLE)
    assert found.stages == ("adopted", "adopted", "")
    found.then(Kind.SYNC, "vps")
    assert found.stages == ("live", "live", "")


def _breaking() -> Iterator[tuple[Kind, Outcome, Reason, dict[str, object]]]:
    yield Kind.SYNC, DONE, Reason.NONE, {}
    yield Kind.SYNC, HELD, Reason.LIMIT_EXCEEDED, {}
    yield Kind.SYNC, FAILED, Reason.RSYNC_FAILED, {}
    yield Kind.SYNC, FAILED, Reason.INTERRUPTED, {"capacity": 0}
    yield Kind.SYNC, FAILED, Reason.TARGET_LOST, {"capacity": 0}
    yield Kind.SEAL, Outcome.PARTIAL, Reason.VERIFIED_DIFFERENT, {}


@pytest.mark.parametrize(("kind", "outcome", "reason", "more"), _breaking())
def test_whatever_may_have_written_to_the_disk_breaks_the_seal(
    kind: Kind, outcome: Outcome, reason: Reason, more: dict[str, object]
) -> None:
    found = History("vps").then(Kind.SEAL, "seed").then(kind, "seed", outcome, reason, **more)
    assert (found.stages, found.transit) == (("seeding", "seeding", ""), {})


def _harmless() -> Iterator[tuple[Kind, Outcome, Reason, dict[str, object]]]:
    yield Kind.SYNC, TRANSIT, Reason.SEED_IN_TRANSIT, {"started": 0}
    yield Kind.SYNC, FAILED, Reason.TARGET_ABSENT, {"capacity": 0}
    yield Kind.SYNC, FAILED, Reason.SNAPSHOT_MISSING, {"capacity": 0}
    yield Kind.SYNC, FAILED, Reason.LOCKED, {"started": 0, "capacity": 0}
    yield Kind.SYNC, DONE, Reason.NONE, {"options": Options(dry_run=True)}
    yield Kind.VERIFY, DONE, Reason.NONE, {}
    yield Kind.RESTORE, FAILED, Reason.INTERRUPTED, {"capacity": 0}


@pytest.mark.parametrize(("kind", "outcome", "reason", "more"), _harmless())
def test_what_did_not_get_to_the_disk_leaves_the_seal(kind: Kind, outcome: Outcome, reason: Reason, more: dict[str, object]) -> None:
    found = History("vps").then(Kind.SEAL, "seed").then(kind, "seed", outcome, reason, **more)
    assert found.stages == ("sealed", "sealed", "")


def test_a_target_that_was_synced_before_it_had_a_seed_goes_on() -> None:
    assert History("vps").then(Kind.SYNC, "vps").awaits == []


def test_what_was_taken_over_without_a_seed_and_is_held_by_a_limit_may_be_approved() -> None:
    assert History("vps").then(Kind.SYNC, "vps", HELD, Reason.LIMIT_EXCEEDED).awaits == []


def test_a_disk_without_heirs_that_was_sealed_is_in_transit_too() -> None:
    found = History().then(Kind.SYNC, "seed")
    assert (found.stages, found.transit) == (("", ""), {})
    found.then(Kind.SEAL, "seed")
    assert (found.stages, found.transit) == (("sealed", ""), {"seed": 2})


def test_a_disk_that_is_sealed_again_when_its_heir_lives_keeps_nobody_waiting() -> None:
    found = History("vps").then(Kind.SEAL, "seed").then(Kind.ADOPT, "vps").then(Kind.SYNC, "vps").then(Kind.SYNC, "seed")
    assert found.stages == ("live", "live", "")
    found.then(Kind.SEAL, "seed")
    assert (found.stages, found.transit, found.awaits) == (("sealed", "live", ""), {}, [])


def test_of_two_heirs_the_last_one_counts() -> None:
    found = History("one", "two").then(Kind.SEAL, "seed").then(Kind.ADOPT, "one").then(Kind.SYNC, "one")
    assert found.transit == {"seed": 1, "two": 1}
    assert found.awaits == ["two"]
    found.then(Kind.ADOPT, "two")
    assert (found.stages, found.transit) == (("adopted", "live", "adopted", ""), {})


def test_stages_are_in_their_order() -> None:
    assert [word.value for word in Stage] == ["", "seeding", "sealed", "adopted", "live"]
