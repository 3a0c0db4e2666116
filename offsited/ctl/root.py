# SPDX-License-Identifier: GPL-3.0-or-later
"""Commands that are root's alone, because they read or write root's files themselves."""

import os
import shlex
import sys

from offsited.errors import AccessDenied


def require(why: str) -> None:
    """Raise AccessDenied for anybody else, with the command line that would do."""
    if os.geteuid() != 0:
        raise AccessDenied(why, hint=shlex.join(["sudo", "offsitectl", *sys.argv[1:]]))
