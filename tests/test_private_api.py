"""The private API of Django, pytest and pytest-django that this package uses is there, and of the kind that it expects."""

from __future__ import annotations

import inspect
import unittest

import pytest
from django.conf import settings as settings_of_django
from django.contrib.contenttypes.models import ContentType
from django.db import connections, models, transaction
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.backends.base.creation import BaseDatabaseCreation
from django.test import TestCase, TransactionTestCase, testcases
from django.test.utils import override_settings

from testdb_app import _django_private as django_private
from testdb_app.plugin import _pytest_private as pytest_private


@pytest.mark.parametrize("name", django_private.OVERRIDDEN)
def test_a_method_that_is_overridden_is_that_of_django(name):
    assert callable(getattr(TransactionTestCase, name))


def test_what_is_of_the_class_is_a_method_of_the_class():
    kinds = {name: type(vars(TransactionTestCase)[name]) for name in django_private.OVERRIDDEN}
    assert kinds == {
        "_pre_setup": classmethod,
        "_fixture_setup": classmethod,
        "_reset_sequences": staticmethod,
        "_fixture_teardown": type(lambda: None),
        "_should_reload_connections": type(lambda: None),
    }


def test_a_test_case_names_its_databases():
    assert django_private.databases_of(TransactionTestCase) == ["default"]
    assert list(inspect.signature(TransactionTestCase._databases_names).parameters) == ["include_mirrors"]
    assert isinstance(vars(TestCase)["_databases_support_transactions"], classmethod)
    assert not django_private.was_set_up_early(TransactionTestCase)
    assert "_pre_setup_ran_eagerly" in inspect.getsource(TransactionTestCase.setUpClass)
    assert django_private.find_owner_of_teardown(TestCase) is TestCase


def test_creation_has_the_methods_that_are_called_and_observed():
    creation = connections["default"].creation
    assert isinstance(django_private.get_test_database_name(creation), str)
    for method in (django_private.CREATE_METHOD, django_private.CLONE_METHOD):
        assert django_private.is_method_of_django(creation, method)
    assert callable(BaseDatabaseCreation._nodb_cursor)
    assert list(inspect.signature(BaseDatabaseCreation._execute_create_test_db).parameters)[1:3] == [
        "cursor",
        "parameters",
    ]


def test_postgresql_has_what_is_used_of_it():
    creation = pytest.importorskip("django.db.backends.postgresql.creation", exc_type=Exception).DatabaseCreation
    base = pytest.importorskip("django.db.backends.postgresql.base", exc_type=Exception).DatabaseWrapper
    assert list(inspect.signature(creation._database_exists).parameters) == ["self", "cursor", "database_name"]
    assert "_database_exists" in inspect.getsource(creation._execute_create_test_db)
    assert isinstance(base._connection_pools, dict)
    assert isinstance(base._named_cursor_idx, int)


def test_serialized_contents_are_kept_on_the_wrapper():
    assert "_test_serialized_contents" in inspect.getsource(BaseDatabaseCreation.create_test_db) + inspect.getsource(
        TransactionTestCase._fixture_teardown
    )
    assert issubclass(type(connections["default"]), BaseDatabaseWrapper)


def test_connections_are_in_a_storage():
    assert django_private.get_connection_storage() is connections._connections
    assert connections["default"] is getattr(django_private.get_connection_storage(), "default")  # noqa: B009


def test_a_queryset_has_its_results():
    queryset = ContentType.objects.none()
    assert queryset._result_cache is None
    assert queryset._prefetch_done is False


def test_an_atomic_block_says_whether_it_is_of_a_test_case():
    block = transaction.atomic()
    assert block._from_testcase is False
    django_private.mark_as_of_test_case(block)
    assert django_private.is_of_test_case(block)


def test_the_manager_of_content_types_has_a_cache_by_alias():
    assert isinstance(django_private.content_type_cache(ContentType.objects), dict)


def test_a_test_case_has_the_attributes_that_are_named():
    case = TestCase()
    assert {*django_private.NAMES_OF_TEST, django_private.CLEANUPS} <= vars(case).keys()
    assert all(callable(getattr(TransactionTestCase, name)) for name in django_private.AROUND_TESTS)


def test_the_data_of_a_class_and_the_memo_of_a_test_are_found():
    test_data = vars(testcases)["TestData"]
    assert test_data.memo_attr == django_private.MEMO_OF_TEST_DATA
    data = [1]
    assert django_private.data_of(test_data("name", data)) is data is django_private.data_of(data)


def test_the_settings_in_force_are_found():
    with override_settings(SITE_ID=9):
        assert vars(django_private.settings_in_force())["SITE_ID"] == 9


def test_overridden_settings_are_found():
    with override_settings(SITE_ID=7), override_settings(SITE_ID=8):
        assert django_private.overridden_settings()["SITE_ID"] == 8


def test_an_instance_has_a_key_for_each_of_its_models():
    assert list(inspect.signature(models.Model._get_pk_val).parameters) == ["self", "meta"]
    assert django_private.primary_key_as(ContentType(pk=3), ContentType) == 3


@pytest.fixture
def requested(request):
    return request


def test_a_request_has_what_the_plugin_uses(request, requested):
    item = request.node
    assert pytest_private.item_of(requested) is item
    assert pytest_private.request_of(item).node is item
    assert pytest_private.definition_of(requested).argname == "requested"
    assert pytest_private.fixtures_set_up(requested)["requested"] is pytest_private.definition_of(requested)
    assert pytest_private.collected_definitions(requested, "requested")[-1].argname == "requested"
    assert pytest_private.collected_definitions(requested, "no_such_fixture") == ()
    assert pytest_private.find_definitions(requested, "requested")[-1].argname == "requested"
    assert pytest_private.was_requested_through(requested, "requested")
    assert not pytest_private.was_requested_through(requested, "no_such_fixture")


def test_a_fixture_has_finalizers_and_a_test_fills_its_fixtures(request, requested):
    assert isinstance(pytest_private.definition_of(requested)._finalizers, list)
    assert callable(pytest_private.request_of(request.node)._fillfixtures)


def test_pytest_django_has_the_fixture_that_sets_up_the_database(request):
    found = pytest_private.find_definitions(request, pytest_private.DB_HELPER)
    assert [(each.scope, each.func.__module__) for each in found] == [("function", "pytest_django.fixtures")]


class FixtureForAClassTest(unittest.TestCase):
    @pytest.fixture(autouse=True)
    def names(self, request):
        self.fixturenames = request.fixturenames

    def test_it_has_the_name_that_is_expected(self):
        assert any(name.startswith(pytest_private.CLASS_FIXTURE) for name in self.fixturenames)


def test_each_read_of_a_setting_is_observed_and_nothing_stays_behind(settings):
    settings.SHOP_RATE = 3
    before, seen = dict(vars(type(settings_of_django))), []
    with django_private.settings_observed(seen.append):
        assert [settings_of_django.SHOP_RATE, settings_of_django.SHOP_RATE] == [3, 3]
        with pytest.raises(AttributeError):
            assert settings_of_django.SHOP_NONE
    assert settings_of_django.SHOP_RATE == 3
    assert seen == ["SHOP_RATE", "SHOP_RATE", "SHOP_NONE"]
    assert dict(vars(type(settings_of_django))) == before
