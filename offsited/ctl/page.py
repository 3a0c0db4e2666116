# SPDX-License-Identifier: GPL-3.0-or-later
"""The page that `status` shows. Pure: situations and a moment in, coloured lines out.

Whoever prints strips the colours where none are wanted.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import tzinfo
from typing import Final

import click

from offsited import names
from offsited.core import words
from offsited.core.event import UNSENT, Event, Why, explain
from offsited.core.outcome import ADVICE, Outcome, parse_reason
from offsited.core.stage import Stage
from offsited.ctl import meter
from offsited.ctl.objects import Job, JobEnd, Target, Vault
from offsited.ctl.planned import held_in_words

_COLOURS: Final = {
    Outcome.DONE: "green",
    Outcome.PARTIAL: "yellow",
    Outcome.HELD: "yellow",
    Outcome.CANCELED: "yellow",
    Outcome.IN_TRANSIT: "yellow",
    Outcome.FAILED: "red",
}

OLDER_KEY_FILE: Final = "older"
"""Of a target that a sync has not brought the changed passphrase's key file to yet."""


@dataclass(frozen=True)
class Situation:
    """One vault at one moment."""

    vault: Vault
    last: JobEnd | None
    """The last sync that ended."""
    next_run: int | None
    """When its timer fires next, 0 = active without a date, None = no timer is active."""

    def as_json(self) -> dict[str, object]:
        return {**self.vault.as_json(), "last": self.last.as_json() if self.last else None, "next_run": self.next_run}


def page(situations: list[Situation], invalid: list[str], now: int, zone: tzinfo | None = None) -> list[str]:
    """Given the vaults as they are at `now`, and the names of invalid vault files, return the lines."""
    if not situations and not invalid:
        return ["There is no vault yet. Make one: sudo offsitectl init NAME --source KIND:PATH --target NAME=SPEC"]
    lines: list[str] = []
    for situation in situations:
        lines += [*([""] if lines else []), *_vault(situation, now, zone)]
    for name in invalid:
        lines.append(f"{_bold(words.printable(name))}  {click.style('invalid', fg='red')}: see what is wrong: sudo offsitectl check-config")
    return lines


def _vault(situation: Situation, now: int, zone: tzinfo | None) -> Iterator[str]:
    vault = situation.vault
    yield f"{_bold(words.printable(vault.name))}  {click.style('locked', fg='yellow') if vault.locked else 'unlocked'}"
    if vault.job is not None:
        yield f"  running   {_course(vault.job)}, {meter.describe(vault.job)}"
    width = max((len(target.name) for target in vault.targets), default=0)
    for target in vault.targets:
        yield from _target(target, width, now, zone)
        if told := _seed(vault, target, now, zone):
            yield f"            {' ' * width}  seed      {told}"
        if target.key_file == OLDER_KEY_FILE:
            until = words.moment(vault.passphrase_changed, zone)
            yield f"            {' ' * width}  {click.style('still opens with the passphrase used until ' + until, fg='yellow')}"
    if situation.last is not None:
        yield f"  last      {_last(situation.last, now, zone)}"
    yield f"  next      {_next(situation, now, zone)}"
    yield from (f"  to do     {line}" for line in to_do(vault))


def to_do(vault: Vault) -> list[str]:
    """What waits for a person: the command to type, or what the last outcome's reason advises."""
    lines = [f"offsitectl unlock {vault.name}"] if vault.locked else []
    for target in vault.targets:
        if target.degraded:
            lines.append(f"{target.name}: {array(target)[1]}")
        if target.check_reason:
            hint = ADVICE[parse_reason(target.check_reason)].hint.format(vault=vault.name, target=target.name, job=vault.last_job)
            lines.append(f"{target.name}: {hint}")
        lines += _seed_to_do(vault, target)
        if target.last_outcome in {"", Outcome.DONE, Outcome.IN_TRANSIT}:
            continue
        hint = ADVICE[parse_reason(target.last_reason)].hint.format(vault=vault.name, target=target.name, job=vault.last_job)
        lines += [f"{target.name}: {hint}"] if hint else []
    lines += [f"offsitectl sync {vault.name} --target {target.name}" for target in vault.targets if target.key_file == OLDER_KEY_FILE]
    if not vault.kit_confirmed:
        kit = f"sudo offsitectl recovery-kit {vault.name}"
        lines.append(f"print the recovery kit, keep it elsewhere, type its key back: {kit} --output FILE.html; {kit} --confirm")
    if vault.unsent:
        lines.append(unsent(vault))
    return [words.printable(line) for line in lines]


def _seed(vault: Vault, target: Target, now: int, zone: tzinfo | None) -> str:
    """What part a target has in the life of a seed, if there is anything to say of that."""
    heirs = ", ".join(words.printable(other.name) for other in vault.targets if other.seed == target.name)
    seed = next((other for other in vault.targets if other.name == target.seed), None)
    sealed = target.sealed or (seed.sealed if seed else 0)
    since = f"sealed {words.moment(sealed, zone)} ({words.ago(sealed, now)})" if sealed else "sealed"
    return {
        (Stage.SEEDING, True): f"waits for {words.printable(target.seed)}, which is being filled",
        (Stage.SEEDING, False): f"being filled for {heirs}",
        (Stage.SEALED, True): click.style(f"waits for {words.printable(target.seed)}, which is in transit: {since}", fg="yellow"),
        (Stage.SEALED, False): click.style(f"{since}: in transit{f' to {heirs}' if heirs else ''}", fg="yellow"),
        (Stage.ADOPTED, True): f"adopted from {words.printable(target.seed)}: the next sync sends what has changed since",
        (Stage.ADOPTED, False): f"adopted at {heirs}",
    }.get((Stage(target.stage) if target.stage in set(Stage) else Stage.NONE, bool(target.seed)), "")


