"""The rules of nftables by which nobody but the agent reaches the ports of this host's instances: pure, text out.

Laws
- They are for ranges of ports, and not for the instances of the moment: a new one is guarded before it listens, and
  nobody who could change the rules of a host's network has to run for it. The agent has no such right, and needs none.
- Judged are attempts to connect (a SYN), so that a port of these ranges which the system picks for a client loses no
  answer, and nothing has to be remembered.
- From other hosts, and from containers, it is judged twice: before any address is rewritten, as what was dialled (a
  published port), and where it arrives, as what it leads to (a redirected one, and what came in fragments). From this
  host: by the user whose socket it is, which no program chooses for itself.
- They replace themselves, and nothing else, in one transaction of nftables.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

TABLE: Final = "shoal_guard"
_SYN: Final = "tcp flags & (fin | syn | rst | ack) == syn"
_HEAD: Final = """\
# Made by `shoal guard`: nobody but the agent reaches the ports of this host's instances.
table inet {table}
delete table inet {table}
table inet {table} {{
    set ports {{
        type inet_service
        flags interval
        elements = {{ {ports} }}
    }}
    # Other hosts and containers: as they dialled, and where they arrive.
    chain dialled {{
        type filter hook prerouting priority raw; policy accept;
        iif != "lo" fib daddr type local tcp dport @ports {syn} counter drop
    }}
    chain arriving {{
        type filter hook input priority filter; policy accept;
        iif != "lo" tcp dport @ports {syn} counter drop
    }}
"""
_LOCAL: Final = """\
    # Programs of this host: the agent's user and root only.
    chain leaving {{
        type filter hook output priority filter; policy accept;
        oif "lo" tcp dport @ports {syn} meta skuid != {{ {users} }} counter reject with tcp reset
    }}
"""


def rules(ports: Iterable[tuple[int, int]], uid: int | None) -> str:
    """What `nft -f -` takes. `ports`: ranges that do not overlap, one at least; `uid`: the agent's user; None: from
    this host everybody may."""
    told = ", ".join(str(low) if low == high else f"{low}-{high}" for low, high in ports)
    text = _HEAD.format(table=TABLE, ports=told, syn=_SYN)
    if uid is not None:
        text += _LOCAL.format(syn=_SYN, users=", ".join(map(str, sorted({0, uid}))))
    return f"{text}}}\n"


def removal() -> str:
    """What takes them away, whether they stand or not."""
    return f"table inet {TABLE}\ndelete table inet {TABLE}\n"
