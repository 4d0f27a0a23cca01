"""Python processes that start at once: forks of one that has imported all.

A new one takes five seconds of work to import torch and Lightning, of which a test learns nothing.
Each fork is a process of its own, with its own directory, environment, signals and output; what it
starts of Python in turn, such as ranks, are forks of it. Each process that runs tests has a server
of its own, from which the forks come: nobody should fork the tests, which have threads.

What differs from a new process: hash seeds are the server's, and of the environment what Python
and libraries read while they are imported. `subprocess` is for tests of that.
"""

import atexit
import gc
import importlib
import json
import os
import runpy
import select
import signal
import socket
import subprocess
import sys
import tempfile
import time
import warnings
import weakref
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

IMPORTED = (
    *("everytoken.commands.train", "everytoken.commands.evaluate", "everytoken.commands.export"),
    *("everytoken.commands.generate", "everytoken.commands.sweep", "everytoken.audit.report"),
    *("everytoken.report.compare", "everytoken.hf.config", "wandb", "datasets"),
    *("lightning.pytorch.strategies", "torch.distributed.fsdp", "torch._dynamo"),
    *("everytoken.entry.train", "everytoken.entry.eval", "everytoken.entry.generate"),
    *("everytoken.entry.audit", "everytoken.entry.compare", "everytoken.tracking.logger"),
    *("everytoken.corpora.dates", "everytoken.callbacks.flops", "everytoken.callbacks.machine"),
    *("babel.dates", "torch.distributed.algorithms.ddp_comm_hooks.default_hooks"),
    *("wandb.apis.public", "rich._emoji_codes", "s3fs"),
)


class Process:
    """One of them, with what tests need of `subprocess.Popen`.

    Args:
        words: what follows `python`: -m MODULE, -c CODE or a file, and arguments.
        folder: where it runs.
        env: its environment; None for ours.
        given: its standard input.
        together: True to have errors among what it prints, in their order.
    """

    def __init__(
        self,
        *words: str,
        folder: Path,
        env: Mapping[str, str] | None = None,
        given: str = "",
        together: bool = False,
    ) -> None:
        self.args = words
        self.returncode: int | None = None
        self._server = server()
        self._files = [tempfile.TemporaryFile() for _ in range(3)]  # noqa: SIM115 (until the end)
        self._files[0].write(given.encode())
        self._files[0].seek(0)
        if together:
            self._files[2] = self._files[1]
        self.pid = self._server.start(
            {
                "words": words,
                "folder": str(folder),
                "env": dict(os.environ if env is None else env),
            },
            [file.fileno() for file in self._files],
        )

    def poll(self) -> int | None:
        """Its exit code; None while it runs."""
        self._server.hear(0)
        self.returncode = self._server.ended.get(self.pid)
        return self.returncode

    def wait(self, timeout: float = 300) -> int:
        """Its exit code, once it has ended."""
        end = time.monotonic() + timeout
        while (code := self.poll()) is None:
            if time.monotonic() > end:
                raise subprocess.TimeoutExpired(self.args, timeout, *self.outputs)
            self._server.hear(0.2)
        return code

    def communicate(self, timeout: float = 300) -> tuple[str, str]:
        """What it has printed, on standard output and as errors, once it has ended."""
        self.wait(timeout)
        return self.outputs

    @property
    def outputs(self) -> tuple[str, str]:
        """What it has printed so far."""
        out, err = (os.pread(f.fileno(), 1 << 30, 0).decode() for f in self._files[1:])
        return out, err

    def send_signal(self, number: int) -> None:
        """Send it a signal, if it hasn't ended."""
        if self.poll() is None:
            os.kill(self.pid, number)


def run(
    folder: Path,
    *words: str,
    env: Mapping[str, str] | None = None,
    given: str = "",
    timeout: float = 300,
) -> subprocess.CompletedProcess[str]:
    """`python WORDS` in a folder, to its end. A process that hangs is killed."""
    process = Process(*words, folder=folder, env=env, given=given)
    try:
        out, err = process.communicate(timeout)
    finally:
        process.send_signal(signal.SIGKILL)
    assert process.returncode is not None
    return subprocess.CompletedProcess(words, process.returncode, out, err)


