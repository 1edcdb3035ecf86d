"""``manage.py showdeps`` on the database of the run, and as a process of its own."""

from __future__ import annotations

import json
import os
import re
import resource
import stat
import subprocess
from io import StringIO
from typing import TYPE_CHECKING, Any

import pytest
from django.core.management import CommandError, call_command
from django.db import connection, connections

from testdb_app.backends import generic, get_backend
from testdb_app.management.commands.showdeps import Command
from testdb_app.schema import QualifiedName, Schema
from testdb_app.showdeps import FORMATS
from tests.commands.bare_project import BareProject
from tests.showdeps.schemas import HOSTILE

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

TABLES_OF_A_REAL_SCHEMA = 400


class Terminal(StringIO):
    """Standard output that says it is a terminal."""

    def isatty(self) -> bool:
        return True


def showdeps(*labels: str, **options: Any) -> tuple[str, str]:
    """Run the command and return what it wrote to standard output and to standard error."""
    out, err = StringIO(), StringIO()
    call_command("showdeps", *labels, stdout=out, stderr=err, **options)
    return out.getvalue(), err.getvalue()


def read_schema() -> Schema:
    return get_backend(connections["default"]).read_schema(connections["default"])


def default_schema() -> str:
    return "public" if connection.vendor == "postgresql" else "main"


def body(text: str) -> str:
    """A tree without its first line, which names the database, and with the schema called "public"."""
    return text.partition("\n")[2].replace(f"{default_schema()}.", "public.")


@pytest.fixture
def execute(db: None) -> Callable[[str], None]:
    """Run SQL that is rolled back after the test."""

    def run(statement: str) -> None:
        with connection.cursor() as cursor:
            cursor.execute(statement)

    return run


@pytest.fixture
def project(tmp_path: Path) -> BareProject:
    folder = tmp_path / "a project"
    folder.mkdir()
    return BareProject(folder)


@pytest.mark.django_db
def test_the_tree_of_some_models_has_what_they_depend_on_and_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    # So wide that no line is broken, whatever the schema is called.
    monkeypatch.setenv("COLUMNS", "120")
    terminal, err = Terminal(), StringIO()
    call_command("showdeps", "testdb_demo.Copy", "testdb_demo.genre", stdout=terminal, stderr=err, no_color=True)
    total = len(read_schema().tables)
    assert (
        body(terminal.getvalue())
        == f"""\
7 of {total} tables, 7 foreign keys, 2 cycles
Referencing tables first: the order to delete in.
After a key: Django's on_delete. In the database, unless noted: NO ACTION, deferred.

Level 3
  public.testdb_demo_copy  testdb_demo.Copy
  ├─ branch_id → public.testdb_demo_branch  PROTECT
  └─ work_id → public.testdb_demo_work  PROTECT

Level 2
  public.testdb_demo_work  testdb_demo.Work
  └─ series_id → public.testdb_demo_series  PROTECT

Level 1
  public.testdb_demo_series  testdb_demo.Series
  └─ publisher_id → public.testdb_demo_publisher  PROTECT

Level 0
  public.testdb_demo_branch  testdb_demo.Branch  [cycle 1]
  └─ manager_id → public.testdb_demo_staff  SET_NULL  [cycle 1]
  public.testdb_demo_genre  testdb_demo.Genre  [cycle 2]
  └─ broader_id → public.testdb_demo_genre  CASCADE  [cycle 2]
  public.testdb_demo_publisher  testdb_demo.Publisher
  public.testdb_demo_staff  testdb_demo.Staff  [cycle 1]
  └─ branch_id → public.testdb_demo_branch  PROTECT  [cycle 1]

Cycles
  1  public.testdb_demo_branch → public.testdb_demo_staff → public.testdb_demo_branch  deferrable
  2  public.testdb_demo_genre → itself  deferrable
"""
    )
    assert err.getvalue() == ""


@pytest.mark.django_db
def test_the_first_line_says_which_database_it_is() -> None:
    live = get_backend(connections["default"]).identify(connections["default"]).name
    assert showdeps()[0].splitlines()[0] == f'{connection.display_name} database "{live}" (alias "default")'


