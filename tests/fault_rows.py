"""The rows of the fault table, those about images and outputs among them; see `fault_table`."""

from tests import fault_files as files
from tests.fault_rows_of_models import DEVICES, MODELS, TRAINING
from tests.fault_rows_of_runs import RUNS
from tests.fault_table import Row

_RT, _EX = "tests/runtime/test_", "tests/export/test_"

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
    Row(
        "a spacing below 0.1 or above 20 mm, an extent over 3 m",
        "refused as `bad_spacing`, unless the model's own spacing is near or `--any-spacing` is given",
        files.SIZES,
        (f"{_RT}plausibility.py::test_spacings_are_compared_with_those_of_the_model",),
    ),
    Row(
        "voxels that are NaN or infinite",
        "count as a stored 0, as nnU-Net's reader makes them, remark `nonfinite`; with a model of `NibabelIO`, which "
        "keeps them, refused as `nonfinite`",
        files.NONFINITE,
        (f"{_RT}reader_rules.py::test_nibabel_keeps_them_so_that_nan_is_refused",),
    ),
    Row("neither qform nor sform", "works, remark `no_orientation`", files.NO_ORIENTATION),
    Row(
        "a singular or NaN sform",
        "works with a sound qform, remark `bad_sform`; else refused as `bad_orientation`",
        files.SINGULAR,
    ),
    Row("an impossible qform beside a sound sform", "works, remark `bad_qform`", files.NO_QFORM),
    Row(
        "axes that are not at right angles",
        "up to 0.6 degrees work, as the nearest at right angles, remark `sheared`; more are refused as `sheared`",
        files.SHEARED,
        (f"{_RT}plausibility.py::test_how_much_is_a_persons_choice",),
    ),
    Row(
        "a scan that is stored along other axes than the model's",
        "as nnU-Net does: turned and its mask turned back where the model's reader does that; else taken as stored, "
        "remark `orientation`; `--reorient` turns it for any model",
        tests=(
            f"{_RT}reader_rules.py::test_two_readers_turn_scans_to_ras",
            f"{_RT}reader_rules.py::test_another_orientation_than_the_models_is_remarked_upon",
            f"{_EX}readers_of_nnunet.py::test_scans_are_read_and_masks_written_as_nnunet_does",
        ),
    ),
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
        "channels of one case on different grids or in different places",
        "refused as `channel_mismatch`; arrays, whose place nobody knows, are compared by voxels and spacing",
        tests=(
            f"{_RT}preprocessing.py::test_channels_on_different_grids_are_refused",
            f"{_RT}preprocessing.py::test_channels_in_different_places_are_refused",
            f"{_RT}serial.py::test_channels_in_different_places_are_refused_and_the_others_are_done",
        ),
    ),
    Row(
        "a slope or shift that leaves hardly a difference between voxels",
        "refused as `bad_scaling`",
        files.COLLAPSED,
    ),
    Row(
        "1 x 1 x 12,000 voxels in a small file",
        "works in megabytes",
        files.LONG,
        (f"{_RT}host_memory.py::test_a_row_of_12000_voxels_takes_megabytes",),
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
        "a scan that this machine cannot hold",
        "refused as `too_little_memory` by its header, before it is read",
        tests=(f"{_RT}host_memory.py::test_a_scan_that_cannot_be_held_is_refused_by_its_header",),
    ),
    Row(
        "a limit of a container (cgroup 1 or 2) or of the process (`ulimit -v`)",
        "counts: what does not fit is refused as `too_little_memory` beforehand, and no bundle is blamed",
        tests=(
            f"{_RT}host_memory.py::test_under_a_limit_of_the_process_a_scan_is_refused_and_the_next_one_done",
            f"{_RT}available_memory.py::test_a_limit_of_the_process_counts_less_what_it_has",
            f"{_RT}available_memory.py::test_a_limit_of_cgroup_1_counts_where_it_leaves_less",
            f"{_RT}available_memory.py::test_under_a_limit_of_the_process_memory_is_blamed_and_not_the_bundle",
        ),
    ),
    Row(
        "any bytes at all in an image",
        "read or refused: no traceback, nothing over 5 s or 2 GiB",
        tests=("tests/fuzz/test_fuzz.py::test_odd_inputs_are_taken_or_refused",),
    ),
)

DICOM = (
    Row(
        "DICOM with a missing slice, or with steps that differ",
        "is refused as `missing_slices` or `uneven_slices`",
        tests=(f"{_RT}dicom.py::test_an_odd_series_is_refused",),
    ),
    Row(
        "DICOM of a tilted gantry",
        "is refused as `gantry_tilt`",
        tests=(f"{_RT}dicom.py::test_an_odd_series_is_refused",),
    ),
    Row(
        "DICOM with a localizer in the series",
        "is left out, with a remark",
        tests=(f"{_RT}dicom.py::test_localizers_are_left_out_with_a_remark",),
    ),
    Row(
        "DICOM of which a file cannot be opened: not allowed, or a link to nothing",
        "is left out, with a remark; where that leaves no slice: exit 2 with the reason",
        tests=(
            f"{_RT}dicom.py::test_a_slice_that_cannot_be_opened_is_remarked_upon",
            f"{_RT}dicom.py::test_a_folder_of_slices_that_cannot_be_opened_is_refused_with_the_reason",
        ),
    ),
    Row(
        "DICOM of two series in a folder",
        "becomes one mask a series",
        tests=(
            f"{_RT}dicom.py::test_every_series_of_a_study_is_a_volume",
            f"{_RT}dicom_command.py::test_every_series_of_a_study_gets_a_mask_and_one_bad_series_costs_no_other",
        ),
    ),
    Row(
        "DICOM of several pixel spacings, or with half a slice",
        "is refused as `mixed_slices` or `truncated`",
        tests=(f"{_RT}dicom.py::test_an_odd_series_is_refused",),
    ),
    Row(
        "DICOM of another modality for a CT model",
        "is refused as `not_ct`; beside CT it is left out, with a remark",
        tests=(
            f"{_RT}dicom_command.py::test_what_is_no_ct_in_hounsfield_units_is_refused",
            f"{_RT}dicom.py::test_other_modalities_beside_ct_are_left_out",
        ),
    ),
)

