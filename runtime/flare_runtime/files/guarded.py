"""Temporary folders for patients' images and names: they go even where their process is killed."""

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from flare_runtime.files.temporary import temporary_folder

# It waits for a line, or for the end of the process that could write one. What that one leaves may still be writing.
_GUARD = 'trap "" HUP INT TERM; read -r _; rm -rf -- "$1" || { sleep 2; rm -rf -- "$1"; }'
_ENVIRONMENT = {"PATH": "/usr/bin:/bin"}


@contextmanager
def guarded_folder(parent: Path) -> Iterator[Path]:
    """Make a folder as `temporary_folder` does; where this process is killed, another one removes it.

    Where both are killed at once, or there is no shell, the next sweep does.

    Raises:
        OSError: where it cannot be made.
    """
    with temporary_folder(parent) as folder, _guard(folder):
        yield folder


@contextmanager
def _guard(folder: Path) -> Iterator[None]:
    reader, writer = os.pipe()
    command = ["/bin/sh", "-c", _GUARD, "sh", str(folder)]
    nowhere = subprocess.DEVNULL
    try:
        guard = subprocess.Popen(
            command, stdin=reader, stdout=nowhere, stderr=nowhere, cwd="/", env=_ENVIRONMENT, start_new_session=True
        )
    except OSError:
        guard = None
    finally:
        os.close(reader)
    try:
        yield
    finally:
        if guard:
            with suppress(OSError):  # it was killed
                os.write(writer, b"\n")  # to close it would not do: a fork of this process may hold it too
            guard.wait()
        os.close(writer)
