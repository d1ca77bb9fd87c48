"""A cohort in the stores of Google and Azure, as their emulators are: two workers at once, leases and --resume.

They run where `gcp-storage-emulator` and gcsfs are installed (`pip install gcp-storage-emulator gcsfs`), or azurite and
adlfs (`npm install -g azurite`, `pip install adlfs`).
"""

import json
import os
import shutil
import socket
import subprocess
import sys
import time
from contextlib import contextmanager

import pytest

from tests.runtime.command_runs import SPACING, names, spawn
from tests.runtime.nifti_files import blobs, write_nifti

fsspec = pytest.importorskip("fsspec")
pytestmark = pytest.mark.slow

CASES = 50
_AZURE = ("--silent", "--skipApiVersionCheck", "--disableTelemetry")
# The account and the key of every azurite.
_ACCOUNT = "devstoreaccount1"
_KEY = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="

# The emulator knows no condition under which an object is created, which Google's store does. So it is taught that of
# leases, where the second argument says so.
_GOOGLE = """
import sys
import threading
from http import HTTPStatus
from gcp_storage_emulator.exceptions import NotFound
from gcp_storage_emulator.handlers import objects
from gcp_storage_emulator.server import create_server

alone, upload = threading.Lock(), objects._multipart_upload

def taught(request, response, storage):
    with alone:
        try:
            storage.get_file_obj(request.params["bucket_name"], request.data["meta"]["name"])
            is_there = True
        except NotFound:
            is_there = False
        if is_there and request.query.get("ifGenerationMatch") == ["0"]:
            response.status = HTTPStatus.PRECONDITION_FAILED
        else:
            upload(request, response, storage)

if sys.argv[2] == "taught":
    objects._multipart_upload = taught
create_server("127.0.0.1", int(sys.argv[1]), True).run()
"""


@contextmanager
def running(*command):
    """Run a server on a free port, which its command has for PORT, and yield the port once it listens."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [str(port) if word == "PORT" else word for word in command]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        while process.poll() is None:
            try:
                socket.create_connection(("127.0.0.1", port)).close()
                break
            except OSError:
                time.sleep(0.1)
        yield port
    finally:
        process.kill()
        process.wait()


@contextmanager
def azure(folder):
    """Run azurite, and yield what the environment says of it."""
    pytest.importorskip("adlfs")
    program = shutil.which("azurite-blob")
    if program is None:
        pytest.skip("azurite is not installed")
    with running(program, "--blobPort", "PORT", "--location", str(folder), *_AZURE) as port:
        endpoint = f"http://127.0.0.1:{port}/{_ACCOUNT}"
        line = f"DefaultEndpointsProtocol=http;AccountName={_ACCOUNT};AccountKey={_KEY};BlobEndpoint={endpoint};"
        yield "az", {"AZURE_STORAGE_CONNECTION_STRING": line}


@contextmanager
def google(_folder, lesson="taught"):
    """Run the emulator of Google's store, and yield what the environment says of it."""
    for package in ("gcsfs", "gcp_storage_emulator"):
        pytest.importorskip(package)
    with running(sys.executable, "-c", _GOOGLE, "PORT", lesson) as port:
        host = f"http://127.0.0.1:{port}"
        # Else it asks by gRPC, which the emulator does not speak, what kind of bucket each one is.
        plain = {"GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT": "false"}
        yield "gs", {"STORAGE_EMULATOR_HOST": host, "FSSPEC_GS_TOKEN": "anon", "FSSPEC_GS_PROJECT": "tests", **plain}


@contextmanager
def untaught(folder):
    """Run the emulator of Google's store as it is."""
    with google(folder, "untaught") as started:
        yield started


class Cohort:
    """A cohort in a store, and the command on it."""

    def __init__(self, protocol, environment, bundle):
        self.urls = ["-i", f"{protocol}://cohort/scans/", "-o", f"{protocol}://cohort/masks/"]
        self.options = ["-m", bundle, "--device", "cpu", "--threads", 1]
        self._protocol, self._environment = protocol, {**os.environ, **environment}

    def on_store(self, code, *arguments):
        """Run code in a process of its own, as libraries look at the environment when they are imported."""
        code = f"import fsspec, json, sys; fs = fsspec.filesystem({self._protocol!r}, use_listings_cache=False)\n{code}"
        command = [sys.executable, "-c", code, *map(str, arguments)]
        return subprocess.run(command, env=self._environment, check=True, capture_output=True).stdout

    def spawn(self, *options):
        return spawn(*self.urls, *self.options, *options, env=self._environment)

    def names(self):
        return json.loads(self.on_store("print(json.dumps([k.split('/', 2)[2] for k in fs.find('cohort/masks')]))"))


@pytest.fixture(params=[azure, google, untaught])
def cohort(request, tmp_path, tiny_bundle):
    (tmp_path / "staging").mkdir()
    for index in range(CASES):
        scan = tmp_path / "scans" / f"p{index:02d}_0000.nii.gz"
        scan.parent.mkdir(exist_ok=True)
        write_nifti(scan, blobs((16, 20, 18), index), spacing_mm=SPACING)
    with request.param(tmp_path / "azurite") as (protocol, environment):
        cohort = Cohort(protocol, {**environment, "TMPDIR": str(tmp_path / "staging")}, tiny_bundle)
        cohort.on_store(
            "fs.mkdir('cohort'); fs.put(sys.argv[1] + '/', 'cohort/scans/', recursive=True)", tmp_path / "scans"
        )
        cohort.can_lease = request.param is not untaught
        yield cohort
    assert names(tmp_path / "staging") == []


def test_two_workers_share_a_cohort_and_resume_keeps_it(cohort, tmp_path):
    workers = [cohort.spawn("--resume") for _ in range(2 if cohort.can_lease else 1)]
    said = [worker.communicate(timeout=500)[1] for worker in workers]
    assert [worker.returncode for worker in workers] == [0] * len(workers), said
    assert all(("creates no object exclusively" in one) != cohort.can_lease for one in said)
    assert sum(one.count("lesion") for one in said) == CASES
    assert spawn("-i", tmp_path / "scans", "-o", tmp_path / "masks", *cohort.options).wait(timeout=300) == 0
    assert sorted(cohort.names()) == names(tmp_path / "masks")
    cohort.on_store("fs.get('cohort/masks/', sys.argv[1] + '/', recursive=True)", tmp_path / "down")
    for mask in (tmp_path / "masks").glob("*.nii.gz"):
        assert (tmp_path / "down" / mask.name).read_bytes() == mask.read_bytes()
        record = json.loads((tmp_path / "down" / f"{mask.name[:3]}.json").read_bytes())
        assert record["status"] == "done"
        assert record["identity"]["outputs"].keys() == {mask.name}
    assert f"{CASES} case(s) were done by other runs" in cohort.spawn("--resume").communicate(timeout=300)[1]
    cohort.on_store("fs.rm_file('cohort/masks/p07.nii.gz')")
    cohort.on_store("fs.cp_file('cohort/scans/p01_0000.nii.gz', 'cohort/scans/p09_0000.nii.gz')")
    again = cohort.spawn("--resume").communicate(timeout=300)[1]
    assert f"{CASES - 2} case(s) were done by other runs" in again
