"""The rows of the fault table; see `fault_table`."""

from tests import fault_files as files
from tests.fault_table import Row

_RT, _EX = "tests/runtime/test_", "tests/export/test_"
_NO_DICOM = "DICOM is not read yet; a folder of it is refused with exit 2 and a line that says to convert it"

IMAGES = (
    Row("an image that ends early, compressed or not", "refused as `truncated`", files.TRUNCATED),
    Row("a wrong checksum or length, a flipped bit", "refused as `corrupt`, wherever it is", files.CORRUPT),
    Row("bytes after the end of the image", "works, remark `trailing_bytes`", files.TRAILING),
    Row("several gzip members (pigz, bgzip)", "works", files.MEMBERS),
    Row("a plain image named .nii.gz, or the reverse", "works, remark `misnamed`", files.MISNAMED),
    Row("an empty file, text, half of an image pair", "refused as `not_nifti`", files.NO_NIFTI),
    Row(
        "a small file whose header promises gigabytes",
        "refused as `too_large` or `truncated` before memory is taken",
        files.PROMISES,
        (f"{_RT}nifti_faults.py::test_a_small_file_that_promises_gigabytes_is_refused_without_taking_them",),
    ),
    Row(
        "sides that are zero or negative; no, two or four axes",
        "refused as `bad_dimensions`; a fourth axis of one is dropped",
        files.DIMENSIONS,
    ),
    Row("colours, complex numbers, bits, 128-bit floats", "refused as `unsupported_type`", files.TYPES),
    Row("a spacing of 0 or NaN", "refused as `bad_spacing`, not taken for 1 mm", files.SPACINGS),
    Row("a spacing below 0.1 or above 20 mm, an extent over 3 m", "refused as `bad_spacing`", files.SIZES),
    Row(
        "voxels that are NaN or infinite",
        "up to 1 % become air, remark `nonfinite`; more are refused as `nonfinite`",
        files.NONFINITE,
    ),
    Row("neither qform nor sform", "works, remark `no_orientation`", files.NO_ORIENTATION),
    Row(
        "a singular or NaN sform",
        "works with a sound qform, remark `bad_sform`; else refused as `bad_orientation`",
        files.SINGULAR,
    ),
    Row("an impossible qform beside a sound sform", "works, remark `bad_qform`", files.NO_QFORM),
    Row("axes that are not at right angles", "rounding works, shear is refused as `sheared`", files.SHEARED),
    Row("sform and pixdim that disagree by over 1 %", "refused as `spacing_mismatch`", files.TWO_SPACINGS),
    Row("a slope of 0 or NaN", "counts as 1", files.SLOPES),
    Row("one slice, three slices, one voxel", "works, remark `few_slices` below three", files.SMALL),
    Row(
        "intensities that are no Hounsfield units, for a CT model",
        "refused as `not_hounsfield`",
        files.NO_HOUNSFIELD,
    ),
    Row("NaN or infinity in the offsets of sform or qform", "refused as `bad_orientation`", files.OFFSETS),
    Row("integers whose slope or shift makes them infinite", "refused as `nonfinite`", files.INFINITE),
    Row(
        "a slope or shift that leaves hardly a difference between voxels",
        "refused as `bad_scaling`",
        files.COLLAPSED,
    ),
    Row(
        "1 x 1 x 12,000 voxels in a small file",
        "works in megabytes",
        files.LONG,
        (f"{_RT}interpolation.py::test_the_longest_axis_takes_megabytes",),
    ),
    Row(
        "a named pipe, device, socket or folder among the images",
        "refused as `not_a_file`, and never opened",
        files.NO_FILES,
        (f"{_RT}nifti_faults.py::test_nothing_but_a_regular_file_is_opened",),
    ),
    Row(
        "nothing found",
        "an empty mask and `lesions: []`; remark `all_zero` where every voxel is 0",
        files.NOTHING,
        (f"{_RT}cli.py::test_an_all_zero_scan_is_done_with_no_lesions",),
    ),
    Row(
        "a CT of thousands of slices",
        "works in bounded memory, or is refused as `too_little_memory` with both figures",
        tests=(
            f"{_RT}host_memory.py::test_more_than_there_is_is_refused_with_both_figures",
            f"{_RT}device_pipeline.py::test_an_axis_of_thousands_of_voxels_is_resampled_in_several_bands",
        ),
    ),
    Row(
        "a limit of a container (cgroup 1 or 2) or of the process (`ulimit -v`)",
        "counts: what does not fit is refused as `too_little_memory` beforehand, and no bundle is blamed",
        tests=(
            f"{_RT}available_memory.py::test_a_limit_of_the_process_counts_less_what_it_has",
            f"{_RT}available_memory.py::test_a_limit_of_cgroup_1_counts_where_it_leaves_less",
        ),
    ),
    Row(
        "any bytes at all in an image",
        "read or refused: no traceback, nothing over 5 s or 2 GiB",
        tests=("tests/fuzz/test_fuzz.py::test_odd_inputs_are_taken_or_refused",),
    ),
)

