"""What the gate leaves to the night: ``.ci/run`` and ``tests/run.sh`` deselect these tests, ``.ci/nightly`` runs all of them.

A folder or a file, with the reason. ``IN_THE_GATE`` are tests inside of them that run in the gate too, one for each claim that
nothing else there proves; tests that share a run (the fixture ``played``) run there anyway. A large case among small ones has
the mark ``nightly`` where it stands. ``-m ""`` runs all.
"""

from __future__ import annotations

NIGHTLY = {
    "browser": "the page of showdeps in Chromium",
    "real": "the schemas and rows of real applications",
    "faults": "servers that crash, clients that are killed, and each situation in a server of its own",
    "differential/test_differential.py": "random scenarios: the seeds that once failed run in the gate",
    "documentation/test_first_hour.py": "the tutorial, word by word, with pip",
    "documentation/test_examples.py": "whole runs of the examples",
    "documentation/test_leftovers.py": "a run of pytest for each way to isolate a test",
    "documentation/test_site.py": "the site is built, as the gate does in a step of its own, and its links are followed",
    "documentation/test_pictures.py": "the recorded pictures, recorded again",
    "plugin/test_rollback_scopes.py": "a run of pytest for each combination of scopes",
    "plugin/test_committed_scopes.py": "the same for scopes that commit",
    "plugin/test_set_up.py": "a run of pytest for each way to use the plugin in a wrong set-up",
    "plugin/test_reports.py": "whole runs of pytest with leaks and durations",
    "plugin/test_captured.py": "a run of pytest for each way to ask for a reset",
    "guard/test_hooks.py": "each set-up of a runner, as a process",
    "generic/test_mariadb.py": "whole runs on a MariaDB server that the test makes",
    "guard/test_runners.py": "each runner, with processes and without, as a process",
    "guard/test_sqlite.py": "each spelling of a file, with each runner",
    "testcases/test_runner.py": "whole runs of the test runner, with processes",
    "testcases/test_stock.py": "the same runs with Django's classes and ours",
    "testcases/test_plugin.py": "whole runs of pytest-django",
    "testcases/test_classes.py": "whole runs for each thing that a test leaves in its session",
    "testcases/test_teardown.py": "whole runs for each end of a test that is not the usual one",
    "testcases/test_post_migrate.py": "a run for each value of the setting",
    "sessions/test_fixtures.py": "whole runs of pytest with sessions",
    "embedded/test_life_of_a_server.py": "servers that start, are killed and wait for their last user",
    "guard/test_pools.py": "whole runs whose pool leads elsewhere",
    "creation/test_cache.py": "whole runs on machines that share a folder",
    "commands/resetdb/test_terminal.py": "processes in a terminal, some of which wait",
    "creation/test_sqlite_runs.py": "whole runs, some of them killed, with templates on SQLite and without",
}

