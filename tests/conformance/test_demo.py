"""The demonstration models, on every backend: multi-table inheritance, many-to-many, generic keys, a table of no model."""

from __future__ import annotations

import pytest
from django.core.management import call_command

from testdb_app.exceptions import ExclusionError


@pytest.fixture
def demo(database):
    call_command("migrate", database=database.alias, verbosity=0)
    call_command("loaddemo", database=database.alias, size=150, verbosity=0)
    database.execute("CREATE TABLE left_by_an_app_that_is_gone (id integer PRIMARY KEY); ")
    database.execute("INSERT INTO left_by_an_app_that_is_gone VALUES (1)")
    return database


def test_everything_is_emptied_but_the_record_of_migrations(demo):
    migrations = demo.count("django_migrations")
    demo.reset()
    tables = demo.connection.introspection.table_names()
    filled = {table for table in tables if demo.count(f'"{table}"')}
    assert filled == {"django_migrations"}
    assert demo.count("django_migrations") == migrations > 10


def test_the_demo_can_be_filled_again_and_its_keys_start_over(demo):
    demo.reset()
    call_command("loaddemo", database=demo.alias, size=150, verbosity=0)
    assert demo.count("testdb_demo_work") > 0


def test_a_child_of_multi_table_inheritance_goes_without_its_base(demo):
    works = demo.count("testdb_demo_work")
    demo.reset(include=["testdb_demo.Book", "testdb_demo.film"])
    assert (demo.count("testdb_demo_book"), demo.count("testdb_demo_film")) == (0, 0)
    assert demo.count("testdb_demo_work") == works


def test_the_base_does_not_go_without_its_children_and_its_links(demo):
    with pytest.raises(ExclusionError) as refusal:
        demo.reset(include=["testdb_demo.Work"])
    for table in ("testdb_demo_book", "testdb_demo_film", "testdb_demo_authorship", "testdb_demo_work_genres"):
        assert table in str(refusal.value)


def test_an_app_label_means_all_its_tables_and_keeps_those_of_others(demo):
    types = demo.count("django_content_type")
    demo.reset(include=["testdb_demo"])
    assert demo.count("testdb_demo_work_genres") == demo.count("testdb_demo_review") == 0
    assert demo.count("django_content_type") == types
    assert demo.count("left_by_an_app_that_is_gone") == 1


def test_content_types_stay_when_the_contrib_apps_are_excluded(demo):
    demo.reset(exclude=["contenttypes", "auth", "sites"])
    assert demo.count("django_content_type") > 0
    assert demo.count("testdb_demo_review") == 0
