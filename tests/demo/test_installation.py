"""What a project gets by installing the demonstration, and what it does not get without."""

from __future__ import annotations

from typing import TYPE_CHECKING

from django.apps import apps

if TYPE_CHECKING:
    from tests.demo.projects import Project


def test_every_demo_model_names_its_app_label_itself() -> None:
    models = list(apps.get_app_config("testdb_demo").get_models())
    assert len(models) == 16
    assert {model._meta.original_attrs.get("app_label") for model in models} == {"testdb_demo"}


def test_no_model_belongs_to_testdb_app_itself() -> None:
    assert list(apps.get_app_config("testdb_app").get_models()) == []


def test_importing_the_demo_models_without_installing_them_proposes_no_migration(
    project_without_demo: Project,
) -> None:
    result = project_without_demo.run(
        "import testdb_app.demo.models; call_command('makemigrations', check=True, dry_run=True)"
    )
    assert (result.returncode, result.stdout) == (0, "No changes detected\n"), result.stderr


def test_the_migrations_are_those_of_the_models(project: Project) -> None:
    result = project.run("call_command('makemigrations', check=True, dry_run=True)")
    assert (result.returncode, result.stdout) == (0, "No changes detected\n"), result.stderr


def test_testdb_app_alone_creates_no_table(project_without_demo: Project) -> None:
    tables = project_without_demo.ask(
        """
        from django.db import connection
        call_command("migrate", verbosity=0)
        print(json.dumps(sorted(connection.introspection.table_names())))
        """
    )
    assert tables == ["django_content_type", "django_migrations"]


def test_no_system_check_warns_where_the_database_cannot_defer_a_unique_constraint(project: Project) -> None:
    result = project.run("call_command('check', databases=['default'], fail_level='WARNING')")
    assert (result.returncode, result.stderr) == (0, "")


def test_a_users_own_deferrable_constraint_is_still_warned_of(project: Project) -> None:
    result = project.run(
        """
        from django.db import models

        class Seat(models.Model):
            row = models.IntegerField()

            class Meta:
                app_label = "testdb_demo"
                constraints = [
                    models.UniqueConstraint(fields=["row"], name="row", deferrable=models.Deferrable.DEFERRED)
                ]

        call_command("check", databases=["default"])
        """
    )
    assert "testdb_demo.Seat: (models.W038)" in result.stderr


def test_the_first_card_of_a_new_database_is_number_10000(project: Project) -> None:
    number = project.ask(
        """
        from datetime import date
        from testdb_app.demo.models import Card, Member

        call_command("migrate", verbosity=0)
        member = Member.objects.create(name="Ada Abel", joined_on=date(2000, 1, 1))
        print(Card.objects.create(member=member, issued_on=date(2000, 1, 1)).pk)
        """
    )
    assert number == 10000


def test_the_migrations_can_be_undone_and_repeated_on_a_filled_database(project: Project) -> None:
    genres_before, tables_between, genres_after = project.ask(  # type: ignore[misc]  # object is a list here
        """
        from django.db import connection
        from testdb_app.demo.models import Genre

        def genres():
            return list(Genre.objects.order_by("pk").values_list("pk", "name", "broader__name"))

        call_command("migrate", verbosity=0)
        before = genres()
        call_command("loaddemo", size=500, verbosity=0)
        call_command("migrate", "testdb_demo", "zero", verbosity=0)
        between = [name for name in connection.introspection.table_names() if "demo" in name]
        call_command("migrate", verbosity=0)
        print(json.dumps([before, between, genres()]))
        """
    )
    assert len(genres_before) == 11
    assert tables_between == []
    assert genres_after == genres_before