@pytest.mark.django_db
def test_reverse_shows_what_depends_on_the_models_in_the_order_to_insert_in() -> None:
    out, _ = showdeps("testdb_demo.Series", format="order", reverse=True)
    assert out.replace(f"{default_schema()}.", "").splitlines() == [
        "testdb_demo_series",
        "testdb_demo_work",
        "testdb_demo_work_genres",
        "testdb_demo_film",
        "testdb_demo_copy",
        "testdb_demo_book",
        "testdb_demo_authorship",
        "testdb_demo_loan",
        "testdb_demo_fine",
    ]


@pytest.mark.django_db
def test_the_order_has_every_table_of_the_database_and_referencing_ones_first() -> None:
    schema = read_schema()
    place = {name: number for number, name in enumerate(showdeps(format="order")[0].splitlines())}
    assert set(place) == {str(table.name) for table in schema.tables}
    on_cycle = {"testdb_demo_branch", "testdb_demo_staff", "testdb_demo_genre"}
    for key in schema.foreign_keys:
        assert place[str(key.table)] < place[str(key.referenced)] or {key.table.name, key.referenced.name} <= on_cycle


@pytest.mark.django_db
def test_the_json_is_one_object_with_the_documented_lists_and_nothing_besides() -> None:
    content = json.loads(showdeps(format="json")[0])
    assert list(content) == [
        "schema_version",
        "database",
        "tables",
        "foreign_keys",
        "sequences",
        "cycles",
        "order",
        "models_without_table",
    ]
    assert content["database"]["alias"] == "default"
    assert content["database"]["vendor"] == connection.vendor
    models = {item["name"]: item["models"] for item in content["tables"]}
    assert models["testdb_demo_work_genres"] == ["testdb_demo.Work_genres"]
    assert all(models.values())
    assert [len(cycle["tables"]) for cycle in content["cycles"]] == [2, 1]


@pytest.mark.django_db
def test_only_the_cycles() -> None:
    out, _ = showdeps("testdb_demo", cycles=True)
    assert (
        body(out).partition("\n\n")[2]
        == """\
Cycle 1: 2 tables, 2 foreign keys, deferrable
  ├─ public.testdb_demo_branch(manager_id) → public.testdb_demo_staff  SET_NULL
  └─ public.testdb_demo_staff(branch_id) → public.testdb_demo_branch  PROTECT

Cycle 2: 1 table, 1 foreign key, deferrable
  └─ public.testdb_demo_genre(broader_id) → public.testdb_demo_genre  CASCADE
"""
    )


@pytest.mark.django_db
def test_without_cycles_it_says_so_and_fails_not() -> None:
    out, err = showdeps("auth", cycles=True)
    assert out.splitlines()[1].endswith(" tables, no foreign keys, no cycles")
    assert showdeps("auth", cycles=True, format="order") == ("", "There are no cycles.\n")
    assert showdeps("auth", cycles=True, format="order", verbosity=0) == ("", "")
    assert err == ""


@pytest.mark.django_db
def test_a_name_that_matches_nothing_is_an_error_with_what_is_near() -> None:
    with pytest.raises(CommandError, match=r'"testdb_demo\.Lone".*testdb_demo\.Loan'):
        showdeps("testdb_demo.Lone")


def test_an_alias_that_is_not_there_is_wrong_usage() -> None:
    with pytest.raises(CommandError, match="invalid choice: 'nowhere'"):
        call_command("showdeps", "--database", "nowhere")


def test_the_help_says_what_a_label_brings_along() -> None:
    text = " ".join(Command().create_parser("manage.py", "showdeps").format_help().split())
    assert "the tables named and all that they depend on" in text
    assert "with --reverse, the tables named and all that depends on them" in text
    assert "{tree,order,json,dot,mermaid,html}" in text


@pytest.mark.django_db
def test_check_passes_where_models_and_database_agree() -> None:
    out, err = showdeps(check=True)
    assert out == showdeps()[0]
    assert err == "No problems: cycles are deferrable, models and database agree on foreign keys.\n"
    assert showdeps(check=True, verbosity=0)[1] == ""


def test_check_fails_on_a_cycle_that_is_not_deferrable(execute: Callable[[str], None]) -> None:
    execute(
        "CREATE TABLE legacy_loop (id integer PRIMARY KEY, up integer CONSTRAINT legacy_up REFERENCES legacy_loop (id))"
    )
    with pytest.raises(CommandError) as caught:
        showdeps(check=True)
    heading, problem = str(caught.value).splitlines()
    assert heading.endswith('(alias "default"): 1 problem')
    loop = f"{default_schema()}.legacy_loop"
    assert problem.startswith(f"- Cycle 1 is not deferrable: {loop} → {loop}. Make ")
    assert problem.endswith(" DEFERRABLE.")
    assert caught.value.returncode == 1


