"""Chains: what a request may set off, and what is wrong with it."""

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from policies.chain import Finding, Hop, Node, findings, tree
from policies.kinds.retry import decide as retry
from policies.kinds.retry.document import Retry
from policies.kinds.timeout import decide as timeout
from policies.kinds.timeout.document import Timeout

DEFAULT = Hop(timeout.compile(None), retry.compile(None))


def hop(
    attempts: int = 1,
    request: str = "15s",
    breaker: bool = True,
    fallback: str = "",
    per_try: str = "0s",
    ways_out: tuple[str, ...] = (),
) -> Hop:
    return Hop(
        timeout.compile(Timeout(request=request, try_=per_try)),
        retry.compile(Retry(attempts=attempts)),
        breaker,
        fallback,
        ways_out,
        {"retry": "retry/x"},
    )


def chain(*services: str) -> dict[str, frozenset[str]]:
    """a calls b calls c."""
    return {caller: frozenset({callee}) for caller, callee in pairwise(services)}


def found(root: str, calls: dict[str, frozenset[str]], hops: dict[str, Hop]) -> list[Finding]:
    return findings(tree(root, calls, hops, DEFAULT), hops)


def test_a_tree_has_effective_limits_and_products() -> None:
    """Nobody has longer than whoever waits for him; attempts multiply."""
    hops = {"a": hop(2, "10s"), "b": hop(3, "4s"), "c": hop(2, "20s")}
    root = tree("a", {"a": frozenset({"b", "c"}), "b": frozenset({"c"})}, hops, DEFAULT)
    b, c = root.children
    assert (root.wait_s, root.requests) == (10, 2)
    assert (b.service, b.wait_s, b.requests) == ("b", 4, 6)
    assert (c.service, c.wait_s, c.requests) == ("c", 10, 4)
    assert (b.children[0].wait_s, b.children[0].requests) == (4, 12)


def test_a_sound_chain_has_no_findings() -> None:
    """Limits that shrink, one that tries again, with a breaker."""
    assert found("a", chain("a", "b", "c"), {"a": hop(1, "10s"), "b": hop(1, "5s"), "c": hop(2, "2s")}) == []


def test_a_callee_that_outlasts_its_caller() -> None:
    """Said with what would be right."""
    (finding,) = found("a", chain("a", "b"), {"a": hop(request="5s"), "b": hop(request="30s")})
    assert finding.kind == "timeout"
    assert str(finding) == ("a → b: may take 30 s, but whoever asked a has gone after 5 s; at most 5 s would be right")


def test_a_limit_of_the_one_before_the_last_counts_too() -> None:
    """The shortest above counts, not the nearest."""
    (finding,) = found(
        "a", chain("a", "b", "c"), {"a": hop(request="2s"), "b": hop(request="2s"), "c": hop(request="3s")}
    )
    assert finding.path == ("a", "b", "c")


def test_tries_that_multiply() -> None:
    """2 x 3 x 2 is said where it ends."""
    kinds = [
        f
        for f in found("a", chain("a", "b", "c"), {"a": hop(2), "b": hop(3), "c": hop(2)})
        if f.kind == "amplification"
    ]
    assert [f.path[-1] for f in kinds] == ["b", "c"]
    assert "may become 12 here" in kinds[1].reason
    assert found("a", chain("a", "b", "c"), {}) == [], "by default agents hold it down by themselves"


def test_tries_that_do_not_fit() -> None:
    """Three tries of 2 s in 5 s."""
    (finding,) = found("a", {}, {"a": hop(3, "5s", per_try="2s")})
    assert "3 tries of 2 s do not fit into 5 s" in finding.reason


def test_a_retry_without_a_breaker() -> None:
    """But not where nobody asked for the retry."""
    assert [f.kind for f in found("a", {}, {"a": hop(2, breaker=False)})] == ["breaker"]
    assert found("a", {}, {}) == []


def test_no_limit_at_all() -> None:
    """0 is none."""
    assert [f.kind for f in found("a", {}, {"a": hop(request="0s")})] == ["unlimited"]


def test_fallbacks_that_go_in_a_circle() -> None:
    """Among themselves, or back to a caller."""
    (finding,) = found("a", {}, {"a": hop(fallback="b"), "b": hop(fallback="a")})
    assert (finding.kind, "a → b → a" in finding.reason) == ("fallback", True)
    (finding,) = found("a", chain("a", "b"), {"a": hop(), "b": hop(fallback="a")})
    assert finding.path == ("a", "b")


def test_ways_out_of_an_overload_that_go_in_a_circle() -> None:
    """Two that send each other what is too much, and one that sends it back to its caller."""
    both = {"a": hop(ways_out=("b",)), "b": hop(ways_out=("c", "a"))}
    (finding,) = found("a", {}, both)
    assert finding.kind == "shed" and "to b, which sends its own back" in finding.reason
    (finding,) = found("a", chain("a", "b"), {"a": hop(), "b": hop(ways_out=("a",))})
    assert finding.path == ("a", "b") and "to a, which waits for it" in finding.reason
    assert found("a", {}, {"a": hop(ways_out=("b", "c")), "b": hop(ways_out=("c",))}) == []


def test_calls_that_go_in_a_circle() -> None:
    """Followed once."""
    assert [f.kind for f in found("a", {"a": frozenset({"b"}), "b": frozenset({"a"})}, {"a": hop(), "b": hop()})] == [
        "circle"
    ]


def size(node: Node) -> int:
    return 1 + sum(map(size, node.children))


NAMES = st.sampled_from("abcde")


@given(
    st.dictionaries(NAMES, st.frozensets(NAMES, max_size=3)),
    st.dictionaries(
        NAMES, st.builds(hop, st.integers(1, 4), st.sampled_from(["0s", "1s", "9s"]), st.booleans(), NAMES)
    ),
)
def test_any_graph_ends(calls: dict[str, frozenset[str]], hops: dict[str, Hop]) -> None:
    """Whatever calls what, and however fallbacks lead; limits never grow downwards."""
    root = tree("a", calls, hops, DEFAULT)
    assert size(root) < 10_000
    findings(root, hops)

    def check(node: Node) -> None:
        for child in node.children:
            assert not node.wait_s or 0 < child.wait_s <= node.wait_s
            check(child)

    check(root)
