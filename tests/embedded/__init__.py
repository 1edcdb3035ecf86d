"""Tests of the embedded PostgreSQL, each on a server of its own."""
