"""Make this clone a project of your own: python scripts/fork.py my_project.

Renames the package and every mention of it in the files that git tracks. Nothing is committed.
This script, its test and what the README says of it are removed, for a fork needs none of them.
LICENSE stays as it is: the licence asks that its notice is kept.
"""

import argparse
import keyword
import re
import subprocess
import sys
import tomllib
from importlib.util import find_spec
from pathlib import Path
from typing import NoReturn

TEMPLATE = "everytoken"
ROOT = Path(__file__).resolve().parents[1]
ONLY_HERE = ("scripts/fork.py", "tests/test_fork.py")
ONLY_HERE_IN_TEXT = re.compile(r"<!-- template only -->.*?<!-- /template only -->\n", re.DOTALL)

# Where only a distribution's name can stand: pyproject.toml's `name`, and before an extra.
DISTRIBUTION = re.compile(rf'(?<=^name = "){TEMPLATE}(?=")|{TEMPLATE}(?=\[)', re.MULTILINE)


def main() -> None:
    """Check everything first, so that a refusal leaves every file as it was."""
    parser = argparse.ArgumentParser(description="Make this clone a project of your own.")
    parser.add_argument("name", help="the project's name, such as my_project or my-project")
    parser.add_argument("--force", action="store_true", help="even with uncommitted changes")
    arguments = parser.parse_args()
    distribution = arguments.name
    package = distribution.replace("-", "_")
    check_name(distribution, package)
    check_repository(arguments.force)

    git("mv", f"src/{TEMPLATE}", f"src/{package}")
    for file in ONLY_HERE:
        (ROOT / file).unlink(missing_ok=True)
    changed = rename_mentions(distribution, package)
    tidy()
    print(
        f"src/{TEMPLATE} is now src/{package}, and {changed} files have the new name.\n"
        f"{' and '.join(ONLY_HERE)} are removed.\n"
        "Next:\n"
        "  add yourself to LICENSE, and describe your project in README.md\n"
        "  make test\n"
        f'  git add -A && git commit -m "Start {distribution}"'
    )


def check_name(distribution: str, package: str) -> None:
    """Refuse what can't name both a distribution and a package, or names something already."""
    if not re.fullmatch(r"[a-z]([a-z0-9_-]*[a-z0-9])?", distribution):
        refuse(
            f"{distribution!r} can't name a package: start with a letter, then letters, digits "
            "and underscores, all in lower case, such as my_project"
        )
    neighbours = [path.stem for folder in ("src", "tests") for path in (ROOT / folder).iterdir()]
    for taken, what in (
        (keyword.iskeyword(package), "a keyword of Python"),
        (package in sys.stdlib_module_names, "a module of Python's own"),
        (package in neighbours, "a module in src/ or tests/"),
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
    if not (ROOT / "src" / TEMPLATE).is_dir():
        refuse(f"there is no src/{TEMPLATE}: this project was forked already")
    if git("status", "--porcelain") and not force:
        refuse("there are uncommitted changes: commit them first, or add --force")


def rename_mentions(distribution: str, package: str) -> int:
    """Write the new name into all text files that git tracks, and count those that had the old."""
    changed = 0
    for path in (ROOT / name for name in git("ls-files", "-z").split("\0")):
        if path.is_symlink() or not path.is_file() or path.name == "LICENSE":
            continue
        try:
            old = path.read_bytes().decode()
        except UnicodeDecodeError:
            continue
        if TEMPLATE in old and "\0" not in old:
            new = DISTRIBUTION.sub(distribution, ONLY_HERE_IN_TEXT.sub("", old))
            new = new.replace(TEMPLATE, package)
            path.write_bytes(new.encode())
            changed += 1
    return changed


def tidy() -> None:
    """Wrap lines, sort imports and excuse longer strings as the name requires, if ruff is here."""
    if find_spec("ruff"):
        for command in ("format", "check --select I --fix", "check --select E501 --add-noqa"):
            ruff = [sys.executable, "-m", "ruff", *command.split(), "--quiet"]
            subprocess.run(ruff, cwd=ROOT, check=False)


def git(*arguments: str) -> str:
    """What git answers in this repository; its complaint ends the script."""
    command = ["git", "-C", str(ROOT), *arguments]
    done = subprocess.run(command, capture_output=True, encoding="utf-8", check=False)
    if done.returncode != 0:
        refuse(f"git {arguments[0]}: {done.stderr.splitlines()[0]}")
    return done.stdout


def refuse(why: str) -> NoReturn:
    """End with one line and the exit code of bad usage."""
    print(f"error: {why}", file=sys.stderr)
    sys.exit(2)


if __name__ == "__main__":
    main()
