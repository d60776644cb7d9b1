"""What vanishes without a word is doubted, for as long as is reasonable: owners lost × times × revisions."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.control.mesh.distrust.doubts import KEEP_S, MOMENT_S, MOST_MISSED, RETURN_S, Losses
from agent.control.mesh.distrust.suspects import Suspects
from agent.control.mesh.table import Table
from registry.keys import Keys
from registry.records import Agent, Instance, encode
from registry.store import Change

KEYS = Keys()
HOSTS = ("a", "b", "c")
TTL_S = 15.0


class Mesh:
    """A table on a clock, fed as etcd would: every call is one revision."""

    def __init__(self) -> None:
        self.table = Table(KEYS, "here")
        self.revision = 1
        self.now_s = 1000.0

    def put(self, **records: Agent | Instance | None) -> None:
        self.send({key.replace("__", "/"): record for key, record in records.items()})

    def send(self, records: dict[str, Agent | Instance | None], losses: Losses = Losses.JUDGED) -> None:
        self.revision += 1
        changes = [
            Change(KEYS.prefix + key, None if record is None else encode(record), self.revision)
            for key, record in records.items()
        ]
        self.table.apply(changes, self.revision, now_s=self.now_s, losses=losses)

    def expire(self, after_s: float = 0.0) -> None:
        """As the probe does when everybody answers."""
        self.now_s += after_s
        for identity in self.table.suspects.outlived(self.table.agents, self.now_s):
            self.table.drop_suspect(*identity)

    def served(self, name: str) -> list[str]:
        frame = self.table.frame(name)
        return [endpoint.id for endpoint in getattr(frame, "endpoints", [])]

    def suspected(self) -> set[str]:
        return {f"{suspect.service}/{suspect.id}" for suspect in self.table.suspects}


def agent(n: int = 9, **more: bool) -> Agent:
    return Agent(address=f"10.0.0.{n}", inbound_port=15006, **more)


def instance(owner: str = "a", port: int = 80, **more: str) -> Instance:
    return Instance(address="10.0.0.9", port=port, agent=owner, **more)  # type: ignore[arg-type]


def small() -> Mesh:
    """Two hosts and a service on each; one of them is a small part of the mesh."""
    mesh = Mesh()
    mesh.send({"agents/a": agent(8), "agents/b": agent(9)})
    mesh.send({"instances/pets/1": instance("a"), "instances/cats/1": instance("b", 81)})
    mesh.send({f"instances/many/{n}": instance("b", 1000 + n) for n in range(10)})
    return mesh


def test_one_instance_that_goes_with_its_owner_stays() -> None:
    """Neither several services nor half of the mesh: the owner's lease ran out, and that is all that is known."""
    mesh = small()
    mesh.put(agents__a=None, instances__pets__1=None)
    assert mesh.served("pets") == ["1"] and mesh.suspected() == {"pets/1"}
    (endpoint,) = mesh.table.frame("pets").endpoints
    assert endpoint.suspect and endpoint.via and endpoint.dial_address == "10.0.0.8"


def test_one_that_is_deleted_while_its_owner_stands_is_gone() -> None:
    """An operator's `etcdctl del` is taken at its word, at once."""
    mesh = small()
    mesh.put(instances__pets__1=None)
    assert mesh.served("pets") == []


@pytest.mark.parametrize("first", ["instances/pets/1", "agents/a"])
def test_in_two_revisions(first: str) -> None:
    """Whichever goes first: within a moment it is one loss; later it is two matters."""
    (second,) = {"instances/pets/1", "agents/a"} - {first}
    for after_s, served in ((MOMENT_S / 2, ["1"]), (MOMENT_S * 2, [])):
        mesh = small()
        mesh.send({first: None})
        mesh.now_s += after_s
        mesh.send({second: None})
        assert mesh.served("pets") == served, (first, after_s)


def test_who_said_that_it_leaves_has_left() -> None:
    """The agent (`stopping`) or the instance (`draining`), whatever goes first."""
    mesh = small()
    mesh.put(agents__a=agent(8, stopping=True))
    mesh.put(agents__a=None, instances__pets__1=None)
    mesh.put(instances__cats__1=instance("b", 81, state="draining"))
    mesh.put(agents__b=None, instances__cats__1=None)
    assert mesh.suspected() == set()


