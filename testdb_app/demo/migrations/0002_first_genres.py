"""Insert the rows that each installation has: the broadest genres, to which all others belong."""

# ruff: noqa: RUF012 - lists are Django's notation for a migration

from django.apps.registry import Apps
from django.db import migrations
from django.db.backends.base.schema import BaseDatabaseSchemaEditor

FIRST_GENRES = {
    "Fiction": ["Crime", "Fantasy", "Romance"],
    "Non-fiction": ["Biography", "History", "Travel"],
    "Film": ["Comedy", "Documentary"],
}


def add_genres(apps: Apps, schema_editor: BaseDatabaseSchemaEditor) -> None:
    """Insert the genres without explicit keys, so that the sequence is past the last of them."""
    genres = apps.get_model("testdb_demo", "Genre")._base_manager.using(schema_editor.connection.alias)
    for broader_name, names in FIRST_GENRES.items():
        broader = genres.create(name=broader_name)
        for name in names:
            genres.create(name=name, broader=broader)


def remove_genres(apps: Apps, schema_editor: BaseDatabaseSchemaEditor) -> None:
    """Delete these genres, and the genres that were added below them since."""
    genres = apps.get_model("testdb_demo", "Genre")._base_manager.using(schema_editor.connection.alias)
    genres.filter(name__in=FIRST_GENRES, broader=None).delete()


class Migration(migrations.Migration):
    dependencies = [("testdb_demo", "0001_initial")]

    operations = [migrations.RunPython(add_genres, remove_genres)]
