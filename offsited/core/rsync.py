# SPDX-License-Identifier: GPL-3.0-or-later
"""rsync as values: every command line that jobs run, and what every exit status means. What it prints: core.rsync_output.

Rules that hold for each command here, all measured:
* No command both sends and deletes. `--delete` itself appears in dry runs alone; what goes is named in a list, path by path.
* Partial and temporary files lie outside `current/`; but for the temporary ones of a directory that the target has not yet.
* `--modify-window=-1`: whole seconds would miss a change of the same size within one second.

Sources: rsync(1) of 3.5.0, upstream's errcode.h.
"""

import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from offsited import names
from offsited.core import ssh
from offsited.core.outcome import Reason

WRITING_FILES: Final = ("chown", "dac_override", "fowner", "fsetid", "mknod")
"""Capabilities that a local receiver needs to give files their owners, modes and kinds."""

_OUTPUT: Final = ("--no-human-readable", "--stats", "--out-format=%i %l %n")
RUNNING: Final = "--info=progress2"
"""Makes rsync tell how far it is, more than once of a large file; and of each small one, which takes as long as all else it prints."""
FAKE_SUPER: Final = "-M--fake-super"
"""How a host whose account is not root's keeps owners and modes."""
TOLD_EXACT_TIMES: Final = "-M--modify-window=-1"
"""`Place.exact_times` of a host: the client's own form of that option (-@-1) is refused by rrsync(1) of 3.5.0."""

_EXACT: Final = ("-aH", "--numeric-ids", "--modify-window=-1")
_LISTED: Final = ("-lptgoDH", "--numeric-ids")
"""As `_EXACT` without recursion, for lists of paths."""
_LANES: Final = 4
"""They keep two processors busy: each waits for gocryptfs now and then. With three a day of which 1 % changed took 4 % longer."""
ARGUMENTS_MAX: Final = 1_500_000
"""Bytes of paths that may be given in a command line: with what goes with each they stay below the 2 MiB that execve(2) takes."""
_ARGUMENT: Final = 64
"""Bytes that a path costs beside itself: its end, a pointer, the view before it."""

Listed = Path | Sequence[bytes]
"""Paths of the mirror, or a file of them `in_target`, each ended by NUL."""

_CURRENT: Final = f"{names.CURRENT_DIR}/".encode()


@dataclass(frozen=True)
class Place:
    """A target's directory as rsync reaches it."""

    location: str
    """A local directory, or HOST:DIRECTORY."""
    directory: str
    """The same directory on its own machine."""
    options: tuple[str, ...] = ()
    """What every transfer to or from here needs: transport, bandwidth, the user's own options."""
    writing: tuple[str, ...] = ()
    """What every transfer that writes here needs."""
    capabilities: tuple[str, ...] = ()
    """Capabilities, without cap_, that rsync keeps on this machine while it writes there."""
    exact_times: str = "--modify-window=-1"
    """How the receiver is told to compare times to the nanosecond."""
    unhindered: bool = False
    """Whether the receiver writes into any directory of the mirror, whatever its mode says."""
    narrow: bool = False
    """Whether it takes one transfer at a time: its key is limited by rrsync(1), which may lock."""

    @property
    def lanes(self) -> int:
        """Transfers that may write here at the same time. A limited bandwidth is a limit of all of them together."""
        return 1 if self.narrow or self.limited else _LANES

    @property
    def limited(self) -> bool:
        """Whether the bandwidth to there is limited."""
        return any(option.startswith("--bwlimit") for option in self.options)

    @property
    def current(self) -> str:
        return f"{self.location}/{names.CURRENT_DIR}/"

    @property
    def mirror(self) -> Path | None:
        """`current/`, where it is on this machine."""
        return Path(self.current) if self.location == self.directory else None

    @property
    def partial(self) -> str:
        return f"{self.location}/{names.PARTIAL_DIR}/"

    @property
    def scratch_options(self) -> tuple[str, str]:
        """Unfinished files go to `partial/`: they are no part of the mirror, and are taken up again after an interruption.

        On this machine by a path relative to the target's directory, which such a transfer has for its destination: rsync walks the way
        there component by component, four times for each file (3.5.0), and an absolute one took as long as all else that a receiver
        does. rrsync(1) takes a relative one for something else.
        """
        return f"--temp-dir={names.PARTIAL_DIR if self.mirror else self._partial}", self.partial_option

    @property
    def partial_option(self) -> str:
        """Where rsync keeps what it has of a file when it is interrupted. (A relative path would mean one in each directory.)"""
        return f"--partial-dir={self._partial}"

    @property
    def _partial(self) -> str:
        """`partial/`, on its own machine."""
        return f"{self.directory}/{names.PARTIAL_DIR}"


