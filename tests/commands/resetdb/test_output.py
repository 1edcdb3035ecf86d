"""What the command prints, to the letter, and what it does meanwhile."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.commands.resetdb.running import content, place, resetdb
from tests.guard.test_marks import restore
from tests.scratch import ScratchDatabase

KEPT = """\
  stays (kept always): public.django_migrations
  stays (sequence of public.django_migrations, which stays): public.django_migrations_id_seq
"""


def test_a_reset_says_where_and_how_much(allowed: ScratchDatabase) -> None:
    outcome = resetdb("--no-input")
    assert outcome.stdout == (
        f"Reset database {place(allowed)} to empty: 6 rows in 3 tables deleted, 3 sequences set back, in N ms.\n"
    )
    assert (outcome.stderr, outcome.status) == ("", 0)
    after = content(allowed)
    assert after["shelf"] == after["item"] == after["django_site"] == []
    assert after["item_id_seq"] == after["shelf_id_seq"] == after["django_site_id_seq"] == (1, False)
    assert (after["django_migrations"], after["django_migrations_id_seq"]) == ([(1, "0001_initial")], (1, True))


def test_a_second_reset_says_that_there_was_nothing_to_do(allowed: ScratchDatabase) -> None:
    resetdb("--no-input")
    assert resetdb("--no-input").stdout == (
        f"Nothing to do: no row and no moved sequence in scope in database {place(allowed)}.\n"
    )


def test_v2_shows_each_table_each_sequence_and_what_stays(allowed: ScratchDatabase) -> None:
    assert resetdb("--no-input", "-v2").stdout == (
        f"""\
Reset database {place(allowed)} to empty: 6 rows in 3 tables deleted, 3 sequences set back, in N ms.
  delete    3  public.item
  delete    1  public.django_site
  delete    2  public.shelf
  restart      public.django_site_id_seq
  restart      public.item_id_seq
  restart      public.shelf_id_seq
{KEPT}  permitted by the rule allowed
"""
    )


def test_v0_prints_nothing_and_resets(allowed: ScratchDatabase) -> None:
    outcome = resetdb("--no-input", "-v0")
    assert (outcome.stdout, outcome.stderr, outcome.status) == ("", "", 0)
    assert content(allowed)["item"] == []


@pytest.mark.parametrize("verbosity", ["-v0", "-v1", "-v3"])
def test_json_is_the_report_and_nothing_else(allowed: ScratchDatabase, verbosity: str) -> None:
    outcome = resetdb("--no-input", "--format", "json", verbosity)
    report = json.loads(outcome.stdout)
    assert 0 < report.pop("seconds") < 60
    assert report == {
        "alias": "scratch",
        "database": allowed.name,
        "server": place(allowed).partition(", ")[2].rstrip(")"),
        "dry_run": False,
        "target": "empty",
        "permitted_by": "allowed",
        "tables": [
            {"name": "public.item", "action": "delete", "rows": 3, "updated": 0, "inserted": 0},
            {"name": "public.django_site", "action": "delete", "rows": 1, "updated": 0, "inserted": 0},
            {"name": "public.shelf", "action": "delete", "rows": 2, "updated": 0, "inserted": 0},
        ],
        "sequences": ["public.django_site_id_seq", "public.item_id_seq", "public.shelf_id_seq"],
        "kept": [
            {"name": "public.django_migrations", "reason": "kept always"},
            {
                "name": "public.django_migrations_id_seq",
                "reason": "sequence of public.django_migrations, which stays",
            },
        ],
        "stale_materialized_views": [],
        "warning": None,
        "full_scan": True,
        "attempts": 1,
        "data_migrations": [],
        "post_migrate": None,
    }
    assert outcome.stderr == ""
    assert content(allowed)["item"] == []


def test_the_question_is_no_part_of_the_json(allowed: ScratchDatabase) -> None:
    outcome = resetdb("--format", "json", answer=f"{allowed.name}\n")
    assert json.loads(outcome.stdout)["database"] == allowed.name
    assert "Type the name of the database" in outcome.stderr


PREVIEW = """\
Database {place}: 6 rows in 3 tables would be deleted.

    1  delete    3  public.item
    2  delete    1  public.django_site  (sites.Site)
    3  delete    2  public.shelf
  3 sequences would be set back: public.django_site_id_seq, public.item_id_seq, public.shelf_id_seq
{kept}
Nothing was changed: this is a dry run.
"""


def test_a_dry_run_shows_the_plan_and_changes_nothing(allowed: ScratchDatabase) -> None:
    before = content(allowed)
    outcome = resetdb("--dry-run")
    assert outcome.stdout == PREVIEW.format(place=place(allowed), kept=KEPT)
    assert (outcome.stderr, outcome.status) == ("", 0)
    assert content(allowed) == before


def test_a_dry_run_says_if_a_real_one_would_be_refused(library: ScratchDatabase) -> None:
    outcome = resetdb("--dry-run")
    plan, refusal = outcome.stdout.split("A real run would be refused. ")
    assert plan == PREVIEW.format(place=place(library), kept=KEPT)
    assert refusal == resetdb("--no-input").error + "\n"
    assert refusal.startswith(f'Refusing to reset database "{library.name}"')
    assert outcome.status == 0


def test_a_dry_run_of_an_empty_database(scratch: ScratchDatabase) -> None:
    scratch.execute("CREATE TABLE item (id bigserial PRIMARY KEY)")
    assert resetdb("--dry-run", "--allow-database", scratch.name).stdout == (
        f"Nothing to do: no row and no moved sequence in scope in database {place(scratch)}.\n"
        "\nNothing was changed: this is a dry run.\n"
    )


def test_a_dry_run_with_v0_prints_nothing(allowed: ScratchDatabase) -> None:
    before = content(allowed)
    outcome = resetdb("--dry-run", "-v0")
    assert (outcome.stdout, outcome.stderr) == ("", "")
    assert content(allowed) == before


def test_a_dry_run_as_json_has_the_plan_its_sql_and_the_refusal(library: ScratchDatabase, settings: Any) -> None:
    before = content(library)
    preview = json.loads(resetdb("--dry-run", "--format", "json").stdout)
    assert [(table["name"], table["rows"]) for table in preview["tables"]] == [
        ("public.item", 3),
        ("public.django_site", 1),
        ("public.shelf", 2),
    ]
    assert preview["dry_run"] is True
    assert preview["sql"][0].startswith("BEGIN") and preview["sql"][-1] == "COMMIT"
    assert preview["refused"].startswith(f'Refusing to reset database "{library.name}"')
    settings.TESTDB = {"ALLOWED_DATABASES": [library.name]}
    assert json.loads(resetdb("--dry-run", "--format", "json").stdout)["refused"] is None
    assert content(library) == before


def test_a_dry_run_says_why_a_step_is_as_it_is_and_what_will_be_stale(scratch: ScratchDatabase) -> None:
    scratch.execute(
        """
        CREATE TABLE a (id int PRIMARY KEY, b_id int);
        CREATE TABLE b (id int PRIMARY KEY, a_id int REFERENCES a);
        ALTER TABLE a ADD FOREIGN KEY (b_id) REFERENCES b;
        INSERT INTO a VALUES (1, NULL); INSERT INTO b VALUES (1, 1); UPDATE a SET b_id = 1;
        CREATE MATERIALIZED VIEW counted AS SELECT count(*) FROM a
        """
    )
    assert resetdb("--dry-run", "--allow-database", scratch.name).stdout == (
        f"""\
