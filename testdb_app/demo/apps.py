"""The demonstration app's configuration."""

from django.apps import AppConfig


class DemoConfig(AppConfig):
    """Registers the lending library under its own label, which cannot be confused with that of `testdb_app`."""

    name = "testdb_app.demo"
    label = "testdb_demo"
    verbose_name = "testdb_app demonstration"
    default_auto_field = "django.db.models.BigAutoField"
