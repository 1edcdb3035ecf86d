"""The database engine for Django: PostgreSQL, started by the first connection and not before."""
