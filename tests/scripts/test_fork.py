"""What scripts/fork.py promises: a project that keeps up with upstream, or nothing changed."""

import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
NAME = "my-demo"
PACKAGE = "my_demo"
EVIDENCE = "scripts/evidence"
ORIGIN = "https://example.org/everytoken.git"

pytestmark = pytest.mark.skipif(
    not (ROOT / "src" / "project").is_dir(), reason="this project was forked already"
)


def run(command: list[str], folder: Path, **more: str) -> subprocess.CompletedProcess[str]:
    environment = {name: v for name, v in os.environ.items() if not name.startswith("GIT_")}
    return subprocess.run(
        command,
        cwd=folder,
        env=environment | {"OMP_NUM_THREADS": "1"} | more,
        capture_output=True,
        encoding="utf-8",
        errors="replace",
        check=False,
    )


def git(folder: Path, *arguments: str) -> str:
    who = ("-c", "user.name=t", "-c", "user.email=t@example.org", "-c", "commit.gpgsign=false")
    done = run(["git", *who, *arguments], folder)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def commit(folder: Path, message: str) -> None:
    git(folder, "add", "--all")
    git(folder, "commit", "--quiet", f"--message={message}")


def fork(clone: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return run([sys.executable, "scripts/fork.py", *arguments], clone)


def python(clone: Path, folder: Path, *arguments: str) -> str:
    """What Python prints in `folder`, with the clone's modules before all installed ones."""
    done = run([sys.executable, *arguments], folder, PYTHONPATH=str(clone / "src"))
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """This project as it is now, in a repository of its own."""
    folder = tmp_path_factory.mktemp("template")
    for name in git(ROOT, "ls-files", "-coz", "--exclude-standard").split("\0")[:-1]:
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, folder / name)
    git(folder, "init", "--quiet", "--initial-branch=main")
    commit(folder, "all")
    return folder


@pytest.fixture
def clone(template: Path, tmp_path: Path) -> Path:
    git(tmp_path, "clone", "--quiet", str(template), "clone")
    return tmp_path / "clone"


