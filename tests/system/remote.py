# SPDX-License-Identifier: GPL-3.0-or-later
"""The second machine: an sshd that lets a vault in, and root's own way to it, which no vault uses."""

import functools
import shlex
from dataclasses import dataclass

from .machine import must

HOST = "remote"
HOST_ADDRESS = "10.77.0.2"
ADMIN = "admin"
"""The administrator's way in, per ~/.ssh/config of root: another sshd, another key."""
KEYS = "/root/.ssh/authorized_keys"
NO_RSYNC = r'command="PATH=/nonexistent; eval \"$SSH_ORIGINAL_COMMAND\""'
"""For authorized_keys: a login whose shell finds no program."""


def at_remote(script: str, stdin: str = "") -> str:
    """Run a shell script at the remote as root, and return what it printed."""
    return must("ssh", ADMIN, script, stdin=stdin)


@functools.cache
def forbearing() -> None:
    """Have its sshd bear failed logins without turning us away for a while, sshd_config(5) PerSourcePenalties: we fail many."""
    at_remote("echo PerSourcePenalties no > /etc/ssh/sshd_config.d/offsited-tests.conf && systemctl restart ssh.service")


def host_key() -> str:
    """The remote's line for known_hosts."""
    kind, key = at_remote("cat /etc/ssh/ssh_host_ed25519_key.pub").split()[:2]
    return f"{HOST} {kind} {key}\n"


@dataclass(frozen=True)
class Remote:
    """A directory at the remote."""

    directory: str

    @property
    def spec(self) -> str:
        """As `offsitectl init --target` takes it."""
        return f"ssh:root@{HOST}{self.directory}"

    def let_in(self, line: str) -> None:
        """Make this the only line of authorized_keys."""
        at_remote(f"mkdir -p -m 700 /root/.ssh && cat > {KEYS} && chmod 600 {KEYS}", f"{line}\n")

    def census(self) -> str:
        """Everything in the directory, as text."""
        top = shlex.quote(self.directory)
        find = "find . -printf '%P|%y|%m|%U|%G|%T@|%s|%l\\n' | LC_ALL=C sort"
        return at_remote(f"test ! -e {top} || {{ cd {top} && {find} && find . -type f -print0 | sort -z | xargs -r0 sha256sum; }}")

    def files(self) -> set[str]:
        """Paths of everything in the directory."""
        return {line.partition("|")[0] for line in self.census().splitlines() if "|" in line}

    def remove(self) -> None:
        at_remote(f"rm -rf -- {shlex.quote(self.directory)} {KEYS}")
