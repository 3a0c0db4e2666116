# SPDX-License-Identifier: GPL-3.0-or-later
"""How a job can end: one word, one reason, and for each reason the exit status, the sentence and the advice."""

from dataclasses import dataclass
from enum import StrEnum

from offsited.errors import Exit


class Outcome(StrEnum):
    """The one word of a finished job."""

    DONE = "done"
    PARTIAL = "partial"
    HELD = "held"
    FAILED = "failed"
    CANCELED = "canceled"
    IN_TRANSIT = "in-transit"
    """Nothing was done, since the target's disk was sealed and is on its way."""


class Reason(StrEnum):
    """Why a job ended as it did; open for more. On the bus and in records as this word."""

    NONE = ""
    CANCELED = "canceled"
    INTERRUPTED = "interrupted"
    INTERNAL = "internal"
    UNIT_FAILED = "unit-failed"
    TIMED_OUT = "timed-out"

    LOCKED = "locked"
    WRONG_PASSPHRASE = "wrong-passphrase"
    KEY_FILE_DAMAGED = "key-file-damaged"
    CONFIG_INVALID = "config-invalid"

    SOURCE_MISSING = "source-missing"
    SOURCE_MALFORMED = "source-malformed"
    SNAPSHOT_MISSING = "snapshot-missing"
    SNAPSHOT_OUTSIDE_ROOT = "snapshot-outside-root"
    SNAPSHOT_SYMLINK = "snapshot-symlink"
    SNAPSHOT_NOT_DIRECTORY = "snapshot-not-directory"
    SNAPSHOT_EMPTY = "snapshot-empty"
    SNAPSHOT_OLDER = "snapshot-older"
    SNAPSHOT_FUTURE = "snapshot-future"
    SNAPSHOT_CHANGED = "snapshot-changed"
    SNAPSHOT_UNREADABLE = "snapshot-unreadable"
    ENTRIES_UNREADABLE = "entries-unreadable"
    SNAPSHOT_UNFINISHED = "snapshot-unfinished"

    LIMIT_EXCEEDED = "limit-exceeded"
    PLAN_REPLACED = "plan-replaced"

    GOCRYPTFS_MISSING = "gocryptfs-missing"
    GOCRYPTFS_TOO_OLD = "gocryptfs-too-old"
    GOCRYPTFS_FAILED = "gocryptfs-failed"
    VIEW_WRONG = "view-wrong"
    VIEW_DIED = "view-died"
    RSYNC_FAILED = "rsync-failed"
    RSYNC_PARTIAL = "rsync-partial"
    RSYNC_MISSING = "rsync-missing"
    RSYNC_TOO_OLD = "rsync-too-old"
    RRSYNC_REFUSED = "rrsync-refused"

    TARGET_ABSENT = "target-absent"
    TARGET_UNREACHABLE = "target-unreachable"
    TARGET_REFUSED = "target-refused"
    HOST_KEY_UNKNOWN = "host-key-unknown"
    HOST_KEY_CHANGED = "host-key-changed"
    TARGET_FOREIGN = "target-foreign"
    TARGET_UNOWNED = "target-unowned"
    TARGET_READ_ONLY = "target-read-only"
    TARGET_FULL = "target-full"
    TARGET_DAMAGED = "target-damaged"
    TARGET_EMPTY = "target-empty"
    TARGET_UNKNOWN = "target-unknown"
    TARGET_LOST = "target-lost"
    TARGET_CLONED = "target-cloned"
    TARGET_BUSY = "target-busy"

    SEED_IN_TRANSIT = "seed-in-transit"
    SEED_AWAITED = "seed-awaited"
    SEED_EMPTY = "seed-empty"
    SEED_OTHER = "seed-other"
    SEED_DIFFERENT = "seed-different"

    PATH_NOT_IN_BACKUP = "path-not-in-backup"
    DESTINATION_UNUSABLE = "destination-unusable"
    DESTINATION_OCCUPIED = "destination-occupied"
    MANIFEST_DAMAGED = "manifest-damaged"
    RESTORED_DIFFERENT = "restored-different"
    VERIFIED_DIFFERENT = "verified-different"
    TARGET_IN_DOUBT = "target-in-doubt"
    SCRATCH_FULL = "scratch-full"
    MOUNT_POINT_UNUSABLE = "mount-point-unusable"
    SSHFS_MISSING = "sshfs-missing"