def confined(setpriv: str, capabilities: tuple[str, ...], command: list[str]) -> list[str]:
    """Given a command, return it run as root with these capabilities and no other, setpriv(1)."""
    kept = "".join(f",+{capability}" for capability in capabilities)
    return [setpriv, f"--bounding-set=-all{kept}", "--inh-caps=-all", "--ambient-caps=-all", "--no-new-privs", "--", *command]


def are_few(paths: Iterable[bytes]) -> bool:
    """Whether these paths can be given in a command line. rsync reads a local list by single bytes, at two system calls each: for
    8,500 paths that took 2.9 s where their arguments took 0.25 s."""
    return 0 < sum(argument(len(path)) for path in paths) <= ARGUMENTS_MAX


def argument(length: int) -> int:
    """What a path of so many bytes takes of ARGUMENTS_MAX."""
    return length + _ARGUMENT


def in_target(path: bytes) -> bytes:
    """Given a path of the mirror, return it relative to the target's directory, as such a transfer names it."""
    return _CURRENT + path


def in_mirror(path: bytes) -> bytes:
    """Given what a transfer into the mirror calls a path, return it relative to `current/`."""
    return path.removeprefix(_CURRENT)


def send_trees(tool: str, view: Path, place: Place, above: str, paths: Listed, *, running: bool = False) -> list[str]:
    """Send directories of the view with all below them, by name, from the directory `above` of the mirror, which is there, into the same.

    None of them is at the target yet. Source and destination are as deep as can be, and temporary files lie where they will stay: rsync
    walks the way from there to each file component by component (3.5.0). `running`: with RUNNING.
    """
    into = f"{place.current}{above}/" if above else place.current
    return [
        tool,
        *_LISTED,
        *([RUNNING] if running else []),
        "--recursive",
        *_into(place),
        place.partial_option,
        *_sources(view / above, paths),
        into,
    ]


def send_listed(
    tool: str,
    view: Path,
    place: Place,
    paths: Listed,
    *,
    again: bool = False,
    force: bool = False,
    constant: bool = False,
    running: bool = False,
) -> list[str]:
    """Send the listed paths, and nothing below them. Deletes nothing.

    `again`: also what has the same size and time there; `force`: each in place of a directory with all below it, if there is one;
    `constant`: files whose content is what their path says, so that one that is there and as long gets the time alone; `running`: with
    RUNNING.
    """
    chosen = {"--ignore-times": again, "--force": force, "--size-only": constant, RUNNING: running}
    extra = [option for option, wanted in chosen.items() if wanted]
    return [tool, *_LISTED, *extra, "--dirs", *_writing(view, paths, place)]


def list_details(tool: str, place: Place, nothing: Path) -> list[str]:
    """List every entry of the mirror with type, length, owner, mode and time (UTC), as `rsync_output.parse_detailed` reads it.

    It is a dry run into an empty directory: `--list-only` tells no owner.
    """
    shown = ("-rlptgoDn", "--numeric-ids", "--no-human-readable", "--out-format=%i %l %U %G %B %M %n")
    return ["/usr/bin/env", "TZ=UTC0", tool, *shown, *place.options, place.current, f"{nothing}/"]


