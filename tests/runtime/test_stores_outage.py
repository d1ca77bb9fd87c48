"""A cohort in an object store whose server is killed and started again, several times."""

import json
import logging
import os
import random
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from urllib.request import Request, urlopen

import pytest

from flare_runtime.stores.patience import Patience
from flare_runtime.stores.store import Store
from tests.runtime.command_runs import SPACING, names, spawn
from tests.runtime.nifti_files import blobs, write_nifti
from tests.runtime.object_stores import S3_ENVIRONMENT, Line

fsspec = pytest.importorskip("fsspec")
pytest.importorskip("s3fs")
pytest.importorskip("moto.server")

CASES, KILLS = 50, 4


class Server:
    """A server of S3 in a process of its own, which replays what it was told when it is started again."""

    def __init__(self, recording):
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]
        self._recording = recording
        self._environment = {**os.environ, "MOTO_ENABLE_RECORDING": "1", "MOTO_RECORDER_FILEPATH": str(recording)}

    def start(self):
        command = [str(Path(sys.executable).with_name("moto_server")), "-H", "127.0.0.1", "-p", str(self.port)]
        self.process = subprocess.Popen(
            command, env=self._environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        while True:
            try:
                socket.create_connection(("127.0.0.1", self.port)).close()
                break
            except OSError:
                time.sleep(0.1)
        if self._recording.exists():
            lines = self._recording.read_bytes().splitlines(keepends=True)
            if lines and not lines[-1].endswith(b"\n"):  # it was killed in the middle of a request
                self._recording.write_bytes(b"".join(lines[:-1]))
            self._post("replay-recording")
        self._post("start-recording")

    def kill(self):
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()

    def _post(self, what):
        url = f"http://127.0.0.1:{self.port}/moto-api/recorder/{what}"
        urlopen(Request(url, method="POST"), timeout=300).close()


def upload(store, folder):
    for scan in folder.iterdir():  # one after the other, or the server's recordings would mix
        store.put_file(str(scan), f"bucket/scans/{scan.name}")


@pytest.mark.slow
def test_a_server_that_is_killed_several_times_costs_nothing(tmp_path, tiny_bundle, monkeypatch):
    for index in range(CASES):
        scan = tmp_path / "scans" / f"p{index:02d}_0000.nii.gz"
        scan.parent.mkdir(exist_ok=True)
        write_nifti(scan, blobs((24, 30, 28), index), spacing_mm=SPACING)
    server = Server(tmp_path / "recording")
    server.start()
    line = Line(server.port)
    (tmp_path / "staging").mkdir()
    monkeypatch.setenv("TMPDIR", str(tmp_path / "staging"))
    for name, value in {**S3_ENVIRONMENT, "AWS_ENDPOINT_URL": f"http://127.0.0.1:{line.port}"}.items():
        monkeypatch.setenv(name, value)
    store = fsspec.filesystem("s3", skip_instance_cache=True, use_listings_cache=False)
    store.mkdir("bucket")
    upload(store, tmp_path / "scans")
    options = ["-m", tiny_bundle, "--device", "cpu", "--threads", 1]
    urls = ["-i", "s3://bucket/scans/", "-o", "s3://bucket/masks/", *options, "--resume"]

    chance, kills, done = random.Random(1), 0, 0
    process = spawn(*urls)
    for text in process.stderr:
        done += "lesion" in text
        if kills < KILLS and done > kills * CASES // KILLS:
            time.sleep(chance.uniform(0, 0.3))
            server.kill()
            line.go_down()
            time.sleep(chance.uniform(0, 5))
            server.start()
            line.come_up()
            kills += 1
    assert (process.wait(), kills, done) == (0, KILLS, CASES)
    assert names(tmp_path / "staging") == []

    assert spawn("-i", tmp_path / "scans", "-o", tmp_path / "masks", *options).wait(timeout=300) == 0
    assert sorted(key.rpartition("/")[2] for key in store.find("bucket/masks")) == names(tmp_path / "masks")
    for mask in (tmp_path / "masks").glob("*.nii.gz"):
        assert store.cat_file(f"bucket/masks/{mask.name}") == mask.read_bytes()
        assert json.loads(store.cat_file(f"bucket/masks/{mask.name[:3]}.json"))["status"] == "done"
    assert f"{CASES} case(s) were done by other runs" in spawn(*urls).communicate(timeout=300)[1]
    server.kill()


def test_what_the_library_of_a_store_logs_is_not_shown(monkeypatch, caplog):
    monkeypatch.setattr(logging.getLogger("gcsfs"), "level", logging.NOTSET)
    Store("memory", Patience())
    logging.getLogger("gcsfs.retry").error("out of retries", exc_info=OSError("no such host"))
    assert caplog.records == []