IN_THE_GATE = {
    "test_sqlite_runs.py::test_a_clone_equals_the_database_that_django_makes[]",
    "test_sqlite_runs.py::test_kept_files_are_neither_stale_nor_dirty",
    "test_sqlite_runs.py::test_what_has_changed_is_built_anew_and_named",
    "test_sqlite_runs.py::test_where_the_folder_cannot_be_written_to_the_run_goes_on_as_stock",
    "test_cache.py::test_another_machine_restores_what_one_has_built",
    "test_situations.py::test_a_reset_works_or_names_what_is_the_matter[a schema with a list of migrations is dropped]",
    "test_situations.py::test_a_reset_works_or_names_what_is_the_matter[a type is dropped]",
    "test_situations.py::test_a_reset_works_or_names_what_is_the_matter[the session is ended]",
    "test_rollback_scopes.py::test_what_a_wide_fixture_makes_lives_as_long_as_its_scope[module]",
    "test_rollback_scopes.py::test_scopes_nest_and_their_fixtures_build_on_each_other",
    "test_rollback_scopes.py::test_a_test_that_breaks_the_scope_is_blamed_and_the_scope_is_made_again[connection.close()]",
    "test_rollback_scopes.py::test_a_test_that_commits_in_the_middle_of_a_scope_ends_it_and_it_is_made_again[reset-reset_db]",
    "test_rollback_scopes.py::test_a_scope_that_no_test_declares_never_opens_the_real_database",
    "test_set_up.py::test_a_missing_app_is_one_error_before_the_first_test[option-alone]",
    "test_set_up.py::test_a_missing_app_is_one_error_before_the_first_test[class-xdist]",
    "test_set_up.py::test_a_missing_pytest_django_is_one_error[fixture]",
    "test_set_up.py::test_a_bad_key_of_the_setting_is_one_error_with_the_app_alone",
    "test_set_up.py::test_a_run_that_does_not_use_the_plugin_says_nothing",
    "test_reports.py::test_the_test_or_the_fixture_that_left_rows_is_named[one process]",
    "test_reports.py::test_nothing_is_told_where_nothing_was_left_or_a_committed_scope_has_yet_to_reset",
    "test_reports.py::test_what_a_test_left_or_took_away_of_the_schema_is_named",
    "test_reports.py::test_the_slowest_resets_are_shown_with_what_they_reset[one process]",
    "test_captured.py::test_what_will_be_reset_is_captured[every alias]",
    "test_captured.py::test_where_somebody_may_have_written_it_is_one_error_that_says_what_to_do",
    "test_hooks.py::test_a_name_that_came_into_the_settings_in_another_way_is_refused",
    "test_hooks.py::test_the_test_name_of_one_alias_that_is_the_database_of_another_is_refused_before_anything_is_written[django]",
    "test_hooks.py::test_a_preset_database_needs_the_line_that_is_printed[pytest]",
    "test_hooks.py::test_a_kept_database_that_may_be_that_of_a_service_file_is_refused",
    "test_hooks.py::test_a_database_that_comes_under_the_name_of_a_test_one_is_refused",
    "test_hooks.py::test_a_mirror_is_trusted_only_where_it_leads_to_what_it_mirrors",
    "test_runners.py::test_django_runner[plain]",
    "test_runners.py::test_pytest_django[xdist]",
    "test_runners.py::test_a_real_database_with_the_name_of_a_test_one_is_refused_in_a_test_run",
    "test_runner.py::test_every_class_resets_if_asked_for[option-parallel]",
    "test_plugin.py::test_one_option_has_all_doors_of_pytest_django_reset[plain]",
    "test_plugin.py::test_reset_db_leaves_what_it_found_in_every_database[plain]",
    "test_classes.py::test_what_a_test_leaves_behind_does_not_reach_the_next",
    "test_classes.py::test_a_class_that_rolls_back_is_refused_where_it_is_defined",
    "test_classes.py::test_they_work_under_pytest_django[one process]",
    "test_classes.py::test_a_session_stays_open_and_is_as_good_as_new_or_is_closed",
    "test_classes.py::test_a_database_that_cannot_be_reset_does_not_keep_the_others_from_it",
    "test_classes.py::test_tables_that_a_test_leaves_or_takes_do_not_fail_the_next",
    "test_teardown.py::test_rows_of_a_set_up_that_fails_do_not_reach_the_next_test[runner-ResetTransactionTestCase]",
    "test_teardown.py::test_fixtures_of_a_class_whose_tests_are_all_skipped_are_taken_back",
    "test_post_migrate.py::test_receivers_of_the_named_apps_are_called_and_their_rows_removed[all]",
    "test_post_migrate.py::test_pytest_names_them_and_calls_them_after_its_scopes",
    "test_post_migrate.py::test_the_arguments_are_those_of_django",
    "test_post_migrate.py::test_an_app_that_is_not_there_is_refused_with_the_nearest[demo-must be a list of strings]",
    "test_stock.py::test_the_same_is_observed_with_our_classes[ours-baseline]",
    "test_life_of_a_server.py::test_server_is_gone_soon_after_its_last_user_however_that_ended[exit]",
    "test_life_of_a_server.py::test_a_killed_server_is_replaced_by_the_next_start_and_has_its_data",
    "test_life_of_a_server.py::test_what_a_server_leaves_is_listed",
    "test_pools.py::test_a_pool_that_leads_elsewhere_is_refused_whatever_is_allowed",
    "test_pools.py::test_a_pool_that_leads_where_the_settings_say_is_permitted",
    "test_fixtures.py::test_a_leak_is_an_error_of_the_test_with_its_name",
}


def is_nightly(path: str, name: str) -> bool:
    """Whether the test *name* in the file *path*, relative to this folder and with slashes, is left to the night."""
    if f"{path.rpartition('/')[2]}::{name}" in IN_THE_GATE:
        return False
    return any(path == part or path.startswith(f"{part}/") for part in NIGHTLY)
