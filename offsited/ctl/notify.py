# SPDX-License-Identifier: GPL-3.0-or-later
"""notify-test: try each way in which notices are sent, in a unit like theirs, and say what happened."""

import json
import os
import subprocess
from typing import Final

from offsited.core import unit, words
from offsited.core.event import UNSENT
from offsited.ctl.output import Output
from offsited.errors import AccessDenied, Exit, Failed
from offsited.store import Store

_SYSTEMD_RUN: Final = "/usr/bin/systemd-run"


def notify_test(out: Output, store: Store) -> int:
    """Return Exit.DONE if every way that is set works. Raise AccessDenied, ConfigInvalid, or Failed if the unit does not run."""
    if os.geteuid() != 0:
        raise AccessDenied("the settings are root's to read", hint="sudo offsitectl notify-test")
    store.read_settings()
    settings = [word for setting in unit.as_settings(unit.NOTIFYING) for word in ("-p", setting)]
    command = [_SYSTEMD_RUN, "--quiet", "--wait", "--pipe", "--collect", "--service-type=exec", *settings, "--", *unit.NOTIFIER, "test"]
    ended = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, check=False)
    tried = [json.loads(line) for line in ended.stdout.splitlines()]
    if ended.returncode not in {Exit.DONE, Exit.FAILED} or (ended.returncode and not tried):
        raise Failed(f"the test's unit ended with status {ended.returncode}")
    out.put({"ways": tried})
    for way in tried:
        out.say(words.printable(_line(way)))
        if way["error"]:
            out.say(words.printable(f"  {UNSENT[way['error']][1]}"))
    if not tried:
        out.say("nobody is told anything: set mail, ping or apprise in [notify] of /etc/offsited/offsited.toml")
    return Exit(ended.returncode)


def _line(way: dict[str, str]) -> str:
    what = f"NOT SENT: {way['message']}" if way["error"] else "sent"
    return f"{way['way']}: {what}"
