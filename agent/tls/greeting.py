# mypyc: interpreted, because it is read once for a handshake
"""What a server of ours says first, to who asks for it by ALPN: whether it accepts the client's identity, else why not.
Agents say it to each other (`agent.proxy.engine.handshake`), and to people who renew.
"""

from __future__ import annotations

from typing import Final

GREETING: Final = "shoal/1"
"""What ALPN calls a connection whose server says first whether it accepts."""
ACCEPTED: Final = b"accepted\r\n"
REFUSED: Final = b"refused "
"""And then why, and the end of the line."""
MAX_LINE: Final = 512
