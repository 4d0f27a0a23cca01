"""Make this clone a project of your own: python scripts/fork.py my_project.

Renames your room, src/project, and what names it: its choices in conf/, its tests, the project in
pyproject.toml, the title of README.md and the tracked project. Nothing is committed. The engine
keeps its name, and no file is deleted, so that upstream's fixes merge without a conflict.
LICENSE stays as it is: the licence asks that its notice is kept.
"""

import argparse
import keyword
import re
import shutil
import subprocess
import sys
import tomllib
from importlib.util import find_spec
from pathlib import Path
from typing import NoReturn

ENGINE = "everytoken"
ROOM = "project"
ROOT = Path(__file__).resolve().parents[1]

EVIDENCE = "scripts/evidence"
"""What proves upstream's figures. A fork that deleted it would have a conflict in every merge that
brings a change of it, so git is asked to leave it out of the working tree."""

NAMES = {
    "pyproject.toml": rf'(?<=^name = "){ENGINE}(?=")|(?<="){ENGINE}(?=\[)',
    "README.md": rf"(?<=\A# ){ENGINE}$",
    "conf/logger/wandb.yaml": rf"(?<=^project: \$\{{oc\.env:WANDB_PROJECT,){ENGINE}\b",
    "scripts/wandb_sweep.yaml": rf"(?<=^project: ){ENGINE}\b",
}
"""Where the project's name stands, outside of the room. Around each of these lines are some that
upstream doesn't change, so that git can merge what it does change."""

NO_NAMES = {"null", "true", "false", "nan", "inf", "on", "off", "yes", "no", "y", "n"}
"""Words that are values in YAML or on Hydra's command line."""


def main() -> None:
    """Check everything first, so that a refusal leaves every file as it was."""
    parser = argparse.ArgumentParser(description="Make this clone a project of your own.")
    parser.add_argument("name", help="the project's name, such as my_project or my-project")
    parser.add_argument("--force", action="store_true", help="even with uncommitted changes")
    arguments = parser.parse_args()
    name = arguments.name
    package = name.replace("-", "_")
    check_name(name, package)
    check_repository(arguments.force)

    rename_room(package)
    rename_project(name)
    print(
        f"src/{ROOM} is now src/{package}, your room: model={package}, data={package} and so on.\n"
        f"src/{ENGINE}, the engine, keeps its name, so that upstream's fixes merge into it.\n"
        f"{leave_evidence_out()}\n"
        "Next:\n"
        "  add yourself to LICENSE, and describe your project in .github/README.md, which GitHub\n"
        "  shows before README.md, upstream's\n"
        "  make test\n"
        f'  git add -A && git commit -m "Start {name}"\n'
        "Then, whenever you want what upstream has mended or added:\n"
        f"  {upstream()}\n"
        "  git fetch upstream\n"
        "  git merge upstream/main"
    )


def check_name(name: str, package: str) -> None:
    """Refuse what can't name a project, a package and a choice, or names something already."""
    if not re.fullmatch(r"[a-z]([a-z0-9_-]*[a-z0-9])?", name):
        refuse(
            f"{name!r} can't name a package: start with a letter, then letters, digits "
            "and underscores, all in lower case, such as my_project"
        )
    folders = (path for folder in ("src", "tests", "scripts") for path in (ROOT / folder).iterdir())
    choices = (file.stem for file in (ROOT / "conf").glob("*/*.yaml"))
    for taken, what in (
        (keyword.iskeyword(package), "a keyword of Python"),
        (package in NO_NAMES, "a value of YAML"),
        (package in sys.stdlib_module_names, "a module of Python's own"),
        (package in {path.stem for path in folders}, "a module in src/, tests/ or scripts/"),
        (package in choices, "a choice in conf/"),
        (package in dependencies() or find_spec(package), "an installed package"),
    ):
        if taken:
            refuse(f"{package!r} is {what}: choose another name")


def dependencies() -> set[str]:
    """Names of what pyproject.toml requires, written as modules are."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    groups = [project["dependencies"], *project["optional-dependencies"].values()]
    names = (re.split(r"[^\w-]", requirement)[0] for group in groups for requirement in group)
    return {name.replace("-", "_") for name in names}


def check_repository(force: bool) -> None:
    """Refuse a tree that was forked already or, unless forced, one with work to lose."""
    if not (ROOT / "src" / ROOM).is_dir():
        refuse(f"there is no src/{ROOM}: this project was forked already")
    if (changes := git("status", "--porcelain").split("\n")[:-1]) and not force:
        more = f" and {len(changes) - 1} more" if len(changes) > 1 else ""
        refuse(
            f"there are uncommitted changes, of {changes[0][3:]}{more}: commit them first, or add "
            "--force"
        )


def rename_room(package: str) -> None:
    """Move the room, its tests and its choices, and let their files speak of the new name."""
    for folder in ("src", "tests"):
        git("mv", f"{folder}/{ROOM}", f"{folder}/{package}")
    choices = list((ROOT / "conf").glob(f"*/{ROOM}.yaml"))
    for file in choices:
        git("mv", str(file), str(file.with_stem(package)))
    room = [ROOT / "src" / package, ROOT / "tests" / package]
    files = [
        file for folder in room for suffix in ("py", "md") for file in folder.glob(f"*.{suffix}")
    ]
    for file in [*files, *(file.with_stem(package) for file in choices)]:
        substitute(file, rf"\b{ROOM}\b", package)


def rename_project(name: str) -> None:
    """Write the name into the files that the project and the room share with upstream."""
    for file, place in NAMES.items():
        substitute(ROOT / file, place, name)


def substitute(file: Path, pattern: str, new: str) -> None:
    """Replace all matches in a text file, and leave its line ends alone."""
    old = file.read_bytes().decode()
    file.write_bytes(re.sub(pattern, new, old, flags=re.MULTILINE).encode())


def leave_evidence_out() -> str:
    """Take scripts/evidence from the working tree, not from git; a line that says so."""
    for cache in list((ROOT / EVIDENCE).rglob("__pycache__")):
        shutil.rmtree(cache)  # of no commit, so git would leave it, and its folder
    command = ["sparse-checkout", "set", "--no-cone", "/*", f"!/{EVIDENCE}/"]
    shown = f"git sparse-checkout set --no-cone '/*' '!/{EVIDENCE}/'"
    done = run_git(*command)
    if done.returncode != 0:
        return f"{EVIDENCE} proves upstream's figures; to leave it out: {shown}"
    return (
        f"{EVIDENCE}, which proves upstream's figures, is left out of this working tree, not of "
        f"git, where it would conflict; in another clone: {shown}"
    )


def upstream() -> str:
    """The command that gives the template's address the name upstream."""
    done = run_git("remote", "get-url", "origin")
    if done.returncode != 0:
        return "git remote add upstream URL   # the template's"
    address = done.stdout.strip()
    return f"git remote rename origin upstream   # {address}, if that is the template's"


def git(*arguments: str) -> str:
    """What git answers in this repository; its complaint ends the script."""
    done = run_git(*arguments)
    if done.returncode != 0:
        refuse(f"git {arguments[0]}: {done.stderr.splitlines()[0]}")
    return done.stdout


def run_git(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Git in this repository."""
    command = ["git", "-C", str(ROOT), *arguments]
    return subprocess.run(command, capture_output=True, encoding="utf-8", check=False)


def refuse(why: str) -> NoReturn:
    """End with one line and the exit code of bad usage."""
    print(f"error: {why}", file=sys.stderr)
    sys.exit(2)


if __name__ == "__main__":
    main()
