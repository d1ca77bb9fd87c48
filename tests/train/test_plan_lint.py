"""Every trap by a plan that has it."""

from copy import deepcopy

import pytest

from flare_train.planning.lint import lint, stage_count
from flare_train.planning.plan import S4, S6, make_plans
from tests.train.test_plan import FINGERPRINT


@pytest.fixture
def plans():
    return make_plans(FINGERPRINT, "Dataset999_Test", "flarePlans", S6.features)


def texts(plans, weights=None):
    return [str(finding) for finding in lint(plans, weights)]


@pytest.mark.parametrize("preset", [S4, S6])
def test_our_own_plans_are_sound(preset):
    assert texts(make_plans(FINGERPRINT, "D", "p", preset.features)) == []


def test_the_papers_own_trap_old_keys_over_an_inherited_block(plans):
    # Four stages by the old keys, six by the block: nnU-Net trains six.
    plans["configurations"]["lite"] = {
        "inherits_from": "3d_fullres",
        "data_identifier": "lite",
        "n_conv_per_stage_encoder": [2, 2, 2, 2],
        "pool_op_kernel_sizes": [[1, 1, 1], [2, 2, 2], [2, 2, 2], [2, 2, 2]],
    }
    (text,) = texts(plans)
    assert text.startswith("error: lite: n_conv_per_stage_encoder, pool_op_kernel_sizes beside an `architecture`")


def test_a_changed_spacing_under_the_parents_data_identifier(plans):
    plans["configurations"]["fine"] = {"inherits_from": "3d_fullres", "spacing": [1.0, 1.0, 1.0]}
    (text,) = texts(plans)
    assert "changes spacing but keeps the data identifier 'flarePlans_3d_fullres'" in text


@pytest.mark.parametrize(("identifier", "trap"), [("flarePlans_3d_fullres", True), ("fine", False)])
def test_a_data_identifier_of_its_own_is_another_one(plans, identifier, trap):
    plans["configurations"]["fine"] = {
        "inherits_from": "3d_fullres",
        "spacing": [1.0, 1.0, 1.0],
        "data_identifier": identifier,
    }
    assert ["changes spacing but" in text for text in texts(plans)] == [True] * trap


def test_a_changed_patch_may_keep_the_data(plans):
    plans["configurations"]["small"] = {"inherits_from": "3d_fullres", "patch_size": [64, 96, 96]}
    assert texts(plans) == []


def test_two_configurations_with_one_identifier_and_other_spacings(plans):
    other = deepcopy(plans["configurations"]["3d_fullres"])
    other["spacing"] = [3.0, 3.0, 3.0]
    plans["configurations"]["coarse"] = other
    (text,) = texts(plans)
    assert text.startswith("warning: 3d_fullres and coarse: share a data identifier")


def test_two_configurations_may_share_the_data_that_they_are_made_for(plans):
    other = deepcopy(plans["configurations"]["3d_fullres"])
    other["patch_size"] = [64, 96, 96]
    plans["configurations"]["small"] = other
    assert texts(plans) == []


def test_a_trap_is_told_once_whichever_configuration_comes_first(plans):
    fine = {"inherits_from": "3d_fullres", "spacing": [1.0, 1.0, 1.0]}
    plans["configurations"] = {"fine": fine, **plans["configurations"]}
    (text,) = texts(plans)
    assert text.startswith("error: fine: changes spacing")


@pytest.mark.parametrize("key", ["features_per_stage", "kernel_sizes", "strides"])
def test_lists_that_do_not_fit_the_stage_count(plans, key):
    arguments = plans["configurations"]["3d_fullres"]["architecture"]["arch_kwargs"]
    arguments[key] = arguments[key][:2]
    assert texts(plans) == [f"error: 3d_fullres: `{key}` has 2 entries for 6 stages"]


def test_two_stages_leave_the_loss_without_a_weight():
    (text,) = texts(make_plans(FINGERPRINT, "D", "p", (32, 64)))
    assert text.startswith("error: 3d_fullres: 2 stages: nnU-Net gives the coarsest scale")
    assert texts(make_plans(FINGERPRINT, "D", "p", (32, 64, 128))) == []


def test_a_patch_that_the_strides_do_not_divide(plans):
    plans["configurations"]["3d_fullres"]["patch_size"] = [128, 160, 168]
    (text,) = texts(plans)
    assert "not a multiple of the strides' product [32, 32, 32]" in text


def test_a_checkpoint_of_another_network(plans):
    for stages in (4, 7):
        weights = {f"encoder.stages.{stage}.0.convs.0.conv.weight": 0 for stage in range(stages)}
        assert stage_count(weights) == stages
        assert texts(plans, weights) == [f"error: 3d_fullres: the plan says 6 stages, the checkpoint has {stages}"]


def test_plans_that_are_broken_are_findings_and_no_crash(plans):
    plans["configurations"]["a"] = {"inherits_from": "b"}
    plans["configurations"]["b"] = {"inherits_from": "a"}
    del plans["configurations"]["3d_fullres"]["patch_size"]
    found = texts(plans)
    assert "error: 3d_fullres: is not complete: KeyError 'patch_size'" in found
    assert "error: a: the configurations a -> b -> a inherit from each other" in found
    assert texts({}) == ["error: plans: have no `configurations`; is this an nnU-Net plans file?"]


def test_another_resampling_under_the_parents_data_identifier(plans):
    rule = {**plans["configurations"]["3d_fullres"]["resampling_fn_data_kwargs"], "order": 1}
    plans["configurations"]["linear"] = {"inherits_from": "3d_fullres", "resampling_fn_data_kwargs": rule}
    (text,) = texts(plans)
    assert "changes resampling_fn_data_kwargs" in text


def test_a_parent_that_does_not_exist_and_no_network_at_all(plans):
    plans["configurations"]["orphan"] = {"inherits_from": "nobody"}
    plans["configurations"]["bare"] = {"spacing": [1, 1, 1], "patch_size": [8, 8, 8], "data_identifier": "bare"}
    first, second = texts(plans)
    assert "error: orphan: plans.json has no configuration 'nobody'" in first
    assert "describes no network" in second
