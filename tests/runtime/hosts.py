"""Machines made of namespaces: each has its own network, PIDs, host name, /tmp and /dev/shm, and all share a folder."""

import os
import signal
import subprocess
import time
from contextlib import ExitStack, suppress
from pathlib import Path

SHARED = Path("/mnt")  # what every host sees as the shared folder
_INIT = """
set -e
hostname "$1"
mount --make-rprivate /
mount --bind "$2" /mnt
mount --bind "$3" /tmp
mount -t tmpfs tmpfs /dev/shm
ip link set lo up
echo up
exec sleep infinity
"""


def ip(*words):
    subprocess.run(["ip", *map(str, words)], check=True, capture_output=True, text=True, timeout=30)


class Host:
    """One machine; its first process is PID 1, with which all others end at once.

    Args:
        network: the namespace of the network that it is part of.
        number: of its address.
        name: of the host.
        shared, own: folders, the second for its /tmp.

    Attributes:
        address: an IP.
        own: what lies in its /tmp.
        space: of its PIDs, as `process_id` names it.
    """

    def __init__(self, network, number, name, shared, own):
        self.address = f"10.77.0.{number}"
        self._network, self._link, self._space = network, f"h{number}", f"{network}-{number}"
        self.own = own
        self._started = []
        own.mkdir()
        ip("netns", "add", self._space)
        ip("-n", network, "link", "add", self._link, "type", "veth", "peer", "name", "eth0", "netns", self._space)
        ip("-n", network, "link", "set", self._link, "master", "hub", "up")
        ip("-n", self._space, "address", "add", f"{self.address}/24", "dev", "eth0")
        ip("-n", self._space, "link", "set", "eth0", "up")
        ip("-n", self._space, "route", "add", "default", "via", "10.77.0.254")
        spaces = ["unshare", "--mount", "--uts", "--pid", "--fork", "--kill-child", "--mount-proc"]
        command = ["ip", "netns", "exec", self._space, *spaces, "sh", "-c", _INIT, "sh", name, shared, own]
        self._around = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        assert self._around.stdout.readline() == "up\n"
        self._first = _only_child(self._around.pid)
        self.space = str(Path(f"/proc/{self._first}/ns/pid").readlink())

    def start(self, *words, env=(), **options):
        """Start a program there, with these variables beside those of this process."""
        enter = ["nsenter", f"--target={self._first}", "--net", "--mount", "--uts", "--pid", "--"]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        environment = {**os.environ, "XDG_CACHE_HOME": "/tmp/cache", "TMPDIR": "/tmp", "HOME": "/tmp", **dict(env)}
        process = subprocess.Popen([*enter, *map(str, words)], env=environment, cwd="/", **{**pipes, **options})
        self._started.append(process)
        return process

    def kill(self):
        """Take its power away."""
        with suppress(ProcessLookupError):
            os.kill(self._first, signal.SIGKILL)
        self._around.wait(30)

    def suspend(self):
        """Let it stand still, as a virtual machine may."""
        for process in self._processes():
            os.kill(process, signal.SIGSTOP)

    def go_on(self):
        for process in self._processes():
            os.kill(process, signal.SIGCONT)
        for process in self._started:
            process.send_signal(signal.SIGCONT)  # nsenter stops with what it has started

    def set_link(self, state):
        """Plug its cable in (`up`) or out (`down`)."""
        ip("-n", self._network, "link", "set", self._link, state)

    def remove(self):
        self.kill()
        ip("netns", "delete", self._space)

    def _processes(self):
        for folder in Path("/proc").glob("[0-9]*"):
            with suppress(OSError):
                if int(folder.name) != self._first and str((folder / "ns" / "pid").readlink()) == self.space:
                    yield int(folder.name)


class Hosts:
    """Several machines on one network.

    Args:
        folder: for what they hold; `folder / "shared"` is what all see as `SHARED`.
        names: of the hosts.
    """

    def __init__(self, folder, names):
        self._held = ExitStack()
        network = f"flare{os.getpid()}"
        (folder / "shared").mkdir(exist_ok=True)
        try:
            ip("netns", "add", network)
            self._held.callback(ip, "netns", "delete", network)
            ip("-n", network, "link", "add", "hub", "type", "bridge")
            ip("-n", network, "address", "add", "10.77.0.254/24", "dev", "hub")
            ip("-n", network, "link", "set", "hub", "up")
            self.all = []
            for number, name in enumerate(names, 1):
                self.all.append(Host(network, number, name, folder / "shared", folder / f"tmp{number}"))
                self._held.callback(self.all[-1].remove)
        except BaseException:
            self._held.close()
            raise

    def close(self):
        self._held.close()


def why_no_hosts():
    """Return why no namespaces can be made here; empty where they can."""
    if os.geteuid() != 0:
        return "only root may make namespaces"
    probe = f"flare-probe{os.getpid()}"
    commands = [
        ["ip", "netns", "add", probe],
        ["ip", "-n", probe, "link", "add", "hub", "type", "bridge"],
        ["ip", "netns", "exec", probe, "unshare", "--mount", "--pid", "--fork", "mount", "--bind", "/tmp", "/mnt"],
    ]
    try:
        for command in commands:
            subprocess.run(command, check=True, capture_output=True, text=True, timeout=30)
    except (OSError, subprocess.SubprocessError) as error:
        return f"no namespaces here: {getattr(error, 'stderr', '') or error}".strip()
    finally:
        with suppress(OSError):
            subprocess.run(["ip", "netns", "delete", probe], capture_output=True, check=False)
    return ""


def _only_child(process):
    until = time.monotonic() + 10
    while time.monotonic() < until:
        children = Path(f"/proc/{process}/task/{process}/children").read_text(encoding="ascii").split()
        if children:
            return int(children[0])
        time.sleep(0.01)
    raise AssertionError("no process was started")
