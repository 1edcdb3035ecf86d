"""``manage.py testtemplates``: list, explain, build and drop the templates of test databases."""

from __future__ import annotations

import json
import sys
from argparse import ArgumentParser
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any

from django.conf import settings
from django.core.exceptions import ImproperlyConfigured
from django.core.management.base import CommandError
from django.db import Error, connections
from django.test.utils import get_runner

from testdb_app.conf import get_settings
from testdb_app.creation.inventory import Inventory, ListedTemplate, find_aliases, list_all, read_inventory
from testdb_app.creation.key import StaticKey, group_parts, project_root
from testdb_app.creation.progress import Progress, find_terminal
from testdb_app.creation.store import OtherDatabase, OtherKind, TemplateStore
from testdb_app.creation.template import describe_bytes, describe_seconds, describe_time_since
from testdb_app.creation.templates import (
    as_in_tests,
    describe_changes,
    find_cache_folder,
    find_obstacle,
    find_or_build_outside_of_tests,
    open_store,
    read_key,
)
from testdb_app.exceptions import ConfigurationError, TestDBError, UnknownNameError, UnsafeDatabaseError, reason_of
from testdb_app.management.terminal import (
    TerminalCommand,
    aligned,
    confirmed,
    elapsed_time,
    explained,
    folded,
    paint_for,
    write_text,
)
from testdb_app.post_migrate import find_foreign_receivers
from testdb_app.runner import ResetRunnerMixin
from testdb_app.schema import list_some, on_one_line
from testdb_app.showdeps.picture import PLAIN, Paint, counted

SCHEMA_VERSION = 1
"""The version of the JSON format. Raise it with a change that breaks a reader."""
_COLUMNS = ("key", "alias", "made", "in", "size", "used", "saved")
_LISTED = 8
"""The number of names of a group that ``--explain`` shows without ``-v 2``."""


