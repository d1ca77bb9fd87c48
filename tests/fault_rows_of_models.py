"""The rows of the fault table about devices, engines, bundles, checkpoints and training data; see `fault_table`."""

from tests.fault_table import Row

_RT, _EX = "tests/runtime/test_", "tests/export/test_"

DEVICES = (
    Row(
        "a GPU that is missing, or has another number",
        "exit 5, unless `--device auto` allows the CPU, which is said",
        tests=(
            f"{_RT}program.py::test_a_gpu_that_cannot_be_used_is_left_for_the_cpu_only_if_that_was_allowed",
            f"{_RT}supervision.py::test_the_command_on_a_gpu_that_is_not_there_ends_with_5_and_one_line",
        ),
    ),
    Row(
        "a GPU that runs out of memory",
        "the case is tried once more with the least, then fails alone",
        tests=(
            f"{_RT}device_pipeline.py::test_out_of_memory_is_tried_once_more_with_as_little_as_can_be",
            f"{_RT}device_pipeline.py::test_a_case_that_never_fits_fails_and_the_others_go_on",
        ),
    ),
    Row(
        "a CUDA error, after which every call fails",
        "a new process goes on with the case; one that costs two processes fails alone, and no other is blamed",
        tests=(
            f"{_RT}supervision.py::test_whatever_dies_only_what_costs_two_workers_by_itself_fails",
            f"{_RT}supervision.py::test_a_case_is_not_blamed_for_the_workers_that_the_one_before_it_has_cost",
            f"{_RT}supervision.py::test_a_case_that_costs_a_worker_is_tried_once_more",
            f"{_RT}supervision.py::test_a_case_that_costs_two_workers_fails_and_the_others_go_on",
        ),
    ),
    Row(
        "an engine of another GPU or TensorRT",
        "not used; a line says how to build one",
        tests=(
            f"{_RT}engine_cache.py::test_engines_of_another_gpu_or_patch_are_never_taken",
            f"{_RT}engine_cache.py::test_another_versions_engine_that_is_not_compatible_is_never_taken",
        ),
    ),
    Row(
        "a carried engine that is damaged, for another card, or computes something else",
        "not used; a line says why",
        tests=(
            f"{_EX}rtx_engines.py::test_engines_are_carried_as_files_with_names_that_say_what_they_are",
            f"{_EX}rtx_engines.py::test_the_command_keeps_what_the_runtime_then_finds_on_any_gpu_of_the_kind",
            f"{_RT}tensorrt_rtx.py::test_another_file_in_an_engines_place_is_compared_anew",
        ),
    ),
    Row(
        "NaN or infinite logits",
        "the tile is computed again in float32; else the case fails",
        tests=(
            f"{_RT}inference.py::test_a_tile_that_overflows_is_computed_again_in_float32",
            f"{_RT}inference.py::test_a_tile_that_overflows_in_float32_too_fails_the_case",
        ),
    ),
)

