"""A session whose cases are segmented by actors of a Ray cluster."""

import argparse
import logging
import os
import re
from collections.abc import Sequence
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from flare_runtime.cases.case import Case
from flare_runtime.cluster.actor_memory import actor_bytes
from flare_runtime.cluster.address import check_address
from flare_runtime.cluster.dispatch import Dispatch
from flare_runtime.cluster.orders import ActorOrder, FleetOrder
from flare_runtime.cluster.placement import ActorWish
from flare_runtime.command import options_of
from flare_runtime.errors import UsageError, install_hint
from flare_runtime.model.bundle import open_bundle
from flare_runtime.options import RunOptions
from flare_runtime.paths import is_url
from flare_runtime.pipeline.gpu_memory import MIB
from flare_runtime.run.events import Listener
from flare_runtime.run.journal import Journal
from flare_runtime.run.resume import ResumeRules
from flare_runtime.run.session import NO_RECORDS, Run, SessionBase

if TYPE_CHECKING:
    from flare_runtime.cases.stored_places import StoredPlaces

_PACKAGE = __name__.partition(".")[0]
# An actor sees the GPUs alone that Ray gives it.
_DEVICES = re.compile("auto|cpu|cuda(:0|:all)?")


class RaySession(SessionBase):
    """A model and its options, for runs over cases that actors segment, each with the model loaded once.

    Args:
        bundle: as of `Session`; every machine has to find it under the same path.
        options: as of `Session`; each actor finds out what `auto` is on its machine.
        listener: is called with every event but the progress of single cases.
        args: the parsed command line, with the options of `flare-infer ray`.

    Raises:
        BundleError: where the model cannot be opened.
        UsageError: where Ray is not installed, or the options do not go with actors.
    """

    def __init__(
        self, bundle: Path | None, options: RunOptions, *, listener: Listener, args: argparse.Namespace
    ) -> None:
        if find_spec("ray") is None:
            raise UsageError(f"ray is not installed; {install_hint('ray')}")
        check_address(args.address)
        if not _DEVICES.fullmatch(options.device):
            raise UsageError(f"--device {options.device}: actors take auto, cpu or cuda; Ray gives each its own GPU")
        self._args = args
        self._path = None if bundle is None else bundle.absolute()
        super().__init__(open_bundle(self._path), options, listener)

    def _run_over(
        self,
        cases: Sequence[Case],
        journal: Journal,
        resume: ResumeRules | None,
        places: "StoredPlaces | None" = None,
    ) -> Run:
        if places is not None:
            raise UsageError("actors take paths that every machine sees; for URLs start flare-infer --resume on each")
        if not self._options.records:
            raise UsageError(NO_RECORDS)
        rules = resume or ResumeRules()
        level = logging.getLogger(_PACKAGE).getEffectiveLevel()
        actor = ActorOrder(self._path, self.bundle.sha256, self._options, rules, level)
        order = FleetOrder(self._args.address, self._wish(cases), len(cases), actor)
        queue = Dispatch(cases, order, journal, self._listener)
        return Run(cases, journal, queue, queue.records)

    def _wish(self, cases: Sequence[Case]) -> ActorWish:
        args = self._args
        wish = ActorWish(self._options.device, args.actors, args.cpus_per_actor, args.gpus_per_actor)
        if (given_mib := args.memory_per_actor_mib) is not None:
            return replace(wish, memory_bytes=given_mib * MIB)
        return replace(wish, memory_bytes=actor_bytes(self.bundle, self._options, cases), is_estimate=True)


def open_session(args: argparse.Namespace, listener: Listener) -> RaySession:
    """Return the session of a command line, whose paths become absolute: actors work in folders of their own."""
    if not is_url(args.input):
        args.input = Path.cwd() / args.input
    if not is_url(args.output):
        args.output = f"{Path.cwd() / args.output}{os.sep * str(args.output).endswith(os.sep)}"
    return RaySession(args.model, options_of(args), listener=listener, args=args)
