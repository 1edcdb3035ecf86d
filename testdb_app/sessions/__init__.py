"""Test sessions: connections that a test owns, with time limits and named errors. The end of a session undoes everything.

::

    factory = TestSessionFactory(statement_timeout="30s", lock_timeout="5s", ownership_timeout=120)
    with factory(name="checkout") as session:
        ...

See :class:`TestSessionFactory` and :class:`TestSession`; docs/explanation/session-design.md describes the design.
"""

from __future__ import annotations

from testdb_app.sessions.session import TestSession, TestSessionFactory, current_session

__all__ = ["TestSession", "TestSessionFactory", "current_session"]