def delete_listed(tool: str, view: Path, place: Place, paths: Listed) -> list[str]:
    """Delete the listed paths, each with all below it, unless the view has them. Gives their parents the view's times again."""
    return [tool, *_LISTED, "--dirs", "--delete-missing-args", "--force", *_writing(view, paths, place)]


def delete_by_example(tool: str, example: Path, place: Place, paths: Path, *, force: bool = True) -> list[str]:
    """Delete the listed paths unless the tree `example` has them. It must have their parents; only the names count.

    `force`: each with all below it, else none that has anything below it.
    """
    deleting = ("-d", "--no-implied-dirs", "--from0", f"--files-from={paths}", "--delete-missing-args", *(["--force"] if force else []))
    return [tool, *deleting, *_OUTPUT, *place.options, *place.writing, f"{example}/", place.current]


def empty_partial(tool: str, nothing: Path, place: Place) -> list[str]:
    """Clear `partial/`, which is no part of the mirror, by the example of the empty directory `nothing`."""
    return [tool, "-r", "--delete", *place.options, f"{nothing}/", place.partial]


def put(tool: str, sources: list[Path], place: Place) -> list[str]:
    """Copy files, and directories without what is below them, into the target's directory; it is made if its parent is there."""
    return [tool, "-dpt", *place.options, *place.writing, *map(str, sources), f"{place.location}/"]


def get_small(tool: str, place: Place, paths: Path, into: Path) -> list[str]:
    """Fetch the listed paths that are there: regular files of at most 1 MiB, and directories without what is below them."""
    wanted = ("-d", "--from0", f"--files-from={paths}", "--ignore-missing-args", "--max-size=1m", "--no-implied-dirs")
    return [tool, *wanted, *place.options, f"{place.location}/", f"{into}/"]


def list_top(tool: str, place: Place) -> list[str]:
    """List the entries of the target's directory."""
    return [tool, "--list-only", *place.options, f"{place.location}/"]


def fetch_listed(tool: str, place: Place, paths: Path, into: str, *, exact: bool = False) -> list[str]:
    """Fetch the listed files, relative to the target's directory, those that are there: their content, in directories as they come.

    `exact`: with their attributes, and symbolic links and nodes too.
    """
    kept = ("-lptgoD", "--numeric-ids") if exact else ()
    return [
        tool,
        "-d",
        *kept,
        "--from0",
        f"--files-from={paths}",
        "--ignore-missing-args",
        *_OUTPUT,
        RUNNING,
        *place.options,
        f"{place.location}/",
        into,
    ]


def fetch(tool: str, place: Place, paths: Path, into: str) -> list[str]:
    """Fetch the listed paths, relative to the target's directory, with all below them."""
    listed = ("-r", "--from0", f"--files-from={paths}", "--ignore-missing-args")
    return [tool, *_EXACT, *listed, *_OUTPUT, RUNNING, *place.options, f"{place.location}/", into]


def restore(tool: str, tree: Path, into: str, paths: Path | None = None) -> list[str]:
    """Copy a tree in clear, or its listed paths with their parents, into a directory. Holes are made where zeros are."""
    listed = ("-r", "--from0", f"--files-from={paths}") if paths else ()
    return [tool, *_EXACT, "-S", *listed, *_OUTPUT, RUNNING, f"{tree}/", into]


MINIMUM: Final = (3, 2, 7)
"""Of an rsync that writes at a host. Older ones lack what these commands need, or have faults that were mended since."""


def parse_version(text: str) -> tuple[int, ...] | None:
    """Given what `rsync --version` printed, return the version, or None."""
    match = re.search(r"^rsync +version v?(\d+)\.(\d+)\.(\d+)", text, re.MULTILINE)
    return tuple(map(int, match.groups())) if match else None


def remote_tool(options: tuple[str, ...]) -> str:
    """Given the user's options, return how rsync is called at the host."""
    return next((option.partition("=")[2] for option in reversed(options) if option.startswith("--rsync-path=")), "rsync")