def test_check_fails_on_a_key_that_no_model_declares(execute: Callable[[str], None]) -> None:
    execute("ALTER TABLE testdb_demo_fine ADD COLUMN other_id bigint REFERENCES testdb_demo_loan (id)")
    with pytest.raises(CommandError) as caught:
        showdeps(check=True)
    (problem,) = str(caught.value).splitlines()[1:]
    assert "no field of testdb_demo.Fine declares it" in problem


def test_check_looks_at_what_is_shown_only(execute: Callable[[str], None]) -> None:
    execute("ALTER TABLE testdb_demo_fine ADD COLUMN other_id bigint REFERENCES testdb_demo_loan (id)")
    execute("CREATE TABLE legacy_loop (id integer PRIMARY KEY, up integer REFERENCES legacy_loop (id))")
    showdeps("testdb_demo.Loan", check=True)
    with pytest.raises(CommandError, match="1 problem\n"):
        showdeps("testdb_demo.Fine", check=True)
    with pytest.raises(CommandError, match="2 problems\n"):
        showdeps(check=True)


def test_check_fails_but_the_picture_is_there_first(execute: Callable[[str], None]) -> None:
    execute("CREATE TABLE legacy_loop (id integer PRIMARY KEY, up integer REFERENCES legacy_loop (id))")
    out = StringIO()
    with pytest.raises(CommandError):
        call_command("showdeps", check=True, format="order", stdout=out)
    assert out.getvalue() == showdeps(format="order")[0]


def test_tables_without_a_model_and_models_without_a_table_are_marked(execute: Callable[[str], None]) -> None:
    execute("ALTER TABLE testdb_demo_fine RENAME TO fines_of_old")
    lines = body(showdeps()[0]).splitlines()
    assert "  public.fines_of_old  [no model]" in lines
    assert lines[-2:] == ["Models without a table", "  testdb_demo.Fine  testdb_demo_fine  (not migrated)"]
    assert "Models without a table" not in showdeps("testdb_demo")[0]


@pytest.mark.parametrize("picture", FORMATS)
def test_hostile_names_are_shown_in_every_format(picture: str, execute: Callable[[str], None]) -> None:
    names = [name for name in HOSTILE if name]
    for name in names:
        quoted = '"' + name.replace('"', '""') + '"'
        execute(f"CREATE TABLE {quoted} ({quoted} integer PRIMARY KEY, up integer REFERENCES {quoted} ({quoted}))")
    out, _ = showdeps(format=picture)
    if picture == "json":
        assert set(names) <= {item["name"] for item in json.loads(out)["tables"]}
    if picture == "order":
        assert {str(QualifiedName(default_schema(), name)) for name in names if name.isprintable()} <= set(
            out.split("\n")
        )
    assert "[no model]" in out or picture != "tree"


@pytest.mark.parametrize("picture", FORMATS)
def test_it_never_writes(picture: str, execute: Callable[[str], None]) -> None:
    execute("SET TRANSACTION READ ONLY" if connection.vendor == "postgresql" else "PRAGMA query_only = 1")
    try:
        assert showdeps(format=picture, check=True)[0]
    finally:
        if connection.vendor == "sqlite":
            execute("PRAGMA query_only = 0")


@pytest.fixture
def missing_database(tmp_path: Path) -> Iterator[Path]:
    """A SQLite database that is not there, under the alias "missing"."""
    path = tmp_path / "missing.sqlite3"
    template = connections["default"].settings_dict
    connections.settings["missing"] = {**template, "ENGINE": "django.db.backends.sqlite3", "NAME": path, "OPTIONS": {}}
    yield path
    del connections["missing"]
    del connections.settings["missing"]


@pytest.mark.parametrize("form", ["{}", "file:{}", "file:{}?mode=rwc"])
def test_a_missing_sqlite_database_is_an_error_and_is_not_made(missing_database: Path, form: str) -> None:
    connections["missing"].settings_dict["NAME"] = form.format(missing_database)
    with pytest.raises(CommandError, match=r'There is no database ".*missing\.sqlite3" \(alias "missing"\)'):
        showdeps(database="missing")
    assert not missing_database.exists()


