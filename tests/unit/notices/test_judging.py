# SPDX-License-Identifier: GPL-3.0-or-later
"""From files to letters in the spool and out again: with a real store, and whatever may be wrong with it."""

import json
import multiprocessing
import time
from email.message import EmailMessage
from pathlib import Path

import pytest

from offsited.core.config import Notify
from offsited.core.event import Event, Unsent
from offsited.core.notice import Notice, Ping
from offsited.core.outcome import Outcome
from offsited.core.record import JobRecord, Kind, Options
from offsited.errors import Exit
from offsited.notices import __main__ as program
from offsited.notices import evidence, locks, sending, ways
from offsited.notices.judging import judge_vault, write_metrics
from offsited.notices.ways import NotSent
from offsited.spool import Item, Spool, Way
from offsited.store import Store, VaultFiles

NOW = time.time_ns() // 1000
HOUR = 3_600_000_000
VAULT_FILE = """
[source]
kind = "path"
path = "/srv"
[[target]]
name = "disk"
kind = "disk"
label = "X"
directory = "x"
[[target]]
name = "other"
kind = "disk"
label = "Y"
directory = "x"
"""


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """One vault, `home`; root gets mail."""
    made = Store(tmp_path / "etc", tmp_path / "var")
    (made.etc / "vaults.d").mkdir(parents=True)
    made.vault_file("home").write_text(VAULT_FILE)
    settings(made, 'mail = ["root"]')
    made.vault_files("home").create()
    return made


@pytest.fixture
def spool(store: Store) -> Spool:
    return Spool(store.vault_files("home").notices)


def settings(store: Store, text: str) -> None:
    (store.etc / "offsited.toml").write_text(f"[notify]\n{text}\n")


def files(store: Store) -> VaultFiles:
    return store.vault_files("home")


def put(
    store: Store, job: int, outcome: Outcome | None = Outcome.DONE, reason: str = "", *, hours: float = 0, target: str = "disk"
) -> None:
    """A job that ended so many hours ago."""
    ended = NOW - int(hours * HOUR)
    record = JobRecord(job=job, kind=Kind.SYNC, vault="home", target=target, unit="u", requested=ended, started=ended)
    end = {"ended": ended, "outcome": outcome, "reason": reason} if outcome else {}
    files(store).write_record(record.model_copy(update=end))
    if outcome is Outcome.DONE:
        commit(store, target)


def commit(store: Store, target: str) -> None:
    directory = files(store).target(target)
    directory.mkdir(parents=True, exist_ok=True)
    root = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    fields = {"vault": "v", "target": target, "job": 1, "snapshot": "s", "snapshot_dated": 0, "opened": 1, "committed": 1, "reconciled": 1}
    (directory / "commit.json").write_text(json.dumps({**fields, "entries": 0, "bytes": 0, "segments": [], "root": root}))


def events(spool: Spool) -> list[str]:
    return [item.notice.event.value for item in spool.items()]


def test_what_went_wrong_becomes_a_letter_once(store: Store, spool: Spool) -> None:
    put(store, 1, Outcome.FAILED, "target-full")
    for _ in range(3):
        assert judge_vault(store, "home")
    assert events(spool) == ["failed"]
    (item,) = spool.items()
    assert "sync to disk FAILED: the target is full" in item.subject
    assert (item.way, item.tries) == (Way.MAIL, 0)


def test_each_way_gets_its_own(store: Store, spool: Spool) -> None:
    settings(store, 'mail = ["root"]\nping = "https://x.example/y"\napprise = ["json://a", "json://b"]')
    put(store, 1, Outcome.FAILED, "target-full")
    judge_vault(store, "home")
    assert sorted((item.way.value, item.which) for item in spool.items()) == [("apprise", 0), ("apprise", 1), ("mail", 0), ("ping", 0)]
    put(store, 2)
    judge_vault(store, "home")
    pings = [item.ping for item in spool.items() if item.way is Way.PING]
    assert pings == [Ping.SUCCESS], "the newest sign of life alone"


