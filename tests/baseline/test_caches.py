"""Process caches over tables are cleared when, and only when, rows of those tables were reset."""

from __future__ import annotations

import pytest
from django.contrib.contenttypes.models import ContentType
from django.contrib.sites.models import Site
from django.core.management import call_command

from testdb_app.baseline import capture_baseline
from testdb_app.signals import database_reset


@pytest.fixture
def migrated(scratch):
    call_command("migrate", database="scratch", verbosity=0)
    capture_baseline("scratch", allow_database=scratch.name)
    ContentType.objects.clear_cache()
    Site.objects.clear_cache()
    yield scratch
    ContentType.objects.clear_cache()
    Site.objects.clear_cache()


def test_content_types_are_forgotten_only_when_their_table_was_reset(migrated):
    resetter = migrated.resetter()
    resetter.reset()
    types = ContentType.objects.db_manager("scratch")
    first = types.get_for_model(Site)
    migrated.execute("INSERT INTO django_site (domain, name) VALUES ('a.example', 'a')")
    assert [str(table.name) for table in resetter.reset().tables] == ["public.django_site"]
    assert types.get_for_model(Site) is first
    migrated.execute("INSERT INTO django_content_type (app_label, model) VALUES ('x', 'y')")
    resetter.reset()
    again = types.get_for_model(Site)
    assert again is not first
    assert again.pk == first.pk


def test_sites_are_forgotten_when_their_table_was_reset(migrated, settings):
    from django.contrib.sites import models

    settings.SITE_ID = 1
    models.SITE_CACHE[1] = stale = Site(pk=1, domain="stale.example")
    resetter = migrated.resetter()
    migrated.execute("INSERT INTO django_content_type (app_label, model) VALUES ('x', 'y')")
    resetter.reset()
    assert models.SITE_CACHE[1] is stale
    migrated.execute("UPDATE django_site SET domain = 'x'")
    resetter.reset()
    assert models.SITE_CACHE == {}


def test_a_projects_own_caches_are_told_which_tables_changed(migrated):
    told = []

    def receiver(using, tables, report, **options):
        told.append((using, {str(name) for name in tables}, report.target))

    database_reset.connect(receiver)
    try:
        resetter = migrated.resetter()
        resetter.reset()
        assert told == []
        migrated.execute("UPDATE django_site SET domain = 'x'")
        resetter.reset()
        migrated.execute("SELECT nextval('django_site_id_seq')")
        resetter.reset()
    finally:
        database_reset.disconnect(receiver)
    assert told == [("scratch", {"public.django_site"}, "baseline")]
