from __future__ import annotations

import io
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.cli import documents
from agent.cli.failure import Exit, Failure

ROUTE = "kind: route\nservice: pets.production\nactive: v1\n"


def read(path: Path, text: str, **defaults: str) -> tuple[list[documents.Source], list[documents.Problem]]:
    path.write_text(text)
    return documents.read([path], **defaults)


def test_a_document_is_put_as_it_stands_with_its_comments(tmp_path: Path) -> None:
    """What etcd holds is the text that a person wrote, not what a parser made of it."""
    text = "# since the incident\n" + ROUTE
    sources, problems = read(tmp_path / "a.yaml", text)
    assert (problems, [source.text.decode() for source in sources]) == ([], [text])


def test_a_yaml_file_holds_several_documents(tmp_path: Path) -> None:
    """Documents are told apart by `---`, counted for messages, and empty ones are passed over."""
    text = f"---\n{ROUTE}---\n# nothing but a remark\n---\nkind: retry\nservice: pets/production\n---\n"
    sources, problems = read(tmp_path / "all.yaml", text)
    assert problems == []
    assert [documents.key(source) for source in sources] == ["route/pets.production", "retry/pets.production"]
    assert [source.place.rpartition("/")[2] for source in sources] == ["all.yaml[1]", "all.yaml[2]"]


def test_a_separator_inside_a_line_separates_nothing(tmp_path: Path) -> None:
    """Only a line that begins with `---` and a space or its end is one."""
    text = ROUTE + "description: |\n  a\n  --- not a separator\n  ---neither\n"
    sources, problems = read(tmp_path / "a.yaml", text)
    assert (len(sources), problems) == (1, [])


def test_a_json_file_holds_one_document(tmp_path: Path) -> None:
    """JSON is read as JSON."""
    sources, problems = read(tmp_path / "a.json", '{"kind": "route", "service": "*.production"}')
    assert ([documents.key(source) for source in sources], problems) == (["route/*.production"], [])


@pytest.mark.parametrize(
    ("text", "path", "reason"),
    [
        ("service: pets\n", "$.kind", "missing: say which kind"),
        ("kind: route\n", "$.service", "missing: say whom it is for"),
        ("kind: route\nservice: pets_shop\n", "$.service", "not a DNS label"),
        ("- kind: route\n", "$", "a mapping of fields"),
        ("kind: [route\n", "$", "line 2"),
        ("", "$", "empty"),
    ],
)
def test_what_cannot_be_placed_is_told_with_path_and_fix(tmp_path: Path, text: str, path: str, reason: str) -> None:
    """A file of which nobody could say where it belongs is a problem, with the file's name, a path and a reason."""
    sources, problems = read(tmp_path / "a.yaml", text)
    assert sources == []
    assert len(problems) == 1
    assert problems[0].path == path
    assert reason in problems[0].reason
    assert str(problems[0]).startswith(f"{tmp_path / 'a.yaml'}:{path}: ")


def test_kind_and_service_may_be_given_beside_the_file(tmp_path: Path) -> None:
    """A document as it stands in etcd, without its kind and service, can be checked and put too."""
    sources, problems = read(tmp_path / "a.yaml", "active: v1\n", kind="route", service="pets/production")
    assert ([documents.key(source) for source in sources], problems) == (["route/pets.production"], [])


def test_two_documents_for_one_key_are_refused(tmp_path: Path) -> None:
    """Their order would decide silently which of them is in force."""
    _, problems = read(tmp_path / "a.yaml", f"{ROUTE}---\n{ROUTE}")
    assert [problem.reason for problem in problems] == [
        f"route/pets.production stands in {tmp_path / 'a.yaml'}[1] already; one policy is one key"
    ]


def test_a_file_that_cannot_be_read_is_a_problem_like_any_other(tmp_path: Path) -> None:
    """The other files are still looked at."""
    (tmp_path / "good.yaml").write_text(ROUTE)
    (tmp_path / "latin.yaml").write_bytes(b"description: caf\xe9\n")
    names = ["absent.yaml", "latin.yaml", "good.yaml"]
    sources, problems = documents.read([tmp_path / name for name in names])
    assert len(sources) == 1
    assert str(problems[0]) == f"{problems[0].place}: No such file or directory"
    assert [problem.reason for problem in problems] == ["No such file or directory", "not UTF-8: byte 16 is 0xe9"]


def test_a_dash_is_standard_input(monkeypatch: pytest.MonkeyPatch) -> None:
    """Policies can be piped in."""
    monkeypatch.setattr("sys.stdin", io.StringIO(ROUTE))
    sources, problems = documents.read([Path("-")])
    assert ([documents.key(source) for source in sources], problems) == (["route/pets.production"], [])


def test_check_says_what_an_agent_would_say(tmp_path: Path) -> None:
    """The same parser judges files and etcd's values; its path and reason stand behind the file's name."""
    sources, _ = read(tmp_path / "a.yaml", ROUTE + "standby: v1\n")
    assert [str(problem) for problem in documents.check(sources)] == [
        f"{tmp_path / 'a.yaml'}:$.standby: 'v1' is the active version too; they are two"
    ]


def test_policy_files_are_found_below_a_directory_and_hidden_ones_are_not(tmp_path: Path) -> None:
    """Order is stable, and .git or editors' files never become policies."""
    for name in ("b.yml", "sub/a.json", ".git/x.yaml", ".hidden.yaml", "notes.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(ROUTE)
    assert [str(path.relative_to(tmp_path)) for path in documents.files_under(tmp_path)] == ["b.yml", "sub/a.json"]


def test_a_directory_without_policies_is_a_mistake(tmp_path: Path) -> None:
    """Nothing to apply is most likely the wrong directory, and with --prune it would remove everything."""
    with pytest.raises(Failure) as caught:
        documents.files_under(tmp_path)
    assert caught.value.code is Exit.USAGE


@given(st.lists(st.text(alphabet="ab-: \n#{}[]'\"|\t", max_size=40), max_size=4).map("\n---\n".join))
def test_no_text_whatever_breaks_the_reader(text: str) -> None:
    """Every piece of a file becomes a source or a problem, never an exception."""
    for place, piece in documents._pieces("x.yaml", text):
        found = documents._identify(place, piece, "route", "pets")
        assert isinstance(found, documents.Source | documents.Problem)