class Command(TerminalCommand):
    """Lists, explains, builds and drops the templates of test databases; see ``--help``."""

    help = (
        "Lists the templates from which test databases are cloned, and says why a run would not use them. With an option "
        "it explains, builds or drops them, or prints a key for the cache of a CI. All of it is for the settings of this "
        "process: a test run with other settings has other templates (--settings). "
        "Exit status: 0 done or cancelled, 1 refused or failed, 2 wrong usage."
    )
    requires_system_checks: list[str] = []  # noqa: RUF012 - Django's attribute

    def add_arguments(self, parser: ArgumentParser) -> None:
        """Add the arguments."""
        acts = parser.add_mutually_exclusive_group()
        acts.add_argument(
            "--explain",
            action="store_true",
            help="Show for each alias what the key consists of, what differs from the nearest template, and what a clone "
            "cannot repeat. With -v 2, each part by name.",
        )
        acts.add_argument(
            "--build",
            action="store_true",
            help="Build the template of each alias for which none fits. Exits with 1 if one cannot be built.",
        )
        acts.add_argument(
            "--drop",
            nargs="*",
            metavar="KEY",
            help="Drop the templates with these keys (the first digits are enough) or names. Without a key: all of this "
            "project, and what killed processes left.",
        )
        acts.add_argument(
            "--key",
            action="store_true",
            help="Print one line, which changes with all that is known before a build: the name of a cache in a CI.",
        )
        parser.add_argument(
            "--database",
            action="append",
            default=[],
            choices=tuple(connections),
            help="Only this alias; may be given several times. Default: each alias that gets a test database.",
        )
        parser.add_argument("--all-projects", action="store_true", help="With --drop: those of other projects, too.")
        parser.add_argument(
            "--no-input",
            "--noinput",
            action="store_false",
            dest="interactive",
            help="With --drop: do not ask for confirmation.",
        )
        parser.add_argument(
            "--format",
            default="text",
            choices=("text", "json"),
            help="json is for the list and for --explain: it prints them for programs.",
        )

    def handle(self, **options: Any) -> None:
        """Run the command."""
        try:
            # Settings such as DEBUG are parts of a key.
            with as_in_tests():
                self._handle(**options)
        except (ConfigurationError, UnknownNameError) as error:
            raise CommandError(explained(error.message, self.stderr), returncode=2) from error
        except TestDBError as error:
            raise CommandError(explained(error.message, self.stderr)) from error
        except ImproperlyConfigured as error:
            raise CommandError(explained(f"{reason_of(error)}.", self.stderr)) from error
        except KeyboardInterrupt as error:
            message = "Interrupted. No template is half-built: one exists only when it is complete."
            raise CommandError(message, returncode=130) from error

    def _handle(self, **options: Any) -> None:
        drops = options["drop"] is not None
        if options["all_projects"] and (not drops or options["drop"]):
            raise ConfigurationError("--all-projects is for --drop without keys: leave it out.")
        if options["format"] == "json" and (drops or options["build"] or options["key"]):
            raise ConfigurationError("--format json is for the list and for --explain: leave it out.")
        aliases = _choose_aliases(options["database"])
        if options["key"]:
            self._print_key(aliases)
        elif options["build"]:
            self._build(aliases, **options)
        elif drops:
            self._drop(aliases, **options)
        else:
            self._list(aliases, **options)

    # What there is ----------------------------------------------------------------------------------------------------

    def _read(self, aliases: Iterable[str], **options: Any) -> list[Inventory]:
        found = []
        with elapsed_time(sys.stderr, "Reading", silent=options["verbosity"] == 0):
            for alias in aliases:
                with _errors_named(alias):
                    found.append(read_inventory(connections[alias]))
        return found

    def _list(self, aliases: list[str], **options: Any) -> None:
        inventories = self._read(aliases, **options)
        templates = _of_aliases(list_all(inventories), options["database"])
        if options["format"] == "json":
            values = as_dict(inventories, templates, explains=options["explain"])
            self.stdout.write(json.dumps(values, indent=2))
            return
        paint = paint_for(self.stdout, self.style, options)
        lines = list(describe_settings())
        if options["explain"]:
            for inventory in inventories:
                lines += [
                    "",
                    *explain(inventory, most=_LISTED if options["verbosity"] < 2 else sys.maxsize, paint=paint),
                ]
        else:
            lines += ["", *map(describe_next, inventories), *describe_templates(templates, paint)]
            lines += describe_others(_others(inventories), paint)
        if options["verbosity"] > 0:
            self._show(lines)

    def _print_key(self, aliases: list[str]) -> None:
        digests = {}
        for alias in aliases:
            if find_obstacle(connections[alias].creation) is None:
                with _opened(alias) as store:
                    digests[alias] = read_key(store).digest
        if not digests:
            raise CommandError("No alias can have a template, so there is no key: see manage.py testtemplates.")
        self.stdout.write(StaticKey(digests).digest)

    # What is done -----------------------------------------------------------------------------------------------------

    def _build(self, aliases: list[str], **options: Any) -> None:
        failures: list[str] = []
        cause: Exception | None = None
        write: Callable[[str], None] = partial(self.stderr.write, style_func=str)
        is_shown = options["verbosity"] > 0
        draw = find_terminal(sys.stderr) if is_shown else None
        progress = Progress(write if is_shown else _nowhere, draw=draw)
        for alias in aliases:
            try:
                template, is_built = find_or_build_outside_of_tests(connections[alias], progress)
            except TestDBError as error:
                failures.append(error.message)
            except Error as error:
                cause = error
                failures.append(
                    f'The migrations of alias "{alias}" failed: {reason_of(error)}. --traceback shows where.'
                )
            except SystemExit:  # Django has written why
                failures.append(f'The template of "{alias}" could not be built: Django could not create the database.')
            else:
                if is_shown:
                    age = "built now" if is_built else f"fits ({template.describe_age()})"
                    self._show([f'"{alias}": template {template.short_name}, {age}'])
        if failures:
            raise CommandError(explained("\n".join(failures), self.stderr)) from cause

    def _drop(self, aliases: list[str], **options: Any) -> None:
        inventories = self._read(aliases, **options)
        listed = _of_aliases(list_all(inventories), options["database"])
        others = _others(inventories)
        if options["drop"]:
            names = {_find_named(key, listed, others) for key in options["drop"]}
        else:
            unreadable = options["all_projects"]
            names = {each.template.name for each in listed if each.is_own or options["all_projects"]}
            names |= {
                each.name
                for each in others
                if each.kind is OtherKind.LEFT_OVER or (unreadable and each.kind is OtherKind.UNREADABLE)
            }
        if not names:
            if options["verbosity"] > 0:
                self._show(["Nothing to drop."])
            return
        if options["interactive"] and not self._confirm(names, listed):
            self.stderr.write("Cancelled. Nothing was dropped.", self.style.NOTICE)
            return
        dropped, failures = set(), []
        for alias in dict.fromkeys({each.place: each.alias for each in inventories if each.place}.values()):
            with _opened(alias) as store:
                for name in sorted(names & _droppable(store)):
                    try:
                        with connections[alias].wrap_database_errors:
                            store.drop(name)
                        dropped.add(name)
                    except Error as error:
                        failures.append(f'"{name}" was not dropped: {reason_of(error)}.')
                held = [each.name for each in store.list_others() if each.kind is OtherKind.HELD]
                failures += [f'"{name}" was not dropped: a run uses it now.' for name in held if name in names]
        if options["verbosity"] > 0 and dropped:
            shown = on_one_line(f"Dropped {counted(len(dropped), 'database')}: {', '.join(sorted(dropped))}.")
            self._show([shown])
        if failures:
            raise CommandError(explained("\n".join([*failures, "End what uses it, and try again."]), self.stderr))

    def _confirm(self, names: set[str], listed: list[ListedTemplate]) -> bool:
        known = {each.template.name: each.template for each in listed}
        lines = [f"About to drop {counted(len(names), 'database')} of templates:"]
        for name in sorted(names):
            template = known.get(name)
            what = f' ("{template.alias}" of {template.project}, {template.describe_age()})' if template else ""
            lines.append(on_one_line(f"  {name}{what}"))
        return confirmed(self, [*lines, 'Type "yes" to go on, anything else to cancel:'], "yes")

    def _show(self, lines: Iterable[str]) -> None:
        write_text(self.stdout, folded("\n".join(lines), self.stdout) + "\n")


