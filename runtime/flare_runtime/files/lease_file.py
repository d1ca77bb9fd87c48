"""The files that say who works at a target: their names, what they hold, and reading them whatever lies there."""

import errno
import os
import re
import stat
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import msgspec

from flare_runtime.files.naming import fitted, visible
from flare_runtime.files.this_process import has_ended, process_id

_NAME = re.compile(r"\..+\.(?P<generation>[1-9][0-9]{0,8})\.flare-lease", re.DOTALL)
# A lease is far smaller; what is larger under its name is nobody's lease.
MOST_BYTES = 4096
# Of a lease's last sign of life, by the clock of the file system.
DEAD_AFTER_S = 90.0


@dataclass(frozen=True)
class LeaseContent:
    """What a lease says of its holder; empty where it says nothing.

    Attributes:
        token: no other lease has it.
        process: the holder's `process_id`.
        host: the name of its machine.
        since: when it was taken, by the clock of that machine, in UTC as ISO 8601.
    """

    token: str = ""
    process: str = ""
    host: str = ""
    since: str = ""


@dataclass(frozen=True)
class LeaseState:
    """A lease as it was found.

    Attributes:
        identity: changes when another file comes in its place or its holder gives a sign of life.
        device: the number of its file system.
        mtime_ns: of the last sign of life, by the clock of the file system.
        content: what it says.
    """

    identity: tuple[int, int, int]
    device: int
    mtime_ns: int
    content: LeaseContent


@dataclass(frozen=True)
class Holder:
    """Who holds a lease, or held it.

    Attributes:
        process: its `process_id`; empty where the lease does not say.
        host: the name of its machine, as it is shown.
        since: when it was taken, in UTC as ISO 8601.
        generation: one more than how many workers were lost at the target before.
        age_s: since its last sign of life, by this machine's clock.
        is_alive: whether it is still at it, as far as can be told without writing anything.
    """

    process: str
    host: str
    since: str
    generation: int
    age_s: float
    is_alive: bool


def lease_path(target: Path, generation: int) -> Path:
    """Return the path of a target's lease; the first generation is 1."""
    return target.with_name(fitted("." + target.name, f".{generation}.flare-lease"))


def is_lease_name(name: str) -> bool:
    """Whether a file of this name is a lease."""
    return _NAME.fullmatch(name) is not None


def holder_of(path: Path) -> Holder | None:
    """Return who holds the lease of this path; None where there is none.

    Of one target's leases, the one of the highest generation counts.
    """
    match, state = _NAME.fullmatch(path.name), look_at(path)
    if not match or not state:
        return None
    content = state.content
    age_s = max(time.time() - state.mtime_ns / 1e9, 0.0)
    is_alive = age_s <= DEAD_AFTER_S and not has_ended(content.process)
    host, since = visible(content.host), visible(content.since)
    return Holder(content.process, host, since, int(match["generation"]), age_s, is_alive)


def new_content() -> LeaseContent:
    """Return what a lease of this process says that is taken now."""
    since = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    return LeaseContent(os.urandom(16).hex(), process_id(), os.uname().nodename, since)


def create(path: Path, content: LeaseContent) -> bool:
    """Create a lease; False where something is there.

    Raises:
        OSError: where it cannot be written; it is not there then.
    """
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
    except FileExistsError:
        return False
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(msgspec.json.encode(content))
    except OSError:
        path.unlink(missing_ok=True)
        raise
    return True


def look_at(path: Path) -> LeaseState | None:
    """Return the state of a lease, whatever lies there; None where nothing does.

    Raises:
        OSError: where that cannot be known.
    """
    try:
        status, data = path.lstat(), b""
        if stat.S_ISREG(status.st_mode):
            try:
                with opened(path) as descriptor:
                    status = os.fstat(descriptor)
                    data = os.read(descriptor, MOST_BYTES)
            except PermissionError:
                pass  # its age can be seen
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ESTALE):
            return None
        raise
    identity = (status.st_ino, status.st_size, status.st_mtime_ns)
    return LeaseState(identity, status.st_dev, status.st_mtime_ns, _decoded(data))


def touch(path: Path, token: str) -> bool:
    """Give a sign of life where the lease of this token is still there; return whether it is.

    Raises:
        OSError: where that cannot be known.
    """
    return _is_there(path, token, os.utime)  # without a time, for which a server takes its own


def has_token(path: Path, token: str) -> bool:
    """Whether the lease of this token is still there.

    Raises:
        OSError: where that cannot be known.
    """
    return _is_there(path, token)


def exists(path: Path) -> bool:
    """Whether something lies there.

    Raises:
        OSError: where that cannot be known.
    """
    try:
        path.lstat()
    except FileNotFoundError:
        return False
    return True


def forget_cached(folder: Path) -> None:
    """Have the names in a folder asked of the server anew: a client of NFS believes for a while that there is no file.

    Raises:
        OSError: where it cannot be opened.
    """
    os.close(os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC))


@contextmanager
def opened(path: Path) -> Iterator[int]:
    """Open a file for reading, which follows no link, waits for no pipe and asks a server of NFS how it is now."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _is_there(path: Path, token: str, act: Callable[[int], None] | None = None) -> bool:
    """Whether the lease of this token is there; if so, something is done to the open file."""
    try:
        with opened(path) as descriptor:
            is_there = _decoded(os.read(descriptor, MOST_BYTES)).token == token
            if is_there and act:
                act(descriptor)
            return is_there
    except FileNotFoundError:
        return False


def _decoded(data: bytes) -> LeaseContent:
    try:
        return msgspec.json.decode(data, type=LeaseContent)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return LeaseContent()
