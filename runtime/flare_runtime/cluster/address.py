"""Where a Ray cluster is: HOST:PORT of its head, the one that runs on this machine, or a new one."""

import socket

from flare_runtime.errors import UsageError

LOCAL, AUTO = "local", "auto"
_ANSWER_S = 5.0


def check_address(given: str) -> None:
    """Refuse what is no address.

    Raises:
        UsageError: with what is allowed.
    """
    host, _, port = given.rpartition(":")
    if given not in (LOCAL, AUTO) and not (host and "/" not in host and port.isascii() and port.isdecimal()):
        raise UsageError(f"--address {given}: give {AUTO}, {LOCAL}, or HOST:PORT of the cluster's head")


def answers(address: str) -> bool:
    """Whether somebody answers at HOST:PORT; Ray itself would try for more than a minute."""
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=_ANSWER_S).close()
    except (OSError, ValueError, OverflowError):
        return False
    return True