Database {place(scratch)}: 2 rows in 2 tables would be deleted.

    1  delete    1  public.a
    1  delete    1  public.b
       a cycle of foreign keys: one statement
  stale now, REFRESH MATERIALIZED VIEW would mend it: public.counted

Nothing was changed: this is a dry run.
"""
    )


def test_the_sql_changes_nothing_until_psql_runs_it(allowed: ScratchDatabase) -> None:
    before = content(allowed)
    sql = resetdb("--sql").stdout
    assert content(allowed) == before
    assert sql.startswith("BEGIN") and sql.endswith("\nCOMMIT;\n")
    restore(sql, allowed)
    after = content(allowed)
    assert after["item"] == after["shelf"] == after["django_site"] == []
    assert after["item_id_seq"] == (1, False)
    assert after["django_migrations"] == before["django_migrations"]
    assert resetdb("--no-input").stdout.startswith("Nothing to do")


@pytest.mark.parametrize("name", ['quo"te', "per%cent", "back\\slash", ":variable", "apo'strophe", "$$", "a;b", "-- x"])
def test_psql_runs_the_sql_whatever_the_names(scratch: ScratchDatabase, name: str) -> None:
    quoted = '"' + name.replace('"', '""') + '"'
    scratch.execute(f"CREATE SCHEMA {quoted}; CREATE TABLE {quoted}.{quoted} ({quoted} serial)")
    scratch.execute(f"INSERT INTO {quoted}.{quoted} DEFAULT VALUES")
    restore(resetdb("--sql").stdout, scratch)
    assert scratch.count(f"{quoted}.{quoted}") == 0


def test_the_sql_of_nothing_to_do_is_nothing(scratch: ScratchDatabase) -> None:
    assert resetdb("--sql").stdout == ""


def test_the_sql_can_be_read_for_a_database_that_may_not_be_reset(library: ScratchDatabase) -> None:
    assert resetdb("--sql").stdout == resetdb("--sql", "--allow-database", library.name).stdout != ""


def test_no_reset_sequences_leaves_them_where_they_are(allowed: ScratchDatabase) -> None:
    before = content(allowed)
    assert "0 sequences set back" in resetdb("--no-input", "--no-reset-sequences").stdout
    after = content(allowed)
    assert after["item"] == []
    assert {name: state for name, state in after.items() if name.endswith("_seq")} == {
        name: state for name, state in before.items() if name.endswith("_seq")
    }


@pytest.mark.parametrize("label", ["sites", "sites.Site", "SITES.site", "public.django_site", "sit*", "*.django_s*"])
def test_a_label_empties_what_it_names_and_nothing_else(allowed: ScratchDatabase, label: str) -> None:
    before = content(allowed)
    outcome = resetdb("--no-input", label)
    assert "1 row in 1 table deleted, 1 sequence set back" in outcome.stdout
    assert content(allowed) == {**before, "django_site": [], "django_site_id_seq": (1, False)}


@pytest.mark.postgresql
def test_tables_that_were_truncated_are_counted_apart(allowed: ScratchDatabase) -> None:
    outcome = resetdb("--no-input", "--strategy", "truncate")
    assert outcome.stdout.startswith(
        f"Reset database {place(allowed)} to empty: 3 tables truncated, 3 sequences set back, in N ms.\n"
    )


def test_several_labels(allowed: ScratchDatabase) -> None:
    before = content(allowed)
    assert "4 rows in 2 tables deleted" in resetdb("--no-input", "sites", "public.item").stdout
    assert content(allowed)["shelf"] == before["shelf"]


@pytest.mark.parametrize("excluded", [["public.item", "public.shelf"], ["public.[is]*"], ["*.item", "*.shelf"]])
def test_what_is_excluded_stays(allowed: ScratchDatabase, excluded: list[str]) -> None:
    before = content(allowed)
    resetdb("--no-input", *(part for label in excluded for part in ("--exclude", label)))
    assert content(allowed) == {**before, "django_site": [], "django_site_id_seq": (1, False)}


def test_everything_excluded_is_nothing_to_do(allowed: ScratchDatabase) -> None:
    before = content(allowed)
    assert resetdb("--no-input", "--exclude", "*.*").stdout.startswith("Nothing to do")
    assert content(allowed) == before


@pytest.mark.parametrize("options", [(), ("--dry-run",), ("--sql",), ("--strategy", "delete")])
def test_an_excluded_table_that_refers_is_refused_with_the_path_and_the_rows(
    allowed: ScratchDatabase, options: tuple[str, ...]
) -> None:
    before = content(allowed)
    outcome = resetdb("--no-input", "--exclude", "public.item", *options)
    assert outcome.error == (
        "Rows that stay refer to rows that would be deleted:\n"
        "  public.item(shelf_id) → public.shelf(id): 3 row(s)\n"
        "Nothing was changed. Reset public.item too, or keep public.shelf as well."
    )
    assert (outcome.status, outcome.stdout) == (1, "")
    assert content(allowed) == before


def test_an_excluded_table_whose_rows_do_not_refer_is_no_hindrance(allowed: ScratchDatabase) -> None:
    allowed.execute("ALTER TABLE item ALTER shelf_id DROP NOT NULL; UPDATE item SET shelf_id = NULL")
    assert resetdb("--no-input", "--exclude", "public.item").status == 0
    assert (allowed.count("item"), allowed.count("shelf")) == (3, 0)


@pytest.mark.parametrize("strategy", ["delete", "truncate", "auto"])
def test_the_strategy_that_was_asked_for_is_used(allowed: ScratchDatabase, strategy: str) -> None:
    files = "SELECT pg_relation_filenode('item')"
    before = allowed.value(files)
    report = json.loads(resetdb("--no-input", "--format", "json", "--strategy", strategy).stdout)
    expected = "truncate" if strategy == "truncate" else "delete"
    assert {table["action"] for table in report["tables"]} == {expected}
    assert (allowed.value(files) != before) is (strategy == "truncate")
    assert allowed.count("item") == 0


def test_a_lock_that_is_not_granted_names_who_holds_it(allowed: ScratchDatabase) -> None:
    before = content(allowed)
    with allowed.connect(application_name="a worker") as other, other.transaction():
        other.execute("INSERT INTO shelf (name) VALUES ('three')")
        pid = other.info.backend_pid
        outcome = resetdb("--no-input", "--lock-timeout", "0.1")
    assert outcome.status == 1
    assert f"process {pid} (a worker) holds RowExclusiveLock on public.shelf" in outcome.error
    assert content(allowed)["item"] == before["item"]


def test_the_settings_are_heeded(allowed: ScratchDatabase, settings: Any) -> None:
    settings.TESTDB = {**settings.TESTDB, "EXCLUDE": ["public.item", "public.shelf"], "STRATEGY": "truncate"}
    report = json.loads(resetdb("--no-input", "--format", "json").stdout)
    assert report["tables"] == [
        {"name": "public.django_site", "action": "truncate", "rows": None, "updated": 0, "inserted": 0}
    ]
