# SPDX-License-Identifier: GPL-3.0-or-later
"""python3 -m offsited.ctl: offsitectl from a source tree."""

import sys

from offsited.ctl.cli import main

sys.exit(main())
