"""Django's own process caches over tables: cleared when, and only when, a reset changed rows of those tables."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from django.apps import apps

if TYPE_CHECKING:
    from testdb_app.schema import QualifiedName

# Models whose managers keep rows in memory, by primary key or natural key, for as long as the process lives.
_CACHED = ("contenttypes.ContentType", "sites.Site")


def clear_caches(tables: frozenset[QualifiedName]) -> None:
    """Clear the caches over *tables*, those whose rows changed. Touches no database."""
    names = {table.name for table in tables}
    for model in _cached_models():
        # db_table may be written with a schema, as Django's users do: '"shop"."django_site"'.
        if model._meta.db_table.rpartition('"."')[2].strip('"') in names:
            model.objects.clear_cache()


def _cached_models() -> Iterator[Any]:
    for label in _CACHED:
        app_label, _, name = label.partition(".")
        if apps.is_installed(f"django.contrib.{app_label}"):
            yield apps.get_model(app_label, name)
