"""What there is of templates: a value for each alias, which ``manage.py testtemplates`` shows."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from django.test.utils import get_unique_databases_and_mirrors

from testdb_app.creation.key import StaticKey, project_root
from testdb_app.creation.store import OtherDatabase
from testdb_app.creation.template import Template
from testdb_app.creation.templates import (
    describe_too_old,
    find_archived,
    find_changes,
    find_for,
    find_obstacle,
    open_store,
    read_key,
)
from testdb_app.exceptions import ArchiveError

if TYPE_CHECKING:
    from django.db.backends.base.base import BaseDatabaseWrapper


@dataclass(frozen=True, slots=True, kw_only=True)
class ListedTemplate:
    """A template, where it is, its size in bytes, and for one of this project what has changed since it was built.

    - ``is_own``: whether it is of this project.
    - ``changed``: the changes, the most telling first; None if they are not known: it is of another project or alias.
    - ``refusal``: why it is not used although nothing has changed; "" without such a reason.
    """

    template: Template
    place: str
    size: int
    is_own: bool
    changed: tuple[str, ...] | None = None
    refusal: str = ""

    @property
    def seconds_saved(self) -> float:
        """The time that its clones have saved: that of the migrations, for each use."""
        return self.template.uses * self.template.seconds

    def as_dict(self) -> dict[str, Any]:
        """Return it as types of JSON."""
        template = self.template
        return {
            "key": template.key,
            "name": template.name,
            "place": self.place,
            "project": template.project,
            "alias": template.alias,
            "made": _as_text(template.made),
            "used": _as_text(template.used),
            "uses": template.uses,
            "size": self.size,
            "seconds": round(template.seconds, 3),
            "seconds_saved": round(self.seconds_saved, 3),
            "fits": None if self.changed is None else not self.changed and not self.refusal,
            "changed": None if self.changed is None else list(self.changed),
            "refusal": self.refusal,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Inventory:
    """What there is for one alias, on its server or in its folder.

    - ``obstacle``: why there can be no template, or None. The other fields may be empty then.
    - ``static``: the key now, as far as it is known without a build.
    - ``fitting``: the template that a run would use now, or None; ``why`` there is none.
    - ``archived``: the template in ``TESTDB["TEMPLATE_CACHE"]`` that a run would restore, or None.
    - ``templates``: all of the role, of all projects and aliases.
    - ``others``: what else has a name of this package.
    """

    alias: str
    place: str = ""
    obstacle: str | None = None
    static: StaticKey | None = None
    fitting: Template | None = None
    why: str = ""
    archived: Template | None = None
    templates: tuple[ListedTemplate, ...] = ()
    others: tuple[OtherDatabase, ...] = ()

    @property
    def nearest(self) -> ListedTemplate | None:
        """The template that fits, or that of this project and alias that was used last."""
        known = [each for each in self.templates if each.changed is not None]
        return max(known, key=lambda each: (each.template == self.fitting, each.template.used), default=None)


def find_aliases() -> list[str]:
    """Return the aliases that get a test database of their own, in the order in which Django makes them.

    Raises :class:`django.core.exceptions.ImproperlyConfigured` for dependencies in a circle.
    """
    databases, _ = get_unique_databases_and_mirrors()
    return [aliases[0] for _, aliases in databases.values()]


def read_inventory(connection: BaseDatabaseWrapper) -> Inventory:
    """Return what there is for the alias of *connection*. Raises the driver's errors. Cost: a round trip a template."""
    alias, obstacle = connection.alias, find_obstacle(connection.creation)
    if obstacle is not None:
        return Inventory(alias=alias, obstacle=obstacle)
    with open_store(connection) as store:
        static, place = read_key(store), store.place
        fitting, why = find_for(store, static)
        archived = None
        if fitting is None:
            try:
                archived = find_archived(store, static, lambda _: None)
            except ArchiveError as error:
                why = f"{why}; {error.message}"
        listed = []
        for template in sorted(store.list_templates(), key=lambda each: -each.used):
            is_own = template.project == str(project_root())
            changed = None
            if (is_own and template.alias == alias) or template == fitting:
                changed = tuple(find_changes(store, template, static))
            listed.append(
                ListedTemplate(
                    template=template,
                    place=place,
                    size=store.read_size(template.name),
                    is_own=is_own,
                    changed=changed,
                    refusal=_find_refusal(template),
                )
            )
        return Inventory(
            alias=alias,
            place=place,
            obstacle=store.find_obstacle(),
            static=static,
            fitting=fitting,
            why=why,
            archived=archived,
            templates=tuple(listed),
            others=tuple(store.list_others()),
        )


def list_all(inventories: Iterable[Inventory]) -> list[ListedTemplate]:
    """Return each template once, with what is known of it by the inventory of its alias."""
    found: dict[tuple[str, str], ListedTemplate] = {}
    for inventory in inventories:
        for each in inventory.templates:
            key = each.place, each.template.name
            if key not in found or each.changed is not None:
                found[key] = each
    return list(found.values())


def _find_refusal(template: Template) -> str:
    aliases = ", ".join(f'"{alias}"' for alias in template.elsewhere)
    return f"its migrations write to {aliases} too" if aliases else describe_too_old(template)


def _as_text(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")
