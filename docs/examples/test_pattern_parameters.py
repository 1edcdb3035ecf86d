"""A wide fixture with parameters: the rows of one are gone before those of the next are made."""

import pytest

from testdb_app.data import make
from testdb_app.demo.models import Branch, Copy


@pytest.fixture(scope="module", params=[0, 1, 50], ids=["empty", "one", "many"])
def branch(request: pytest.FixtureRequest, db_module: None) -> Branch:
    """Made three times for the module, with so many copies."""
    branch = make(Branch)
    for _ in range(request.param):
        make(Copy, branch=branch)
    return branch


def test_no_other_branch_is_there(branch: Branch) -> None:
    assert Branch.objects.count() == 1


def test_the_copies_are_counted(branch: Branch, request: pytest.FixtureRequest) -> None:
    assert branch.copies.count() == Copy.objects.count() == request.node.callspec.params["branch"]
