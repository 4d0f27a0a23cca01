"""The READMEs can be read, name what there is, and lead to it."""

import re
import sys
import tomllib
from itertools import chain

import pytest

from everytoken.audit.report import CHECKS
from everytoken.config.keys import conf_dir
from support.audit_faults import FAULTS
from support.readmes import (
    ALL,
    EVIDENCE,
    OWN,
    PACKAGE,
    POLICIES,
    ROOMS,
    ROOT,
    files_of,
    longest_prose,
    named_files,
    read,
)

LAYERS = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["tool"]["importlinter"][
    "contracts"
][0]["layers"]
"""Of the import contract: what stands below may be imported."""

FIRST = {
    "model": "model/transformer.py",
    "loss": "training/loss.py",
    "step": "training/module.py",
    "batching": "data/sampler.py",
    "padding": "data/collate.py",
    "all together": "commands/train.py",
}
"""What a newcomer looks for, and where it is."""

MOVED = {
    "`scripts/benchmark.py`": "`scripts/evidence/`",
    "`kill_and_resume.py`": "`scripts/evidence/`",
    "`kill_while_saving.py`": "`scripts/evidence/`",
    "`compare_topologies.py`": "`scripts/evidence/`",
    "`model.attention=grouped`": "`bucketed`",
    "`src/everytoken/`": f"`src/{OWN}/`",
}
"""What README.md once said, and what took its place."""


def room(name: str) -> str:
    """The README of a room, from the top of the project."""
    return f"src/everytoken/{name}/README.md"


# To read


def test_readme_is_a_page():
    text = read("README.md")
    assert len(text.splitlines()) <= 200
    assert len(text.split()) <= 1800
    assert len(read(".github/CONTRIBUTING.md").splitlines()) <= 80


@pytest.mark.parametrize("name", [name for name in ALL if OWN not in name])
def test_lines_are_short_and_prose_is_broken_up(name: str):
    long = [line for line in read(name).splitlines() if len(line) > 100]
    assert long == []
    assert longest_prose(name) <= 8


@pytest.mark.parametrize("name", [*map(room, ROOMS), "conf/README.md", "tests/README.md"])
def test_a_rooms_readme_has_20_to_80_lines(name: str):
    assert 20 <= len(read(name).splitlines()) <= 80


# What there is


@pytest.mark.parametrize("name", ROOMS)
def test_a_room_names_its_files_and_no_others(name: str):
    table = re.findall(r"^\|(.+?)\|", read(room(name)), re.MULTILINE)
    named = set(re.findall(r"`([\w/]+\.(?:py|js|css|html))`", "".join(table)))
    assert files_of(name) <= named, "a file is missing in the room's README"
    assert {file for file in named if file != "report.html"} == files_of(name)


@pytest.mark.parametrize("name", ROOMS)
def test_a_room_says_what_the_import_contract_says(name: str):
    [rule] = re.findall(r"\*\*May import:\*\*(.*?)\.(?: |\n|$)", read(room(name)), re.DOTALL)
    listed = set(re.findall(r"`(\w+)`", rule))
    everyone = set(re.findall(r"\w+", " ".join(LAYERS)))
    if "every room" in rule:
        listed = everyone - listed - {name}
    place = next(i for i, layer in enumerate(LAYERS) if name in layer.split(" | "))
    assert listed == set(chain(*(layer.split(" | ") for layer in LAYERS[place + 1 :])))


@pytest.mark.parametrize("name", ROOMS)
def test_a_room_says_what_goes_in_and_out_and_where_its_tests_are(name: str):
    text = read(room(name))
    for part in ("In", "Out", "Never here", "Tests"):
        assert f"- **{part}:** " in text
    assert name == "entry" or f"`pytest tests/{name}`" in text
    homes = [file for file in files_of(name) if file.endswith("_internals.py")]
    upstream = f"tests/{name}/test_upstream.py"
    if homes or (ROOT / upstream).exists():
        [line] = re.findall(r"\*\*Of a library's insides:\*\*(.*?)\n(?:\n|- )", text, re.DOTALL)
        assert {f"`{home}`" for home in homes} <= set(re.findall(r"`\S+`", line))
        assert f"`{upstream}`" in line


def test_the_rooms_fit_on_one_screen():
    rows = read("README.md").split("| room | what it does |\n")[1].split("\n\n")[0]
    assert set(re.findall(r"\]\(src/everytoken/(\w+)\)", rows)) == set(ROOMS)
    assert len(rows.splitlines()) <= len(ROOMS) + 1


def test_conf_names_all_groups_and_choices():
    rows: dict[str, str] = {}
    found = re.findall(r"^\| `(\w+)` \|.*?\|(.*)\|$", read("conf/README.md"), re.MULTILINE)
    for group, choices in found:  # of a group there may be several rows
        rows[group] = rows.get(group, "") + choices
    groups = {path.name: path for path in conf_dir().iterdir() if path.is_dir()}
    assert rows.keys() == groups.keys() - {"hydra"}
    for group, row in rows.items():
        choices = {file.stem for file in groups[group].glob("*.yaml")} - {OWN}
        named = set(re.findall(r"`(\w+)`", row))
        assert named == choices or (OWN != "project" and named < choices), group


def test_contributing_has_the_contract():
    arrows = re.findall(r"^    (.*(?:\n    .*)*)", read(".github/CONTRIBUTING.md"), re.MULTILINE)[0]
    assert " ".join(arrows.split()).split(" → ") == LAYERS


def test_figures_about_the_audit_are_counted():
    for name in ("README.md", room("audit")):
        text = read(name)
        assert re.search(rf"\b{len(CHECKS)} (things|checks)", text)
        assert f"{len(FAULTS)} classic faults" in " ".join(text.split())


# Where it leads


@pytest.mark.parametrize("name", ALL)
def test_files_that_a_readme_names_exist(name: str):
    assert [path for path in named_files(name) if not (ROOT / path).exists()] == []


@pytest.mark.parametrize("what", FIRST)
def test_a_newcomer_is_one_click_away(what: str):
    assert f"](src/everytoken/{FIRST[what]}): " in read("README.md")
    assert (PACKAGE / FIRST[what]).is_file()


@pytest.mark.parametrize("name", [*map(room, ROOMS), "conf/README.md", f"src/{OWN}/README.md"])
def test_a_rooms_readme_is_two_clicks_away_at_most(name: str):
    links = {link.removesuffix("/README.md") for link in named_files("README.md")}
    assert name.removesuffix("/README.md") in links


def test_pictures_are_shown_and_exist():
    names = [*ALL, *([f"{EVIDENCE}/README.md"] if (ROOT / EVIDENCE).exists() else [])]
    shown = {path for name in names for path in named_files(name) if path.endswith(".png")}
    there = {str(path.relative_to(ROOT)) for path in (ROOT / ".github").glob("*.png")}
    assert shown <= there
    assert shown == there or not (ROOT / EVIDENCE).exists()


@pytest.mark.parametrize("old", MOVED)
def test_readme_says_what_took_the_place_of_what_is_gone(old: str):
    told = read(".github/CONTRIBUTING.md").split("What moved: ")[1]
    moved = " ".join(told.split("\n\n")[0].split())
    assert old in moved
    assert MOVED[old] in moved.split(old)[1]


def test_policies_are_linked():
    assert set(POLICIES) <= named_files("README.md")


def test_python_is_new_enough():
    assert sys.version_info >= (3, 11)
