# SPDX-License-Identifier: GPL-3.0-or-later
"""The bus: a connection that no peer, hostile or dead, takes down, and objects exported by the hand-written XML.

vocabulary   what the rest of the daemon sees                serving     calls from others, each a task
wire         messages as bytes and back, over dbus_next      admission   how many of them at once
framing      a stream cut into messages                      objects     the tree, and the standard interfaces
handshake    a socket, authenticated                         interfaces  the XML
connection   the socket, read and written                    refusals    what is answered to what cannot be served
bus          all of it together, and calls of ours           watches     signals of others
"""

from offsited.edge.bus.bus import Bus
from offsited.edge.bus.vocabulary import BusError, Call, Export, Signal, Variant
from offsited.edge.bus.watches import Watch

__all__ = ["Bus", "BusError", "Call", "Export", "Signal", "Variant", "Watch"]
