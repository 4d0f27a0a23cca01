"""The READMEs of this project, and the commands, files and links that they name."""

import re
import shlex
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "src" / "everytoken"
EVIDENCE = "scripts/evidence"

ROOMS = sorted(folder.name for folder in PACKAGE.iterdir() if (folder / "__init__.py").is_file())
NAME = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["name"]
OWN = "project" if NAME == "everytoken" else NAME.replace("-", "_")
"""The user's room: project, until scripts/fork.py gave it another name."""

PLACES = ("conf", "conf/data", "scripts", "tests", f"src/{OWN}", "src/everytoken")
TOP = ("README.md", *(f"{place}/README.md" for place in PLACES))
POLICIES = (".github/CONTRIBUTING.md", ".github/SECURITY.md")
ALL = [*TOP, *POLICIES, *(f"src/everytoken/{room}/README.md" for room in ROOMS)]

START = re.compile(r"python|make|pytest|pip|git|pre-commit|everytoken-\w+")
"""What a command begins with, where it stands inside of a sentence."""


def read(name: str) -> str:
    """A README as it is meant in this project, also where the user's room has another name."""
    text = (ROOT / name).read_text("utf-8")
    return re.sub(r"(?<=src/)project\b|(?<=tests/)project\b|(?<==)project\b", OWN, text)


def blocks(name: str, language: str) -> list[str]:
    """The fenced blocks of a README in a language."""
    return re.findall(rf"^```{language}\n(.*?)^```", read(name), re.DOTALL | re.MULTILINE)


def block_commands(name: str) -> list[str]:
    """The lines of the bash blocks of a README, each as a whole and without its comment."""
    lines = "".join(blocks(name, "bash")).replace("\\\n", " ").splitlines()
    return [shlex.join(words) for line in lines if (words := shlex.split(line, comments=True))]


def commands(name: str) -> list[str]:
    """The same, and the commands inside of sentences and tables, but for names of commands."""
    spans = re.findall(r"(?<!`)`([^`\n]+)`", re.sub(r"```.*?```", "", read(name), flags=re.DOTALL))
    inside = [span for span in spans if START.fullmatch(span.split()[0]) and "…" not in span]
    names = re.compile(r"python -m( [\w.]+)?|\S+")
    return [*block_commands(name), *(span for span in inside if not names.fullmatch(span))]


def typed(name: str) -> list[list[str]]:
    """The overrides in the README's table of what to type, one after the other."""
    found: list[list[str]] = []
    tables = (
        "\n| what is learned | type after `python -m train` | yours |\n",
        "\n| to change | type |\n",
    )
    rows = [row for t in tables for row in read(name).split(t)[1].split("\n\n")[0].splitlines()]
    for line in (re.sub(r"`[^`]*` \|$", "|", row) if row.count("|") > 3 else row for row in rows):
        for span in re.findall(r"`([^`]+)`", line):
            if "=" in span:
                found.append(shlex.split(span))
            elif re.fullmatch(r"[a-z_0-9]+", span):
                found.append([re.sub(r"=[^= ]+$", f"={span}", found[-1][-1])])
    return found


def named_files(name: str) -> set[str]:
    """Files and folders that a README names or links to, from the top of the project."""
    text = re.sub(r"^What moved:.*?\n\n", "", read(name), flags=re.DOTALL | re.MULTILINE)
    folder = (ROOT / name).parent
    links = re.findall(r"\]\(([^)#:]+)\)", text)
    found = {str((folder / link).resolve().relative_to(ROOT)) for link in links}
    rooms = "|".join(["src", "conf", "scripts", "tests", r"\.github", *ROOMS])
    for path in re.findall(rf"`((?:{rooms})/[\w./-]*)`", text):
        inside = path.partition("/")[0] in ROOMS and not (ROOT / path.partition("/")[0]).is_dir()
        found.add(f"src/everytoken/{path}" if inside else path)
    if not (ROOT / EVIDENCE).exists():  # a fork leaves it out
        found = {path for path in found if not path.startswith(EVIDENCE)}
    return {path for path in found if "GROUP" not in path}


def files_of(room: str) -> set[str]:
    """What is in a room, as its README names it; a folder's face aside."""
    folder = PACKAGE / room
    kinds = ("*.py", "*.js", "*.css", "*.html")
    files = {path.relative_to(folder) for kind in kinds for path in folder.rglob(kind)}
    return {str(path) for path in files if path.name != "__init__.py"}


def longest_prose(name: str) -> int:
    """Most lines in a row without heading, list, table, picture or code between them."""
    text = re.sub(r"^```.*?^```", "#", read(name), flags=re.DOTALL | re.MULTILINE)
    longest = run = 0
    for line in text.splitlines():
        is_other = re.match(r"#|\||!\[|[-*] |\d+\. |  \S|    ", line)
        run = 0 if is_other else run + 1
        longest = max(longest, run)
    return longest