@pytest.fixture(scope="module")
def forked(template: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A fork as fork.py leaves it, with its changes in the index."""
    folder = tmp_path_factory.mktemp("forked") / "clone"
    git(folder.parent, "clone", "--quiet", str(template), str(folder))
    git(folder, "remote", "set-url", "origin", ORIGIN)
    (folder / EVIDENCE / "__pycache__").mkdir()  # as after a run of it
    (folder / EVIDENCE / "__pycache__" / "benchmark.pyc").touch()
    done = fork(folder, NAME)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert f"src/{PACKAGE}" in done.stdout
    remotes = f"  git remote rename origin upstream   # {ORIGIN}, if that is the template's\n"
    assert done.stdout.endswith(f"{remotes}  git fetch upstream\n  git merge upstream/main\n")
    git(folder, "add", "--all")
    return folder


# What is renamed


def test_few_files_are_touched_and_none_of_the_engine(forked: Path) -> None:
    touched = git(forked, "diff", "--cached", "--name-only", "--find-renames=40%", "HEAD")
    files = touched.splitlines()
    assert len(files) <= 20, f"{len(files)} files: {files}"
    others = {"README.md", "pyproject.toml", "conf/logger/wandb.yaml", "scripts/wandb_sweep.yaml"}
    room = re.compile(rf"(src|tests)/{PACKAGE}/|conf/\w+/{PACKAGE}\.yaml$")
    assert {file for file in files if not room.match(file)} == others
    for file in others:  # one line for each mention
        changed = git(forked, "diff", "--cached", "--numstat", "HEAD", "--", file).split()
        assert changed[0] == changed[1]
        assert int(changed[0]) <= 4, file


def test_nothing_of_the_room_has_its_old_name(forked: Path) -> None:
    names = git(forked, "ls-files").splitlines()
    room = [name for name in names if PACKAGE in name]
    assert len(room) > 12
    assert [name for name in room if re.search(r"\bproject\b", (forked / name).read_text())] == []
    assert [name for name in names if re.search(r"(^|/)project(/|\.yaml$)", name)] == []
    for file in (forked / "conf").glob(f"*/{PACKAGE}.yaml"):
        assert "project." not in file.read_text()


def test_project_title_and_tracked_project_have_the_name_as_given(forked: Path) -> None:
    project = tomllib.loads((forked / "pyproject.toml").read_text("utf-8"))["project"]
    assert project["name"] == NAME
    extras = [one for extra in project["optional-dependencies"].values() for one in extra]
    assert f"{NAME}[tensorboard,compare,sweep,adapter,s3]" in extras
    assert [one for one in extras if one.startswith("everytoken")] == []
    assert (forked / "README.md").read_text("utf-8").startswith(f"# {NAME}\n")
    logger = yaml.safe_load((forked / "conf" / "logger" / "wandb.yaml").read_text("utf-8"))
    assert logger["project"] == f"${{oc.env:WANDB_PROJECT,{NAME}}}"


def test_evidence_is_left_out_of_the_working_tree_only(forked: Path) -> None:
    assert not (forked / EVIDENCE).exists()
    assert (forked / "scripts" / "fork.py").is_file()
    deleted = git(forked, "diff", "--cached", "--name-only", "--diff-filter=D", "HEAD")
    assert EVIDENCE not in deleted
    assert f"{EVIDENCE}/benchmark.py" in git(forked, "ls-files")


@pytest.mark.parametrize("name", [NAME, "a1", "z" + 40 * "o"])
def test_ruff_has_no_complaint_whatever_the_name(clone: Path, forked: Path, name: str) -> None:
    folder = forked
    if name != NAME:
        assert fork(clone, name).returncode == 0
        folder = clone
    package = name.replace("-", "_")
    for command in (["format", "--check"], ["check", "--ignore=E501"]):
        room = [f"src/{package}", f"tests/{package}"]
        done = run([sys.executable, "-m", "ruff", *command, *room], folder)
        assert done.returncode == 0, done.stdout


@pytest.mark.slow
def test_its_tests_pass_and_those_of_fork_py_are_passed_over(forked: Path) -> None:
    tests = [f"tests/{PACKAGE}", "tests/scripts/test_fork.py", "-m", "not slow"]
    printed = python(forked, forked, "-m", "pytest", "-p", "no:cacheprovider", *tests)
    assert re.search(r"\d+ passed, \d+ skipped", printed)


@pytest.mark.slow
def test_its_wheel_has_the_engine_and_the_room(forked: Path, tmp_path: Path) -> None:
    pip = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "--no-index"]
    done = run([*pip, "--wheel-dir", str(tmp_path), str(forked)], tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    [wheel] = tmp_path.glob("*.whl")
    assert wheel.name.startswith(f"{PACKAGE}-")
    with zipfile.ZipFile(wheel) as archive:
        files = set(archive.namelist())
    assert {"everytoken/__init__.py", f"{PACKAGE}/model.py"} <= files
    assert f"everytoken/conf/model/{PACKAGE}.yaml" in files
    assert not any(name.startswith("project/") for name in files)


# Keeping up

SMALL = [
    *("trainer=cpu", "trainer.max_steps=2", "logger=none", "data.limit_examples=12"),
    *("data.cache_dir=null", "model.width=8", "task.max_new_tokens=2"),
]


def insert(file: Path, line: str, before: str | None = None) -> None:
    """Add a line to a file: at its end, or before the first that starts with `before`."""
    lines = file.read_text("utf-8").splitlines()
    place = len(lines) if before is None else [x.startswith(before) for x in lines].index(True)
    file.write_text("\n".join([*lines[:place], line, *lines[place:]]) + "\n", "utf-8")


def work_upstream(template: Path, number: int) -> None:
    """A commit such as upstream makes: of the engine, settings, tests, figures and README."""
    engine = sorted((template / "src" / "everytoken").rglob("*.py"))
    for file in engine[number % 20 :: 20]:
        insert(file, f"# change {number}")
    conf = sorted(file for file in template.glob("conf/**/*.yaml") if file.stem != "project")
    for file in conf[number % 10 :: 10]:
        insert(file, f"# change {number}")
    logger, readme, project = "conf/logger/wandb.yaml", "README.md", "pyproject.toml"
    for name, old, new in (  # also right beside what fork.py has changed
        (logger, r"^(_target_: \S+).*", rf"\1 # change {number}"),
        (logger, r"^(entity: null).*", rf"\1 # change {number}"),
        (readme, r"\A(# \w+\n\n\S+).*", rf"\1 change {number}"),
        (project, r'^(dynamic = \["version"\]).*', rf"\1 # change {number}"),
        (project, r'"(torch|accelerate|hatchling)>=([\d.]+).*"', rf'"\1>=\2,<1{number}"'),
    ):
        text = (template / name).read_text("utf-8")
        changed, count = re.subn(old, new, text, flags=re.MULTILINE)
        assert count >= 1, old
        (template / name).write_text(changed, "utf-8")
    insert(template / readme, f"Change {number}.", before="## ")
    insert(template / "tests" / "test_batch.py", f"# change {number}")
    (template / "tests" / f"test_change_{number}.py").write_text("# new\n")
    (template / "src" / "everytoken" / f"change_{number}.py").write_text("# new\n")
    (template / "conf" / "model" / f"change_{number}.yaml").write_text("# new\n")
    evidence = template / EVIDENCE
    insert(evidence / "benchmark.py", f"# change {number}")
    (evidence / f"change_{number}.py").write_text("# new\n")
    if number == 3:
        (evidence / "kill_and_resume.py").unlink()
        shutil.rmtree(evidence / "tests")
    (evidence / f"change_{number - 1}.py").unlink(missing_ok=True)
    commit(template, f"change {number}")


def merge(folder: Path, what: str) -> list[str]:
    """Merge, and return the files in conflict."""
    who = ["-c", "user.name=t", "-c", "user.email=t@example.org"]
    run(["git", *who, "merge", "--quiet", "--no-edit", what], folder)
    return git(folder, "diff", "--name-only", "--diff-filter=U").splitlines()


@pytest.mark.slow
def test_a_fork_keeps_up_with_upstream(template: Path, tmp_path: Path) -> None:
    upstream, mine = tmp_path / "upstream", tmp_path / "mine"
    for folder, source in ((upstream, template), (mine, upstream)):
        git(tmp_path, "clone", "--quiet", str(source), str(folder))
    assert fork(mine, "demo").returncode == 0
    commit(mine, "Start demo")

    own = {
        "model": ("model", "LSTM"),
        "data": ("corpus", "Backwards"),
        "metrics": ("metric", "WorstLoss"),
        "module": ("module", "FocalModule"),
    }
    for group, (module, name) in own.items():
        code = (mine / "src" / "demo" / f"{module}.py").read_text("utf-8")
        code = code.replace(f"class {name}", f"class My{name}")
        (mine / "src" / "demo" / f"my_{module}.py").write_text(code, "utf-8")
        choice = (mine / "conf" / group / "demo.yaml").read_text("utf-8")
        choice = choice.replace(f"demo.{module}.{name}", f"demo.my_{module}.My{name}")
        (mine / "conf" / group / "mine.yaml").write_text(choice, "utf-8")
    insert(mine / "src" / "demo" / "model.py", "# my own change")
    commit(mine, "My model, data, metric and loss")
    words = [f"{group}=mine" for group in own]
    python(mine, mine, "-m", "train", *words, *SMALL, "hydra.run.dir=runs/first")

    git(mine, "remote", "rename", "origin", "upstream")
    git(mine, "branch", "late")
    for first, last in ((0, 20), (20, 60)):
        for number in range(first, last):
            work_upstream(upstream, number)
        git(mine, "fetch", "--quiet", "upstream")
        assert merge(mine, "upstream/main") == []
        assert git(mine, "status", "--porcelain") == ""
        assert not (mine / EVIDENCE).exists()
        for kept in (f"change_{last - 1}.py", "benchmark.py"):
            assert f"{EVIDENCE}/{kept}" in git(mine, "ls-files")
    git(mine, "checkout", "--quiet", "late")
    assert merge(mine, "upstream/main") == []  # sixty commits at once
    assert git(mine, "diff", "main", "late") == ""

    assert "# my own change" in (mine / "src" / "demo" / "model.py").read_text()
    assert "# change 59" in "".join(x.read_text() for x in (mine / "src/everytoken").rglob("*.py"))
    project = (mine / "pyproject.toml").read_text("utf-8")
    assert 'name = "demo"' in project
    assert 'dynamic = ["version"] # change 59' in project
    assert "Change 59." in (mine / "README.md").read_text("utf-8")
    python(mine, mine, "-m", "train", *words, *SMALL, "hydra.run.dir=runs/second")
    for name in ("first", "second"):
        config = yaml.safe_load((mine / "runs" / name / "config.yaml").read_text("utf-8"))
        assert config["model"]["_target_"] == "demo.my_model.MyLSTM"
        assert (mine / "runs" / name / "summary.json").is_file()


# Refusals


def assert_refused(done: subprocess.CompletedProcess[str], clone: Path) -> None:
    assert done.returncode == 2
    assert done.stdout == ""
    assert re.fullmatch(r"error: [^\n]+\n", done.stderr)
    assert (clone / "src" / "project" / "model.py").is_file()
    assert (clone / EVIDENCE / "benchmark.py").is_file()


@pytest.mark.bad_input
@pytest.mark.parametrize(
    "name",
    [
        *("My_project", "1project", "_project", "project-", "my.project", "my project", "größe"),
        *("", "class", "json", "winreg", "null", "on", "../project"),
        *("train", "generate", "support", "sweep", "everytoken", "project", "tiny", "adamw"),
        *("torch", "lightning", "hydra-core", "omegaconf"),
    ],
)
def test_bad_name_is_refused(template: Path, name: str) -> None:
    assert_refused(fork(template, name), template)
    assert git(template, "status", "--porcelain") == ""


@pytest.mark.bad_input
def test_uninstalled_dependency_is_refused(template: Path) -> None:
    done = run([sys.executable, "-I", "-S", "scripts/fork.py", "torchmetrics"], template)
    assert_refused(done, template)


@pytest.mark.bad_input
@pytest.mark.parametrize("file", ["README.md", "new.txt"])
def test_uncommitted_changes_are_refused(clone: Path, file: str) -> None:
    (clone / file).write_text("work to lose\n")
    before = git(clone, "status", "--porcelain")
    assert_refused(fork(clone, "my_project"), clone)
    assert git(clone, "status", "--porcelain") == before

    assert fork(clone, "my_project", "--force").returncode == 0
    assert (clone / "src" / "my_project" / "model.py").is_file()
    assert (clone / file).read_text() == "work to lose\n"


@pytest.mark.bad_input
def test_second_fork_is_refused(clone: Path) -> None:
    assert fork(clone, "first_fork").returncode == 0
    commit(clone, "renamed")
    done = fork(clone, "second_fork")
    assert done.returncode == 2
    assert "forked already" in done.stderr
    assert git(clone, "status", "--porcelain") == ""


@pytest.mark.bad_input
def test_no_repository_is_refused(clone: Path) -> None:
    shutil.rmtree(clone / ".git")
    assert_refused(fork(clone, "my_project"), clone)


def test_a_project_without_origin_is_told_to_add_upstream(clone: Path) -> None:
    git(clone, "remote", "remove", "origin")
    assert "  git remote add upstream URL   # the template's\n" in fork(clone, "demo").stdout