MODELS = (
    Row(
        "scans that the model was not made for",
        "a bundle's caution is printed once a run and stands in every record",
        tests=(
            f"{_RT}odd_input.py::test_what_a_bundle_says_is_shown_once_a_run_on_one_line",
            f"{_RT}odd_input.py::test_the_shipped_model_cautions",
        ),
    ),
    Row(
        "a network that finds millions of lesions",
        "works: the 10,000 largest are listed, remark `many_lesions`",
        tests=(
            f"{_RT}segmenter.py::test_more_lesions_than_are_listed_are_remarked_upon",
            f"{_RT}lesions.py::test_four_million_components_take_seconds_and_little_memory",
        ),
    ),
    Row(
        "a network that finds noise, and components are to be removed",
        "works in at most 8 bytes and 0.2 us a voxel",
        tests=(f"{_RT}postprocessing.py::test_noise_takes_bounded_memory_and_time",),
    ),
    Row(
        "a `postprocessing.pkl` in a model folder",
        "never unpickled: the JSON beside it says what it means, and is refused where that is not supported",
        tests=(
            f"{_EX}postprocessing_export.py::test_masks_are_postprocessed_as_nnunet_would",
            f"{_EX}postprocessing_export.py::test_anything_else_is_refused",
        ),
    ),
    Row(
        "a bundle's file that is missing, changed or outside the bundle, another schema",
        "exit 7, naming the file",
        tests=(
            f"{_RT}cli.py::test_a_bundle_that_is_not_whole_names_the_file",
            f"{_RT}bundle.py::test_files_outside_the_bundle_cannot_be_named",
            f"{_RT}bundle.py::test_links_out_of_the_bundle_are_not_followed",
        ),
    ),
    Row(
        "a network whose weights lie in another file, anywhere in it",
        "exit 7 before an engine sees it",
        tests=(
            f"{_RT}onnx_file.py::test_weights_in_another_file_are_refused_wherever_they_may_hide",
            f"{_RT}onnx_file.py::test_a_run_ends_with_7_before_an_engine_sees_weights_outside_the_bundle",
        ),
    ),
    Row(
        "a network that the manifest does not describe, or with layers that no U-Net has",
        "exit 7",
        tests=(
            f"{_RT}onnx_file.py::test_a_network_that_the_manifest_does_not_describe_is_refused",
            f"{_RT}onnx_file.py::test_what_no_u_net_needs_is_refused_by_name",
        ),
    ),
    Row(
        "a network whose layers do not fit together, have endless names, or follow each other without end",
        "exit 7 before an engine sees it",
        tests=(
            f"{_RT}onnx_file.py::test_layers_that_do_not_fit_together_are_refused",
            f"{_RT}onnx_file.py::test_endless_texts_are_refused_before_they_are_read",
            f"{_RT}onnx_file.py::test_a_chain_of_endless_layers_is_refused",
        ),
    ),
    Row(
        "any bytes at all in a bundle, a checkpoint, plans or a data set",
        "taken or refused: no traceback, nothing over 5 s or 2 GiB",
        tests=("tests/fuzz/test_fuzz.py::test_odd_inputs_are_taken_or_refused",),
    ),
    Row(
        "a `--step` near 0, in the manifest too",
        "exit 2 or 7; a case that would take endless tiles is refused",
        tests=(
            f"{_RT}segmenter.py::test_an_impossible_step_is_refused",
            f"{_RT}segmenter.py::test_a_case_of_endless_tiles_is_refused_before_the_network_runs",
            f"{_RT}manifest.py::test_values_out_of_bounds_are_refused_with_their_place",
        ),
    ),
    Row(
        "a zip of rare compression, of two files with one name, of tens of thousands, or one that unpacks to more",
        "exit 7, without taking the memory",
        tests=(
            f"{_RT}bundle.py::test_rare_kinds_of_compression_are_refused",
            f"{_RT}bundle.py::test_two_files_of_one_name_are_refused",
            f"{_RT}bundle.py::test_an_archive_of_too_many_files_is_refused_before_they_are_listed",
            f"{_RT}bundle.py::test_a_member_that_unpacks_to_more_than_was_listed_costs_no_memory",
        ),
    ),
    Row(
        "several threads on one Segmenter",
        "each gets its own mask",
        tests=(
            f"{_RT}segmenter.py::test_threads_share_a_segmenter_and_each_gets_its_own_mask",
            f"{_RT}segmenter.py::test_threads_share_a_real_network",
        ),
    ),
    Row(
        "a checkpoint that is a hostile pickle",
        "refused; nothing of it runs",
        tests=(
            f"{_EX}export.py::test_a_hostile_checkpoint_is_refused_and_not_run",
            f"{_EX}hostile_models.py::test_the_program_refuses_a_hostile_checkpoint",
            "tests/train/test_hostile_runs.py::test_a_hostile_pickle_is_refused_and_not_run",
        ),
    ),
    Row(
        "plans, data sets and checkpoints with anything missing, of a wrong type, or without end",
        "exit 3 in one line, within seconds and 2 GiB",
        tests=(
            f"{_EX}hostile_models.py::test_a_hostile_model_is_refused",
            "tests/train/test_hostile_runs.py::test_a_hostile_run_is_refused",
            "tests/train/test_hostile_runs.py::test_hostile_data_sets_are_not_planned",
        ),
    ),
    Row(
        "a dependency's telemetry",
        "switched off: nothing is looked up, nothing is written to HOME",
        tests=(
            "tests/test_telemetry.py::test_an_engine_leaves_nothing_in_the_home",
            "tests/test_telemetry.py::test_the_engines_telemetry_is_off_wherever_the_package_is_imported",
            "tests/test_telemetry.py::test_no_command_looks_anything_up_or_writes_in_the_home",
        ),
    ),
)

TRAINING = (
    Row(
        "training cases with names that are no plain text",
        "inspected, named in one line and left out",
        tests=("tests/train/test_cli.py::test_a_case_whose_name_is_no_plain_text_is_inspected_and_left_out",),
    ),
    Row(
        "a data set whose folders are links, some of them in a circle",
        "links are followed, each folder once",
        tests=(
            "tests/train/test_cases.py::test_links_to_folders_are_followed",
            "tests/train/test_cases.py::test_links_in_a_circle_end",
        ),
    ),
    Row(
        "a folder of training data that holds no case, or cannot be read",
        "exit 2, naming it, though others hold cases",
        tests=(
            "tests/train/test_cases.py::test_every_folder_given_has_to_hold_a_case",
            "tests/train/test_cases.py::test_folders_that_cannot_be_read_are_usage_errors",
        ),
    ),
    Row(
        "a pipe, a device or a link in a circle among training images; facts that come from a pipe",
        "named and left out; exit 2; nothing waits",
        tests=(
            "tests/train/test_inspection.py::test_links_in_a_circle_devices_and_pipes_are_named",
            "tests/train/test_cli.py::test_facts_from_a_pipe_do_not_wait",
        ),
    ),
    Row(
        "a checkpoint of a training that is to be resumed, and runs a command",
        "refused; nothing of it runs",
        tests=("tests/train/test_training.py::test_a_checkpoint_that_runs_a_command_is_not_gone_on_from",),
    ),
)
