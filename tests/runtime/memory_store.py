"""A store of objects in this process, and runs over cases in it."""

import os
from contextlib import contextmanager

import fsspec

from flare_runtime import CaseKept, RunOptions, Session

OPTIONS = RunOptions(device="cpu", precision="fp32", threads=1)


@contextmanager
def memory_bucket():
    """Make a bucket in this process, for the time of a block."""
    bucket = Bucket(f"bucket-{os.urandom(8).hex()}")
    yield bucket
    fsspec.filesystem("memory").rm(f"/{bucket.name}", recursive=True)


class Bucket:
    """A bucket as the tests see it, and its URL."""

    def __init__(self, name):
        self._fs = fsspec.filesystem("memory")
        self._fs.mkdir(f"/{name}")
        self.name, self.url = name, f"memory://{name}"

    def upload(self, folder, prefix):
        for path in folder.rglob("*"):
            if path.is_file():
                self._fs.pipe_file(f"/{self.name}/{prefix}/{path.relative_to(folder)}", path.read_bytes())

    def put(self, key, data):
        self._fs.pipe_file(f"/{self.name}/{key}", data)

    def get(self, key):
        return self._fs.cat_file(f"/{self.name}/{key}")

    def names(self, prefix):
        return sorted(key.removeprefix(f"/{self.name}/{prefix}/") for key in self._fs.find(f"/{self.name}/{prefix}"))


def runner(bundle):
    """Return a function that runs, and returns the records by their names and the names of cases that were kept."""

    def run(source, target, options=OPTIONS, **further):
        kept = []

        def listen(event):
            if isinstance(event, CaseKept):
                kept.append(event.case)

        records = Session(bundle, options, listener=listen).run(source, target, **further)
        return {record.case: record for record in records}, sorted(kept)

    return run


def facts(records):
    """Return what records say of images and masks, wherever these lie."""
    facts = ("status", "reason", "message", "remarks", "inputs_sha256", "mask_sha256")
    return {name: [getattr(record, fact) for fact in facts] for name, record in records.items()}
