# SPDX-License-Identifier: GPL-3.0-or-later
"""Every well-known name: bus, units, files, descriptors, journal fields.

Nothing else in the project spells one of these out. Other languages (XML, units, packaging) repeat them; a test compares.
"""

import re
from pathlib import Path
from typing import Final

NAME_PATTERN: Final = re.compile(r"[a-z][a-z0-9_]{0,31}")
"""Vaults and targets: such names need no escaping on the bus, in unit names or in shells."""

# --- the bus -------------------------------------------------------------------------------------------------------
BUS_NAME: Final = "org.offsited.Offsite1"
ROOT_PATH: Final = "/org/offsited/Offsite1"
MANAGER: Final = f"{BUS_NAME}.Manager"
VAULT: Final = f"{BUS_NAME}.Vault"
TARGET: Final = f"{BUS_NAME}.Target"
JOB: Final = f"{BUS_NAME}.Job"
ERROR_PREFIX: Final = f"{BUS_NAME}.Error."
INTERFACE_XML: Final = Path("/usr/share/dbus-1/interfaces/org.offsited.Offsite1.xml")


def vault_path(vault: str) -> str:
    """Object path of a vault."""
    return f"{ROOT_PATH}/vaults/{vault}"


def target_path(vault: str, target: str) -> str:
    """Object path of one target of a vault."""
    return f"{ROOT_PATH}/vaults/{vault}/targets/{target}"


def job_path(job: int) -> str:
    """Object path of a job."""
    return f"{ROOT_PATH}/jobs/{job}"


# --- polkit --------------------------------------------------------------------------------------------------------
ACTION_SYNC: Final = f"{BUS_NAME}.sync"
ACTION_UNLOCK: Final = f"{BUS_NAME}.unlock"
ACTION_RESTORE: Final = f"{BUS_NAME}.restore"
ACTION_VERIFY: Final = f"{BUS_NAME}.verify"
ACTION_CANCEL: Final = f"{BUS_NAME}.cancel"
ACTION_APPROVE: Final = f"{BUS_NAME}.approve"
ACTION_CONFIGURE: Final = f"{BUS_NAME}.configure"

# --- files ---------------------------------------------------------------------------------------------------------
ETC: Final = Path("/etc/offsited")
SETTINGS_FILE: Final = "offsited.toml"
VAULTS_D: Final = "vaults.d"
KNOWN_HOSTS: Final = "known_hosts"
IDENTITY_PREFIX: Final = "id_"
"""Name of a vault's ssh key below /etc/offsited: this and the vault's name; the public half ends in `.pub`."""
VAR: Final = Path("/var/lib/offsited")
VAULTS: Final = "vaults"
KEY_FILE: Final = ".gocryptfs.reverse.conf"
"""The vault's key file in reverse mode, below `plain/`."""
TARGET_KEY_FILE: Final = "gocryptfs.conf"
"""The same file as the view and a target show it."""
DIRIV_FILE: Final = "gocryptfs.diriv"
PLAIN_DIR: Final = "plain"
BACKUP_DIR: Final = "backup"
"""Bind point of the snapshot in `plain/`, hence the top of the tree in a view."""
OFFSITED_DIR: Final = "offsited"
"""What offsited itself keeps at a target, encrypted along with the tree."""
STATE_DIR: Final = "state"
OWNER_FILE: Final = "offsited.json"
"""The owner marker of a target."""
CURRENT_DIR: Final = "current"
PARTIAL_DIR: Final = "partial"
PAST_DIR: Final = "past"
NOTICES_DIR: Final = "notices"
"""Below a vault's state: what was told, and notices that are not sent yet."""
SENDMAIL: Final = Path("/usr/sbin/sendmail")
"""Debian Policy 11.6: every mail transfer agent is there."""

MOTD: Final = Path("/run/motd.d/offsited")
"""What a login is shown while a vault is locked, pam_motd(8)."""
CREDSTORE: Final = Path("/etc/credstore.encrypted")
"""Where encrypted credentials lie, systemd.exec(5)."""

# --- units ---------------------------------------------------------------------------------------------------------
SYSTEM_UNITS: Final = Path("/etc/systemd/system")
SERVICE: Final = "offsited.service"
SLICE: Final = "offsited.slice"


BOOT_HINT_SERVICE: Final = "offsited-boot-hint.service"
"""Tells logins of locked vaults until the daemon does."""


def job_unit(vault: str) -> str:
    """The unit of every job that writes to a vault. Its name is the lock: PID 1 refuses a second one."""
    return f"offsited-job-{vault}.service"


def reader_unit(kind: str, vault: str, job: int) -> str:
    """The unit of a job that only reads a vault; it waits for nobody."""
    return f"offsited-{kind}-{vault}-{job}.service"