# The parts of the report ----------------------------------------------------------------------------------------------


def describe_settings() -> Iterator[str]:
    """Yield the lines about the settings, which decide on the keys."""
    yield f"Project {project_root()}, settings {_settings_module()}. Runs with other settings may have other templates."
    if not get_settings().templates:
        yield 'TESTDB["TEMPLATES"] is off: runs use them only by the option or the ini key testdb_templates.'
    with suppress(ImportError, AttributeError):
        if not issubclass(get_runner(settings), ResetRunnerMixin):
            yield f'manage.py test uses none: TEST_RUNNER is "{settings.TEST_RUNNER}", which has no ResetRunnerMixin.'


def describe_next(inventory: Inventory) -> str:
    """Return what the next run does for an alias."""
    if inventory.obstacle is not None:
        return f'"{inventory.alias}": no template ({inventory.obstacle})'
    if inventory.archived is not None:
        template, folder = inventory.archived, find_cache_folder()
        return (
            f'"{inventory.alias}": the next run restores template {template.short_name} from {folder} ({inventory.why})'
        )
    if inventory.fitting is None:
        return f'"{inventory.alias}": the next run builds its template ({inventory.why})'
    if inventory.fitting.elsewhere:
        return f'"{inventory.alias}": the next run migrates ({_refusal(inventory.nearest)})'
    return f'"{inventory.alias}": the next run uses template {inventory.fitting.short_name}'


