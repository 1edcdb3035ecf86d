"""Django's own process caches over tables: cleared when, and only when, a reset changed rows of those tables."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from django.apps import apps

if TYPE_CHECKING:
    from testdb_app.schema import QualifiedName

# The tables of models whose managers keep rows in memory for as long as the process lives.
_CACHED = {"django_content_type": ("contenttypes", "ContentType"), "django_site": ("sites", "Site")}


def clear_caches(tables: frozenset[QualifiedName]) -> None:
    """Clear the caches over *tables*, those whose rows changed. Touches no database."""
    for table in tables:
        app_label, model = _CACHED.get(table.name, ("", ""))
        if app_label and apps.is_installed(f"django.contrib.{app_label}"):
            manager: Any = apps.get_model(app_label, model).objects
            manager.clear_cache()
