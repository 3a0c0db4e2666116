# SPDX-License-Identifier: GPL-3.0-or-later
"""Judging a vault: what is to be told becomes letters in its spool, and what was told is remembered, in one go."""

import os
from collections.abc import Iterator
from pathlib import Path

from offsited.core import letter, metrics
from offsited.core.config import Notify
from offsited.core.event import Event
from offsited.core.judgment import Judgment, ended, judge
from offsited.core.letter import Circumstances
from offsited.core.notice import Facts, Moment, Notice, Ping, Trouble
from offsited.core.record import WRITING, JobRecord
from offsited.errors import NoSuchVault
from offsited.notices import evidence, journal
from offsited.spool import JUDGING, Item, Spool, Way, alone, moment
from offsited.store import Store, write_whole


def judge_vault(store: Store, vault: str, skipped: int = 0, *, booted: bool = False) -> bool:
    """Judge a vault and put what is to be told into its spool. A vault that is no more is nobody's concern. Raise OSError.

    `booted`: so long after a boot that the vault should have been unlocked.
    """
    notify = store.read_notify()
    spool = Spool(store.vault_files(vault).notices)
    try:
        with spool.locked(JUDGING):
            before = spool.remembered()
            facts = evidence.gather(store, vault, notify, before, skipped, booted=booted)
            now = moment()
            judgment = judge(before, facts, now, on_success=notify.on_success)
            for item in _items(judgment, facts, notify, now):
                spool.put(item)
            spool.remember(judgment.remembered)
    except NoSuchVault:
        return True
    except FileNotFoundError:
        if store.vault_files(vault).state.is_dir():
            raise
        if not store.vault_file(vault).exists():
            return True
        journal.problem(vault, f"vault {vault} has no state: was it made with offsitectl init?")
        return False
    for notice in judgment.notices:
        journal.told(notice)
    return True


def _items(judgment: Judgment, facts: Facts, notify: Notify, now: Moment) -> Iterator[Item]:
    for notice in judgment.notices:
        text = letter.write(notice, _circumstances(notice, facts, notify))
        if notify.mail:
            yield Item(way=Way.MAIL, notice=notice, subject=text.subject, body=text.body)
        for index in range(len(notify.apprise)):
            yield Item(way=Way.APPRISE, which=index, notice=notice, subject=text.subject, body=text.body)
    if notify.ping and judgment.ping:
        notice = _fitting(judgment) or _sign_of_life(judgment, facts, now)
        text = letter.write(notice, _circumstances(notice, facts, notify))
        yield Item(way=Way.PING, notice=notice, ping=judgment.ping, subject=text.subject, body=text.body)


def _fitting(judgment: Judgment) -> Notice | None:
    """The last notice that says what the ping does: what is over is not why it tells of a failure, while something else lasts."""
    told = [notice for notice in judgment.notices if notice.event is not Event.SKIPPED]
    good = judgment.ping is Ping.SUCCESS
    return next((notice for notice in reversed(told) if (notice.event in {Event.RECOVERED, Event.SUCCESS}) is good), None)


def _sign_of_life(judgment: Judgment, facts: Facts, now: Moment) -> Notice:
    """For a ping without a notice of its own: all that lasts, or the last sync."""
    troubles = tuple(judgment.remembered.troubles.values())
    if troubles:
        about: Trouble | JobRecord = troubles[0]
        event = troubles[0].event
    else:
        about = [record for record in ended(facts.records) if record.kind in WRITING][-1]
        event = Event.SUCCESS
    return Notice(
        serial=0,
        event=event,
        vault=facts.vault,
        target=about.target,
        job=about.job,
        time=now.now,
        troubles=troubles,
        reminder=bool(troubles),
    )


def _circumstances(notice: Notice, facts: Facts, notify: Notify) -> Circumstances:
    record = next((record for record in facts.records if record.job == notice.job), None)
    return Circumstances(host=host(), facts=facts, record=record, names=notify.names_in_mail)


def host() -> str:
    """This machine, in one word."""
    return os.uname().nodename.partition(".")[0] or "localhost"


def write_metrics(store: Store) -> bool:
    """Replace the file for Prometheus, if one is wanted. Raise OSError."""
    notify = store.read_notify()
    if notify.prometheus is None:
        return True
    path = Path(notify.prometheus)
    with alone(os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)):  # notifiers of other vaults write it too
        now = moment()
        standings = [_standing(store, name, notify, now) for name in store.vault_names()]
        write_whole(path, metrics.exposition(standings, now.now).encode(), 0o644)
    return True


def _standing(store: Store, name: str, notify: Notify, now: Moment) -> metrics.Standing:
    spool = Spool(store.vault_files(name).notices)
    remembered = spool.remembered()
    try:
        facts = evidence.gather(store, name, notify, remembered)
    except NoSuchVault:  # a file whose name cannot be a vault's, or that went meanwhile
        facts = Facts(name, invalid="config-invalid")
    return metrics.Standing(facts, remembered, now, unsent=sum(item.tries > 0 for item in spool.items()))
