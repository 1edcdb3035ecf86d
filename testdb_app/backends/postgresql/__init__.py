"""PostgreSQL: *introspection* reads the catalog, *operations* writes SQL, *errors* names what went wrong."""

from testdb_app.backends.postgresql.backend import BACKEND

__all__ = ["BACKEND"]