@pytest.mark.django_db
def test_a_file_gets_all_of_the_picture_and_a_note_says_so(tmp_path: Path) -> None:
    path = tmp_path / "näme with spaces.json"
    out, err = showdeps("testdb_demo.Staff", format="json", output=str(path))
    assert (out, err) == ("", f"Wrote {path} (json, 2 tables).\n")
    assert path.read_text(encoding="utf-8") == showdeps("testdb_demo.Staff", format="json")[0]
    assert showdeps(output=str(path), verbosity=0) == ("", "")


@pytest.mark.django_db
def test_a_file_is_replaced_with_its_mode_and_through_a_link(tmp_path: Path) -> None:
    target, link = tmp_path / "map", tmp_path / "link"
    target.write_text("old")
    target.chmod(0o604)
    link.symlink_to(target)
    showdeps(output=str(link))
    assert link.is_symlink()
    assert target.read_text(encoding="utf-8") == showdeps()[0]
    assert stat.S_IMODE(target.stat().st_mode) == 0o604
    assert sorted(path.name for path in tmp_path.iterdir()) == ["link", "map"]


@pytest.mark.django_db
def test_a_new_file_has_the_mode_that_the_umask_gives(tmp_path: Path) -> None:
    before = os.umask(0o026)
    try:
        showdeps(output=str(tmp_path / "map"))
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "map").stat().st_mode) == 0o640


@pytest.mark.django_db
def test_a_device_is_written_to_and_not_replaced() -> None:
    showdeps(output=os.devnull)
    assert stat.S_ISCHR(os.stat(os.devnull).st_mode)  # noqa: PTH116 - the device, whatever it is


@pytest.mark.django_db
def test_what_cannot_be_written_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    path = tmp_path / "map"
    path.write_text("old")
    monkeypatch.setattr("pathlib.Path.replace", full)
    with pytest.raises(CommandError, match=r'Cannot write ".*map": No space left on device\. Name a file'):
        showdeps(output=str(path))
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.django_db
@pytest.mark.parametrize(
    ("place", "reason"),
    [("missing/map", "No such file or directory"), ("file/map", "Not a directory"), ("", "Is a directory")],
)
def test_a_place_that_cannot_be_is_an_error_that_names_it(tmp_path: Path, place: str, reason: str) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(CommandError) as caught:
        showdeps(output=str(tmp_path / place))
    assert str(caught.value) == (
        f'Cannot write "{tmp_path / place}": {reason}. Name a file in a folder that exists and that you may write to.'
    )


