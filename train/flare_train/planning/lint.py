"""The traps in nnU-Net plans: what a configuration says against what nnU-Net will do with it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from flare_export.errors import ModelError
from flare_export.source.plans import OLD_STYLE_KEYS, inherited
from flare_export.source.schema import Configurations, checked
from flare_runtime.files.naming import visible

# What decides the preprocessed data: two configurations that differ here must not share a data identifier.
_PREPROCESSING_KEYS = (
    "spacing",
    "normalization_schemes",
    "use_mask_for_norm",
    "preprocessor_name",
    "resampling_fn_data",
    "resampling_fn_data_kwargs",
    "resampling_fn_seg",
    "resampling_fn_seg_kwargs",
)
_FEWEST_STAGES = 3


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong (`error`) or odd (`warning`) with a configuration."""

    severity: Literal["error", "warning"]
    configuration: str
    text: str

    def __str__(self) -> str:
        return visible(f"{self.severity}: {self.configuration}: {self.text}")


def lint(plans: Mapping[str, Any], checkpoint_weights: Mapping[str, Any] | None = None) -> list[Finding]:
    """Return what is wrong with plans, our own or foreign ones; nothing for sound ones.

    Args:
        plans: the content of an nnU-Net plans file.
        checkpoint_weights: of a checkpoint trained with them, to compare stage counts with.
    """
    configurations = plans.get("configurations")
    if not isinstance(configurations, Mapping):
        return [Finding("error", "plans", "have no `configurations`; is this an nnU-Net plans file?")]
    try:
        checked(configurations, Configurations, "`configurations`")
    except ModelError as error:
        return [Finding("error", "plans", str(error))]
    findings: list[Finding] = []
    for name, own in configurations.items():
        try:
            whole = inherited(configurations, name)
        except ModelError as error:
            findings.append(Finding("error", name, str(error)))
            continue
        try:
            findings += [Finding("error", name, text) for text in _network_traps(whole, checkpoint_weights)]
        except (KeyError, TypeError, ValueError, AttributeError, ArithmeticError) as error:
            findings.append(Finding("error", name, f"is not complete: {type(error).__name__} {error}"))
        findings += [Finding("error", name, text) for text in _data_traps(configurations, own, whole)]
    findings += [
        Finding("warning", f"{first} and {second}", "share a data identifier but not their preprocessing")
        for first, second in _sharing(configurations)
    ]
    return findings


def _network_traps(whole: Mapping[str, Any], weights: Mapping[str, Any] | None) -> list[str]:
    stale = [key for key in OLD_STYLE_KEYS if key in whole]
    block = whole.get("architecture")
    if block is None:
        return [] if stale else ["describes no network: neither an `architecture` block nor old-style keys"]
    traps = []
    if stale:
        traps.append(
            f"{', '.join(stale)} beside an `architecture` block: nnU-Net ignores them and trains the block's network; "
            "remove them or write the network into the block"
        )
    arguments = block["arch_kwargs"]
    stages = int(arguments["n_stages"])
    if stages < _FEWEST_STAGES:
        traps.append(
            f"{stages} stages: nnU-Net gives the coarsest scale of its deep supervision no weight, so that with fewer "
            f"than {_FEWEST_STAGES} the loss is 0 / 0"
        )
    lengths = {key: len(value) for key, value in arguments.items() if isinstance(value, list)}
    for key, wanted in (("features_per_stage", stages), ("kernel_sizes", stages), ("strides", stages)):
        if key in lengths and lengths[key] != wanted:
            traps.append(f"`{key}` has {lengths[key]} entries for {stages} stages")
    if lengths.get("strides") == stages:
        reduction = np.prod(arguments["strides"], axis=0)
        if any(int(side) % int(n) for side, n in zip(whole["patch_size"], reduction, strict=True)):
            traps.append(
                f"the patch {whole['patch_size']} is not a multiple of the strides' product {reduction.tolist()}"
            )
    if weights is not None and (trained := stage_count(weights)) != stages:
        traps.append(f"the plan says {stages} stages, the checkpoint has {trained}")
    return traps


def stage_count(weights: Mapping[str, Any]) -> int:
    """Return how many encoder stages a checkpoint's weights have."""
    return len({key.split(".")[2] for key in weights if key.startswith("encoder.stages.")})


def _data_traps(configurations: Mapping[str, Any], own: Mapping[str, Any], whole: Mapping[str, Any]) -> list[str]:
    parent_name = own.get("inherits_from")
    if not parent_name:
        return []
    parent = inherited(configurations, parent_name)
    changed = [key for key in _PREPROCESSING_KEYS if whole.get(key) != parent.get(key)]
    shared = parent.get("data_identifier")
    if not changed or whole.get("data_identifier") != shared:
        return []
    return [
        f"changes {', '.join(changed)} but keeps the data identifier {shared!r}: it would train on the data "
        f"preprocessed for {parent_name!r}; give it a `data_identifier` of its own"
    ]


def _sharing(configurations: Mapping[str, Any]) -> list[tuple[str, str]]:
    resolved = {}
    for name in configurations:
        try:
            resolved[name] = inherited(configurations, name)
        except ModelError:
            continue
    names = list(resolved)
    return [
        (first, second)
        for index, first in enumerate(names)
        for second in names[index + 1 :]
        if resolved[first].get("data_identifier") == resolved[second].get("data_identifier")
        and resolved[second].get("inherits_from") != first
        and resolved[first].get("inherits_from") != second
        and any(resolved[first].get(key) != resolved[second].get(key) for key in _PREPROCESSING_KEYS)
    ]
