"""Workers on two mounts of one folder by sshfs, as two machines would have it: every case once, whoever is killed."""

import os
import shutil
import socket
import subprocess
import time
from pathlib import Path

import pytest

from tests.runtime.test_shared_folder import disturb, write_scans

SSHD = "/usr/sbin/sshd"
MISSING = [
    tool
    for tool in (SSHD, "sshfs", "ssh-keygen", "fusermount3", "/dev/fuse")
    if not (Path(tool).exists() if "/" in tool else shutil.which(tool))
]
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(bool(MISSING), reason=f"missing: {', '.join(MISSING)}"),
    pytest.mark.skipif(os.geteuid() != 0, reason="only root may start sshd so"),
]
UNCACHED = "dir_cache=no,attr_timeout=0,entry_timeout=0"


@pytest.fixture
def server(tmp_path):
    """Start sshd, and yield the options of sshfs with which it is reached."""
    for name in ("host", "key"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", tmp_path / name], check=True)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    Path("/run/sshd").mkdir(exist_ok=True)
    settings = {
        "Port": port,
        "ListenAddress": "127.0.0.1",
        "HostKey": tmp_path / "host",
        "AuthorizedKeysFile": tmp_path / "key.pub",
        "PidFile": "none",
        "StrictModes": "no",
        "Subsystem": "sftp internal-sftp",
    }
    (tmp_path / "sshd.conf").write_text("".join(f"{name} {value}\n" for name, value in settings.items()))
    process = subprocess.Popen([SSHD, "-D", "-f", tmp_path / "sshd.conf"])
    yield f"port={port},IdentityFile={tmp_path}/key,StrictHostKeyChecking=no,UserKnownHostsFile=/dev/null"
    process.terminate()
    process.wait()


def mount(folder, place, options):
    place.mkdir()
    command = ["sshfs", "-o", options, f"root@127.0.0.1:{folder}", place]
    until = time.monotonic() + 10
    while subprocess.run(command, capture_output=True, check=False).returncode:
        assert time.monotonic() < until
        time.sleep(0.2)  # until the server listens
    return place


def test_workers_on_two_mounts_that_are_killed_lose_nothing(server, tiny_bundle, tmp_path):
    scans, share = write_scans(tmp_path / "scans", 40), tmp_path / "share"
    share.mkdir()
    mounts = []
    try:
        mounts += [mount(share, tmp_path / name, f"{server},{UNCACHED}") for name in "ab"]
        assert disturb(scans, share, tiny_bundle, workers=4, seconds=20, every_s=3, seen_as=mounts) > 0
    finally:
        for place in mounts:
            subprocess.run(["fusermount3", "-u", "-z", place], check=False)