def launch(job: str, arguments: dict[str, Any], ranks: int, timeout: float = 150) -> None:
    """A job, "module:function", on several ranks, which find what tests share."""
    code = f"from everytoken.runtime.launch import launch; launch({job!r}, {arguments}, {ranks})"
    places = (str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH", ""))
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, places))}
    done = run(Path.cwd(), "-c", code, env=env, timeout=timeout)
    assert done.returncode == 0, done.stdout + done.stderr


# The tests' side


class Server:
    """The process that forks, and what it has told of its forks."""

    def __init__(self) -> None:
        self.channel, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.started: list[int] = []
        self.ended: dict[int, int] = {}
        env = {**os.environ, "COLUMNS": "200"}  # libraries read it while they are imported
        command = [sys.executable, __file__, str(theirs.fileno())]
        files: dict[str, Any] = {"pass_fds": [theirs.fileno()], "stdin": subprocess.DEVNULL}
        self.pid = subprocess.Popen(command, env=env, **files).pid
        theirs.close()

    def start(self, request: dict[str, Any], files: Sequence[int]) -> int:
        """The process id of a new fork."""
        socket.send_fds(self.channel, [json.dumps(request).encode()], files)
        while not self.started:
            self.hear(None)
        return self.started.pop()

    def hear(self, seconds: float | None) -> None:
        """Wait so long for what the server says."""
        while select.select([self.channel], [], [], seconds)[0]:
            said = self.channel.recv(1 << 16)
            assert said, "the process that forks has ended"
            told = json.loads(said)
            if "code" not in told:
                self.started.append(told["pid"])
                return
            self.ended[told["pid"]] = told["code"]
            seconds = 0


@cache
def server() -> Server:
    """Of this process, started when it is first needed."""
    return Server()


# The server's side


def serve(channel: socket.socket) -> None:
    """Fork whatever is asked for, until nobody can ask any more."""
    gc.disable()  # what was imported is no garbage
    sys.path.pop(0)
    for name in IMPORTED:
        importlib.import_module(name)
    measure_quickly()
    _compose()
    gc.freeze()
    gc.enable()
    running: set[int] = set()
    while True:
        if select.select([channel], [], [], 0.01 if running else None)[0]:
            asked, files, *_ = socket.recv_fds(channel, 1 << 20, 3)
            if not asked:
                return
            request = json.loads(asked)
            child = os.fork()
            if not child:
                for number, file in enumerate(files):
                    os.dup2(file, number)
                become(**request)
            for file in files:
                os.close(file)
            running.add(child)
            channel.send(json.dumps({"pid": child}).encode())
        for child in [*running]:
            ended, status = os.waitpid(child, os.WNOHANG)
            if ended:
                running.remove(child)
                code = os.waitstatus_to_exitcode(status)
                channel.send(json.dumps({"pid": child, "code": code}).encode())


def measure_quickly() -> None:
    """Have runs measure the peak of this machine with small products, and not for 0.2 s each."""
    from everytoken.callbacks import flops, machine

    def peak(device: Any, dtype: Any, seconds: float) -> float:
        shapes = flops.SHAPES
        flops.SHAPES = dict.fromkeys(shapes, ((128, 128, 128),))
        try:
            return flops.measured_peak(device, dtype, seconds / 20)
        finally:
            flops.SHAPES = shapes

    machine.measured_peak = peak


def _compose() -> None:
    """Have Hydra look for its plugins, and its parser learn its grammar."""
    from hydra import compose, initialize_config_dir

    from everytoken.config.keys import conf_dir

    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        compose("train", ["model.layers=1", "+a.b={c: [1, 'd']}"], return_hydra_config=True)


class Forking(subprocess.Popen[Any]):
    """`subprocess.Popen` in a fork: what it starts of Python is a fork in turn, such as ranks.

    Popen makes the child, with its files, folder and session; it calls `preexec_fn` there, which
    doesn't return.
    """

    def __init__(self, args: Any, **settings: Any) -> None:
        if not isinstance(args, str) and args[0] == sys.executable and _is_plain(args[1]):
            words, env = [str(word) for word in args[1:]], dict(settings.get("env") or os.environ)
            inherited = not settings.get("close_fds", True)
            sys.stdout.flush()
            sys.stderr.flush()
            settings["preexec_fn"] = lambda: become(words, os.getcwd(), env, inherited)
        super().__init__(args, **settings)