def prove_unit(vault: str) -> str:
    """The short unit that proves a passphrase against the vault's key file."""
    return f"offsited-prove-{vault}.service"


def ask_unit(vault: str) -> str:
    """The short unit that fetches a passphrase as the vault file says: from a credential or by a command."""
    return f"offsited-ask-{vault}.service"


def clear_unit(device: str) -> str:
    """The short unit that takes away what is left of disks that were pulled out: a device of the kernel's that lies on nothing any more."""
    return f"offsited-clear-{device}.service"


def prepare_unit(vault: str) -> str:
    """The unit that makes the file system of a vault's disk target, or looks whether it can."""
    return f"offsited-prepare-{vault}.service"


def unlock_service(vault: str) -> str:
    """The service that asks a person at boot; a generator has it wanted for each vault."""
    return f"offsited-unlock@{vault}.service"


def sync_service(vault: str) -> str:
    """The service that a vault's timer and path unit start."""
    return f"offsited-sync@{vault}.service"


def sync_timer(vault: str) -> str:
    """The timer that a user enables for a vault."""
    return f"offsited-sync@{vault}.timer"


def sync_path_unit(vault: str) -> str:
    """The path unit that syncs a vault when its `lastdst` file changes; `offsitectl init` writes the path into a drop-in."""
    return f"offsited-sync@{vault}.path"


def notify_unit(vault: str, job: int, event: str = "") -> str:
    """The unit that judges a vault after a job's end, or after another event of that job, and tells whoever must know."""
    return f"offsited-notify-{vault}-{job}{f'-{event}' if event else ''}.service"


WATCH_SERVICE: Final = "offsited-watch.service"
"""Judges every vault without the daemon."""
WATCH_TIMER: Final = "offsited-watch.timer"
UNANSWERED_SERVICE: Final = "offsited-unanswered.service"
"""Tells of vaults that nobody has unlocked after a boot."""
UNANSWERED_TIMER: Final = "offsited-unanswered.timer"


def runtime_directory(unit: str) -> str:
    """The directory below /run that a job's unit owns; its mounts live there, in its own mount namespace."""
    return unit.removesuffix(".service")


# --- descriptors ---------------------------------------------------------------------------------------------------
KEY_FD_PREFIX: Final = "key-"
"""Name of a stored passphrase in systemd's descriptor store: this and the vault's name."""
DESTINATION_FD: Final = "destination"
"""A restore's destination directory, opened by the caller."""
PATHS_FD: Final = "paths"
"""The paths to restore: NUL-separated bytes in a regular file or memfd."""
DIFF_FD: Final = "diff"
"""Where a dry run writes its plan: a regular file or memfd of the caller's."""
MOUNT_POINT_FD: Final = "mount-point"
"""The directory at which a mount is to be seen, opened by the caller."""
FINDINGS_FD: Final = "findings"
"""Where a verification is to name what it found: a regular file or memfd, opened for writing by the caller."""

# --- journal -------------------------------------------------------------------------------------------------------
FIELD_VAULT: Final = "OFFSITED_VAULT"
FIELD_TARGET: Final = "OFFSITED_TARGET"
FIELD_JOB: Final = "OFFSITED_JOB"
FIELD_OUTCOME: Final = "OFFSITED_OUTCOME"
FIELD_REASON: Final = "OFFSITED_REASON"
FIELD_MESSAGE_ID: Final = "MESSAGE_ID"
JOURNAL_FIELDS: Final = (FIELD_VAULT, FIELD_TARGET, FIELD_JOB, FIELD_OUTCOME, FIELD_REASON, FIELD_MESSAGE_ID)

NOTIFY_IDENTIFIER: Final = "offsited-notify"
"""SYSLOG_IDENTIFIER of whoever judges and sends."""

# What packaging/offsited.catalog explains. sd-id128(3), journalctl --catalog.
MESSAGE_DONE: Final = "53cc434687f14457b6adc111be40d2e6"
MESSAGE_FAILED: Final = "07ac4c7d2e354f34b497b734c9b9aee4"
MESSAGE_HELD: Final = "a87cdd29e8c7420ab2b29285267f8163"
MESSAGE_LOCKED: Final = "028ae634577349c9a33d7f45444525d7"
MESSAGE_STALE: Final = "a392d99f5e724744a465fc6022f99e65"
MESSAGE_DEGRADED: Final = "b065738789d04dbb9e765e93295bd05a"
MESSAGE_SKIPPED: Final = "56c9b5f0adb745edb042b8f42c8f5edb"
MESSAGE_TRANSIT: Final = "f43f5893f40743119dad9347827ab7f8"
MESSAGE_RECOVERED: Final = "5b3d90d0df3b46d99a21d992b606cd53"
MESSAGE_UNSENT: Final = "e21fd78215e143268bbf139c3ce503b1"