def _seed_to_do(vault: Vault, target: Target) -> list[str]:
    """The next step in the life of a seed, told for its heir."""
    if not target.seed:
        return []
    filled = any(other.name == target.seed and other.commit_job for other in vault.targets)
    if target.stage == Stage.SEEDING and filled:
        return [f"{target.name}: before {target.seed} travels: offsitectl target seal {vault.name} {target.seed}"]
    if target.stage == Stage.SEALED:
        adopt = f"offsitectl target adopt {vault.name} {target.name} --from {target.seed}"
        return [f"{target.name}: when {target.seed} is in place there: {adopt}"]
    return []


def array(target: Target) -> tuple[str, str]:
    """That the target's array lacks a disk, and what to do."""
    return explain(Event.DEGRADED, Why.ARRAY_DEGRADED, "", target.name, 0)


def unsent(vault: Vault) -> str:
    """That notices wait, why, and what to do."""
    sentence, hint = UNSENT.get(vault.unsent_reason, (vault.unsent_reason, ""))
    then = f"{hint}, then try: " if hint else ""
    return f"{words.number(vault.unsent, 'notice')} could not be sent: {sentence}. {then}sudo offsitectl notify-test"


def _target(target: Target, width: int, now: int, zone: tzinfo | None) -> Iterator[str]:
    name = words.printable(target.name).ljust(width)
    state = f", {words.printable(target.state)}" if target.state not in {"", "unknown"} else ""
    yield f"  target    {name}  {words.printable(target.kind)}{state}{', default' if target.default else ''}: {_holding(target, now, zone)}"
    if checked := _checked(target, now, zone):
        yield f"            {' ' * width}  {checked}"
    if target.check_reason:
        wrong = ADVICE[parse_reason(target.check_reason)].sentence
        yield f"            {' ' * width}  {click.style('last check', fg='red')}: {wrong}"
    if target.last_outcome:
        yield f"            {' ' * width}  last sync {outcome(target.last_outcome, target.last_reason)}"
    if target.degraded:
        yield f"            {' ' * width}  {click.style('degraded', fg='red')}: {array(target)[0]}"
    if target.held.plan:
        yield f"            {' ' * width}  held      {held_in_words(target.held)}, as plan {words.printable(target.held.plan)}"


def _checked(target: Target, now: int, zone: tzinfo | None) -> str:
    """When it was last found to be as it should be, and to be restorable; "" = never."""
    told = {"verified": target.verified, "last proven restorable": target.proven}
    return ", ".join(f"{what} {words.moment(then, zone)} ({words.ago(then, now)})" for what, then in told.items() if then)


def _holding(target: Target, now: int, zone: tzinfo | None) -> str:
    if not target.commit_job:
        return _aged(target, "holds no snapshot yet")
    dated = (
        f"of {words.moment(target.snapshot_dated, zone)} ({words.age(target.snapshot_dated, now)})"
        if target.snapshot_dated
        else "without a date"
    )
    confirmed = f"{words.moment(target.confirmed, zone)} ({words.ago(target.confirmed, now)})" if target.confirmed else "never"
    return f"{_aged(target, f'snapshot {dated}, confirmed {confirmed}')}{_room(target)}"


def _aged(target: Target, text: str) -> str:
    """Red when stale; green only where an age is watched over, and the last sync was good."""
    if target.stale:
        return click.style(f"STALE: {text}", fg="red", bold=True)
    good = target.stale_after and target.commit_job and target.last_outcome == Outcome.DONE
    return click.style(text, fg="green") if good else text


def _room(target: Target) -> str:
    if not target.size_bytes:
        return ""
    return f", {words.size(target.free_bytes)} of {words.size(target.size_bytes)} free"


def outcome(word: str, reason: str) -> str:
    """An outcome, coloured, with the sentence of its reason."""
    sentence = ADVICE[parse_reason(reason)].sentence
    coloured = click.style(words.printable(word), fg=_COLOURS[Outcome(word)]) if word in set(Outcome) else words.printable(word)
    return f"{coloured}: {sentence}" if sentence and word != Outcome.DONE else coloured


def _last(end: JobEnd, now: int, zone: tzinfo | None) -> str:
    return f"{_course(end)}, {words.moment(end.ended, zone)} ({words.ago(end.ended, now)}): {outcome(end.outcome, '')}"


def _course(job: Job | JobEnd) -> str:
    return f"job {job.job}: {words.printable(job.kind)} {words.PREPOSITIONS.get(job.kind, 'of')} {words.printable(job.target)}"


def _next(situation: Situation, now: int, zone: tzinfo | None) -> str:
    match situation.next_run:
        case None:
            return f"no timer; start one: sudo systemctl enable --now {names.sync_timer(situation.vault.name)}"
        case 0:
            return "timer active, no date set"
        case then:
            return f"{words.moment(then, zone)} ({words.ago(then, now)})"


def _bold(text: str) -> str:
    return click.style(text, bold=True)