def _is_plain(option: str) -> bool:
    """Whether a fork can do what Python's first argument asks for."""
    return option in ("-m", "-c", "-W") or str(option).endswith(".py")


def become(words: Sequence[str], folder: str, env: dict[str, str], inherited: bool = False) -> None:
    """Be `python WORDS` from here on; does not return.

    Args:
        words: what follows `python`.
        folder: where it runs.
        env: its environment.
        inherited: True to keep open what was opened to be inherited.
    """
    code: int | None = 1
    try:
        _leave_files(inherited)
        _be_new(folder, env)
        code = _exit_code(lambda: _main([*words], env))
        from everytoken.runtime.python_internals import finish

        finish()
    except BaseException as error:  # nothing may go back to the loop above
        sys.__excepthook__(type(error), error, error.__traceback__)
    finally:
        try:
            sys.stdout.flush()
            sys.stderr.flush()
        except BrokenPipeError:
            code = 120
        finally:
            if code is not None and code < 0:
                signal.signal(-code, signal.SIG_DFL)
                os.kill(os.getpid(), -code)
            os._exit(1 if code is None else code)


def _leave_files(inherited: bool) -> None:
    """Let go of the parent's files, or nobody would ever read to the end of its pipes.

    Numbers stay in use: objects of the parent, which are here too, may close them at any time.
    """
    nothing = os.open(os.devnull, os.O_RDWR)
    for number in map(int, os.listdir("/proc/self/fd")):
        try:
            if number > 2 and number != nothing and not (inherited and os.get_inheritable(number)):
                os.dup2(nothing, number, inheritable=False)
        except OSError:  # the listing's own
            continue


def _be_new(folder: str, env: dict[str, str]) -> None:
    """Forget what differs from a new process."""
    from wandb.sdk.data_types._private import MEDIA_TMP

    from everytoken.runtime import signals

    for number in signals.EXIT_CODES:
        signal.signal(number, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for finalizer in [*weakref.finalize._registry]:  # pyright: ignore[reportAttributeAccessIssue]
        finalizer.atexit = False  # temporary folders are for whoever made them to remove
    atexit.unregister(MEDIA_TMP.cleanup)  # and so is wandb's
    signals.stop_requests.__init__()
    signals._STARTED = time.monotonic()
    subprocess.Popen = Forking
    gc.enable()
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(env)
    # Whoever forked may have put others in their places.
    sys.stdin = open(0, encoding="utf-8", closefd=False)  # noqa: SIM115 (until the end)
    sys.stdout = open(1, "w", encoding="utf-8", closefd=False)  # noqa: SIM115
    sys.stderr = open(  # noqa: SIM115
        2, "w", encoding="utf-8", errors="backslashreplace", closefd=False, buffering=1
    )


def _main(words: list[str], env: dict[str, str]) -> None:
    while words[0] == "-W":
        warnings.simplefilter(words[1])  # pyright: ignore[reportArgumentType]
        del words[:2]
    sys.path[:0] = filter(None, env.get("PYTHONPATH", "").split(os.pathsep))
    importlib.invalidate_caches()
    if words[0] == "-m":
        warnings.filterwarnings("ignore", ".*found in sys.modules", RuntimeWarning, "runpy")
        sys.path.insert(0, os.getcwd())
        sys.argv = words[1:]
        runpy.run_module(words[1], run_name="__main__", alter_sys=True)
    elif words[0] == "-c":
        sys.path.insert(0, "")
        sys.argv = ["-c", *words[2:]]
        exec(words[1], vars(sys.modules["__main__"]))
    else:
        sys.path.insert(0, str(Path(words[0]).resolve().parent))
        sys.argv = words
        runpy.run_path(words[0], run_name="__main__")


def _exit_code(main: Callable[[], None]) -> int:
    """What Python makes of how a program ends."""
    try:
        main()
    except SystemExit as left:
        if isinstance(left.code, str):
            print(left.code, file=sys.stderr)
        return left.code if isinstance(left.code, int) else int(left.code is not None)
    except BaseException as error:
        sys.excepthook(type(error), error, error.__traceback__)
        return -signal.SIGINT if isinstance(error, KeyboardInterrupt) else 1
    return 0


if __name__ == "__main__":
    serve(socket.socket(fileno=int(sys.argv[1])))
