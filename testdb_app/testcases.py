"""Test cases that commit, and reset the database in place of Django's flush; and a mixin that runs ``setUp()`` once.

Change the base class of a ``TransactionTestCase``, and nothing else. For another base class, use :class:`ResetMixin`::

    class BrowserTest(ResetMixin, StaticLiveServerTestCase): ...

For a ``TestCase``, which rolls back, there is :class:`ShareFixtures`.
"""

from __future__ import annotations

import unittest
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar

from django.test import LiveServerTestCase, TestCase, TransactionTestCase

from testdb_app import _django_private as django_private
from testdb_app.database_setup import prepare_test_database, restart_sequences
from testdb_app.exceptions import ConfigurationError
from testdb_app.shared_set_up import SharedSetUp, has_set_up
from testdb_app.teardown import (
    check_baseline,
    check_target,
    clean_up_after_failed_set_up,
    clean_up_unused,
    close_others,
    drop_stale_sessions,
    keep_after,
    keeps_baseline,
    reset_after,
    without_loading,
)

if TYPE_CHECKING:

    class _Base(TransactionTestCase):
        """Declares the hooks that the type stubs leave out."""

        @classmethod
        def _pre_setup(cls) -> None: ...
        @classmethod
        def _fixture_setup(cls) -> None: ...
        @classmethod
        def _reset_sequences(cls, db_name: str) -> None: ...
        def _should_reload_connections(self) -> bool: ...

    _Tests = TestCase
else:
    _Base = _Tests = object


def check_is_before(cls: type[Any], mixin: type[Any], base: type[Any], described: str) -> None:
    """Raise :class:`ConfigurationError` if *cls* names *mixin* after *base*: then it does nothing. *described* ends the text."""
    bases = cls.__mro__
    if base in bases and bases.index(base) < bases.index(mixin):
        name = f"{cls.__module__}.{cls.__qualname__}"
        raise ConfigurationError(f"{name} has to have {mixin.__name__} before {described}.")


class ResetMixin(_Base):
    """Resets what each test wrote, in place of Django's flush. Name the mixin before the base class.

    ``reset_to`` is the state that a test leaves behind:

    - "baseline", the default: the rows that the migrations made, and no others. It is captured once, before the first
      of these tests. The runner in :mod:`testdb_app.runner` captures it as soon as the databases are there;
    - "empty": what Django's flush leaves, no rows except those that handlers of ``post_migrate`` make. These are kept, too,
      and the handlers run once; see :mod:`testdb_app.teardown`.

    Sequences are reset, too, so the first row that a test makes has the same key each time. All else is as Django
    documents it for ``TransactionTestCase``; ``serialized_rollback`` has nothing left to do.
    """

    reset_to: ClassVar[str] = "baseline"

    def __init_subclass__(cls, **options: Any) -> None:
        """Raise :class:`ConfigurationError` for a subclass of ``TestCase``, and where the mixin is named after Django's class.

        A reset cannot run inside the transaction of ``TestCase``.
        """
        super().__init_subclass__(**options)
        if issubclass(cls, TestCase):
            raise ConfigurationError(
                f"{cls.__module__}.{cls.__qualname__} has ResetMixin and django.test.TestCase among its bases. TestCase rolls "
                "each test back, so there is nothing to reset. Leave out ResetMixin, or use TransactionTestCase."
            )
        django_name = "django.test.TransactionTestCase"
        check_is_before(
            cls,
            ResetMixin,
            TransactionTestCase,
            f"{django_name} among its bases: else Django's flush follows each test",
        )

    @classmethod
    def _pre_setup(cls) -> None:
        check_target(cls)
        drop_stale_sessions(cls)
        for alias in django_private.databases_of(cls, include_mirrors=False):
            prepare_test_database(alias)
            if cls.reset_to == "baseline":
                check_baseline(cls, alias)
        with clean_up_after_failed_set_up(cls):
            super()._pre_setup()

    @classmethod
    def setUpClass(cls) -> None:
        """Set up the class. If none of its tests begins, reset what its set-up wrote."""
        cls.addClassCleanup(clean_up_unused, cls)
        super().setUpClass()

    @classmethod
    def _fixture_setup(cls) -> None:
        with without_loading(cls):
            super()._fixture_setup()

    @classmethod
    def _reset_sequences(cls, db_name: str) -> None:
        if keeps_baseline(cls, db_name):
            restart_sequences(db_name)
        else:
            super()._reset_sequences(db_name)

    def _fixture_teardown(self) -> None:
        reset_after(self)

    def _should_reload_connections(self) -> bool:
        return close_others(self)


class ResetTransactionTestCase(ResetMixin, TransactionTestCase):
    """Django's ``TransactionTestCase`` with a reset in place of the flush; see :class:`ResetMixin`."""


class ResetLiveServerTestCase(ResetMixin, LiveServerTestCase):
    """Django's ``LiveServerTestCase`` with a reset in place of the flush; see :class:`ResetMixin`."""


