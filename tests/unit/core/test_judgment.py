# SPDX-License-Identifier: GPL-3.0-or-later
"""What is told, and when: cases one by one, and random lives of a vault against a model that knows the real time."""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from offsited.core.judgment import DAY, Judgment, advanced, event_of, judge, staleness
from offsited.core.notice import Event, Facts, Mark, Moment, Notice, Ping, Remembered, TargetFacts, Why, explain
from offsited.core.outcome import Outcome, Reason
from offsited.core.record import JobRecord, Kind

HOUR = 3_600_000_000
LIMIT = 36 * HOUR
START = 1_790_000_000_000_000
"""A time of day at which these lives begin."""


def record(job: int, outcome: Outcome | None = Outcome.DONE, reason: str = "", ended: int = START, **more: object) -> JobRecord:
    base = JobRecord(job=job, kind=Kind.SYNC, vault="home", target="disk", unit="u", requested=ended, started=ended)
    end = {"ended": ended if outcome else 0, "outcome": outcome, "reason": reason, "snapshot_dated": ended - HOUR}
    return base.model_copy(update=end | more)


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


# --- random lives --------------------------------------------------------------------------------------------------

INTERVAL = 3 * HOUR
"""Between two looks of the watch, in this model."""
ENDS = [
    (Outcome.DONE, ""),
    (Outcome.DONE, ""),
    (Outcome.FAILED, "target-absent"),
    (Outcome.FAILED, "target-full"),
    (Outcome.FAILED, "locked"),
    (Outcome.PARTIAL, "entries-unreadable"),
    (Outcome.HELD, ""),
    (Outcome.CANCELED, "canceled"),
]

Act = tuple[str, int]
ACTS = st.one_of(
    st.tuples(st.just("run"), st.integers(0, len(ENDS) - 1)),
    st.tuples(st.just("unseen"), st.integers(0, len(ENDS) - 1)),
    st.tuples(st.just("wait"), st.integers(1, 50)),
    st.tuples(st.just("jump"), st.one_of(st.integers(-100, 100), st.sampled_from([-100_000, 100_000]))),
    st.tuples(st.just("reboot"), st.just(0)),
    st.tuples(st.just("crash"), st.just(0)),
)


@dataclass
class Life:
    """A vault with one target, whose real time nobody but this model knows."""

    real: int = 0
    clock: int = START
    """The time of day is this more than the real time."""
    booted: int = 0
    boots: int = 0
    records: list[JobRecord] = field(default_factory=list)
    remembered: Remembered | None = None
    notices: list[tuple[int, Notice]] = field(default_factory=list)
    done_at: int | None = None
    lost: int = 0
    """How much of the real time since then may be unknown to any machine with such a clock."""
    forward: bool = False
    """Whether the clock was set forward since then."""
    jumps: int = 0

    def moment(self) -> Moment:
        return Moment(self.real + self.clock, str(self.boots), self.real - self.booted)

    def facts(self) -> Facts:
        done = [found for found in self.records if found.outcome is Outcome.DONE]
        return Facts("home", (TargetFacts("disk", LIMIT, done[-1] if done else None),), tuple(self.records))

    def act(self, what: str, value: int) -> None:
        getattr(self, f"_{what}")(value)
        self.check()

    def _run(self, end: int) -> None:
        self._unseen(end)
        self.look()

    def _unseen(self, end: int) -> None:
        """The daemon is killed at once: nobody looks before the watch does."""
        outcome, reason = ENDS[end]
        self.records.append(record(len(self.records) + 1, outcome, reason, self.real + self.clock))
        if outcome is Outcome.DONE:
            self.done_at, self.lost, self.forward = self.real, INTERVAL, False

    def _wait(self, hours: int) -> None:
        until = self.real + hours * HOUR
        while self.real < until:
            self.real = min(self.real + INTERVAL, until)
            self.look()
            self.check()

    def _jump(self, hours: int) -> None:
        self.clock += hours * HOUR
        self.forward = self.forward or hours > 0
        self.jumps += 1

    def _reboot(self, _: int) -> None:
        self.booted, self.boots = self.real, self.boots + 1
        self.lost += INTERVAL

    def _crash(self, _: int) -> None:
        """It judges, and what it would keep is lost."""
        judge(self.remembered, self.facts(), self.moment())

    def look(self) -> None:
        judgment = judge(self.remembered, self.facts(), self.moment())
        self.remembered = judgment.remembered
        self.notices += [(self.real, notice) for notice in judgment.notices]
        assert judgment.ping is None or (judgment.ping is Ping.FAIL) is bool(judgment.remembered.troubles)

    def check(self) -> None:
        """Never green when it is old or the last sync was not done; never red for long without a cause."""
        if self.remembered is None or self.done_at is None or self.remembered.targets["disk"].done != self._last_done():
            return
        age = self.real - self.done_at
        stale = "stale:disk" in self.remembered.troubles
        assert stale or age <= LIMIT + INTERVAL + self.lost, f"green after {age / HOUR} hours"
        assert not stale or self.forward or age > LIMIT - 2 * HOUR, f"red after {age / HOUR} hours"

    def _last_done(self) -> int:
        return max(found.job for found in self.records if found.outcome is Outcome.DONE)

    def expected(self) -> list[tuple[str, str]]:
        """What a single-minded observer of the jobs would have told."""
        told, state = [], None
        for found in self.records:
            event = event_of(found)
            if event is Event.SUCCESS and state:
                told.append(("over", state))
                state = None
            elif event not in {None, Event.SUCCESS} and (mine := f"{event} {found.reason}") != state:
                told.append(("begun", mine))
                state = mine
        return told