@pytest.mark.django_db
def test_colours_are_for_terminals_and_for_those_who_ask(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    plain, _ = showdeps("testdb_demo")
    colourful, _ = showdeps("testdb_demo", force_color=True)
    assert "\x1b[" not in plain
    assert re.sub(r"\x1b\[[\d;]*m", "", colourful) == plain
    assert colourful != plain
    showdeps("testdb_demo", force_color=True, output=str(tmp_path / "map"))
    assert (tmp_path / "map").read_text(encoding="utf-8") == plain


@pytest.mark.django_db
@pytest.mark.parametrize(
    ("variable", "options", "is_colourful"),
    [
        ("", {}, True),
        ("1", {}, False),
        ("", {"no_color": True}, False),
        ("1", {"force_color": True}, True),
    ],
)
def test_a_terminal_has_colours_unless_it_is_told_not_to(
    monkeypatch: pytest.MonkeyPatch, variable: str, options: dict[str, bool], is_colourful: bool
) -> None:
    monkeypatch.setenv("NO_COLOR", variable)
    monkeypatch.setattr("django.core.management.color.supports_color", lambda: True)
    out = Terminal()
    call_command("showdeps", "testdb_demo", stdout=out, **options)
    assert ("\x1b[" in out.getvalue()) is is_colourful


@pytest.mark.django_db
def test_no_colour_is_yellow_which_cannot_be_read_on_a_light_background() -> None:
    colourful, _ = showdeps("testdb_demo", force_color=True)
    assert "[cycle 1]" in colourful
    assert not re.search(r"\x1b\[[\d;]*33", colourful)


@pytest.mark.django_db
def test_a_page_is_not_written_to_a_terminal() -> None:
    out = Terminal()
    with pytest.raises(CommandError, match=r"add --output graph\.html") as caught:
        call_command("showdeps", format="html", stdout=out)
    assert (caught.value.returncode, out.getvalue()) == (2, "")
    assert showdeps(format="html")[0].startswith("<!DOCTYPE html>")


@pytest.mark.django_db
def test_rows_are_counted_for_the_page_alone() -> None:
    with pytest.raises(CommandError, match="Only --format html shows rows"):
        showdeps(count_rows=True)


@pytest.mark.django_db
def test_a_wide_terminal_has_longer_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    out = Terminal()
    call_command("showdeps", "testdb_demo", stdout=out, no_color=True)
    ring = "testdb_demo_branch → {0}.testdb_demo_staff → {0}.testdb_demo_branch  deferrable\n"
    assert ring.format(default_schema()) in out.getvalue()


@pytest.mark.django_db
def test_a_database_without_a_backend_of_its_own_is_shown_with_its_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("testdb_app.management.commands.showdeps.get_backend", lambda _: generic.BACKEND)
    out, err = showdeps("testdb_demo.Fine")
    assert "testdb_demo_fine  testdb_demo.Fine\n" in out
    assert err == f"{generic.WARNING}\n"
    assert showdeps(format="order", verbosity=0)[1] == ""


def test_exit_codes_are_0_done_1_failed_2_wrong_usage(project: BareProject) -> None:
    project.execute("CREATE TABLE a (id integer PRIMARY KEY, up integer REFERENCES a (id));")
    assert project.run("--format", "order").stdout == b"main.a\n"
    done = [
        project.run(*arguments) for arguments in ([], ["--check"], ["nothing"], ["--format", "png"], ["--count-rows"])
    ]
    assert [run.returncode for run in done] == [0, 1, 1, 2, 2]
    assert not [run for run in done if b"Traceback" in run.stderr]


def test_a_server_that_is_not_there_is_an_error_without_a_traceback(project: BareProject) -> None:
    pytest.importorskip("psycopg", reason="needs psycopg")
    command = project.command("--database", "default")
    manage = project.folder / "manage.py"
    manage.write_text(
        manage.read_text()
        .replace("django.db.backends.sqlite3", "django.db.backends.postgresql")
        .replace(repr(str(project.database)), '"shop", "HOST": "127.0.0.1", "PORT": "1"')
    )
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    assert run.returncode == 1
    assert run.stdout == ""
    assert "Traceback" not in run.stderr
    assert "refused" in run.stderr
    assert 'DATABASES["default"]' in run.stderr or '"default"' in run.stderr


def test_a_reader_that_has_seen_enough_is_no_error(project: BareProject) -> None:
    project.execute("CREATE TABLE a (id integer PRIMARY KEY);")
    reading, writing = os.pipe()
    os.close(reading)
    try:
        run = subprocess.run(project.command(), stdout=writing, stderr=subprocess.PIPE, check=False)
    finally:
        os.close(writing)
    assert (run.returncode, run.stderr) == (0, b"")


def test_an_output_that_cannot_show_a_character_gets_ascii(project: BareProject) -> None:
    project.execute('CREATE TABLE "é→" (id integer PRIMARY KEY, up integer REFERENCES "é→" (id));')
    run = project.run(PYTHONIOENCODING="ascii", PYTHONUTF8="0")
    assert run.returncode == 0
    assert b'  main."\\xe9\\u2192"' in run.stdout
    assert b"  `- up -> main." in run.stdout
    assert '  └─ up → main."é→"' in project.run(PYTHONIOENCODING="utf-8").stdout.decode()


def test_a_schema_of_400_tables_is_shown_in_a_second_and_a_half_as_a_whole_process(project: BareProject) -> None:
    project.execute(
        "".join(
            f"CREATE TABLE t{number} (id integer PRIMARY KEY, "
            f"a integer REFERENCES t{number // 2} (id), b integer REFERENCES t{number // 3} (id));"
            for number in range(TABLES_OF_A_REAL_SCHEMA)
        )
    )
    times = []
    for _ in range(3):
        # Its own time, since other tests may run beside it.
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        run = project.run()
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        times.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
        assert run.returncode == 0
    assert f"{TABLES_OF_A_REAL_SCHEMA} tables, 800 foreign keys" in run.stdout.decode()
    assert min(times) < 1.5
