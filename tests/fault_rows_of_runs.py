"""The rows of the fault table about names, options, workers and the ends of runs; see `fault_table`."""

from tests.fault_table import Row

_RT = "tests/runtime/test_"

RUNS = (
    Row(
        "a file name that is not UTF-8, or holds new lines or terminal codes",
        "works; what is odd is spelled out wherever the name is shown",
        tests=(
            f"{_RT}odd_input.py::test_odd_names_are_segmented_and_shown_on_one_line",
            f"{_RT}naming.py::test_any_text_becomes_one_valid_line_and_stays_that",
        ),
    ),
    Row(
        "a case that is called like a formula of a spreadsheet",
        "its cells in CSV files begin with an apostrophe",
        tests=("tests/eval/test_odd_names.py::test_accuracy_and_its_report",),
    ),
    Row(
        "an empty, overlong or unreadable name of a file or folder",
        "exit 2, 6 or 7 with one line",
        tests=(
            f"{_RT}odd_input.py::test_an_empty_name_is_not_the_current_folder",
            f"{_RT}odd_input.py::test_a_name_that_is_too_long_is_one_line",
            f"{_RT}commit.py::test_a_name_as_long_as_the_file_system_has_them",
            f"{_RT}odd_input.py::test_a_folder_that_may_not_be_read_is_one_line",
        ),
    ),
    Row(
        "probabilities of an earlier run, or of somebody else, where new results go",
        "the former go with their mask, the latter stay: exit 6 where they would be replaced",
        tests=(
            f"{_RT}probability_maps.py::test_probabilities_come_and_go_with_the_mask",
            f"{_RT}probability_maps.py::test_a_file_of_somebody_else_is_neither_replaced_nor_removed",
        ),
    ),
    Row(
        "an error that nobody foresaw",
        "at a case: it fails alone, its record holds the traceback; elsewhere exit 1 with the traceback",
        tests=(
            f"{_RT}odd_input.py::test_a_case_that_fails_for_an_unforeseen_reason_shows_why_when_asked",
            f"{_RT}odd_input.py::test_what_nobody_foresaw_is_shown_whole",
            f"{_RT}serial.py::test_an_unforeseen_error_fails_its_case_alone",
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
        "the first begins within 2 s; open files and threads stay as they are, memory grows by at most 2 MiB per "
        "1,000 cases",
        tests=(
            "tests/benchmarks/test_many_cases.py::test_files_and_threads_stay_as_they_are",
            f"{_RT}cases.py::test_the_work_to_find_cases_grows_no_faster_than_their_number",
            f"{_RT}journal.py::test_a_thousand_cases_with_a_report_take_less_than_2_mib",
        ),
    ),
    Row(
        "a standard error that is closed, full or a broken pipe",
        "works in silence",
        tests=(
            f"{_RT}terminal.py::test_a_run_that_nobody_hears_does_all_its_work",
            "tests/eval/test_cli.py::test_a_table_that_nobody_sees_costs_no_result",
            "tests/train/test_cli.py::test_a_table_that_nobody_sees_costs_no_facts",
        ),
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
