"""What an installed package promises: it is whole without the checkout, and answers at once."""

import os
import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from everytoken.report.page import PARTS

ROOT = Path(__file__).parents[1]
PACKAGE = "everytoken"


@pytest.fixture(scope="module")
def copied(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the project, with what must not be packed beside it."""
    folder = tmp_path_factory.mktemp("copied")
    command = ["git", "ls-files", "-coz", "--exclude-standard"]  # what git tracks, or would
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, encoding="utf-8", check=True)
    for name in listed.stdout.split("\0")[:-1]:
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, folder / name)
    for litter in ("runs/config.yaml", f"src/{PACKAGE}/__pycache__/batch.cpython-311.pyc"):
        (folder / litter).parent.mkdir(parents=True)
        (folder / litter).touch()
    return folder


@pytest.fixture(scope="module")
def wheel(copied: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[zipfile.ZipFile]:
    """The wheel that pip builds of the copy, with the build tools that are installed."""
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation"]
    command += ["--no-index", "--disable-pip-version-check", "--wheel-dir", str(folder), "."]
    done = subprocess.run(command, cwd=copied, capture_output=True, encoding="utf-8", check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    [file] = folder.glob("*.whl")
    with zipfile.ZipFile(file) as archive:
        yield archive


@pytest.fixture(scope="module")
def unpacked(wheel: zipfile.ZipFile, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel's files as an installation has them."""
    folder = tmp_path_factory.mktemp("unpacked")
    wheel.extractall(folder)
    return folder


def python(unpacked: Path, folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run Python in `folder`, with the unpacked modules before all installed ones."""
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(unpacked), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        encoding="utf-8",
        errors="replace",
        check=False,
    )


def installed(
    unpacked: Path, folder: Path, command: str, *arguments: str
) -> subprocess.CompletedProcess[str]:
    """Run one of the installed scripts."""
    code = f"import sys; from {PACKAGE}.entry.{command} import main; sys.exit(main())"
    return python(unpacked, folder, "-c", code, *arguments)


def test_wheel_has_all_modules_and_configs_and_nothing_else(
    copied: Path, wheel: zipfile.ZipFile
) -> None:
    files = {name for name in wheel.namelist() if ".dist-info/" not in name}
    source = copied / "src"
    packages = [folder for folder in source.iterdir() if folder.is_dir()]
    kinds = ("*.py", "*.pyi", "*.md")
    modules = {
        str(path.relative_to(source))
        for package in packages
        for kind in kinds
        for path in package.rglob(kind)
    }
    configs = {
        f"{PACKAGE}/{path.relative_to(copied)}"
        for path in copied.glob("conf/**/*")
        if path.suffix in (".yaml", ".md")
    }
    page = {f"{PACKAGE}/report/{name}" for name in ("page.html", *PARTS)}
    assert files == modules | configs | page
    tops = {name.partition("/")[0] for name in files}
    assert tops == {folder.name for folder in packages} > {PACKAGE}
    assert {f"{PACKAGE}/conf/{name}.yaml" for name in ("train", "eval", "model/tiny")} < files


def test_wheel_has_the_license(wheel: zipfile.ZipFile) -> None:
    [licence] = [name for name in wheel.namelist() if name.endswith("/LICENSE")]
    assert wheel.read(licence) == (ROOT / "LICENSE").read_bytes()


def test_unpacked_modules_are_what_runs(unpacked: Path, tmp_path: Path) -> None:
    code = (
        f"import {PACKAGE}, {PACKAGE}.config.keys as keys\n"
        f"print({PACKAGE}.__file__, keys.conf_dir(), sep='\\n')"
    )
    done = python(unpacked, tmp_path, "-c", code)
    assert done.stdout.splitlines() == [
        str(unpacked / PACKAGE / "__init__.py"),
        str(unpacked / PACKAGE / "conf"),
    ]


def test_scripts_are_installed_for_all_commands(wheel: zipfile.ZipFile) -> None:
    [file] = [name for name in wheel.namelist() if name.endswith("entry_points.txt")]
    scripts = dict(re.findall(r"(\S+) = (\S+)", wheel.read(file).decode()))
    commands = {path.stem for path in (ROOT / "src").glob("*.py")}
    assert commands == {"train", "eval", "generate", "audit", "compare"}
    assert scripts == {f"{PACKAGE}-{c}": f"{PACKAGE}.entry.{c}:main" for c in commands}


@pytest.mark.parametrize("entry", ["train", "eval", "generate", "compare"])
def test_config_is_found_without_the_checkout(unpacked: Path, tmp_path: Path, entry: str) -> None:
    done = installed(unpacked, tmp_path, entry, "--cfg", "job")
    assert done.returncode == 0, done.stderr
    printed = yaml.safe_load(done.stdout)
    owned = yaml.safe_load((unpacked / PACKAGE / "conf" / f"{entry}.yaml").read_text("utf-8"))
    assert set(printed) >= set(owned) - {"defaults", "hydra"}
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "returncode", "answer"),
    [
        (["--help"], 0, "python -m train [group=choice] [key=value]"),
        (["--cfg", "job"], 0, "max_steps:"),
        (["trainer.max_step=5"], 2, "did you mean trainer.max_steps?"),
    ],
    ids=["help", "config", "misspelt"],
)
def test_answers_within_two_seconds(
    unpacked: Path, tmp_path: Path, arguments: list[str], returncode: int, answer: str
) -> None:
    waited, worked = [], []
    for _ in range(3):
        before = os.times()
        done = installed(unpacked, tmp_path, "train", *arguments)
        after = os.times()
        waited.append(after.elapsed - before.elapsed)
        worked.append(after.children_user + after.children_system)
        worked[-1] -= before.children_user + before.children_system
        assert done.returncode == returncode, done.stderr
        assert answer in done.stdout + done.stderr
    assert min(worked) < 2.0  # processor time, which a busy machine stretches little
    assert min(waited) < 8.0  # time by the clock, to which a busy machine may add much


@pytest.mark.parametrize(
    "modules",
    [
        ["entry.train", "entry.eval", "entry.generate", "entry.audit", "entry.compare"],
        ["corpora.text", "corpora.pairs", "corpora.hub"],
        ["model", "data", "training", "decoding", "callbacks", "report", "tracking", "hf"],
    ],
)
def test_command_line_imports_nothing_heavy(
    unpacked: Path, tmp_path: Path, modules: list[str]
) -> None:
    """A config is checked against the class that `data.corpus` names."""
    imported = ", ".join(f"{PACKAGE}.{module}" for module in modules)
    code = f"import sys, {imported}\nprint({{'torch', 'datasets', 'pyarrow'}} & set(sys.modules))"
    done = python(unpacked, tmp_path, "-c", code)
    assert done.stdout == "set()\n", done.stderr
