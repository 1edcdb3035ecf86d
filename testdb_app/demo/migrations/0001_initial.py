"""Create the tables, and set the number of the first library card."""

# ruff: noqa: RUF012 - lists are Django's notation for a migration

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING

import django.db.models.deletion
from django.db import migrations, models

if TYPE_CHECKING:
    from django.apps.registry import Apps
    from django.db.backends.base.schema import BaseDatabaseSchemaEditor

FIRST_CARD_NUMBER = 10000


def start_card_numbers(apps: Apps, schema_editor: BaseDatabaseSchemaEditor) -> None:
    """Let card numbers start at 10000. Django's fields have no option for that.

    The migration that creates the table does it, so that there are no cards yet. On databases other than PostgreSQL
    and SQLite the numbers start at 1: each database has a different syntax, and nothing depends on the number.
    """
    table = apps.get_model("testdb_demo", "Card")._meta.db_table
    quote = schema_editor.connection.ops.quote_name
    match schema_editor.connection.vendor:
        case "postgresql":
            # TRUNCATE … RESTART IDENTITY sets the sequence back to START, so RESTART alone is not enough.
            schema_editor.execute(
                f"ALTER TABLE {quote(table)} ALTER COLUMN {quote('number')} "
                f"SET START WITH {FIRST_CARD_NUMBER} RESTART WITH {FIRST_CARD_NUMBER}"
            )
        case "sqlite":
            # SQLite stores no start value, only the last number. There is none yet, or one from a rebuild of the table.
            schema_editor.execute("DELETE FROM sqlite_sequence WHERE name = %s", [table])
            schema_editor.execute(
                "INSERT INTO sqlite_sequence (name, seq) VALUES (%s, %s)", [table, FIRST_CARD_NUMBER - 1]
            )


def identity() -> models.BigAutoField[int, int]:
    return models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")


def work_link() -> models.OneToOneField[models.Model, models.Model]:
    return models.OneToOneField(
        auto_created=True,
        on_delete=django.db.models.deletion.CASCADE,
        parent_link=True,
        primary_key=True,
        serialize=False,
        to="testdb_demo.work",
    )