DICOM = tuple(
    Row(fault, outcome, open=_NO_DICOM)
    for fault, outcome in (
        ("DICOM with a missing slice", "to be refused as `missing_slices`"),
        ("DICOM of a tilted gantry", "to be refused"),
        ("DICOM with a localizer in the series", "to be left out, with a remark"),
        ("DICOM of two series in a folder", "to become one mask a series"),
        ("DICOM of several pixel spacings, or with half a slice", "to be refused"),
    )
)

OUTPUTS = (
    Row(
        "a full disk or quota",
        "the case fails; what was there stays, and no file is half-written",
        tests=(
            f"{_RT}output.py::test_a_full_disk_leaves_what_was_there_and_says_so",
            f"{_RT}commit.py::test_a_disk_that_fills_up_leaves_the_record_of_the_failure_and_no_mask",
        ),
    ),
    Row(
        "SIGKILL at any moment",
        "no file is half-written; the next run removes what was left over, and its results are the same to the byte",
        tests=(
            f"{_RT}sigkill.py::test_a_run_killed_at_a_random_moment_leaves_nothing_half_done",
            f"{_RT}sigkill.py::test_a_run_over_earlier_results_can_be_killed_as_well",
            f"{_RT}sigkill.py::test_a_hundred_kills",
            f"{_RT}commit.py::test_a_kill_at_any_step_leaves_no_record_beside_another_mask",
        ),
    ),
    Row(
        "SIGTERM or SIGINT",
        "exit 143 or 130; finished cases are kept, the report says what was not begun",
        tests=(
            f"{_RT}cli.py::test_a_signal_keeps_finished_cases_and_drops_the_current_one",
            f"{_RT}cli.py::test_sigterm_in_the_first_case_leaves_nothing_behind",
            f"{_RT}interruption.py::test_the_start_is_no_exception",
        ),
    ),
    Row(
        "resuming after either",
        "to take as done what has its mask, its record and their hashes",
        open="there is no --resume yet: the next run does every case again",
    ),
    Row(
        "two runs into one folder",
        "every mask and record is whole and they belong together; the later ones stay",
        tests=("tests/test_faults.py::test_two_runs_into_one_folder_leave_whole_results",),
    ),
    Row(
        "an output that is read-only, a folder, a link, a device, or the input",
        "exit 6",
        tests=(
            f"{_RT}cli.py::test_outputs_that_cannot_be_are_known_before_any_work",
            f"{_RT}cli.py::test_the_input_is_never_overwritten",
            f"{_RT}output.py::test_a_read_only_folder_is_an_output_error",
            f"{_RT}target.py::test_only_files_are_targets",
        ),
    ),
    Row(
        "a report or record in the place of a bundle's or a stranger's file",
        "exit 6; records replace records, reports replace reports",
        tests=(
            f"{_RT}target.py::test_nothing_is_written_into_a_bundle",
            f"{_RT}target.py::test_what_is_there_has_to_be_of_the_kind_that_replaces_it",
            f"{_RT}cli.py::test_the_report_replaces_nothing_else_of_the_run",
        ),
    ),
    Row(
        "two inputs with one output name",
        "exit 2, naming both",
        tests=(f"{_RT}cases.py::test_two_inputs_for_one_output_are_refused",),
    ),
    Row(
        "an input that is refused on a second run",
        "the first run's mask is set aside as `<case>.stale.nii.gz`, the record says why",
        tests=(f"{_RT}commit.py::test_a_refusal_is_a_record_and_an_earlier_mask_is_set_aside",),
    ),
    Row(
        "a record that cannot be written",
        "no mask either; the case fails",
        tests=(
            f"{_RT}commit.py::test_where_one_cannot_be_written_neither_is_there",
            f"{_RT}commit.py::test_an_error_between_the_two_leaves_neither",
        ),
    ),
    Row(
        "temporaries of another container with the same host name and process number",
        "live ones are left alone, dead ones removed: locks decide",
        tests=(f"{_RT}temporary.py::test_two_containers_with_one_host_name_and_one_pid_do_not_disturb_each_other",),
    ),
    Row(
        "exporting onto a folder that holds more than a bundle's files",
        "exit 6, naming the file; nothing is deleted",
        tests=(
            f"{_EX}bundle_place.py::test_a_file_that_is_not_the_bundles_is_named_and_stays",
            f"{_EX}bundle_place.py::test_a_folder_with_a_manifest_of_something_else_stays",
        ),
    ),
)