@dataclass(frozen=True)
class Advice:
    """What a person is told: the sentence says what happened, `hint` what to do. `{vault}` and `{target}` are filled in."""

    exit_status: Exit
    sentence: str
    hint: str


_JOURNAL = "The journal says more: journalctl OFFSITED_VAULT={vault} OFFSITED_JOB={job}"
_F, _L, _A, _C = Exit.FAILED, Exit.LOCKED, Exit.ABSENT, Exit.CONFIG

ADVICE: dict[Reason, Advice] = {
    Reason.NONE: Advice(Exit.DONE, "", ""),
    Reason.CANCELED: Advice(_F, "the job was canceled", "Run it again when it suits: offsitectl sync {vault}"),
    Reason.INTERRUPTED: Advice(_F, "the job was interrupted before it could record an end", "Run it again: nothing was lost. " + _JOURNAL),
    Reason.INTERNAL: Advice(_F, "a defect in offsited ended the job", "Please report it, with what this prints: journalctl OFFSITED_VAULT={vault} OFFSITED_JOB={job}"),
    Reason.UNIT_FAILED: Advice(_F, "systemd could not start the job, or ended it", _JOURNAL),
    Reason.TIMED_OUT: Advice(_F, "the job made no progress and was ended", _JOURNAL),
    Reason.LOCKED: Advice(_L, "the vault is locked", "Enter its passphrase once: offsitectl unlock {vault}"),
    Reason.WRONG_PASSPHRASE: Advice(_L, "the passphrase does not open the vault's key file", "Try again: offsitectl unlock {vault}"),
    Reason.KEY_FILE_DAMAGED: Advice(_C, "the vault's key file is missing or damaged", "Take it back from a target: offsitectl restore-key {vault} --from FILE, a copy of that target's current/gocryptfs.conf"),
    Reason.CONFIG_INVALID: Advice(_C, "the configuration is invalid", "See what is wrong: offsitectl check-config"),
    Reason.SOURCE_MISSING: Advice(_F, "the file that names the newest snapshot is missing or cannot be read", "Is the file system of the snapshots mounted? Check [source] path in the vault file"),
    Reason.SOURCE_MALFORMED: Advice(_F, "the file that names the newest snapshot does not hold one absolute path", "Look at the file that [source] path names; it must hold one absolute path on one line"),
    Reason.SNAPSHOT_MISSING: Advice(_F, "there is no snapshot where the source says", "Is the file system of the snapshots mounted, and has the snapshot tool run?"),
    Reason.SNAPSHOT_OUTSIDE_ROOT: Advice(_C, "the snapshot does not lie below the source's root", "If that is meant, set [source] root in the vault file"),
    Reason.SNAPSHOT_SYMLINK: Advice(_F, "the snapshot's path leads through a symbolic link", "Name the directory itself, without symbolic links below [source] root"),
    Reason.SNAPSHOT_NOT_DIRECTORY: Advice(_F, "the snapshot is not a directory", "Look at what [source] path names"),
    Reason.SNAPSHOT_EMPTY: Advice(_F, "the snapshot is empty", "Is the file system of the snapshots mounted? An empty snapshot is never mirrored"),
    Reason.SNAPSHOT_OLDER: Advice(_F, "the snapshot is older than the one last synced", "If that is meant: offsitectl sync {vault} --allow-older"),
    Reason.SNAPSHOT_FUTURE: Advice(_F, "the snapshot is dated in the future", "Check the clock; if it is right: offsitectl sync {vault} --allow-older"),
    Reason.SNAPSHOT_CHANGED: Advice(_F, "the snapshot changed or was pruned while it was being sent; nothing was deleted at the target", "Run it again: offsitectl sync {vault}"),
    Reason.SNAPSHOT_UNREADABLE: Advice(_F, "something in the snapshot cannot be read", "Check the disk of the snapshots. " + _JOURNAL),
    Reason.ENTRIES_UNREADABLE: Advice(_F, "something in the snapshot could be neither read nor kept; the target keeps what it had of it", "Make it readable, or exclude it in the vault file as shown"),
    Reason.SNAPSHOT_UNFINISHED: Advice(_F, "the snapshot is not finished", "Run it when the snapshot tool has ended; what tells is [source] finished and unfinished in the vault file"),
    Reason.LIMIT_EXCEEDED: Advice(Exit.HELD, "a limit holds deletions or changes back until somebody approves them; everything else is at the target", "See what: offsitectl diff {vault} --target {target}, and if it is meant: offsitectl approve {vault} --target {target}"),
    Reason.PLAN_REPLACED: Advice(Exit.HELD, "what is held now is something else than what was approved", "Look again: offsitectl diff {vault} --target {target}"),
    Reason.GOCRYPTFS_MISSING: Advice(_C, "gocryptfs cannot be run", "Install gocryptfs 2.5.1 or newer, or set [tools] gocryptfs in /etc/offsited/offsited.toml"),
    Reason.GOCRYPTFS_TOO_OLD: Advice(_C, "gocryptfs is too old: before 2.5.1 it can lose files without an error", "Install gocryptfs 2.5.1 or newer, or set [tools] gocryptfs in /etc/offsited/offsited.toml"),
    Reason.GOCRYPTFS_FAILED: Advice(_F, "gocryptfs did not show the encrypted view", _JOURNAL),
    Reason.VIEW_WRONG: Advice(_F, "the encrypted view does not show the snapshot that was opened; nothing was sent", _JOURNAL),
    Reason.VIEW_DIED: Advice(_F, "gocryptfs died while the job ran; nothing was deleted at the target", "Run it again: offsitectl sync {vault}. " + _JOURNAL),
    Reason.RSYNC_FAILED: Advice(_F, "rsync failed; nothing was deleted at the target", _JOURNAL),
    Reason.RSYNC_PARTIAL: Advice(_F, "rsync could not transfer everything; nothing was deleted at the target", _JOURNAL),
    Reason.RSYNC_MISSING: Advice(_C, "rsync cannot be run, here or at the target", "Install rsync on both sides, or set [tools] rsync in /etc/offsited/offsited.toml. Does the login at target {target} run what it is given, and print nothing else?"),
    Reason.RSYNC_TOO_OLD: Advice(_C, "the target's rsync is too old; nothing was changed there", "Install rsync 3.2.7 or newer on the host of target {target}"),
    Reason.RRSYNC_REFUSED: Advice(_C, "rrsync at the target does not permit what is needed", "In authorized_keys there: command=\"rrsync -no-lock DIR\", without -ro, -wo and -no-del; in the vault file: rrsync = \"DIR\""),
    Reason.TARGET_ABSENT: Advice(_A, "the target's disk is not there", "Attach the disk of target {target}, then: offsitectl sync {vault} --target {target}"),
    Reason.TARGET_UNREACHABLE: Advice(_A, "the target's host cannot be reached", "Check network, host and port of target {target}"),
    Reason.TARGET_REFUSED: Advice(_A, "the target's host refused our ssh key", "Add the vault's public key to the remote's authorized_keys: /etc/offsited/id_{vault}.pub"),
    Reason.HOST_KEY_UNKNOWN: Advice(_A, "the host key of the target is not known yet", "Compare its fingerprint and pin it: offsitectl target trust {vault} {target}"),
    Reason.HOST_KEY_CHANGED: Advice(_A, "the host key of the target has CHANGED: this may be another machine", "Only if you know why, compare the new one and replace it: offsitectl target trust {vault} {target}"),
    Reason.TARGET_FOREIGN: Advice(_F, "the target belongs to another vault", "Check directory and disk of target {target} in the vault file; nothing was changed there"),
    Reason.TARGET_UNOWNED: Advice(_F, "the target's directory is not empty and carries no owner marker", "Choose an empty directory for target {target}; nothing was changed there"),
    Reason.TARGET_READ_ONLY: Advice(_F, "the target cannot be written to", "Check the permissions and mount options of target {target}, and its disk's health"),
    Reason.TARGET_FULL: Advice(_F, "the target is full; nothing was deleted there", "Make room on target {target}, then: offsitectl sync {vault}"),
    Reason.TARGET_DAMAGED: Advice(_F, "what offsited keeps at the target cannot be read", _JOURNAL),
    Reason.TARGET_EMPTY: Advice(_F, "the target holds no backup of this vault yet", "Sync first: offsitectl sync {vault} --target {target}"),
    Reason.TARGET_UNKNOWN: Advice(_F, "the target holds a commit that this machine did not make, or has forgotten; nothing was changed there", "Does another machine sync to it? If it is to be brought to this machine's snapshot all the same: offsitectl sync {vault} --target {target} --reconcile"),
    Reason.TARGET_LOST: Advice(_A, "the target's disk went away while the job ran; nothing was written elsewhere", "Attach the disk of target {target} again; what was interrupted is taken up: offsitectl sync {vault} --target {target}"),
    Reason.TARGET_CLONED: Advice(_F, "two devices have the UUID or label of the target's file system; neither was touched", "Take the copy away, or give it another UUID (xfs_admin -U generate, tune2fs -U random, btrfstune -u); lsblk -f shows both"),
    Reason.TARGET_BUSY: Advice(_F, "the target's disk is complete, but still mounted by somebody else: it is not safe to remove", "See who has it: findmnt -S DEVICE; a mount of offsitectl ends by: offsitectl umount {vault}. Unmount it, then: offsitectl target seal {vault} {target}"),
    Reason.SEED_IN_TRANSIT: Advice(_A, "the seed is sealed and on its way; nothing was synced", "When it is in place: offsitectl status {vault} says how it is adopted. If it is to stay here: offsitectl sync {vault} --target DISK"),
    Reason.SEED_AWAITED: Advice(_A, "the target waits for its seed and is not synced before that was adopted there", "Fill, seal and carry the seed, then: offsitectl target adopt {vault} {target} --from SEED. Without it: offsitectl target adopt {vault} {target}, which sends everything"),
    Reason.SEED_EMPTY: Advice(_F, "this machine knows of no commit of the seed, or of an unfinished one", "Fill and seal it first: offsitectl target seal {vault} SEED"),
    Reason.SEED_OTHER: Advice(_F, "what lies at the target is not the seed as it was last committed; nothing was changed there", "Was an older copy put in place, or another directory? Look at directory of target {target} in the vault file"),
    Reason.SEED_DIFFERENT: Advice(Exit.DIFFERENT, "what lies at the target is not all that the seed held; it was not adopted", "If it was copied there, copy it again with owners and times (rsync -aH --numeric-ids). Or have all that differs sent: offsitectl target adopt {vault} {target}"),
    Reason.PATH_NOT_IN_BACKUP: Advice(_F, "a path that was asked for is not in the backup; nothing was restored", "Paths are those of the snapshot, relative to its top"),
    Reason.DESTINATION_UNUSABLE: Advice(_F, "the destination cannot be written to", "Choose an existing directory on a writable file system"),
    Reason.DESTINATION_OCCUPIED: Advice(_F, "the destination already has an entry of that name; nothing was overwritten", "Choose an empty directory"),
    Reason.MANIFEST_DAMAGED: Advice(_F, "the manifest at the target cannot be read", "Restore what is there without it: offsitectl restore {vault} --target {target} --to DIR --without-manifest"),
    Reason.RESTORED_DIFFERENT: Advice(Exit.DIFFERENT, "everything that could be was restored, and something is not as the manifest says", "Look at the list; other targets may hold it as it was"),
    Reason.VERIFIED_DIFFERENT: Advice(Exit.DIFFERENT, "the target is not as the manifest says", "Send again what differs: offsitectl verify {vault} --target {target} --repair"),
    Reason.TARGET_IN_DOUBT: Advice(_F, "an interrupted sync left the target between two snapshots; what it was about to change was not verified", "Sync first: offsitectl sync {vault} --target {target}"),
    Reason.MOUNT_POINT_UNUSABLE: Advice(_F, "nothing can be mounted there", "Choose an existing, empty directory"),
    Reason.SSHFS_MISSING: Advice(_C, "sshfs cannot be run", "Install sshfs, or set [tools] sshfs in /etc/offsited/offsited.toml"),
    Reason.SCRATCH_FULL: Advice(_F, "there is no room below /var/lib/offsited for what must be fetched to be verified", "Make room there, then run it again"),
}  # fmt: skip


def exit_status(outcome: Outcome, reason: Reason) -> Exit:
    """Given how a job ended, return the exit status of the command that waited for it. `done` alone is 0."""
    match outcome:
        case Outcome.DONE:
            return Exit.DONE
        case Outcome.HELD:
            return Exit.HELD
        case Outcome.CANCELED:
            return Exit.FAILED
        case Outcome.PARTIAL | Outcome.FAILED | Outcome.IN_TRANSIT:
            return ADVICE[reason].exit_status or Exit.FAILED


def parse_reason(word: str) -> Reason:
    """Given a reason's word, return it; a word of a newer version reads as `INTERNAL`."""
    try:
        return Reason(word)
    except ValueError:
        return Reason.INTERNAL