def _of_jobs(notices: list[Notice]) -> list[tuple[str, str]]:
    new = [(notice.event is Event.RECOVERED, trouble) for notice in notices if not notice.reminder for trouble in notice.troubles]
    return [("over" if over else "begun", f"{trouble.event} {trouble.reason}") for over, trouble in new if trouble.event is not Event.STALE]


def _of_age(notices: list[Notice]) -> list[bool]:
    """Stale and stale no more, in order."""
    new = [notice for notice in notices if not notice.reminder]
    return [notice.event is not Event.RECOVERED for notice in new for trouble in notice.troubles if trouble.event is Event.STALE]


SEEN: Counter[str] = Counter()
"""So that the random lives are known to have met what they are to meet."""


@settings(max_examples=2000, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(ACTS, min_size=1, max_size=14))
def _live(acts: list[Act]) -> None:
    life = Life()
    life.look()
    for what, value in acts:
        life.act(what, value)
    life.look()
    notices = [notice for _, notice in life.notices]
    assert _of_jobs(notices) == life.expected(), "each state once"
    assert _of_age(notices) == [index % 2 == 0 for index in range(len(_of_age(notices)))]
    assert [notice.serial for notice in notices] == list(range(1, len(notices) + 1))
    _check_reminders(life)
    SEEN["lives"] += 1
    SEEN.update(f"{notice.event}{' reminder' if notice.reminder else ''}" for notice in notices)
    SEEN["jumps"] += life.jumps


def _check_reminders(life: Life) -> None:
    """At least daily while something lasts, and not more often, but for clocks that were set forward."""
    reminders = [when for when, notice in life.notices if notice.reminder]
    allowed = life.real // DAY + life.jumps + 1
    assert len(reminders) <= allowed
    assert life.remembered
    told = max((when for when, notice in life.notices if notice.troubles and notice.event is not Event.RECOVERED), default=0)
    if life.remembered.troubles:
        assert life.real - told <= DAY + INTERVAL * (2 + life.boots)


def test_two_thousand_random_lives() -> None:
    SEEN.clear()
    _live()
    assert SEEN["lives"] >= 2000
    for wanted in ("failed", "held", "locked", "degraded", "stale", "recovered", "stale reminder", "failed reminder", "jumps"):
        assert SEEN[wanted] > 20, f"no life met {wanted}: {SEEN}"


@pytest.mark.parametrize(
    "breakage",
    [
        lambda mark, moment: mark.model_copy(update={"reading": moment.now}),
        lambda mark, moment: mark.model_copy(update={"reading": max(mark.reading, moment.now)}),
    ],
    ids=["trusting the clock", "without the uptime"],
)
def test_the_model_finds_a_clock_that_can_be_fooled(breakage: Callable[[Mark, Moment], Mark], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Mark, "at", breakage)
    with pytest.raises(AssertionError, match="green after"):
        _forty_hours_with_a_clock_set_back_in_between()


def _forty_hours_with_a_clock_set_back_in_between() -> None:
    life = Life()
    for what, value in [("run", 0), ("wait", 20), ("jump", -30), ("wait", 30)]:
        life.act(what, value)


def test_a_clock_set_back_in_a_life() -> None:
    _forty_hours_with_a_clock_set_back_in_between()


def test_advanced_and_staleness_of_a_target_without_limit() -> None:
    target = TargetFacts("seed", 0, record(1))
    assert staleness(target, advanced(None, target, at(10_000))) == ""
