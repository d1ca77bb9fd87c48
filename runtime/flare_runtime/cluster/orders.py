"""What a fleet and its actors are to do; orders are pickled."""

from dataclasses import dataclass
from pathlib import Path

from flare_runtime.cluster.placement import ActorWish
from flare_runtime.options import RunOptions
from flare_runtime.run.resume import ResumeRules


@dataclass(frozen=True)
class ActorOrder:
    """What an actor does with its cases.

    Attributes:
        bundle: an absolute path; the default model where None.
        bundle_sha256: of the model that it has to be.
        options: of the run.
        rules: which cases stay as they are.
        log_level: of the lines that it sends.
    """

    bundle: Path | None
    bundle_sha256: str
    options: RunOptions
    rules: ResumeRules
    log_level: int


@dataclass(frozen=True)
class FleetOrder:
    """What a fleet does.

    Attributes:
        address: of the cluster; see `flare_runtime.cluster.address`.
        wish: for each actor.
        most_actors: of use.
        actor: what each does.
    """

    address: str
    wish: ActorWish
    most_actors: int
    actor: ActorOrder