class ShareFixtures(_Tests):
    """Runs ``setUp()`` once for a class of ``TestCase``, where that makes rows and sets attributes, and does nothing else.

    Name the mixin before the base class::

        class OrderTest(ShareFixtures, TestCase): ...

    The rows stay until the class ends. Each test may change them, as those of ``setUpTestData()``, and gets copies of the
    attributes. Any other ``setUp()`` is run for each test; the logger ``testdb_app`` warns why, once a class.
    """

    _shared_set_up: ClassVar[SharedSetUp | None] = None

    def __init_subclass__(cls, **options: Any) -> None:
        """Raise :class:`ConfigurationError` for a class that is no ``TestCase``, and for one that names the mixin after it."""
        super().__init_subclass__(**options)
        bases, name = cls.__mro__, f"{cls.__module__}.{cls.__qualname__}"
        if TransactionTestCase in bases and TestCase not in bases:
            raise ConfigurationError(
                f"{name} has ShareFixtures and is a TransactionTestCase. Its tests commit, and rows can be shared only where "
                "each test is rolled back. Leave out ShareFixtures, or use django.test.TestCase."
            )
        if unittest.TestCase in bases and TestCase not in bases:
            raise ConfigurationError(
                f"{name} has ShareFixtures and is no django.test.TestCase, so there is no transaction that rows could stay in. "
                "Leave out ShareFixtures, or use django.test.TestCase."
            )
        check_is_before(cls, ShareFixtures, TestCase, "django.test.TestCase among its bases")

    @classmethod
    def setUpClass(cls) -> None:
        """Set up the class, and find out whether ``setUp()`` can be shared."""
        super().setUpClass()
        if "_shared_set_up" not in vars(cls):
            cls._shared_set_up = SharedSetUp(cls) if has_set_up(cls) else None
        if cls._shared_set_up is not None:
            cls.addClassCleanup(cls._shared_set_up.end_class)

    def run(self, result: unittest.TestResult | None = None) -> unittest.TestResult | None:
        """Run the test."""
        with self._sharing():
            return super().run(result)

    def debug(self) -> None:
        """Run the test without collecting its result."""
        with self._sharing():
            super().debug()

    @contextmanager
    def _sharing(self) -> Iterator[None]:
        shared = self._shared_set_up
        if shared is not None:
            vars(self)["setUp"] = partial(shared.set_up, self)
        try:
            yield
        finally:
            vars(self).pop("setUp", None)


def _pre_setup(cls: type[Any]) -> None:
    # A class that rolls back needs no baseline, and its transaction is already open.
    rolls_back = issubclass(cls, TestCase)
    if not (rolls_back and django_private.supports_transactions(cls)):
        for alias in django_private.databases_of(cls, include_mirrors=False):
            prepare_test_database(alias)
    if hasattr(cls, "reset_to"):
        check_target(cls)
    drop_stale_sessions(cls)
    with clean_up_after_failed_set_up(cls):
        _STOCK["_pre_setup"].__func__(cls)


def _pre_setup_in_scope(cls: type[Any]) -> None:
    drop_stale_sessions(cls)
    _STOCK["_pre_setup"].__func__(cls)


def _set_up_class(cls: type[Any]) -> None:
    cls.addClassCleanup(clean_up_unused, cls)
    _STOCK["setUpClass"].__func__(cls)


def _fixture_setup(cls: type[Any]) -> None:
    with without_loading(cls):
        _STOCK["_fixture_setup"].__func__(cls)


def _reset_sequences(cls: type[Any], db_name: str) -> None:
    if keeps_baseline(cls, db_name):
        restart_sequences(db_name)
    else:
        _STOCK["_reset_sequences"].__func__(db_name)


_STOCK: dict[str, Any] = dict(vars(TransactionTestCase))
_HOOKS: dict[str, Any] = {
    "setUpClass": classmethod(_set_up_class),
    "_pre_setup": classmethod(_pre_setup),
    "_fixture_setup": classmethod(_fixture_setup),
    "_reset_sequences": classmethod(_reset_sequences),
    "_fixture_teardown": reset_after,
    "_should_reload_connections": close_others,
}


@contextmanager
def resetting_all() -> Iterator[None]:
    """Make every ``TransactionTestCase``, Django's own classes included, end with a reset while the block runs."""
    with _hooked(_HOOKS):
        yield


@contextmanager
def keeping_all() -> Iterator[None]:
    """Make every ``TransactionTestCase`` keep what it committed while the block runs: a wider scope resets it."""
    in_scope = {"_pre_setup": classmethod(_pre_setup_in_scope), "_fixture_teardown": keep_after}
    with _hooked({**_HOOKS, **in_scope, "setUpClass": _STOCK["setUpClass"]}):
        yield


@contextmanager
def _hooked(hooks: dict[str, Any]) -> Iterator[None]:
    before = {name: vars(TransactionTestCase)[name] for name in hooks}
    _hook(hooks)
    try:
        yield
    finally:
        _hook(before)


def reset_all() -> None:
    """Make every ``TransactionTestCase`` of this process end with a reset from now on."""
    _hook(_HOOKS)


def _hook(hooks: dict[str, Any]) -> None:
    for name, hook in hooks.items():
        setattr(TransactionTestCase, name, hook)
