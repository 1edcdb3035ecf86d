"""Factories as fixtures: functions that make rows, so that a test says what it needs and no more."""

from __future__ import annotations

from collections.abc import Callable
from datetime import date
from typing import Any

import pytest

from testdb_app.demo.models import Branch, Card, Copy, Member, Publisher, Series, Work


@pytest.fixture
def make_work() -> Callable[..., Work]:
    """Return a function that makes a work, in a series of a publisher, both its own unless given."""

    def make(title: str = "Sea Poems", *, series: Series | None = None, **values: Any) -> Work:
        if series is None:
            series = Series.objects.create(name="Poets", publisher=Publisher.objects.create(name="Harbour"))
        return Work.objects.create(title=title, series=series, **{"year": 1924, **values})

    return make


@pytest.fixture
def make_copy(make_work: Callable[..., Work]) -> Callable[..., Copy]:
    """Return a function that makes a copy of a work at a branch."""

    def make(work: Work | None = None, branch: Branch | None = None) -> Copy:
        branch = branch or Branch.objects.create(name="Old Town")
        return Copy.objects.create(work=work or make_work(), branch=branch, shelf="P 12")

    return make


@pytest.fixture
def make_card() -> Callable[..., Card]:
    """Return a function that makes a member with a card."""

    def make(name: str = "Ada") -> Card:
        member = Member.objects.create(name=name, joined_on=date(2026, 1, 2))
        return Card.objects.create(member=member, issued_on=date(2026, 1, 2))

    return make