def describe_templates(templates: list[ListedTemplate], paint: Paint = PLAIN) -> Iterator[str]:
    """Yield the table of templates: those of this project first, each with why it is not used."""
    if not templates:
        return
    ranked = sorted(
        templates, key=lambda each: (each.place, not each.is_own, each.template.project, -each.template.used)
    )
    heading, *lines = aligned([_COLUMNS, *map(_row, ranked)])
    before: tuple[str, str] | None = None
    for each, line in zip(ranked, lines, strict=True):
        where = each.place, each.template.project
        if where != before:
            yield from (
                "",
                on_one_line(f"{each.place}, project {each.template.project}"),
                f"  {paint.heading(heading)}",
            )
            before = where
        yield f"  {on_one_line(line)}"
        if (each.changed or each.refusal) and each.changed is not None:
            yield on_one_line(f"    not used: {_refusal(each)}")


def describe_others(others: list[OtherDatabase], paint: Paint = PLAIN) -> Iterator[str]:
    """Yield what else has a name of this package."""
    if others:
        yield from ("", "Other databases with names of templates:")
    for each in others:
        what = f"{each.what}, {each.kind.value}"
        if each.kind is OtherKind.FOREIGN:
            what = f"not ours ({each.what}): drop it yourself"
        yield f"  {paint.table(on_one_line(each.name))}  {on_one_line(what)}"


def explain(inventory: Inventory, *, most: int, paint: Paint = PLAIN) -> Iterator[str]:
    """Yield all that decides whether a run clones a template for an alias. *most*: the names of a group that are shown."""
    yield paint.heading(describe_next(inventory))
    if inventory.static is None:
        return
    yield f"  on {inventory.place}"
    yield f"  static key {inventory.static.digest}, known before a build, of:"
    yield from _describe_parts(inventory.static.parts, most)
    yield from _names("receivers of post_migrate outside of Django, not called after a clone", find_foreign_receivers())
    nearest = inventory.nearest
    if nearest is None:
        return
    template = nearest.template
    fits = "fits" if not nearest.changed else "is the nearest"
    yield f"  template {template.key} {fits} ({template.describe_age()}, {describe_bytes(nearest.size)})"
    for changed in nearest.changed or ():
        yield f"    {paint.warning('differs')}: {on_one_line(changed)}"
    if nearest.refusal:
        yield f"    {paint.warning('not used')}: {nearest.refusal}"
    yield "  its build used, besides:"
    yield from _describe_parts(template.used_parts, most)
    yield from _names("columns that hold the time of the build", template.frozen)
    yield from _names("aliases that its migrations wrote to, which a clone does not repeat", template.elsewhere)
    yield from _names("done outside of the database, which a clone does not repeat", template.outside)


def as_dict(inventories: list[Inventory], templates: list[ListedTemplate], *, explains: bool) -> dict[str, Any]:
    """Return the list as types of JSON, with the parts of the keys if *explains*."""
    return {
        "schema_version": SCHEMA_VERSION,
        "project": str(project_root()),
        "settings": _settings_module(),
        "aliases": [_alias_as_dict(each, explains=explains) for each in inventories],
        "templates": [each.as_dict() for each in templates],
        "others": [
            {"name": each.name, "kind": each.kind.name.lower(), "what": each.what} for each in _others(inventories)
        ],
    }


def _alias_as_dict(inventory: Inventory, *, explains: bool) -> dict[str, Any]:
    values: dict[str, Any] = {
        "alias": inventory.alias,
        "place": inventory.place or None,
        "obstacle": inventory.obstacle,
        "static_key": inventory.static.digest if inventory.static else None,
        "template": inventory.fitting.key if inventory.fitting else None,
        "archived": inventory.archived.key if inventory.archived else None,
        "why": None if inventory.fitting else inventory.why,
    }
    if explains:
        nearest = inventory.nearest.template if inventory.nearest else None
        values |= {
            "parts": dict(inventory.static.parts) if inventory.static else {},
            "receivers": find_foreign_receivers(),
            "nearest": nearest.key if nearest else None,
            "used_parts": dict(nearest.used_parts) if nearest else {},
            "frozen": list(nearest.frozen) if nearest else [],
            "elsewhere": list(nearest.elsewhere) if nearest else [],
            "outside": list(nearest.outside) if nearest else [],
        }
    return values