DEVICES = (
    Row(
        "a GPU that is missing, or has another number",
        "exit 5, unless `--device auto` allows the CPU, which is said",
        tests=(
            f"{_RT}cli.py::test_a_gpu_that_cannot_be_used_is_left_for_the_cpu_only_if_that_was_allowed",
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
        "a network that finds millions of lesions",
        "works: the 10,000 largest are listed, remark `many_lesions`",
        tests=(
            f"{_RT}segmenter.py::test_more_lesions_than_are_listed_are_remarked_upon",
            f"{_RT}lesions.py::test_four_million_components_take_seconds_and_little_memory",
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
        "a `--step` near 0, in the manifest too",
        "exit 2 or 7; a case that would take endless tiles is refused",
        tests=(
            f"{_RT}segmenter.py::test_an_impossible_step_is_refused",
            f"{_RT}segmenter.py::test_a_case_of_endless_tiles_is_refused_before_the_network_runs",
            f"{_RT}manifest.py::test_values_out_of_bounds_are_refused_with_their_place",
        ),
    ),
    Row(
        "a zip of rare compression, of two files with one name, of a hundred thousand, or one that unpacks to more",
        "exit 7, without taking the memory",
        tests=(
            f"{_RT}bundle.py::test_rare_kinds_of_compression_are_refused",
            f"{_RT}bundle.py::test_two_files_of_one_name_are_refused",
            f"{_RT}bundle.py::test_an_archive_of_a_hundred_thousand_files_is_refused_before_they_are_listed",
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
        tests=(f"{_EX}export.py::test_a_hostile_checkpoint_is_refused_and_not_run",),
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

RUNS = (
    Row(
        "a file name that is not UTF-8, or holds new lines or terminal codes",
        "works; what is odd is spelled out wherever the name is shown",
        tests=(
            "tests/test_faults.py::test_any_file_name_is_a_case_and_none_reaches_the_terminal_as_it_is",
            f"{_RT}naming.py::test_any_text_becomes_one_valid_line_and_stays_that",
        ),
    ),
    Row(
        "a patient's name in the free text of an image's header",
        "left out of the mask, unless `--keep-header-text`",
        tests=(
            f"{_RT}nifti.py::test_free_text_of_the_image_gets_into_no_mask_unless_it_is_kept",
            f"{_RT}output.py::test_a_mask_names_no_patient",
        ),
    ),
    Row(
        "10,000 cases in a folder",
        "the first begins within 2 s; memory, open files and threads stay as they are",
        tests=(
            "tests/benchmarks/test_many_cases.py::test_files_and_threads_stay_as_they_are",
            f"{_RT}journal.py::test_a_thousand_cases_with_a_report_take_less_than_2_mib",
        ),
    ),
    Row(
        "a standard error that is closed, full or a broken pipe",
        "works in silence",
        tests=(f"{_RT}terminal.py::test_a_run_that_nobody_hears_does_all_its_work",),
    ),
    Row(
        "a read, a write, or an engine that never returns",
        "SIGTERM and SIGINT end the run within 2 s, and the report is written",
        tests=(
            f"{_RT}interruption.py::test_whatever_hangs_is_left_and_the_report_is_written",
            f"{_RT}interruption.py::test_the_worker_of_a_gpu_ends_with_its_parent",
            f"{_RT}interruption.py::test_a_report_that_is_just_being_written_is_finished",
        ),
    ),
)

ROWS = (*IMAGES, *DICOM, *OUTPUTS, *RUNS, *DEVICES, *MODELS)