def test_an_owner_that_is_back_has_the_say() -> None:
    """What it puts again is an endpoint as before; what it does not put again in time is gone."""
    mesh = small()
    mesh.send({"agents/b": None, **{f"instances/many/{n}": None for n in range(10)}})
    mesh.put(agents__b=agent(9))
    mesh.send({f"instances/many/{n}": instance("b", 1000 + n) for n in range(8)})
    mesh.expire(RETURN_S / 2)
    assert mesh.suspected() == {"many/8", "many/9"}
    mesh.expire(RETURN_S)
    assert mesh.suspected() == set() and len(mesh.served("many")) == 8


def test_what_is_kept_of_some_hosts() -> None:
    """Their endpoints, of every service, and their agents; nothing of others, and nothing that stands."""
    mesh = Mesh()
    mesh.put(agents__a=agent(8), agents__b=agent(7), agents__c=agent(6))
    mesh.put(
        instances__pets__1=instance("a"), instances__shop__2=instance("a", 81), instances__pets__3=instance("b", 82)
    )
    mesh.put(instances__pets__4=instance("c", 83))
    mesh.put(agents__a=None, agents__b=None, instances__pets__1=None, instances__shop__2=None, instances__pets__3=None)
    suspects = mesh.table.suspects
    assert sorted(suspects.of_hosts({"a"})) == [("", "a"), ("pets", "1"), ("shop", "2")]
    assert sorted(suspects.of_hosts({"b", "c"})) == [("", "b"), ("pets", "3")]
    assert suspects.of_hosts({"d"}) == suspects.of_hosts(set()) == []
    for identity in suspects.of_hosts({"a"}):
        mesh.table.drop_suspect(*identity)
    assert suspects.of_hosts({"a"}) == [] and mesh.suspected() == {"pets/3"}
    assert mesh.served("pets") == ["4", "3"] and mesh.served("shop") == []


def test_nothing_is_suspected_for_ever() -> None:
    """Somebody answers there, hour after hour: a name must end all the same."""
    mesh = small()
    mesh.put(agents__a=None, instances__pets__1=None)
    mesh.expire(KEEP_S - 1)
    assert mesh.served("pets") == ["1"]
    mesh.expire(2)
    assert mesh.served("pets") == [] and mesh.table.agents_frame().addresses.keys() == {"b"}


def test_another_service_at_the_place_ends_it() -> None:
    """The port was given to somebody else: requests for the one must not be answered by the other."""
    mesh = small()
    mesh.put(agents__a=None, instances__pets__1=None)
    mesh.put(instances__bank__1=instance("z", 80))
    assert mesh.served("pets") == [] and mesh.served("bank") == ["1"]


def test_loopback_of_another_host_is_not_dialled_here() -> None:
    """127.0.0.1 behind another agent is that host's: without the agent nobody here can reach it."""
    mesh = small()
    mesh.put(instances__pets__2=Instance(address="127.0.0.1", port=80, agent="a"))
    mesh.put(agents__a=None, instances__pets__2=None)
    (suspect,) = mesh.table.suspects
    assert suspect.places == (("10.0.0.8", 15006),)


def test_an_agent_that_was_lost_is_still_believed_to_be_one() -> None:
    """What passes between it and the others goes on as it did."""
    mesh = small()
    mesh.put(agents__a=None)
    assert mesh.table.moved is True
    assert mesh.table.agents_frame().addresses == {"a": "10.0.0.8", "b": "10.0.0.9"}
    mesh.table.drop_suspect("", "a")
    assert mesh.table.agents_frame().addresses == {"b": "10.0.0.9"}


def test_a_restart_doubts_what_was_doubted() -> None:
    """Suspects are on disk, and etcd's word on the first snapshot is not believed more than before; unless what is on
    disk is too old."""
    mesh = small()
    mesh.put(agents__a=None, instances__pets__1=None)
    saved = [Change(*item) for item in mesh.table.saved()]
    stands = [change for change in saved if "/a" not in change.key and "pets" not in change.key]
    for losses, served in ((Losses.JUDGED, ["1"]), (Losses.BELIEVED, [])):
        again = Mesh()
        again.table.apply(saved, mesh.revision)
        again.table.apply(stands, mesh.revision + 1, whole=True, now_s=5.0, losses=losses)
        assert again.served("pets") == served


