"""What scripts/fork.py promises: a project that works under its new name, or nothing changed."""

import os
import re
import shutil
import subprocess
import sys
import tomllib
from collections import Counter
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
DISTRIBUTION = "my-project-with-a-long-name"
PACKAGE = "my_project_with_a_long_name"
PROSE = "every token of everytoken[slurm]\r\nis everytoken's\r\n"
BINARIES = {"latin.bin": b"\xffeverytoken", "zero.bin": b"\x00everytoken"}


def run(
    command: list[str], folder: Path, more: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    hooks = {name for name in os.environ if name.startswith("GIT_")}
    environment = {name: value for name, value in os.environ.items() if name not in hooks}
    return subprocess.run(
        command,
        cwd=folder,
        env=environment | {"OMP_NUM_THREADS": "1"} | (more or {}),
        capture_output=True,
        encoding="utf-8",
        errors="replace",
        check=False,
    )


def git(folder: Path, *arguments: str) -> str:
    who = ("-c", "user.name=t", "-c", "user.email=t@example.org", "-c", "commit.gpgsign=false")
    done = run(["git", *who, *arguments], folder)
    assert done.returncode == 0, done.stderr
    return done.stdout


def tracked(folder: Path) -> list[Path]:
    return [folder / name for name in git(folder, "ls-files", "-z").split("\0")[:-1]]


def make_clone(folder: Path) -> Path:
    """This project as it is now, and files of other kinds, in a repository of its own."""
    for name in git(ROOT, "ls-files", "-coz", "--exclude-standard").split("\0")[:-1]:
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, folder / name)
    (folder / "notes.txt").write_bytes(PROSE.encode())
    (folder / "notes.txt").chmod(0o755)
    for name, content in BINARIES.items():
        (folder / name).write_bytes(content)
    git(folder, "init", "--quiet")
    git(folder, "add", "--all")
    git(folder, "commit", "--quiet", "--message=all")
    return folder