def _row(each: ListedTemplate) -> tuple[str, ...]:
    template = each.template
    last = f", {describe_time_since(template.used)} ago" if template.uses else ""
    return (
        template.short_name,
        template.alias,
        f"{describe_time_since(template.made)} ago",
        describe_seconds(template.seconds),
        describe_bytes(each.size),
        f"{counted(template.uses, 'time')}{last}" if template.uses else "never",
        describe_seconds(each.seconds_saved),
    )


def _describe_parts(parts: Any, most: int) -> Iterator[str]:
    for group, names in group_parts(parts).items():
        yield from _names(group, names, most)


def _names(title: str, names: Iterable[str], most: int = sys.maxsize) -> Iterator[str]:
    listed = list(names)
    if listed:
        yield on_one_line(f"    {title}: {list_some(listed, most=most)}")


def _refusal(listed: ListedTemplate | None) -> str:
    if listed is None:
        return ""
    return describe_changes(list(listed.changed)) if listed.changed else listed.refusal


# ----------------------------------------------------------------------------------------------------------------------


def _choose_aliases(named: Iterable[str]) -> list[str]:
    aliases = find_aliases()
    for alias in named:
        if alias not in connections:
            raise UnknownNameError(f'There is no alias "{alias}". Aliases: {", ".join(connections)}.')
        if alias not in aliases:
            raise ConfigurationError(
                f'Alias "{alias}" has no test database of its own: it is a mirror, or another alias has its database. '
                f"Name one of {', '.join(aliases)}."
            )
    return [alias for alias in aliases if not named or alias in named]


@contextmanager
def _errors_named(alias: str) -> Iterator[None]:
    """Turn errors of the database into one that says which alias to look at."""
    connection = connections[alias]
    try:
        with connection.wrap_database_errors:
            yield
    except Error as error:
        raise CommandError(
            f'The templates of alias "{alias}" cannot be reached: {reason_of(error)}. Check settings.DATABASES["{alias}"], '
            "and that the server runs and lets you in."
        ) from error


@contextmanager
def _opened(alias: str) -> Iterator[TemplateStore]:
    with _errors_named(alias), open_store(connections[alias]) as store:
        yield store


def _of_aliases(templates: list[ListedTemplate], named: list[str]) -> list[ListedTemplate]:
    return [each for each in templates if not named or each.template.alias in named]


def _others(inventories: Iterable[Inventory]) -> list[OtherDatabase]:
    return list(dict.fromkeys(each for inventory in inventories for each in inventory.others))


def _droppable(store: TemplateStore) -> set[str]:
    """Return the names of what bears our name and our mark and belongs to this role now."""
    kinds = {OtherKind.LEFT_OVER, OtherKind.UNREADABLE}
    others = {each.name for each in store.list_others() if each.kind in kinds}
    return others | {each.name for each in store.list_templates()}


def _find_named(key: str, listed: list[ListedTemplate], others: list[OtherDatabase]) -> str:
    found = {each.template.name for each in listed if each.template.key.startswith(key) or each.template.name == key}
    for each in others:
        if each.name == key and each.kind in {OtherKind.FOREIGN, OtherKind.HELD}:
            why = "in use by a run" if each.kind is OtherKind.HELD else f"not ours ({each.what})"
            raise UnsafeDatabaseError(f'"{key}" is {why}, and is not dropped.')
    found |= {each.name for each in others if each.name == key}
    if len(found) == 1:
        return found.pop()
    known = ", ".join(each.template.short_name for each in listed) or "none"
    if found:
        raise UnknownNameError(f'"{key}" stands for several templates: {", ".join(sorted(found))}. Give more digits.')
    raise UnknownNameError(f'This role has no template "{key}". Keys: {known}.')


def _settings_module() -> str:
    return getattr(settings, "SETTINGS_MODULE", None) or "without a module"


def _nowhere(_: str) -> None:
    pass