def test_another_etcd_is_not_believed_about_what_it_does_not_know() -> None:
    """One service, put by hand, that nobody vouches for."""
    mesh = Mesh()
    mesh.put(instances__pets__1=Instance(address="10.0.0.1", port=80))
    mesh.send({"instances/pets/1": None}, Losses.DOUBTED)
    assert mesh.suspected() == {"pets/1"}


STEP = st.one_of(
    st.tuples(st.just("lost"), st.sampled_from(HOSTS), st.integers(1, 4)),
    st.tuples(st.just("back"), st.sampled_from(HOSTS), st.just(1)),
    st.tuples(st.just("left"), st.sampled_from(HOSTS), st.just(1)),
    st.tuples(st.just("deleted"), st.sampled_from(HOSTS), st.integers(1, 3)),
    st.tuples(st.just("waits"), st.just(""), st.sampled_from([1, 6, 20, 4000])),
)


@given(st.lists(STEP, max_size=25))
def test_owners_lost_at_any_time_in_any_number_of_revisions(steps: list[tuple[str, str, int]]) -> None:
    """Reachable instances of an owner that was lost without a word are served, until it is back or the time is over;
    those that were deleted, or that left, are not."""
    mesh = Mesh()
    lost: dict[str, float] = {}
    there = {host: {f"{host}{n}" for n in range(3)} for host in HOSTS}
    ports = {f"{host}{n}": 1000 + 10 * h + n for h, host in enumerate(HOSTS) for n in range(3)}

    def register(host: str) -> None:
        there[host] = {f"{host}{n}" for n in range(3)}
        mesh.send({f"agents/{host}": agent(ord(host))})
        mesh.send({f"instances/pets/{id}": instance(host, ports[id]) for id in sorted(there[host])})

    for host in HOSTS:
        register(host)
    for what, host, n in steps:
        stands = bool(host) and host in mesh.table.agents
        if what == "waits":
            mesh.expire(float(n))
            for gone in [host for host, since in lost.items() if mesh.now_s - since > KEEP_S]:
                there[gone] = set()
        elif what == "lost" and stands:
            keys = [f"agents/{host}", *(f"instances/pets/{id}" for id in sorted(there[host]))]
            lost[host] = mesh.now_s
            for part in range(n):
                mesh.send(dict.fromkeys(keys[part::n]))
        elif what == "back" and not stands:
            lost.pop(host, None)
            register(host)
        elif what == "left" and stands:
            mesh.send({f"instances/pets/{id}": instance(host, ports[id], state="draining") for id in there[host]})
            mesh.send({f"agents/{host}": agent(ord(host), stopping=True)})
            mesh.send({f"agents/{host}": None, **{f"instances/pets/{id}": None for id in there[host]}})
            there[host] = set()
        elif what == "deleted" and stands and len(there[host]) == 3:
            mesh.now_s += MOMENT_S + 1
            gone_ids = {f"{host}{index}" for index in range(n)}
            mesh.send({f"instances/pets/{id}": None for id in sorted(gone_ids)})
            there[host] -= gone_ids
            mesh.now_s += MOMENT_S + 1
        assert set(mesh.served("pets")) == set().union(*there.values())


def test_who_watches_hosts_is_told_of_those_that_went() -> None:
    """Whatever was found out about them since; not of those that left in order, were put out, or are back; for an hour,
    and of so many."""
    made = Suspects({})
    record = Agent(address="10.0.0.1", inbound_port=15006)
    for number in range(MOST_MISSED + 3):
        made.agent_went(f"h{number}", record, 5.0)
    made.drop_agent("h9")
    assert len(made.missed(6.0)) == MOST_MISSED and "h2" not in made.missed(6.0) and "h9" in made.missed(6.0)
    made.agent_came("h9", 7.0)
    made.miss_no_more(["h10", "h11111"])
    made.agent_went("h11", msgspec.structs.replace(record, stopping=True), 8.0)
    assert len(made.missed(8.0)) == MOST_MISSED - 3
    assert made.missed(5.0 + KEEP_S) == {}