def test_a_good_sync_is_a_sign_of_life_without_a_letter(store: Store, spool: Spool) -> None:
    settings(store, 'mail = ["root"]\nping = "https://x.example/y"')
    put(store, 1)
    judge_vault(store, "home")
    (item,) = spool.items()
    assert (item.way, item.ping) == (Way.PING, Ping.SUCCESS)
    assert "sync to disk done" in item.subject


def test_a_ping_of_what_lasts_does_not_say_that_all_is_well(store: Store, spool: Spool) -> None:
    """One target is well again, and the other one is not."""
    store.vault_file("home").write_text(VAULT_FILE + 'stale_after = "36h"\n')
    settings(store, 'mail = ["root"]\nping = "https://x.example/y"')
    put(store, 1, hours=48)
    put(store, 2, hours=47, target="other")
    judge_vault(store, "home")
    put(store, 3)
    judge_vault(store, "home")
    assert events(spool)[:3] == ["stale", "stale", "recovered"]
    (item,) = (item for item in spool.items() if item.way is Way.PING)
    assert item.ping is Ping.FAIL
    assert "still: home: target other: TOO OLD" in item.subject
    assert "well again" not in item.subject + item.body


def test_old_and_only_where_it_is_watched(store: Store, spool: Spool) -> None:
    put(store, 1, hours=48)
    put(store, 2, hours=47, target="other")
    judge_vault(store, "home")
    assert events(spool) == ["stale"]
    store.vault_file("home").write_text(VAULT_FILE + 'stale_after = "24h"\n')
    judge_vault(store, "home")
    assert events(spool) == ["stale", "stale"]


def test_a_commit_that_is_gone(store: Store, spool: Spool) -> None:
    put(store, 1)
    (files(store).target("disk") / "commit.json").write_text("{")
    judge_vault(store, "home")
    assert events(spool) == ["degraded"]


def test_a_vault_file_that_is_broken(store: Store, spool: Spool) -> None:
    put(store, 1)
    judge_vault(store, "home")
    store.vault_file("home").write_text("[")
    judge_vault(store, "home")
    assert events(spool) == ["failed"]
    assert "check-config" in spool.items()[0].body
    assert [target.limit for target in evidence.gather(store, "home", Notify(), spool.remembered()).targets] == [36 * HOUR, 0]


def test_settings_that_are_broken_let_root_know(store: Store, spool: Spool) -> None:
    (store.etc / "offsited.toml").write_text("[")
    assert store.read_notify().mail == ("root",)
    put(store, 1, Outcome.FAILED, "config-invalid")
    judge_vault(store, "home")
    assert events(spool) == ["failed"]


@pytest.mark.parametrize("damage", [b"", b"{", b'{"format": 1}', b"\xff" * 100])
def test_a_memory_that_is_damaged_is_begun_anew(store: Store, spool: Spool, damage: bytes) -> None:
    put(store, 1, Outcome.FAILED, "target-full")
    judge_vault(store, "home")
    (spool.directory / "remembered.json").write_bytes(damage)
    (spool.directory / "00000009-mail.json").write_bytes(damage)
    judge_vault(store, "home")
    assert "failed" in events(spool)


def test_a_vault_that_is_no_more_is_nobodys_concern(store: Store) -> None:
    assert judge_vault(store, "gone")
    store.vault_file("home").unlink()
    assert judge_vault(store, "home")


