"""How fast a hook may be told."""

from __future__ import annotations

from itertools import pairwise

from agent.control.events.pace import AT_ONCE_EACH, CAREFUL_S, LEAST_S, MOST_S, Pace


def test_a_limit_slows_the_whole_hook() -> None:
    """For as long as the service said, or for a minute; then one at a time for a while."""
    pace = Pace()
    assert pace.hands(0) == AT_ONCE_EACH
    for after_s, pause_s in ((None, LEAST_S), (0.0, 1.0), (5.0, 5.0), (900.0, 900.0), (9e9, MOST_S)):
        pace = Pace()
        assert pace.limited(10, after_s) == pause_s
        assert pace.hands(10 + pause_s - 0.1) == 0 and pace.hands(10 + pause_s) == 1
        assert pace.hands(10 + pause_s + CAREFUL_S) == AT_ONCE_EACH


def test_named_again_it_is_longer() -> None:
    """Up to an hour; what is taken ends the row. What was under way meanwhile heard the same limit."""
    for after_s, least_s in ((None, LEAST_S), (0.0, 1.0)):
        pace, now, pauses = Pace(), 0.0, []
        for _ in range(15):
            pauses.append(pace.limited(now, after_s))
            assert pace.limited(now + 0.5, after_s) == pauses[-1]
            now = pace.until
        assert pauses[0] == least_s and pauses[-1] > 1000 and all(b >= a for a, b in pairwise(pauses))
        pace.told()
        assert pace.limited(now, after_s) == least_s
