"""The network between client and server breaks in the middle of a message, or of its answer."""

from __future__ import annotations

from collections.abc import Iterator

import psycopg
import pytest
from django.db import connections

from testdb_app.exceptions import ConnectionLostError
from testdb_app.resetter import Resetter
from tests.faults.proxy import Cut, Proxy, proxy_to
from tests.faults.victim import Victim
from tests.scratch import default_parameters


@pytest.fixture
def proxy(victim: Victim) -> Iterator[Proxy]:
    """A proxy in front of the victim, which is known under the alias ``far`` through it."""
    parameters = default_parameters()
    with proxy_to(parameters["host"], int(parameters.get("port") or 5432)) as proxy:
        options = {"sslmode": "disable", "gssencmode": "disable"}
        victim.database.register("far", HOST="127.0.0.1", PORT=str(proxy.port), OPTIONS=options)
        try:
            with psycopg.connect(**connections["far"].get_connection_params()):
                pass
        except psycopg.OperationalError as error:
            pytest.skip(f"the server does not let the role in through a proxy: {error}")
        yield proxy
        connections["far"].close()


@pytest.mark.parametrize("sent", [0, 1, 30, 60, 100, 200, 500])
def test_message_cut_anywhere_leaves_all_as_it_was(victim: Victim, proxy: Proxy, sent: int) -> None:
    resetter = Resetter("far", exclude=victim.exclude, allow_database=victim.database.name)
    resetter.plan()
    proxy.cut = Cut(message_bytes=sent)
    with pytest.raises(ConnectionLostError):
        resetter.reset()
    assert proxy.cuts == 1
    proxy.cut = None
    victim.wait_until_alone()
    assert victim.read() == victim.old
    resetter.reset()
    assert victim.read() == victim.new


@pytest.mark.parametrize("cut", [Cut(whole_message=True), Cut(answer_bytes=1), Cut(answer_bytes=60)], ids=str)
def test_answer_cut_anywhere_leaves_all_as_it_was_or_fully_reset(victim: Victim, proxy: Proxy, cut: Cut) -> None:
    resetter = Resetter("far", exclude=victim.exclude, allow_database=victim.database.name)
    resetter.plan()
    proxy.cut = cut
    with pytest.raises(ConnectionLostError):
        resetter.reset()
    assert proxy.cuts == 1
    proxy.cut = None
    victim.wait_until_alone()
    # The server may have had the COMMIT already.
    assert victim.read() in (victim.old, victim.new)
    resetter.reset()
    assert victim.read() == victim.new