def _writing(view: Path, paths: Listed, place: Place) -> list[str]:
    """What every transfer of listed paths from the view into the mirror ends with. The view is mounted as `current/`, as the mirror is."""
    named = paths if isinstance(paths, Path) else [in_target(path) for path in paths]
    return [*_into(place), *place.scratch_options, *_sources(view.parent, named), f"{place.location}/"]


def _into(place: Place) -> list[str]:
    """What every transfer into the mirror needs."""
    return [place.exact_times, *_OUTPUT, *place.options, *place.writing]


def _sources(base: Path, paths: Listed) -> list[str]:
    """Paths of a directory, as what is to be sent."""
    if isinstance(paths, Path):
        return ["--from0", f"--files-from={paths}", f"{base}/"]
    return ["--relative", *(f"{base}/./{os.fsdecode(path)}" for path in paths)]


# --- exit statuses -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Meaning:
    """Why rsync ended as it did; `transient` = trying again may well help."""

    reason: Reason
    transient: bool = False


TIMEOUT: Final = 30
"""rsync's exit status for it."""

_FAILED = Meaning(Reason.RSYNC_FAILED)
_NETWORK = Meaning(Reason.TARGET_UNREACHABLE, transient=True)

_EXITS: Final[dict[int, Meaning]] = {
    0: Meaning(Reason.NONE),
    10: _NETWORK,  # socket I/O
    12: Meaning(Reason.RSYNC_FAILED, transient=True),  # the other side went away
    23: Meaning(Reason.RSYNC_PARTIAL),
    24: Meaning(Reason.SNAPSHOT_CHANGED),  # files vanished: a snapshot does not lose files
    TIMEOUT: _NETWORK,
    35: _NETWORK,  # timeout of the connection
    126: Meaning(Reason.RSYNC_MISSING),
    127: Meaning(Reason.RSYNC_MISSING),
    255: _NETWORK,  # ssh's own status
}
"""What is not here is a plain failure, a signal too. Nothing but 0 is success."""


def exit_meaning(status: int) -> Meaning:
    """Given how rsync ended (negative = signal), return what that means."""
    return _EXITS.get(status, _FAILED)


def judge(status: int, complaints: str) -> Meaning:
    """Given how rsync ended and what it and ssh wrote to standard error, return what that means."""
    if status and (reason := _receiver_trouble(complaints)):  # first: when it gives up, the sender complains of a broken pipe
        return Meaning(reason)
    if status in _OF_THE_SHELL and (reason := ssh.meaning(complaints)):
        return Meaning(reason, transient=reason is Reason.TARGET_UNREACHABLE)
    if status in {2, 12} and _OTHER_COMMAND.search(complaints):
        return Meaning(Reason.RSYNC_MISSING)
    return exit_meaning(status)


_OTHER_COMMAND: Final = re.compile(r"is your shell clean|closed \(0 bytes received so far\)")
"""What rsync complains of where something else than rsync was run."""


def says_absent(complaints: str) -> bool:
    """Whether a sender could not start because its directory is not there. Over ssh that ends as a broken connection, status 12."""
    return bool(
        re.search(r"^rsync: .*change_dir .*\(2\)$|rrsync error: post-realpath .* No such file or directory$", complaints, re.MULTILINE)
    )


_OF_THE_SHELL: Final = (1, 10, 12, 126, 127, 255)
"""Statuses behind which the remote shell may stand."""


def _receiver_trouble(complaints: str) -> Reason | None:
    """What is wrong where rsync wrote. strerror's number ends each message, errno(3): 28 ENOSPC, 122 EDQUOT, 30 EROFS, 13 EACCES."""
    if re.search(r"\((?:28|122)\)$", complaints, re.MULTILINE):
        return Reason.TARGET_FULL
    if re.search(r"\(30\)$|^rsync: \[(?:[Rr]eceiver|generator)\].*(?:\(13\)| mkdir .*\(2\))$", complaints, re.MULTILINE):
        return Reason.TARGET_READ_ONLY
    return None