def fork(clone: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return run([sys.executable, "scripts/fork.py", *arguments], clone)


def python(clone: Path, folder: Path, *arguments: str) -> str:
    """What Python prints in `folder`, with the clone's modules before all installed ones."""
    done = run([sys.executable, *arguments], folder, {"PYTHONPATH": str(clone / "src")})
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def assert_refused(done: subprocess.CompletedProcess[str], clone: Path) -> None:
    assert done.returncode == 2
    assert done.stdout == ""
    assert re.fullmatch(r"error: [^\n]+\n", done.stderr)
    assert (clone / "scripts" / "fork.py").is_file()
    assert not (clone / "src" / PACKAGE).exists()


@pytest.fixture(scope="module")
def forked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    clone = make_clone(tmp_path_factory.mktemp("forked"))
    (clone / "runs").mkdir()
    (clone / "runs" / "config.yaml").write_text("everytoken")
    done = fork(clone, DISTRIBUTION)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert f"src/{PACKAGE}" in done.stdout
    assert "make test" in done.stdout
    assert git(clone, "rev-list", "--count", "HEAD") == "1\n"
    git(clone, "add", "--all")
    return clone


@pytest.fixture(scope="module")
def untouched(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_clone(tmp_path_factory.mktemp("untouched"))


def test_old_name_is_gone(forked: Path) -> None:
    files = tracked(forked)
    assert forked / "src" / PACKAGE / "model.py" in files
    assert [file for file in files if "everytoken" in file.name.lower()] == []
    named = [file for file in files if b"everytoken" in file.read_bytes().lower()]
    assert named == [forked / "LICENSE", *(forked / name for name in BINARIES)]
    assert not (forked / "src" / "everytoken").exists()
    assert forked / "scripts" / "fork.py" not in files
    assert forked / "tests" / "test_fork.py" not in files


def test_only_the_name_changed(forked: Path) -> None:
    text = (forked / "notes.txt").read_bytes().decode()
    assert text == f"every token of {DISTRIBUTION}[slurm]\r\nis {PACKAGE}'s\r\n"
    assert {name: (forked / name).read_bytes() for name in BINARIES} == BINARIES
    assert (forked / "runs" / "config.yaml").read_text() == "everytoken"
    assert "every token counts once" in (forked / "src" / PACKAGE / "__init__.py").read_text()
    for file in tracked(forked):
        if file.suffix in {".yaml", ".yml", ""} and file.name != "LICENSE":  # not rewritten by ruff
            old = git(forked, "show", f"HEAD:{file.relative_to(forked)}")
            new = file.read_text("utf-8").replace(DISTRIBUTION, PACKAGE)
            assert new == old.replace("everytoken", PACKAGE)


def test_the_notice_of_the_licence_is_kept(forked: Path, untouched: Path) -> None:
    assert (forked / "LICENSE").read_text() == (untouched / "LICENSE").read_text()


def test_the_readme_forgets_how_to_fork(forked: Path, untouched: Path) -> None:
    before, after = ((clone / "README.md").read_text("utf-8") for clone in (untouched, forked))
    assert "scripts/fork.py" in before
    assert "scripts/fork.py" not in after
    assert "template only" not in after
    assert after.count("\n## ") == before.count("\n## ")


def test_permissions_are_kept(forked: Path, untouched: Path) -> None:
    modes = {}
    for clone in (forked, untouched):
        lines = git(clone, "ls-files", "--stage").splitlines()
        modes[clone] = sorted(line.split()[0] for line in lines if "fork.py" not in line)
    assert modes[forked] == modes[untouched]


def test_distribution_has_the_name_as_given(forked: Path) -> None:
    settings = tomllib.loads((forked / "pyproject.toml").read_text("utf-8"))
    assert settings["project"]["name"] == DISTRIBUTION
    assert (
        f"{DISTRIBUTION}[tensorboard,compare,sweep]"
        in settings["project"]["optional-dependencies"]["dev"]
    )
    wheel = settings["tool"]["hatch"]["build"]["targets"]["wheel"]
    assert wheel["sources"]["conf"] == f"{PACKAGE}/conf"


def test_tracker_has_the_new_name(forked: Path) -> None:
    logger = yaml.safe_load((forked / "conf" / "logger" / "wandb.yaml").read_text("utf-8"))
    assert logger["project"] == PACKAGE


def test_ruff_has_no_new_complaint(forked: Path, untouched: Path) -> None:
    ruff = [sys.executable, "-m", "ruff"]
    done = run([*ruff, "format", "--check", "."], forked)
    assert done.returncode == 0, done.stdout
    complaints = {}
    for clone in (forked, untouched):
        done = run([*ruff, "check", "--output-format=concise", "."], clone)
        assert done.returncode in (0, 1), done.stderr
        complaints[clone] = Counter(re.findall(r"^.+:\d+:\d+: (\S+)", done.stdout, re.MULTILINE))
    assert complaints[forked] <= complaints[untouched]


def test_command_line_works_elsewhere(forked: Path, tmp_path: Path) -> None:
    config = python(forked, tmp_path, "-m", "train", "--cfg", "job")
    assert yaml.safe_load(config)["model"]["_target_"] == f"{PACKAGE}.model.Transformer"
    code = (
        f"import train, {PACKAGE}.model, {PACKAGE}.config as c\n"
        f"print(train.__file__, {PACKAGE}.model.__file__, c.conf_dir(), sep='\\n')"
    )
    assert python(forked, tmp_path, "-c", code).splitlines() == [
        str(forked / "src" / "train.py"),
        str(forked / "src" / PACKAGE / "model.py"),
        str(forked / "conf"),
    ]


@pytest.mark.slow
def test_training_works_elsewhere(forked: Path, tmp_path: Path) -> None:
    few = [f"data.corpus.{split}_examples={n}" for split, n in (("train", 64), ("val", 8))]
    few += ["data.corpus.test_examples=8", "data.batch_size=8", "hydra.run.dir=here"]
    # The package of this name that is installed must not be what works.
    code = (
        "import runpy, sys\n"
        "sys.modules['everytoken'] = None\n"
        f"sys.argv[1:] = {['debug=fast', 'trainer=cpu', *few]}\n"
        "runpy.run_module('train', run_name='__main__')"
    )
    python(forked, tmp_path, "-c", code)
    assert (tmp_path / "here" / "summary.json").is_file()


@pytest.mark.slow
def test_own_tests_pass(forked: Path) -> None:
    quick = ["tests/test_batch.py", "tests/test_loss.py"]
    tests = [file for file in quick if (forked / file).is_file()]
    assert tests
    printed = python(forked, forked, "-m", "pytest", "-p", "no:cacheprovider", *tests)
    assert re.search(r"\d+ passed", printed)


@pytest.mark.bad_input
@pytest.mark.parametrize(
    "name",
    [
        "My_project",
        "1project",
        "_project",
        "project-",
        "my.project",
        "my project",
        "größe",
        "",
        "class",
        "json",
        "winreg",
        "train",
        "eval",
        "generate",
        "helpers",
        "everytoken",
        "torch",
        "lightning",
        "hydra-core",
        "omegaconf",
        "../project",
    ],
)
def test_bad_name_is_refused(untouched: Path, name: str) -> None:
    assert_refused(fork(untouched, name), untouched)
    assert git(untouched, "status", "--porcelain") == ""


@pytest.mark.bad_input
def test_uninstalled_dependency_is_refused(untouched: Path) -> None:
    done = run([sys.executable, "-I", "-S", "scripts/fork.py", "torchmetrics"], untouched)
    assert_refused(done, untouched)


@pytest.mark.bad_input
@pytest.mark.parametrize("file", ["README.md", "new.txt"])
def test_uncommitted_changes_are_refused(tmp_path: Path, file: str) -> None:
    clone = make_clone(tmp_path)
    (clone / file).write_text("everytoken has work to lose\n")
    before = git(clone, "status", "--porcelain")
    assert_refused(fork(clone, "my_project"), clone)
    assert git(clone, "status", "--porcelain") == before
    assert (clone / file).read_text() == "everytoken has work to lose\n"

    assert fork(clone, "my_project", "--force").returncode == 0
    assert (clone / "src" / "my_project" / "model.py").is_file()


@pytest.mark.bad_input
def test_second_fork_is_refused(tmp_path: Path) -> None:
    clone = make_clone(tmp_path)
    git(clone, "mv", "src/everytoken", "src/first_fork")
    git(clone, "commit", "--quiet", "--message=renamed")
    done = fork(clone, "second_fork")
    assert_refused(done, clone)
    assert "forked already" in done.stderr
    assert git(clone, "status", "--porcelain") == ""


@pytest.mark.bad_input
def test_no_repository_is_refused(tmp_path: Path) -> None:
    clone = make_clone(tmp_path)
    shutil.rmtree(clone / ".git")
    assert_refused(fork(clone, "my_project"), clone)
