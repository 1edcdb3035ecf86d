"""What the gate leaves to the night: ``.ci/run`` and ``tests/run.sh`` deselect these tests, ``.ci/nightly`` runs all of them.

A folder or a file, with the reason. ``IN_THE_GATE`` are tests inside of them that run in the gate too, one for each claim that
nothing else there proves. Whatever is selected, ``-m ""`` runs it.
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
    "documentation/test_pictures.py": "the recorded pictures, recorded again",
    "plugin/test_rollback_scopes.py": "a run of pytest for each combination of scopes",
    "plugin/test_committed_scopes.py": "the same for scopes that commit",
    "generic/test_mariadb.py": "whole runs on a MariaDB server that the test makes",
    "guard/test_runners.py": "each runner, with processes and without, as a process",
    "guard/test_sqlite.py": "each spelling of a file, with each runner",
    "testcases/test_runner.py": "whole runs of the test runner, with processes",
    "testcases/test_stock.py": "the same runs with Django's classes and ours",
    "testcases/test_plugin.py": "whole runs of pytest-django",
    "sessions/test_fixtures.py": "whole runs of pytest with sessions",
    "commands/resetdb/test_terminal.py": "processes in a terminal, some of which wait",
}

IN_THE_GATE = {
    "test_situations.py::test_a_reset_works_or_names_what_is_the_matter[a schema with a list of migrations is dropped]",
    "test_situations.py::test_a_reset_works_or_names_what_is_the_matter[a type is dropped]",
    "test_situations.py::test_a_reset_works_or_names_what_is_the_matter[the session is ended]",
    "test_rollback_scopes.py::test_what_a_wide_fixture_makes_lives_as_long_as_its_scope[module]",
    "test_rollback_scopes.py::test_scopes_nest_and_their_fixtures_build_on_each_other",
    "test_rollback_scopes.py::test_a_test_that_breaks_the_scope_is_blamed_and_the_scope_is_made_again[connection.close()]",
    "test_rollback_scopes.py::test_a_test_that_commits_in_the_middle_of_a_scope_ends_it_and_it_is_made_again[reset-reset_db]",
    "test_rollback_scopes.py::test_a_scope_that_no_test_declares_never_opens_the_real_database",
    "test_committed_scopes.py::test_what_is_committed_lives_as_long_as_the_scope[module]",
    "test_committed_scopes.py::test_a_fixture_that_fails_half_way_leaves_nothing",
    "test_runners.py::test_django_runner[plain]",
    "test_runners.py::test_pytest_django[xdist]",
    "test_runners.py::test_a_real_database_with_the_name_of_a_test_one_is_refused_in_a_test_run",
    "test_runner.py::test_every_class_resets_if_asked_for[option-parallel]",
    "test_plugin.py::test_one_option_has_all_doors_of_pytest_django_reset[plain]",
    "test_plugin.py::test_reset_db_leaves_what_it_found_in_every_database[plain]",
    "test_stock.py::test_the_same_is_observed_with_our_classes[ours-baseline]",
    "test_fixtures.py::test_a_leak_is_an_error_of_the_test_with_its_name",
}


def is_nightly(path: str, name: str) -> bool:
    """Whether the test *name* in the file *path*, relative to this folder and with slashes, is left to the night."""
    if f"{path.rpartition('/')[2]}::{name}" in IN_THE_GATE:
        return False
    return any(path == part or path.startswith(f"{part}/") for part in NIGHTLY)
