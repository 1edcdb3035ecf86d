"""Real schemas are reset by ``resetdb``, as a role that is not superuser."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from urllib.parse import quote

import pytest
from django.core.management import CommandError, call_command

from tests.real.loading import dump_structure, read_content
from tests.scratch import ScratchDatabase

ROOT = Path(__file__).resolve().parents[2]


def resetdb(database: ScratchDatabase, *labels: str, **options: object) -> None:
    """Run the command, without ``post_migrate``: its receivers would write rows for the models of *this* project."""
    call_command(
        "resetdb",
        *labels,
        database=database.alias,
        allow_database=[database.name],
        interactive=False,
        post_migrate=False,
        **options,
    )


@pytest.mark.parametrize("strategy", ["auto", "delete", "truncate"])
def test_resetdb_empties_every_table_restarts_every_sequence_and_alters_no_object(
    real: ScratchDatabase, strategy: str, capsys: pytest.CaptureFixture[str]
) -> None:
    before, structure = read_content(real), dump_structure(real)
    kept = {name for name in before.rows if name.endswith(".django_migrations")}
    kept_sequences = {f"{name}_id_seq" for name in kept}
    assert not real.value("SELECT rolsuper FROM pg_roles WHERE rolname = current_user")

    resetdb(real, strategy=strategy, format="json")

    after = read_content(real)
    assert after.filled == kept & before.filled
    assert after.moved == kept_sequences & before.moved
    assert {name: after.hashes[name] for name in kept} == {name: before.hashes[name] for name in kept}
    assert after.sequences.keys() == before.sequences.keys()
    assert dump_structure(real) == structure
    report = json.loads(capsys.readouterr().out)
    assert {table["name"] for table in report["tables"]} >= before.filled - kept
    if strategy == "delete":
        assert sum(table["rows"] for table in report["tables"]) == sum(
            rows for name, rows in before.rows.items() if name not in kept
        )


def test_a_second_reset_finds_nothing_to_do(real: ScratchDatabase) -> None:
    resetter = real.resetter()
    resetter.reset()
    report = resetter.reset()
    assert (report.tables, report.sequences, report.rows) == ((), (), 0)


def test_dry_run_of_a_real_schema_changes_nothing(real: ScratchDatabase, capsys: pytest.CaptureFixture[str]) -> None:
    before = read_content(real)
    resetdb(real, dry_run=True)
    resetdb(real, sql=True)
    assert read_content(real) == before
    assert "DELETE FROM" in capsys.readouterr().out


EXCLUSIONS = {
    "pagila": ("public.city", "public.country", "public.language"),
    "adventureworks": ("sales.currency",),
    "rdmo": ("public.django_content_type", "public.auth_permission"),
    "saleor": ("public.django_content_type", "public.django_site"),
    "pretix": ("public.django_content_type", "public.auth_*"),
    "netbox": ("public.django_content_type", "public.core_objecttype", "public.auth_permission"),
    "musicbrainz": ("musicbrainz.*_type", "statistics.*"),
}


def test_excluded_tables_keep_their_rows_and_their_sequences(
    make_real: Callable[[str], ScratchDatabase], real_name: str
) -> None:
    real = make_real(real_name)
    existing = [pattern for pattern in EXCLUSIONS[real_name] if _exists(real, pattern)]
    assert existing
    before, structure = read_content(real), dump_structure(real)
    preview = real.resetter(exclude=existing).plan()
    kept = {str(item.name) for item in preview.plan.kept}
    kept_tables = kept & before.rows.keys()
    assert kept_tables >= {pattern for pattern in existing if "*" not in pattern}

    resetdb(real, exclude=existing)

    after = read_content(real)
    for table in before.rows:
        assert after.hashes[table] == (before.hashes[table] if table in kept_tables else ""), table
    for sequence, state in before.sequences.items():
        assert after.sequences[sequence] == (state if sequence in kept else (before.starts[sequence], False)), sequence
    assert dump_structure(real) == structure


def _exists(database: ScratchDatabase, pattern: str) -> bool:
    return "*" in pattern or bool(database.value(f"SELECT to_regclass('{pattern}') IS NOT NULL"))


def test_exclusion_of_a_partitioned_table_whose_rows_refer_is_refused_and_nothing_changes(
    make_real: Callable[[str], ScratchDatabase],
) -> None:
    real = make_real("pagila")
    before = read_content(real)
    with pytest.raises(CommandError, match=r"public\.payment\S*\(customer_id\) → public\.customer\(customer_id\)"):
        resetdb(real, exclude=["public.payment"])
    assert read_content(real) == before


def test_only_the_tables_named_are_emptied(make_real: Callable[[str], ScratchDatabase]) -> None:
    real = make_real("pagila")
    before = read_content(real)
    resetdb(real, "public.payment")
    after = read_content(real)
    changed = {name for name in before.rows if after.hashes[name] != before.hashes[name]}
    assert changed == {name for name in before.filled if name.startswith("public.payment")}
    assert not {name for name in after.filled if name.startswith("public.payment")}


def test_triggers_of_netbox_are_enabled_as_before(make_real: Callable[[str], ScratchDatabase]) -> None:
    real = make_real("netbox")
    with real.connect() as connection:
        connection.execute("ALTER TABLE dcim_device DISABLE TRIGGER USER")
        connection.execute("CREATE FUNCTION no() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN RAISE 'no'; END$$")
        connection.execute("CREATE TRIGGER no BEFORE DELETE ON dcim_site FOR EACH ROW EXECUTE FUNCTION no()")
        connection.execute("ALTER TABLE dcim_site ENABLE ALWAYS TRIGGER no")
    query = "SELECT tgrelid::regclass::text, tgname, tgenabled FROM pg_trigger WHERE NOT tgisinternal ORDER BY 1, 2"
    before = real.query(query)
    assert len(before) > 45
    resetdb(real)
    assert real.query(query) == before
    assert real.count("dcim_site") == 0


def test_resetdb_as_a_process_of_its_own_resets_a_real_schema(
    make_real: Callable[[str], ScratchDatabase],
) -> None:
    real = make_real("pagila")
    with real.connect() as connection:
        info = connection.info
        url = (
            f"postgres://{quote(info.user)}:{quote(info.password)}@{quote(info.host, safe='')}:{info.port}/{real.name}"
        )
    done = subprocess.run(
        [sys.executable, "manage.py", "resetdb", "--no-input", f"--allow-database={real.name}", "--format=json"],
        cwd=ROOT,
        env={**os.environ, "DATABASE_URL": url},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads(done.stdout)["database"] == real.name
    assert not read_content(real).filled