OUTPUTS = (
    Row(
        "a full disk or quota",
        "the case fails; what was there stays, and no file is half-written; three such cases in a row end the run with "
        "exit code 6, and `--resume` goes on",
        tests=(
            f"{_RT}full_disk.py::test_a_full_disk_ends_the_run_and_resume_goes_on",
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
        "SIGTERM, SIGINT or SIGHUP",
        "exit 143, 130 or 129; finished cases are kept, the report says what was not begun",
        tests=(
            f"{_RT}program.py::test_a_signal_keeps_finished_cases_and_drops_the_current_one",
            f"{_RT}program.py::test_sigterm_in_the_first_case_leaves_nothing_behind",
            f"{_RT}interruption.py::test_the_start_is_no_exception",
        ),
    ),
    Row(
        "SIGUSR1 or SIGUSR2, as by a scheduler",
        "the cases in work are finished and no other is begun; exit 138 or 140 where cases are left",
        tests=(
            f"{_RT}preemption.py::test_the_case_in_work_is_finished_and_no_other_begun",
            f"{_RT}preemption.py::test_the_worker_of_a_gpu_gets_back_what_it_has_not_begun",
        ),
    ),
    Row(
        "resuming after either",
        "with `--resume` a case is done where its record, its images and its results agree; all others are done again",
        tests=(
            f"{_RT}resume.py::test_a_finished_run_is_left_as_it_is",
            f"{_RT}resume.py::test_what_was_changed_is_done_again",
        ),
    ),
    Row(
        "several processes that resume into one folder, and are killed",
        "every case is done once; a lease whose process is gone is taken over",
        tests=(
            f"{_RT}shared_folder.py::test_workers_that_are_killed_lose_nothing",
            f"{_RT}resume.py::test_a_case_that_costs_its_workers_is_given_up",
        ),
    ),
    Row(
        "two runs into one folder",
        "every mask and record is whole and they belong together; the later ones stay",
        tests=(
            "tests/test_faults.py::test_two_runs_into_one_folder_leave_whole_results",
            f"{_RT}commit.py::test_of_two_processes_the_record_is_of_the_one_whose_mask_is_there",
        ),
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
        "a tree of folders with links in circles, links to `/`, results of earlier runs, the output itself",
        "each folder is looked into once; results and the output are left out",
        tests=(
            f"{_RT}input_tree.py::test_links_lead_to_each_folder_once_and_in_no_circle",
            f"{_RT}input_tree.py::test_results_in_the_tree_are_left_out",
        ),
    ),
    Row(
        "a list of cases with a wrong line: no column or path, a name or output twice, an output outside of `-o`",
        "exit 2, naming the first such line",
        tests=(f"{_RT}case_list.py::test_the_first_wrong_line_is_named",),
    ),
    Row(
        "a list of cases of 1 GB, or in binary",
        "exit 2 in little memory",
        tests=(f"{_RT}case_list.py::test_large_and_binary_files_are_refused_in_little_memory",),
    ),
    Row(
        "an image of a list that is not there, is no image, or lacks a channel",
        "its case is refused; the others go on",
        tests=(f"{_RT}case_list.py::test_a_bad_row_costs_the_others_nothing",),
    ),
    Row(
        "an input that is refused on a second run",
        "the first run's mask is set aside as `<case>.stale.nii.gz`, the record says why",
        tests=(f"{_RT}commit.py::test_a_refusal_is_a_record_and_an_earlier_mask_is_set_aside",),
    ),
    Row(
        "masks of an earlier run in formats that are not written any more, such as `<case>.seg.dcm`",
        "go with the result that they are of, where they are as its record says; others stay, remark `other_result`",
        tests=(
            f"{_RT}superseded.py::test_a_mask_in_a_format_that_is_not_written_goes_with_the_result_it_is_of",
            f"{_RT}superseded.py::test_what_was_changed_since_stays_and_is_said",
            f"{_RT}superseded.py::test_a_kill_at_any_step_leaves_no_format_beside_another_mask",
            f"{_RT}dicom_command.py::test_formats_that_a_later_run_does_not_write_go_with_their_mask",
        ),
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
    Row(
        "exporting over a bundle that holds more than the new one would, such as measured cases",
        "exit 6, unless `--force`",
        tests=(f"{_EX}export.py::test_what_the_new_bundle_would_lack_is_not_dropped_without_force",),
    ),
    Row(
        "SIGKILL of an export",
        "the old bundle or the new one is there, whole; the next export removes what was left over",
        tests=(f"{_EX}bundle_place.py::test_a_kill_at_any_step_loses_no_bundle_and_leaves_nothing_for_long",),
    ),
)

ROWS = (*IMAGES, *DICOM, *OUTPUTS, *RUNS, *DEVICES, *MODELS, *TRAINING)
