# SPDX-License-Identifier: GPL-3.0-or-later
"""offsitectl: what a person types, and what they see.

`cli` is the surface: commands, options, exit statuses. Each command's work lies in the module of its name. `client` speaks to the bus,
`objects` is what the daemon shows as frozen values, `output` is the one place that prints, `words` turns numbers and names into text.
Modules that are slow to import (rich, pydantic, dbus_next) are imported where they are used: `status` must not wait for a progress bar.
"""
