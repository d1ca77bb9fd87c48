"""Trains a toy in child processes that are killed at random moments: python -m tests.train.interrupted_training KILLS.

nnU-Net's folders come from the environment. Every child is a fork of this process, which has imported everything and
computed nothing. Prints the seconds at which it killed.
"""

import os
import random
import signal
import sys
import time
from collections.abc import Callable

from nnunetv2.training.logging.nnunet_logger import LocalLogger

from flare_train.data.nnunet_folders import RESULTS, find_dataset
from flare_train.planning.preprocessing import preprocess
from flare_train.planning.recipe import Recipe
from flare_train.training.run import Run
from flare_train.training.schedule import Schedule
from flare_train.training.session import train

DATASET = "812"
PLANS = "toy"
SCHEDULE = Schedule(first=20, extension=10, last=40, patience=9)
RECIPE = Recipe(iterations=8, val_iterations=1, learning_rate=1e-2)


def train_toy() -> None:
    """Train to the end of the schedule."""
    import torch

    torch.set_num_threads(1)
    LocalLogger.plot_progress_png = lambda *_: None  # a second an epoch
    run = Run(find_dataset(DATASET, RESULTS), PLANS, fold="0", recipe=RECIPE, schedule=SCHEDULE)
    train(run, print)


def prepare() -> None:
    """Preprocess the data set, if no test before did."""
    preprocess(find_dataset(DATASET), PLANS, 1)


def in_child(work: Callable[[], None], seconds: float | None = None) -> int:
    """Do something in a fork, killed after `seconds` if it still runs; return its exit status."""
    child = os.fork()
    if child == 0:
        try:
            work()
        except BaseException as error:
            sys.stderr.write(f"{type(error).__name__}: {error}\n")
            sys.stderr.flush()
            os._exit(1)
        os._exit(0)
    if seconds is not None:
        time.sleep(seconds)
        os.kill(child, signal.SIGKILL)
    return os.waitpid(child, 0)[1]


def main() -> int:
    """Kill so many times, then let it finish."""
    in_child(prepare)
    chance = random.Random(0)
    for _ in range(int(sys.argv[1])):
        seconds = round(chance.uniform(0.3, 1.5), 2)
        status = in_child(train_toy, seconds)
        sys.stdout.write(f"{'killed after' if os.WIFSIGNALED(status) else 'ended before'} {seconds} s\n")
    return os.waitstatus_to_exitcode(in_child(train_toy))


if __name__ == "__main__":
    sys.exit(main())
