"""SHA-256 hashes of images, computed in a thread of their own while the images are read, and their stamps before."""

from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from flare_runtime.cases.case import Case
from flare_runtime.cases.fingerprints import sha256_of, stamps_of
from flare_runtime.errors import CaseError
from flare_runtime.imaging.read import files_of


class InputDigests:
    """Hashes the images of cases while they are read, so that the disk reads every file once."""

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1, "hash")
        # By masks: names as they are shown may be alike.
        self._digests: dict[Path, list[Future[str]]] = {}
        self._stamps: dict[Path, list[str]] = {}

    def begin(self, case: Case) -> None:
        """Start hashing the images of a case, unless that was done before."""
        if case.mask not in self._digests:
            self.stamps_of(case)
            self._digests[case.mask] = [self._thread.submit(sha256_of, *files_of(one)) for one in case.sources]

    def stamps_of(self, case: Case) -> list[str]:
        """Return the stamps of a case's images as they were when they were first asked for, before any was read."""
        if case.mask not in self._stamps:
            self._stamps[case.mask] = stamps_of(case.sources)
        return self._stamps[case.mask]

    def of(self, case: Case) -> list[str]:
        """Return the hashes of a case's images, in the order of the channels.

        None where one cannot be read, or was changed since its stamp: what was read may be something else.
        """
        try:
            hashes = [digest.result() for digest in self._digests[case.mask]]
        except (OSError, CaseError):
            return []
        return hashes if stamps_of(case.sources) == self._stamps[case.mask] else []

    def forget(self, case: Case) -> None:
        """Drop the hashes of a case."""
        self._digests.pop(case.mask, None)
        self._stamps.pop(case.mask, None)

    def close(self) -> None:
        """End the thread after the image that it is hashing."""
        self._thread.shutdown(cancel_futures=True)
