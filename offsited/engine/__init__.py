# SPDX-License-Identifier: GPL-3.0-or-later
"""What the daemon knows and decides, without a word about how the outside is reached.

outside   what the engine asks of it, as Protocols       jobs      from request to recorded end, across the daemon's own restart
known     what the records say of vaults and targets     engine    the verbs: unlock, lock, sync, restore, cancel, reload
passphrases  proven, kept, come by without a person
standing  how a vault stands by the last judgment of its notices
arrivals  disks that come and go
teller    has whoever must know told                      awake     keeps the machine awake meanwhile
"""

from offsited.engine.engine import Engine
from offsited.engine.jobs import Job
from offsited.engine.known import KnownTarget, KnownVault
from offsited.engine.standing import Standing

__all__ = ["Engine", "Job", "KnownTarget", "KnownVault", "Standing"]
