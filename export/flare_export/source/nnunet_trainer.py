"""Trainer classes, found and asked for their network by the installed nnU-Net."""

import contextlib
import inspect
import io
import os
import traceback
from collections.abc import Iterator, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import nn

from flare_export.errors import ModelError
from flare_export.source.known_trainers import BATCH_NORM_TRAINER, PLAIN_TRAINERS, PRIMUS_TRAINERS
from flare_runtime.errors import first_line, install_hint


def find_builder(trainer: str, *, trust_plans: bool = False) -> Any:
    """Return the class that has to be asked for its network; None where the name or the class says that it is known.

    What is imported is the installed nnU-Net and the folders of `nnUNet_extTrainer`, never anything of a model folder.

    Args:
        trainer: the class's name, as a checkpoint says it.
        trust_plans: take the network of a class that cannot be had for that of the plans.

    Raises:
        ModelError: for nnU-Net's transformers, and for a class that is not known and cannot be had.
    """
    if trainer in PLAIN_TRAINERS or trainer == BATCH_NORM_TRAINER:
        return None
    if trainer in PRIMUS_TRAINERS:
        raise ModelError(f"the trainer {trainer} builds a transformer (Primus); only U-Nets can be exported")
    try:
        with quiet():
            from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

            found = _find(trainer)
            if not issubclass(found, nnUNetTrainer):
                raise TypeError("what bears its name is no nnUNetTrainer")
    except Exception as error:  # whatever the modules that are searched lead it to
        if trust_plans:
            return None
        raise ModelError(
            f"the trainer {trainer} is none of nnU-Net's own, its class decides which network the weights are for, and "
            f"it cannot be had: {load_problem(error)}. Let nnUNet_extTrainer name the folder it is in, or give "
            "--trust-plans if it builds what plans.json says"
        ) from error
    same = found.build_network_architecture is nnUNetTrainer.build_network_architecture
    return None if same else found


def _find(trainer: str) -> Any:
    """Return what bears a name in the user's folders, or else in nnU-Net's, where some people put their own.

    nnU-Net looks at its own first; they need more than a user's may, and hold no name that is not known here otherwise.

    Raises:
        LookupError: where it is in none.
    """
    import nnunetv2
    from nnunetv2.paths import nnUNet_extTrainer
    from nnunetv2.utilities.find_class_by_name import recursive_find_python_class

    for folder in nnUNet_extTrainer.get().split(os.pathsep) if nnUNet_extTrainer.is_set() else ():
        if folder.strip() and Path(folder).exists():
            found = recursive_find_python_class(folder, trainer, None, cleanup_imports_from_base_folder=True)
            if found is not None:
                return found
    (package,) = nnunetv2.__path__
    own = str(Path(package, "training", "nnUNetTrainer"))
    found = recursive_find_python_class(own, trainer, "nnunetv2.training.nnUNetTrainer", package)
    if found is None:
        raise LookupError("it is neither in nnU-Net nor in a folder that nnUNet_extTrainer names")
    return found


def build_by(builder: Any, plans: Mapping[str, Any], configuration: str, inputs: int, outputs: int) -> nn.Module:
    """Return the network that a trainer class builds, with new weights, on the CPU.

    Args:
        builder: the class.
        plans: with no class to import that nobody vouches for.
        configuration: its name in the plans.
        inputs: image channels.
        outputs: logit channels.

    Raises:
        ModelError: where it builds none.
    """
    try:
        with quiet():
            from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

            manager = PlansManager(dict(plans))
            resolved = manager.get_configuration(configuration)
            build = builder.build_network_architecture
            first: tuple[Any, ...] = (manager, resolved)
            if "plans_manager" not in inspect.signature(build).parameters:  # as it was before nnU-Net 2.8
                first = (
                    resolved.network_arch_class_name,
                    resolved.network_arch_init_kwargs,
                    resolved.network_arch_init_kwargs_req_import,
                )
            network: nn.Module = build(*first, inputs, outputs, enable_deep_supervision=False)
            return network.eval()
    except Exception as error:  # a class of anybody's
        raise ModelError(f"the trainer {builder.__name__} builds no network: {first_line(error)}") from error


def load_problem(error: Exception) -> str:
    """Say why nnU-Net, or a trainer of it, could not be loaded, and what to install."""
    if isinstance(error, ModuleNotFoundError) and error.name == "nnunetv2":
        return f"nnU-Net is not installed ({install_hint('train')})"
    if any("torchvision" in Path(frame.filename).parts for frame in traceback.extract_tb(error.__traceback__)):
        return (
            f"{first_line(error)}, as torchvision {version('torchvision')} was made for another build than torch "
            f"{torch.__version__}, and nnU-Net finds no trainer but its default beside it; install the torchvision of "
            "that build from where torch came, for a CPU: pip install --force-reinstall --no-deps torchvision "
            "--index-url https://download.pytorch.org/whl/cpu"
        )
    return first_line(error)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep nnU-Net's prints off the terminal."""
    with contextlib.redirect_stdout(io.StringIO()):
        yield
