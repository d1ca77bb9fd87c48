"""The images of `docker/`, built and run on a machine without a container engine: buildah builds, namespaces run.

The base image is Debian's by debootstrap in place of Python's own, and pip's packages are fetched beforehand, so that
nothing in the build needs to know how this machine reaches an index.
"""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import requires
from pathlib import Path
from time import perf_counter
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
TOOLS = ("buildah", "debootstrap", "unshare", "chroot")
_PACKAGES = "python3,python3-pip,python3-venv"
_RUN = Path(__file__).with_name("run_image.sh")


def missing() -> str | None:
    """Return why no image can be built and run here, or None."""
    if absent := [tool for tool in TOOLS if shutil.which(tool) is None]:
        return f"{' and '.join(absent)} not installed"
    return "needs root" if os.geteuid() else None


@dataclass(frozen=True)
class ContainerRun:
    """What became of a run.

    Attributes:
        code: the exit code.
        output: what it printed, stdout and stderr together.
        seconds: from start to end.
        peak_mib: the most memory that a process of it took.
    """

    code: int
    output: str
    seconds: float
    peak_mib: float


@dataclass(frozen=True)
class Image:
    """An image that was built.

    Attributes:
        root: its files.
        config: of the OCI: `User`, `WorkingDir`, `Env`, `Cmd`.
        megabytes: its size, without compression.
    """

    root: Path
    config: dict[str, Any]
    megabytes: float

    def run(self, inputs: Path, outputs: Path, *command: str, user: str | None = None) -> ContainerRun:
        """Run its command, or another, without a network, on read-only files and with 64 MB of /dev/shm.

        Args:
            inputs: the folder at /workspace/inputs, read-only.
            outputs: the folder at /workspace/outputs; is given to the user.
            command: in place of the image's own.
            user: USER:GROUP by number, in place of the image's own.
        """
        user = user or str(self.config["User"])
        os.chown(outputs, *map(int, user.split(":")))
        environment = dict(pair.split("=", 1) for pair in self.config["Env"])
        arguments = [str(self.root), user, self.config["WorkingDir"], str(inputs), str(outputs)]
        started = perf_counter()
        process = subprocess.Popen(
            ["/bin/sh", str(_RUN), *arguments, *(command or self.config["Cmd"])],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        assert process.stdout
        output = process.stdout.read()
        _, status, used = os.wait4(process.pid, 0)
        seconds = perf_counter() - started
        process.returncode = os.waitstatus_to_exitcode(status)
        return ContainerRun(process.returncode, output, seconds, used.ru_maxrss / 1024)


class ImageBuilder:
    """Builds images in a folder of its own, which can be removed afterwards.

    Args:
        folder: is there and empty.

    Attributes:
        base_megabytes: the size of the base image.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        base = folder / "base"
        _run("debootstrap", "--variant=minbase", f"--include={_PACKAGES}", "stable", base)
        for left_over in (base / "var/cache/apt/archives", base / "var/lib/apt/lists"):
            shutil.rmtree(left_over)
        version = "import sys; print('{}.{}'.format(*sys.version_info))"
        self._python = _run("chroot", base, "python3", "-c", version).strip()
        container = self._buildah("from", "scratch")
        self._buildah("add", "--quiet", container, base, "/")
        self._buildah("commit", "--quiet", "--rm", container, "base")
        self.base_megabytes = self._megabytes("base")

    def build(self, dockerfile: str, *extras: str) -> Image:
        """Build an image of `docker/`, which installs the runtime with some extras of it."""
        wheels = self._folder / "wheels"
        self._fetch(wheels, extras)
        name = Path(dockerfile).stem
        given = {"BASE": "localhost/base", "PIP_NO_INDEX": "1", "PIP_FIND_LINKS": "/wheels"}
        arguments = [word for pair in given.items() for word in ("--build-arg", "=".join(pair))]
        where = ["--file", ROOT / "docker" / dockerfile, "--volume", f"{wheels}:/wheels:ro", "--tag", name]
        self._buildah("build", "--quiet", *where, *arguments, ROOT)
        config = json.loads(self._buildah("inspect", "--type", "image", name))["OCIv1"]["config"]
        root = self._buildah("mount", self._buildah("from", "--pull-never", name))
        return Image(Path(root), config, self._megabytes(name))

    def _fetch(self, wheels: Path, extras: Sequence[str]) -> None:
        """Download what pip is to find, for the Python of the base image."""
        wanted = ["hatchling", *_requirements(extras)]
        tags = ("manylinux2014", *(f"manylinux_2_{minor}" for minor in (34, 28, 27, 17)))
        platforms = [f"--platform={tag}_x86_64" for tag in tags]
        options = ["--only-binary=:all:", f"--python-version={self._python}", *platforms, "--dest", str(wheels)]
        _run(sys.executable, "-m", "pip", "download", "--quiet", *options, *wanted)

    def _megabytes(self, image: str) -> float:
        (described,) = json.loads(self._buildah("images", "--json", image))
        number, unit = described["size"].split()
        return float(number) * {"MB": 1, "GB": 1000}[unit]

    def _buildah(self, *words: str | Path) -> str:
        storage = ["--root", self._folder / "storage", "--runroot", self._folder / "run", "--storage-driver", "vfs"]
        return _run("buildah", *storage, *words).strip()


def _requirements(extras: Sequence[str]) -> list[str]:
    """Return what the installed project asks for, without markers."""
    found = []
    for requirement in requires("flare-lite") or ():
        name, _, marker = requirement.partition(";")
        if not marker or any(f"'{extra}'" in marker.replace('"', "'") for extra in extras):
            found.append(name.strip())
    return found


def _run(*words: str | Path) -> str:
    """Run a command and return what it prints; its messages are shown where it fails."""
    environment = {**os.environ, "BUILDAH_ISOLATION": "chroot"}
    done = subprocess.run([*map(str, words)], capture_output=True, text=True, check=False, env=environment)
    if done.returncode:
        raise RuntimeError(f"{words[0]} ended with {done.returncode}:\n{done.stdout[-2000:]}{done.stderr[-4000:]}")
    return done.stdout
