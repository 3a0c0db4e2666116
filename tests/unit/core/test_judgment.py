# SPDX-License-Identifier: GPL-3.0-or-later
"""What is told, and when: cases one by one. Random lives: test_judgment_lives.py."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from offsited.core.event import Event, Why, explain
from offsited.core.judgment import Judgment, advanced, event_of, judge, staleness
from offsited.core.notice import Facts, Mark, Moment, Ping, Remembered, TargetFacts
from offsited.core.outcome import Outcome, Reason
from offsited.core.record import JobRecord, Kind

from .judged import HOUR, LIMIT, START, record


def facts(*records: JobRecord, **more: object) -> Facts:
    done = [found for found in records if found.outcome is Outcome.DONE and found.kind is Kind.SYNC]
    target = TargetFacts("disk", LIMIT, done[-1] if done else None)
    return replace(Facts("home", (target,), records), **more)  # type: ignore[arg-type]


def at(hours: float, *, boot: str = "b", clock: float | None = None) -> Moment:
    """So many hours after the start, by uptime and, unless told otherwise, by the clock."""
    return Moment(START + int((hours if clock is None else clock) * HOUR), boot, int(hours * HOUR))


class Told:
    """A vault that is judged again and again."""

    def __init__(self, *, on_success: bool = False) -> None:
        self.remembered: Remembered | None = None
        self.on_success = on_success
        self.last: Judgment | None = None

    def judge(self, found: Facts, moment: Moment) -> list[tuple[str, bool]]:
        """Events told at this moment, each with whether it is a reminder."""
        self.last = judge(self.remembered, found, moment, on_success=self.on_success)
        self.remembered = Remembered.model_validate_json(self.last.remembered.model_dump_json())  # as it is kept
        return [(notice.event.value, notice.reminder) for notice in self.last.notices]

    def pinged(self) -> Ping | None:
        assert self.last
        return self.last.ping


# --- cases ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("outcome", "reason", "event"),
    [
        (Outcome.DONE, "", Event.SUCCESS),
        (Outcome.PARTIAL, Reason.ENTRIES_UNREADABLE, Event.DEGRADED),
        (Outcome.HELD, "", Event.HELD),
        (Outcome.FAILED, Reason.LOCKED, Event.LOCKED),
        (Outcome.FAILED, Reason.WRONG_PASSPHRASE, Event.LOCKED),
        (Outcome.FAILED, Reason.TARGET_ABSENT, Event.FAILED),
        (Outcome.FAILED, Reason.RESTORED_DIFFERENT, Event.DEGRADED),
        (Outcome.FAILED, "a-word-of-tomorrow", Event.FAILED),
        (Outcome.CANCELED, Reason.CANCELED, None),
        (None, "", None),
    ],
)
def test_what_an_end_means(outcome: Outcome | None, reason: str, event: Event | None) -> None:
    assert event_of(record(1, outcome, reason)) is event


@pytest.mark.parametrize("outcome", [Outcome.FAILED, Outcome.PARTIAL, Outcome.HELD])
def test_trouble_is_told_once_reminded_daily_and_over_once(outcome: Outcome) -> None:
    told = Told()
    bad, good = record(1, outcome, "target-full"), record(2, ended=START + 60 * HOUR)
    assert len(told.judge(facts(bad), at(0))) == 1
    assert told.pinged() is Ping.FAIL
    for hours in (0, 1, 12, 23.9):
        assert told.judge(facts(bad), at(hours)) == []
        assert told.pinged() is None
    event = event_of(bad)
    assert event
    assert told.judge(facts(bad), at(24)) == [(event.value, True)]
    assert told.judge(facts(bad), at(25)) == []
    assert told.judge(facts(bad, good), at(60)) == [("recovered", False)]
    assert told.pinged() is Ping.SUCCESS
    assert told.judge(facts(bad, good), at(61)) == []


def test_another_reason_is_another_event() -> None:
    told = Told()
    absent, full = record(1, Outcome.FAILED, "target-absent"), record(2, Outcome.FAILED, "target-full")
    assert told.judge(facts(absent), at(0)) == [("failed", False)]
    assert told.judge(facts(absent, full), at(1)) == [("failed", False)]
    again = record(3, Outcome.FAILED, "target-full")
    assert told.judge(facts(absent, full, again), at(2)) == []


def test_what_came_and_went_unseen_is_told_in_order() -> None:
    told = Told()
    records = [record(1)]
    told.judge(facts(*records), at(0))
    records += [record(2, Outcome.FAILED, "target-full"), record(3), record(4, Outcome.FAILED, "locked")]
    assert told.judge(facts(*records), at(1)) == [("failed", False), ("recovered", False), ("locked", False)]
    assert told.pinged() is Ping.FAIL


def test_success_is_told_if_wanted() -> None:
    assert Told().judge(facts(record(1)), at(0)) == []
    assert Told(on_success=True).judge(facts(record(1)), at(0)) == [("success", False)]


def test_cancelling_and_restoring_tell_nobody() -> None:
    told = Told(on_success=True)
    ends = [record(1, Outcome.CANCELED, "canceled"), record(2, Outcome.FAILED, "path-not-in-backup", kind=Kind.RESTORE)]
    assert told.judge(facts(*ends), at(0)) == []
    assert told.pinged() is None


def test_cancelling_does_not_end_a_trouble() -> None:
    told = Told()
    bad = record(1, Outcome.FAILED, "target-full")
    told.judge(facts(bad), at(0))
    assert told.judge(facts(bad, record(2, Outcome.CANCELED, "canceled")), at(1)) == []
    assert told.remembered
    assert told.remembered.troubles


def test_of_an_old_history_only_the_last_sync_is_told() -> None:
    records = [record(number, Outcome.FAILED, "target-full") for number in range(1, 50)]
    assert Told().judge(facts(*records), at(0)) == [("failed", False)]


def test_a_slow_reader_that_ends_late_is_not_passed_over() -> None:
    told = Told()
    slow = record(1, None, kind=Kind.SYNC)
    told.judge(facts(slow, record(2)), at(0))
    assert told.judge(facts(record(1, Outcome.FAILED, "target-full"), record(2)), at(1)) == [("failed", False)]


def test_stale_by_confirmation_and_by_the_snapshot() -> None:
    told = Told()
    done = record(1)
    assert told.judge(facts(done), at(0)) == []
    assert told.judge(facts(done), at(34.9)) == []
    assert told.judge(facts(done), at(35.1)) == [("stale", False)]
    assert told.last
    assert told.last.notices[0].troubles[0].reason == Why.SNAPSHOT_OLD
    assert told.judge(facts(done), at(37)) == []
    assert told.remembered
    assert told.remembered.troubles["stale:disk"].reason == Why.UNCONFIRMED


def test_a_source_that_makes_no_snapshots_any_more_is_stale_though_every_sync_is_done() -> None:
    told = Told()
    dated = START - HOUR
    records = [record(1)]
    for hours in range(0, 48, 6):
        records.append(record(len(records) + 1, ended=START + hours * HOUR, snapshot_dated=dated))
        told.judge(facts(*records), at(hours))
    assert told.remembered
    assert told.remembered.troubles["stale:disk"].reason == Why.SNAPSHOT_OLD
    assert told.pinged() is Ping.FAIL, "no success while something is wrong"


def test_never_synced_is_stale_after_a_while() -> None:
    told = Told()
    assert told.judge(facts(), at(0)) == []
    assert told.judge(facts(), at(35)) == []
    assert told.judge(facts(), at(37)) == [("stale", False)]
    assert told.judge(facts(record(1, ended=START + 38 * HOUR)), at(38)) == [("recovered", False)]


def test_one_sync_puts_right_what_it_puts_right_in_one_notice() -> None:
    told = Told(on_success=True)
    records = [record(1), record(2, Outcome.FAILED, "target-absent", START + 24 * HOUR)]
    told.judge(facts(*records[:1]), at(0))
    told.judge(facts(*records), at(24))
    told.judge(facts(*records), at(37))
    assert told.judge(facts(*records, record(3, ended=START + 40 * HOUR)), at(40)) == [("recovered", False)]
    assert told.last
    assert {trouble.event for trouble in told.last.notices[0].troubles} == {Event.FAILED, Event.STALE}


def test_one_reminder_for_all_that_lasts() -> None:
    told = Told()
    records = [record(1), record(2, Outcome.FAILED, "target-absent", START + 30 * HOUR)]
    told.judge(facts(*records[:1]), at(0))
    told.judge(facts(*records), at(30))
    assert told.judge(facts(*records), at(37)) == [("stale", False)]
    assert [reminder for _, reminder in told.judge(facts(*records), at(54))] == [True]
    assert told.last
    assert len(told.last.notices[0].troubles) == 2
    assert told.judge(facts(*records), at(61)) == []
    assert len(told.judge(facts(*records), at(78))) == 1


def test_a_broken_vault_file_is_told_and_its_targets_age_on() -> None:
    told = Told()
    done = record(1)
    told.judge(facts(done), at(0))
    assert told.judge(facts(done, invalid="config-invalid"), at(1)) == [("failed", False)]
    assert told.judge(facts(done, invalid="config-invalid"), at(25)) == [("failed", True)]
    assert ("stale", False) in told.judge(facts(done, invalid="config-invalid"), at(36))
    assert told.judge(facts(done), at(36.5)) == [("recovered", False)]


def test_a_commit_that_is_gone_is_told() -> None:
    told = Told()
    damaged = replace(facts(record(1)), targets=(TargetFacts("disk", LIMIT, record(1), intact=False),))
    assert told.judge(damaged, at(0)) == [("degraded", False)]
    assert told.judge(facts(record(1)), at(1)) == [("recovered", False)]


def test_a_skipped_run_is_told_once_for_each_predecessor() -> None:
    told = Told()
    running = record(7, None)
    assert told.judge(facts(running, skipped=7), at(0)) == [("skipped", False)]
    assert told.judge(facts(running, skipped=7), at(24)) == []
    assert told.pinged() is None
    assert told.judge(facts(record(9, None), skipped=9), at(48)) == [("stale", False), ("skipped", False)]


def test_a_target_that_is_configured_no_longer_is_forgotten() -> None:
    told = Told()
    told.judge(facts(record(1, Outcome.FAILED, "target-full")), at(0))
    assert told.judge(Facts("home", (TargetFacts("other"),)), at(48)) == []
    assert told.remembered
    assert (told.remembered.troubles, list(told.remembered.targets)) == ({}, ["other"])


# --- clocks --------------------------------------------------------------------------------------------------------


def test_a_clock_set_back_does_not_turn_red_into_green() -> None:
    told = Told()
    done = record(1)
    told.judge(facts(done), at(0))
    assert told.judge(facts(done), at(40)) == [("stale", False)]
    assert told.judge(facts(done), at(41, clock=1)) == []
    assert told.judge(facts(done), at(42, clock=2, boot="another")) == []
    assert told.remembered
    assert "stale:disk" in told.remembered.troubles


def test_a_clock_set_back_before_it_was_red_does_not_keep_it_green() -> None:
    told = Told()
    done = record(1)
    told.judge(facts(done), at(0))
    told.judge(facts(done), at(20))
    assert told.judge(facts(done), at(21, clock=-100)) == []
    assert told.judge(facts(done), at(37, clock=-84)) == [("stale", False)]


def test_a_clock_that_was_years_ahead_does_not_stay_red_once_a_sync_is_done() -> None:
    told = Told()
    done = record(1)
    told.judge(facts(done), at(0))
    assert told.judge(facts(done), at(1, clock=40_000)) == [("stale", False)]
    assert told.judge(facts(done), at(2)) == []
    good = record(2, ended=START + 3 * HOUR)
    assert told.judge(facts(done, good), at(3)) == [("recovered", False)]
    assert told.judge(facts(done, good), at(30)) == []


def test_a_sync_to_one_target_says_nothing_of_another() -> None:
    """The clock was set back; a sync to `disk` sets its own clock alone."""
    disk, vps = record(1), record(2, target="vps")
    found = Facts("home", (TargetFacts("disk", LIMIT, disk), TargetFacts("vps", LIMIT, vps)), (disk, vps))
    told = Told()
    told.judge(found, at(0))
    told.judge(found, at(40))
    new = record(3, ended=START + 2 * HOUR)
    later = Facts("home", (TargetFacts("disk", LIMIT, new), TargetFacts("vps", LIMIT, vps)), (disk, vps, new))
    assert told.judge(later, at(42, clock=2)) == [("recovered", False)]
    assert told.remembered
    assert list(told.remembered.troubles) == ["stale:vps"]


def test_advanced_and_staleness_of_a_target_without_limit() -> None:
    target = TargetFacts("seed", 0, record(1))
    assert staleness(target, advanced(None, target, at(10_000))) == ""


@given(st.integers(0, 10**17), st.integers(0, 10**17), st.integers(0, 10**15), st.integers(0, 10**15), st.booleans())
def test_a_mark_never_goes_back(reading: int, now: int, before: int, uptime: int, same: bool) -> None:  # noqa: FBT001
    mark = Mark(reading=reading, begun=0, boot="a", uptime=before)
    later = mark.at(Moment(now, "a" if same else "b", uptime))
    assert later.reading >= max(reading, now)
    assert not same or later.reading >= reading + uptime - before


def test_every_reason_can_be_explained() -> None:
    for reason in (*Why, *Reason, "a-word-of-tomorrow"):
        for event in Event:
            sentence, hint = explain(event, str(reason), "home", "disk", 5)
            assert sentence
            assert hint
            assert "{" not in sentence + hint


# --- seeds in transit ----------------------------------------------------------------------------------------------


def test_a_seed_in_transit_is_reminded_of_once_a_week_and_nothing_is_told_of_ages() -> None:
    told = Told()
    old = record(1)
    told.judge(facts(old), at(0))
    days = [told.judge(facts(old, transit={"disk": START}), at(24 * day)) for day in range(1, 23)]
    assert [day for day, events in enumerate(days, 1) if events] == [8, 15, 22]
    assert days[7] == [("transit", True)]
    assert told.pinged() is None
    assert told.judge(facts(old), at(24 * 23)) == [("stale", False)]


def test_a_seed_is_one_matter_though_its_heir_waits_too() -> None:
    told = Told()
    found = facts(record(1), transit={"disk": START, "vps": START})
    found = replace(found, targets=(*found.targets, TargetFacts("vps")))
    told.judge(found, at(0))
    assert told.judge(found, at(24 * 8)) == [("transit", True)]
    assert told.last
    assert [trouble.target for trouble in told.last.notices[0].troubles] == ["vps"]


def test_a_timed_sync_that_is_in_transit_is_no_failure() -> None:
    told = Told()
    waiting = record(2, Outcome.IN_TRANSIT, Reason.SEED_IN_TRANSIT)
    assert told.judge(facts(record(1), waiting, transit={"disk": START}), at(1)) == []


def test_sealing_and_adopting_put_right_what_a_sync_would_and_their_failure_is_their_callers() -> None:
    told = Told()
    bad = record(1, Outcome.FAILED, Reason.TARGET_ABSENT)
    assert told.judge(facts(bad), at(0)) == [("failed", False)]
    refused = record(2, Outcome.FAILED, Reason.TARGET_BUSY, kind=Kind.SEAL)
    assert told.judge(facts(bad, refused), at(1)) == []
    assert told.judge(facts(bad, refused, record(3, kind=Kind.SEAL)), at(2)) == [("recovered", False)]


def test_what_lasts_beside_a_seed_in_transit_is_reminded_of_daily() -> None:
    told = Told()
    bad = record(1, Outcome.FAILED, Reason.TARGET_ABSENT)
    told.judge(facts(bad, transit={"vps": START}), at(0))
    assert told.judge(facts(bad, transit={"vps": START}), at(25)) == [("failed", True)]


# --- locks -----------------------------------------------------------------------------------------------------------


def test_a_boot_that_nobody_answers_is_told_once_and_when_it_is_over() -> None:
    told = Told()
    assert told.judge(facts(record(1), locked=False), at(0)) == []
    assert told.judge(facts(record(1), locked=True), at(1)) == [("locked", False)]
    assert told.pinged() is Ping.FAIL
    for hours in (1, 2, 20):
        assert told.judge(facts(record(1), locked=True), at(hours)) == []
    assert told.judge(facts(record(1), locked=None), at(24)) == [], "systemd could not be asked"
    assert told.judge(facts(record(1), locked=True), at(26)) == [("locked", True)]
    assert told.judge(facts(record(1), locked=False), at(26)) == [("recovered", False)]
    assert told.judge(facts(record(1), locked=False), at(27)) == []


@pytest.mark.parametrize("first", ["boot", "job"])
def test_that_a_vault_is_locked_is_told_once_whoever_finds_it(first: str) -> None:
    told = Told()
    good, bad, later = record(1), record(2, Outcome.FAILED, "locked"), record(3, Outcome.FAILED, "locked", kind=Kind.VERIFY)
    told.judge(facts(good), at(0))
    before = facts(good, locked=True) if first == "boot" else facts(good, bad)
    assert told.judge(before, at(1)) == [("locked", False)]
    assert told.judge(facts(good, bad, locked=True), at(2)) == []
    assert told.judge(facts(good, bad, later, locked=True), at(3)) == []
    assert told.judge(facts(good, bad, later, locked=False), at(4)) == [], "a sync has yet to be done"
    done = record(4, ended=START + 5 * HOUR)
    assert told.judge(facts(good, bad, later, done), at(5)) == [("recovered", False)]


def test_a_wrong_passphrase_is_another_trouble_than_a_lock() -> None:
    told = Told()
    told.judge(facts(record(1), locked=True), at(0))
    wrong = record(2, Outcome.FAILED, "wrong-passphrase")
    assert told.judge(facts(record(1), wrong, locked=True), at(1)) == [("locked", False)]


# --- arrays ----------------------------------------------------------------------------------------------------------


def test_an_array_that_lacks_a_disk_is_told_until_it_is_whole_again() -> None:
    told = Told()
    good = record(1)

    def lacking(count: int | None) -> Facts:
        return facts(good, targets=(TargetFacts("disk", LIMIT, good, lacking=count),))

    assert told.judge(lacking(0), at(0)) == []
    assert told.judge(lacking(1), at(1)) == [("degraded", False)]
    assert told.judge(lacking(2), at(2)) == []
    assert told.judge(lacking(None), at(3)) == [], "unplugged, or being rebuilt"
    assert told.judge(lacking(0), at(4)) == [("recovered", False)]
