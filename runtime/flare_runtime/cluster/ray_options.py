"""The options of `flare-infer ray` beside those of every run."""

import argparse

from flare_runtime.cluster.address import AUTO
from flare_runtime.program.command_line import above_zero, positive

DESCRIPTION = (
    "Segment the cases as flare-infer does, by actors on a Ray cluster, each with the model loaded once. They share "
    "the cases with each other, and with any flare-infer --resume into the same OUT."
)


def add_group(parser: argparse.ArgumentParser) -> None:
    """Add them, and imply --resume."""
    group = parser.add_argument_group(
        "cluster", "IN, OUT and the model have to be there on every machine under the same paths. --resume is implied."
    )
    add = group.add_argument
    add(
        "--address",
        default=AUTO,
        metavar="WHERE",
        help="HOST:PORT of the cluster's head, auto for the cluster that this machine is part of, or local for one "
        "that is started here and ends with the run (default: %(default)s)",
    )
    add(
        "--actors",
        type=positive,
        metavar="N",
        help="how many processes segment (default: as many as there is room for)",
    )
    add(
        "--cpus-per-actor",
        type=positive,
        metavar="C",
        help="cores of each, which are its --threads as well (default: 4, or all of a smaller machine)",
    )
    add(
        "--gpus-per-actor",
        type=above_zero,
        metavar="G",
        help="GPUs of each, or a share of one such as 0.5 (default: 1 unless --device is cpu or there is none)",
    )
    add(
        "--memory-per-actor",
        dest="memory_per_actor_mib",
        type=positive,
        metavar="MIB",
        help="memory that is set aside for each (default: an estimate from the headers of the first 32 cases)",
    )
    parser.set_defaults(resume=True)
