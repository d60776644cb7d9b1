"""One agent's output of programs: nothing twice, nothing lost uncounted, over restarts too."""

from __future__ import annotations

import time

from agent.control.asking.answering import Answering
from agent.control.output import output as module
from agent.control.output.output import Output
from agent.control.output.said import Line, OutputAsked, OutputTold, Place

PETS, SHOP = ("pets.production", "pets-1"), ("shop.production", "shop-1")
ALICE, BOB = 1001, 1002


def made() -> Output:
    return Output("web-1", Answering("web-1", {}), lambda: {PETS: ALICE, SHOP: BOB})


def say(output: Output, first: int, *texts: str, run: str = "aa", begins: bool = False, ended: bool = False) -> int:
    said = [Line(first + number, 1.0, 1, text) for number, text in enumerate(texts)]
    taken = output.take(run, PETS, ALICE, said, first + len(texts), begins=begins, ended=ended)
    assert taken is not None
    return taken.next


def ask(output: Output, place: Place | None = None, late_s: float = 0.0, **more: object) -> OutputTold:
    places = {} if place is None else {"web-1": place}
    return output.read(OutputAsked("*", places=places, **more), time.monotonic() + late_s)  # type: ignore[arg-type]


def texts(told: OutputTold) -> list[str]:
    return [line.text for each in told.programs for line in each.lines]


def test_who_begins_is_told_what_comes_from_then_on() -> None:
    """Or the last ones and what comes; a program that is started later is told of from its first line."""
    output = made()
    say(output, 0, "one", "two", begins=True)
    begun = ask(output)
    assert texts(begun) == [] and begun.place == Place({"aa": 2})
    assert texts(ask(output, last=1)) == ["two"]
    say(output, 2, "three")
    say(output, 0, "again", run="bb", begins=True)
    told = ask(output, begun.place)
    assert texts(told) == ["three", "again"] and texts(ask(output, told.place)) == []


def test_an_agent_that_was_restarted_goes_on_where_somebody_was() -> None:
    """It asks who copies for all that he has; before that, nobody's place is lost."""
    before, after = made(), made()
    say(before, 0, "one", "two", begins=True)
    place = ask(before, Place({})).place
    early = ask(after, place)
    assert texts(early) == [] and early.place == place
    assert say(after, 2, "three") == 0
    assert say(after, 0, "one", "two", "three", begins=True) == 3
    assert texts(ask(after, early.place)) == ["three"]


def test_what_was_lost_between_two_agents_is_counted() -> None:
    """By who reads; who begins with the new one has lost nothing."""
    output = made()
    say(output, 10, "ten", begins=True)
    told = ask(output, Place({"aa": 4}))
    assert texts(told) == ["ten"] and told.programs[0].lost == 6
    assert ask(output, last=5).programs[0].lost == 0 and output.lost == 0
    say(output, 15, "fifteen")
    assert output.lost == 4 and output.lines == 2


def test_who_may_see_only_his_own_sees_only_that() -> None:
    output = made()
    say(output, 0, "secret", begins=True)
    assert texts(ask(output, last=9, uid=BOB)) == [] and texts(ask(output, last=9, uid=ALICE)) == ["secret"]
    assert texts(ask(output, last=9, instance="pets-2")) == []
    assert output.owner("aa", PETS) == ALICE and output.owner("aa", SHOP) == -1 and output.owner("bb", PETS) is None


def test_instances_whose_output_nobody_tells_of_are_named() -> None:
    """Not before everybody has come by, after our start; nor to others than may see them."""
    output = made()
    say(output, 0, "one", begins=True)
    assert ask(output).unkept == []
    assert ask(output, late_s=module.HEARD_S).unkept == ["shop.production/shop-1"]
    assert ask(output, late_s=module.HEARD_S, uid=ALICE).unkept == []
    say(output, 1, "two", ended=True)
    assert ask(output, late_s=module.HEARD_S, uid=ALICE).unkept == ["pets.production/pets-1"]


def test_who_wants_some_lines_is_told_of_these() -> None:
    """By what they have in them, and by their stream."""
    output = made()
    said = [Line(0, 1.0, 0, "it was started"), Line(1, 1.0, 1, "one"), Line(2, 1.0, 2, "oh one")]
    assert output.take("aa", PETS, ALICE, said, 3, begins=True, ended=False) is not None
    assert texts(ask(output, Place({}), contains="one")) == ["one", "oh one"]
    assert texts(ask(output, Place({}), contains="one", stream="stderr")) == ["oh one"]
    assert texts(ask(output, last=1, stream="stdout")) == ["one"] and texts(ask(output, last=9, contains="x")) == []
    assert texts(ask(output, Place({}), stream="run")) == ["it was started"]


def test_many_programs_are_told_of_the_seldomer() -> None:
    """So that what all of them say has a bound, also while nobody follows; who follows one does not wait for others."""
    output = made()
    for number in range(100):
        taken = output.take(f"{number:08x}", (f"s{number}", "i"), ALICE, [], 0, begins=True, ended=False)
    assert taken is not None and taken.again_s == 100 * module.EACH_S > module.SELDOM_S
    output.read(OutputAsked("s7"), time.monotonic())
    taken = output.take(f"{7:08x}", ("s7", "i"), ALICE, [], 0, begins=False, ended=False)
    assert taken is not None and taken.again_s == module.OFTEN_S


def test_programs_are_told_of_often_while_somebody_follows() -> None:
    output = made()
    quiet = output.take("aa", PETS, ALICE, [], 0, begins=True, ended=False)
    assert quiet is not None and quiet.again_s == module.SELDOM_S
    ask(output)
    followed = output.take("aa", PETS, ALICE, [], 0, begins=False, ended=False)
    assert followed is not None and followed.again_s == module.OFTEN_S


def test_a_place_does_not_grow() -> None:
    """Runs that nobody knows any more are left out in the end."""
    told = ask(made(), Place({f"{number:08x}": 1 for number in range(500)}))
    assert told.place is not None and len(told.place.after) == module.MOST_CARRIED