class Migration(migrations.Migration):
    initial = True

    dependencies = [("contenttypes", "0002_remove_content_type_name")]

    operations = [
        migrations.CreateModel(
            name="Publisher",
            fields=[("id", identity()), ("name", models.CharField(max_length=100))],
        ),
        migrations.CreateModel(
            name="Series",
            fields=[
                ("id", identity()),
                ("name", models.CharField(max_length=100)),
                (
                    "publisher",
                    models.ForeignKey(
                        on_delete=django.db.models.deletion.PROTECT,
                        related_name="series",
                        to="testdb_demo.publisher",
                    ),
                ),
            ],
            options={"verbose_name_plural": "series"},
        ),
        migrations.CreateModel(
            name="Genre",
            fields=[
                ("id", identity()),
                ("name", models.CharField(max_length=100)),
                (
                    "broader",
                    models.ForeignKey(
                        blank=True,
                        null=True,
                        on_delete=django.db.models.deletion.CASCADE,
                        related_name="narrower",
                        to="testdb_demo.genre",
                    ),
                ),
            ],
        ),
        migrations.CreateModel(
            name="Author",
            fields=[("id", identity()), ("name", models.CharField(max_length=100))],
        ),
        migrations.CreateModel(
            name="Work",
            fields=[
                ("id", identity()),
                ("title", models.CharField(max_length=200)),
                ("year", models.PositiveSmallIntegerField()),
                (
                    "series",
                    models.ForeignKey(
                        on_delete=django.db.models.deletion.PROTECT,
                        related_name="works",
                        to="testdb_demo.series",
                    ),
                ),
                ("genres", models.ManyToManyField(related_name="works", to="testdb_demo.genre")),
            ],
        ),
        migrations.CreateModel(
            name="Book",
            fields=[
                ("work_ptr", work_link()),
                ("isbn", models.CharField(max_length=13)),
                ("pages", models.PositiveIntegerField()),
            ],
            bases=("testdb_demo.work",),
        ),
        migrations.CreateModel(
            name="Film",
            fields=[("work_ptr", work_link()), ("minutes", models.PositiveIntegerField())],
            bases=("testdb_demo.work",),
        ),
        migrations.CreateModel(
            name="Authorship",
            fields=[
                ("id", identity()),
                (
                    "work",
                    models.ForeignKey(on_delete=django.db.models.deletion.CASCADE, to="testdb_demo.work"),
                ),
                (
                    "author",
                    models.ForeignKey(on_delete=django.db.models.deletion.PROTECT, to="testdb_demo.author"),
                ),
                ("position", models.PositiveSmallIntegerField()),
            ],
            options={
                "constraints": [
                    models.UniqueConstraint(
                        deferrable=models.Deferrable.DEFERRED,
                        fields=("work", "position"),
                        name="testdb_demo_authorship_position",
                    )
                ]
            },
        ),
        migrations.AddField(
            model_name="work",
            name="authors",
            field=models.ManyToManyField(
                related_name="works", through="testdb_demo.Authorship", to="testdb_demo.author"
            ),
        ),
        migrations.CreateModel(
            name="Branch",
            fields=[("id", identity()), ("name", models.CharField(max_length=100))],
            options={"verbose_name_plural": "branches"},
        ),
        migrations.CreateModel(
            name="Staff",
            fields=[
                ("id", identity()),
                ("name", models.CharField(max_length=100)),
                (
                    "branch",
                    models.ForeignKey(
                        on_delete=django.db.models.deletion.PROTECT,
                        related_name="staff",
                        to="testdb_demo.branch",
                    ),
                ),
            ],
            options={"verbose_name_plural": "staff"},
        ),
        migrations.AddField(
            model_name="branch",
            name="manager",
            field=models.ForeignKey(
                blank=True,
                null=True,
                on_delete=django.db.models.deletion.SET_NULL,
                related_name="manages",
                to="testdb_demo.staff",
            ),
        ),
        migrations.CreateModel(
            name="Member",
            fields=[
                (
                    "id",
                    models.UUIDField(default=uuid.uuid4, editable=False, primary_key=True, serialize=False),
                ),
                ("name", models.CharField(max_length=100)),
                ("joined_on", models.DateField()),
            ],
        ),
        migrations.CreateModel(
            name="Card",
            fields=[
                ("number", models.BigAutoField(primary_key=True, serialize=False)),
                (
                    "member",
                    models.ForeignKey(
                        on_delete=django.db.models.deletion.CASCADE,
                        related_name="cards",
                        to="testdb_demo.member",
                    ),
                ),
                ("issued_on", models.DateField()),
            ],
        ),
        migrations.CreateModel(
            name="Copy",
            fields=[
                ("id", identity()),
                (
                    "work",
                    models.ForeignKey(
                        on_delete=django.db.models.deletion.PROTECT,
                        related_name="copies",
                        to="testdb_demo.work",
                    ),
                ),
                (
                    "branch",
                    models.ForeignKey(
                        on_delete=django.db.models.deletion.PROTECT,
                        related_name="copies",
                        to="testdb_demo.branch",
                    ),
                ),
                ("shelf", models.CharField(max_length=10)),
            ],
            options={"verbose_name_plural": "copies"},
        ),
        migrations.CreateModel(
            name="Loan",
            fields=[
                ("id", identity()),
                (
                    "copy",
                    models.ForeignKey(
                        on_delete=django.db.models.deletion.PROTECT,
                        related_name="loans",
                        to="testdb_demo.copy",
                    ),
                ),
                (
                    "card",
                    models.ForeignKey(
                        on_delete=django.db.models.deletion.PROTECT,
                        related_name="loans",
                        to="testdb_demo.card",
                    ),
                ),
                ("lent_on", models.DateField()),
                ("returned_on", models.DateField(blank=True, null=True)),
            ],
        ),
        migrations.CreateModel(
            name="Fine",
            fields=[
                ("id", identity()),
                (
                    "loan",
                    models.ForeignKey(
                        on_delete=django.db.models.deletion.PROTECT,
                        related_name="fines",
                        to="testdb_demo.loan",
                    ),
                ),
                ("amount", models.DecimalField(decimal_places=2, max_digits=6)),
            ],
        ),
        migrations.CreateModel(
            name="Review",
            fields=[
                ("id", identity()),
                (
                    "content_type",
                    models.ForeignKey(on_delete=django.db.models.deletion.CASCADE, to="contenttypes.contenttype"),
                ),
                ("object_id", models.PositiveBigIntegerField()),
                ("stars", models.PositiveSmallIntegerField()),
                ("text", models.TextField()),
            ],
            options={
                "indexes": [models.Index(fields=["content_type", "object_id"], name="testdb_demo_review_subject")]
            },
        ),
        migrations.RunPython(start_card_numbers, migrations.RunPython.noop),
    ]
