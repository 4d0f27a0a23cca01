"""Machines on one: network namespaces on a bridge, which die and lose their cable. As root, Linux.

Each has its own network, name and hosts file; files and clocks are shared.
"""

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

HOSTS = Path("/etc/netns")


def ip(*words: str, must: bool = True) -> str:
    """Call ip(8)."""
    return subprocess.run(["ip", *words], check=must, capture_output=True, text=True).stdout


def can_be_made() -> bool:
    """True for root, where network namespaces can be made."""
    if not hasattr(os, "geteuid") or os.geteuid() != 0 or shutil.which("ip") is None:
        return False
    name = f"try-{os.getpid()}"
    made = subprocess.run(["ip", "netns", "add", name], capture_output=True)
    ip("netns", "del", name, must=False)
    return made.returncode == 0


class Machines:
    """As a context: there inside of it.

    Args:
        bridge: its name, at most 8 characters.
        addresses: of the machines, by their names, in one network of 256.
    """

    def __init__(self, bridge: str, addresses: Mapping[str, str]) -> None:
        self.bridge = bridge
        self.addresses = addresses

    def __enter__(self) -> "Machines":
        self.take_down()
        ip("link", "add", self.bridge, "type", "bridge")
        ip("link", "set", self.bridge, "up")
        known = "".join(f"{address} {name}\n" for name, address in self.addresses.items())
        for number, (name, address) in enumerate(self.addresses.items()):
            hosts = HOSTS / name / "hosts"  # what ip(8) puts in the place of /etc/hosts
            hosts.parent.mkdir(parents=True)
            hosts.write_text(f"127.0.0.1 localhost\n{known}")
            ip("netns", "add", name)
            cable = f"{self.bridge}-{number}"
            ip("link", "add", cable, "type", "veth", "peer", "name", "eth0", "netns", name)
            ip("link", "set", cable, "master", self.bridge, "up")
            ip("-n", name, "link", "set", "lo", "up")
            ip("-n", name, "addr", "add", f"{address}/24", "dev", "eth0")
            self.plug_in(name)
        return self

    def __exit__(self, *error: object) -> None:
        self.take_down()

    def take_down(self) -> None:
        """With all that runs on them."""
        for number, name in enumerate(self.addresses):
            self.die(name)
            ip("link", "del", f"{self.bridge}-{number}", must=False)  # or it goes when all are dead
            ip("netns", "del", name, must=False)
            shutil.rmtree(HOSTS / name, ignore_errors=True)
        ip("link", "del", self.bridge, must=False)

    def plug_in(self, name: str) -> None:
        """Its cable."""
        ip("-n", name, "link", "set", "eth0", "up")

    def die(self, name: str) -> None:
        """Kill all processes of a machine."""
        for pid in ip("netns", "pids", name, must=False).split():
            with suppress(ProcessLookupError):
                os.kill(int(pid), 9)

    def torchrun(
        self, name: str, words: Sequence[str], log: Path, env: Mapping[str, str] = os.environ
    ) -> subprocess.Popen[str]:
        """Start it on a machine, in one thread a process; what it prints is added to a file."""
        command = [sys.executable, "-m", "torch.distributed.run", *words]
        named = ["unshare", "--uts", "sh", "-c", 'hostname "$0"; exec "$@"', name]
        set_here = {"TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1", "GLOO_SOCKET_IFNAME": "eth0"}
        with log.open("a") as file:
            return subprocess.Popen(
                ["ip", "netns", "exec", name, *named, *command],
                env={**env, **set_here, "OMP_NUM_THREADS": "1"},
                stdout=file,
                stderr=subprocess.STDOUT,
                text=True,
            )
