"""Archives of real schemas, with the rows that their migrations leave: what comes back is logically the same."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from psycopg import sql

from testdb_app.creation.archive import find_programs, restore_archive, write_archive
from testdb_app.creation.fingerprint import describe_differences, read_fingerprint
from testdb_app.exceptions import ArchiveError
from tests.real.loading import load, read_content, skip_without
from tests.scratch import ScratchDatabase, connect, connect_as_superuser, default_parameters

NEEDS_SUPERUSER = {"musicbrainz": "earthdistance"}
"""Extensions that an ordinary role may not create."""


def test_a_real_schema_is_the_same_after_it_went_through_a_file(
    make_scratch: Callable[..., ScratchDatabase], real_name: str, tmp_path: Path
) -> None:
    with connect_as_superuser("postgres") as server:
        skip_without(real_name, server)
        programs = find_programs(server.info.server_version // 10_000)
    source, target, folder = make_scratch(), f"archive_{real_name}_restored", tmp_path / ".testdb"
    load(real_name, source)
    with connect("postgres") as server:
        server.execute(sql.SQL("CREATE DATABASE {} TEMPLATE template0").format(sql.Identifier(target)))
    try:
        parameters = default_parameters()
        write_archive(folder, "real", {}, connection_parameters=parameters, database=source.name, programs=programs)

        def restore() -> None:
            restore_archive(
                folder, "real", connection_parameters=parameters, database=target, programs=programs, say=pytest.fail
            )

        if real_name in NEEDS_SUPERUSER:
            denied = f'permission denied to create extension "{NEEDS_SUPERUSER[real_name]}"'
            with pytest.raises(ArchiveError, match=denied):
                restore()
            return
        restore()
        with source.connect() as before, connect(target) as after:
            fingerprint = read_fingerprint(before)
            assert describe_differences(fingerprint, read_fingerprint(after)) == ""
    finally:
        with connect_as_superuser("postgres") as server:
            server.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(target)))
    # The fingerprint has seen what a count by other queries finds.
    content = read_content(source)
    rows = [value.split()[0] for name, value in fingerprint.items() if name.startswith("rows of ")]
    assert sum(map(int, rows)) == sum(content.rows.values())
    assert len(content.sequences) == sum(name.startswith("value of ") for name in fingerprint)