def test_a_vault_without_state_is_a_problem(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    store.vault_file("two").write_text(VAULT_FILE)
    assert not judge_vault(store, "two")
    assert "vault two has no state" in capsys.readouterr().err
    assert not store.vault_files("two").directory.exists()


@pytest.mark.parametrize(
    ("hours", "timed", "runs", "told"), [(25, True, True, ["skipped"]), (23, True, True, []), (25, False, True, []), (25, True, False, [])]
)
def test_a_timed_sync_that_outlasts_a_day(
    store: Store, spool: Spool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hours: int, *, timed: bool, runs: bool, told: list[str]
) -> None:
    """systemd has passed over its next run without a word."""
    monkeypatch.setattr(evidence, "CGROUP", tmp_path)
    if runs:
        (tmp_path / "offsited-job-home.service").mkdir()
    asked = NOW - hours * HOUR
    unit = "offsited-job-home.service"
    record = JobRecord(job=5, kind=Kind.SYNC, vault="home", target="disk", unit=unit, requested=asked, options=Options(timed=timed))
    files(store).write_record(record)
    for _ in range(2):
        judge_vault(store, "home")
    assert events(spool) == told


def test_files_are_roots_alone(store: Store, spool: Spool) -> None:
    put(store, 1, Outcome.FAILED, "target-full")
    judge_vault(store, "home")
    assert {path.stat().st_mode & 0o077 for path in spool.directory.iterdir()} == {0}
    assert spool.directory.stat().st_mode & 0o077 == 0


# --- sending ---------------------------------------------------------------------------------------------------------


class Post:
    """In place of the ways out: takes what it is given, or refuses."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.taken: list[str] = []
        self.refusing = False
        monkeypatch.setattr(ways, "mail", lambda message, _to: self._take(str(message["Subject"])))
        monkeypatch.setattr(ways, "ping", lambda _url, _vault, kind, _body: self._take(kind.value))

    def _take(self, what: str) -> None:
        if self.refusing:
            raise NotSent(Unsent.MAIL_FAILED, "not today")
        self.taken.append(what)


@pytest.fixture
def post(monkeypatch: pytest.MonkeyPatch) -> Post:
    return Post(monkeypatch)


def test_what_was_sent_is_gone(store: Store, spool: Spool, post: Post) -> None:
    put(store, 1, Outcome.FAILED, "target-full")
    assert program.main(["tell", "home", "1"], store) == Exit.DONE
    assert len(post.taken) == 1
    assert spool.items() == []
    assert program.main(["watch"], store) == Exit.DONE
    assert len(post.taken) == 1


def test_what_could_not_be_sent_waits_longer_each_time(store: Store, spool: Spool, post: Post, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [NOW]
    monkeypatch.setattr(sending, "_now", lambda: clock[0])
    post.refusing = True
    put(store, 1, Outcome.FAILED, "target-full")
    assert program.main(["tell", "home", "1"], store) == program.NOT_ALL
    for tries, pause in enumerate([60, 600, 1800, 3600, 10800, 21600, 21600], start=1):
        (item,) = spool.items()
        assert (item.tries, item.error, item.due - clock[0]) == (tries, "mail-failed", pause * 1_000_000)
        assert sending.send_due(store, "home", Notify(mail=("root",))), "not due: not tried"
        clock[0] += pause * 1_000_000
        assert not sending.send_due(store, "home", Notify(mail=("root",)))
    post.refusing = False
    clock[0] += 86_400_000_000
    assert sending.send_due(store, "home", Notify(mail=("root",)))
    assert (len(post.taken), spool.items()) == (1, [])


@pytest.mark.parametrize("refusing", [False, True])
def test_a_sign_of_life_that_comes_while_the_one_before_is_sent_is_kept(
    store: Store, spool: Spool, monkeypatch: pytest.MonkeyPatch, *, refusing: bool
) -> None:
    """The next job ends while a monitor lets its caller wait."""
    sent: list[Ping] = []

    def ping(_url: str, _vault: str, kind: Ping, _body: str) -> None:
        sent.append(kind)
        if len(sent) == 1:
            put(store, 2, Outcome.FAILED, "target-full")
            judge_vault(store, "home")
            if refusing:
                raise NotSent(Unsent.PING_FAILED, "not today")

    monkeypatch.setattr(ways, "ping", ping)
    settings(store, 'ping = "https://x.example/y"')
    put(store, 1)
    judge_vault(store, "home")
    notify = Notify(ping="https://x.example/y")
    assert sending.send_due(store, "home", notify) is not refusing
    assert sending.send_due(store, "home", notify)
    assert sent == [Ping.SUCCESS, Ping.FAIL]
    assert spool.items() == []


def test_a_clock_set_back_does_not_hold_it_up(store: Store, spool: Spool, post: Post, monkeypatch: pytest.MonkeyPatch) -> None:
    post.refusing = True
    put(store, 1, Outcome.FAILED, "target-full")
    program.main(["tell", "home", "1"], store)
    monkeypatch.setattr(sending, "_now", lambda: NOW - 1000 * HOUR)
    post.refusing = False
    sending.send_due(store, "home", Notify(mail=("root",)))
    assert (len(post.taken), spool.items()) == (1, [])


@pytest.mark.parametrize(("way", "ping", "hours"), [(Way.MAIL, None, 8 * 24), (Way.PING, Ping.FAIL, 25), (Way.PING, Ping.SUCCESS, 2)])
def test_what_nobody_wants_to_hear_any_more_is_given_up(
    store: Store, spool: Spool, post: Post, way: Way, ping: Ping | None, hours: int
) -> None:
    """A success that comes late would even tell that all is well now."""
    judge_vault(store, "home")
    for age, kept in ((hours, 0), (hours // 3, 1)):
        notice = Notice(serial=1, event=Event.SUCCESS, vault="home", time=NOW - age * HOUR)
        post.refusing = True
        spool.put(Item(way=way, notice=notice, ping=ping, subject="s", body="b"))
        sending.send_due(store, "home", Notify(mail=("root",), ping="https://x.example/y"))
        assert (len(spool.items()), post.taken) == (kept, [])


def test_many_notifiers_at_once_tell_once(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The daemon's and the watch's, as processes."""

    def take(message: EmailMessage, _to: object) -> None:
        with (tmp_path / "sent").open("a") as file:
            file.write(f"{message['Message-ID']}\n")

    monkeypatch.setattr(ways, "mail", take)
    put(store, 1, Outcome.FAILED, "target-full")
    fork = multiprocessing.get_context("fork")
    for arguments in (["tell", "home", "1"], ["watch"]):
        running = [fork.Process(target=program.main, args=(arguments, store)) for _ in range(6)]
        for one in running:
            one.start()
        for one in running:
            one.join(30)
            assert one.exitcode == 0
    assert len((tmp_path / "sent").read_text().splitlines()) == 1


def test_a_start_is_told_while_the_job_runs_and_never_after_its_end(store: Store, post: Post) -> None:
    """To a monitor a start after the end would be another run, that never ends."""
    settings(store, 'ping = "https://x.example/y"')
    put(store, 1, None)
    assert program.main(["start", "home", "1"], store) == Exit.DONE
    assert post.taken == ["start"]
    put(store, 1)
    program.main(["tell", "home", "1"], store)
    program.main(["start", "home", "1"], store)
    assert post.taken == ["start", "success"]
    post.refusing = True
    put(store, 2, None)
    assert program.main(["start", "home", "2"], store) == program.NOT_ALL
    assert Spool(files(store).notices).items() == []


def test_a_way_that_is_set_no_longer_is_done_with(store: Store, spool: Spool, post: Post) -> None:
    put(store, 1, Outcome.FAILED, "target-full")
    judge_vault(store, "home")
    assert sending.send_due(store, "home", Notify())
    assert (spool.items(), post.taken) == ([], [])


def test_one_vault_that_cannot_be_judged_silences_no_other(store: Store, post: Post) -> None:
    store.vault_file("a").write_text(VAULT_FILE)
    store.vault_files("a").create()
    store.vault_files("a").notices.write_text("in the way")
    put(store, 1, Outcome.FAILED, "target-full")
    assert program.main(["watch"], store) == program.NOT_ALL
    assert len(post.taken) == 1


@pytest.mark.parametrize("arguments", [[], ["tell"], ["tell", "home"], ["tell", "home", "x"], ["nonsense"]])
def test_what_cannot_be_meant(store: Store, arguments: list[str]) -> None:
    assert program.main(arguments, store) == Exit.USAGE


# --- metrics ---------------------------------------------------------------------------------------------------------


def test_metrics_of_all_vaults(store: Store, tmp_path: Path) -> None:
    path = tmp_path / "offsited.prom"
    settings(store, f'prometheus = "{path}"')
    put(store, 1, hours=48)
    put(store, 2, Outcome.FAILED, "target-full")
    store.vault_file("broken").write_text("[")
    assert program.main(["watch"], store) == program.NOT_ALL, "the broken one has no state"
    lines = path.read_text().splitlines()
    target = 'vault="home",target="disk"'
    for wanted in (
        f"offsited_target_stale{{{target}}} 1",
        f"offsited_target_stale_after_seconds{{{target}}} 129600",
        f'offsited_sync_outcome{{{target},outcome="failed"}} 1',
        f'offsited_sync_outcome{{{target},outcome="done"}} 0',
        'offsited_target_confirmed_timestamp_seconds{vault="home",target="other"} 0',
        'offsited_vault_invalid{vault="broken"} 1',
        'offsited_vault_invalid{vault="home"} 0',
    ):
        assert wanted in lines
    assert any(
        line.startswith(f'offsited_trouble_since_timestamp_seconds{{{target},event="stale",reason="unconfirmed"}}') for line in lines
    )
    samples = [line for line in lines if not line.startswith("#")]
    assert len({line.rpartition(" ")[0] for line in samples}) == len(samples), "each once"
    for line in samples:
        float(line.rpartition(" ")[2])


def test_notifiers_of_several_vaults_write_metrics_one_after_the_other(store: Store, tmp_path: Path) -> None:
    path = tmp_path / "offsited.prom"
    settings(store, f'prometheus = "{path}"')
    put(store, 1)

    def write_often() -> None:
        for _ in range(50):
            assert write_metrics(store)

    fork = multiprocessing.get_context("fork")
    running = [fork.Process(target=write_often) for _ in range(4)]
    for one in running:
        one.start()
    for one in running:
        one.join(60)
    assert [one.exitcode for one in running] == [0] * 4
    assert path.read_text().splitlines()[-1].startswith("offsited_watch_timestamp_seconds ")


def test_metrics_that_cannot_be_written_harm_nobody(store: Store, tmp_path: Path, post: Post) -> None:
    settings(store, f'mail = ["root"]\nprometheus = "{tmp_path}/no/such/directory"')
    put(store, 1, Outcome.FAILED, "target-full")
    assert program.main(["watch"], store) == program.NOT_ALL
    assert len(post.taken) == 1


def test_a_dry_run_confirms_nothing_and_is_told_to_nobody(store: Store, spool: Spool) -> None:
    files = store.vault_files("home")
    for outcome in (Outcome.DONE, Outcome.HELD):
        record = JobRecord(
            job=int(outcome is Outcome.HELD) + 1,
            kind=Kind.SYNC,
            vault="home",
            target="disk",
            unit="u",
            options=Options(dry_run=True),
            requested=NOW,
            started=NOW,
            ended=NOW,
            outcome=outcome,
        )
        files.write_record(record)
    facts = evidence.gather(store, "home", store.read_notify(), None)
    assert facts.records == ()
    assert all(target.done is None for target in facts.targets)
    judge_vault(store, "home")
    assert spool.items() == []


def test_what_systemd_holds_is_read_from_its_answer() -> None:
    """As busctl of Debian 13 prints it."""
    entry = '["key-home",33152,0,1,4242,0,0,"/memfd:offsited (deleted)",33652866]'
    assert locks.stored(f'{{"type":"a(suuutuusu)","data":[[{entry}]]}}\n'.encode()) == {"key-home"}
    assert locks.stored(b'{"type":"a(suuutuusu)","data":[[]]}\n') == set()
