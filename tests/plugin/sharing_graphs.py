"""Random test modules: fixtures that make, change and delete rows, and tests that request them. Each records what it sees."""

from __future__ import annotations

import random
from collections.abc import Iterator

PARTS = """\
def parts(value):
    found = [value]
    if isinstance(value, Item):
        found.append(value.shelf)
    elif isinstance(value, (list, tuple)):
        found += [each for part in value for each in parts(part)]
    elif isinstance(value, dict):
        found += [each for part in value.values() for each in parts(part)]
    return [each for each in found if isinstance(each, (Shelf, Item, list, dict))]
"""
"""Code of a test module: the objects in a value, whose identities tests compare."""
HEAD = """
import json, os
import pytest
from django.conf import settings
from django.core import mail
from django.core.cache import cache
from django.db import connection, transaction
from django.utils import translation
from shop.models import Item, Shelf
from testdb_app.pytest_plugin import copied_per_test

nothing = None

def style():
    return f"{getattr(settings, 'STYLE', None)} {os.environ.get('STYLE')} {translation.get_language()}"

def see():
    above = {pk: name for pk, name in Shelf.objects.values_list("pk", "name")}
    return {
        "shelves": sorted([s.name, above.get(s.above_id)] for s in Shelf.objects.all()),
        "items": sorted([i.label, above[i.shelf_id]] for i in Item.objects.all()),
        "mails": len(getattr(mail, "outbox", ())),
        "cache": cache.get("k"),
        "style": style(),
    }

def plain(value, depth=0):
    if isinstance(value, Shelf):
        return ["shelf", value.name, value.pk is None, getattr(value, "note", None)]
    if isinstance(value, Item):
        return ["item", value.label, value.pk is None, plain(value.shelf)]
    if hasattr(value, "model"):
        return ["queryset", sorted(map(str, (plain(each) for each in value)))]
    if isinstance(value, (list, tuple)):
        return [type(value).__name__, *(plain(each) for each in value)]
    if isinstance(value, dict):
        return {key: plain(each) for key, each in value.items()}
    return "function" if callable(value) else value

PARTS_OF_VALUES
def record(request, when, *values):
    objects = [each for value in values for each in parts(value)]
    same = [[i, j] for i, one in enumerate(objects) for j, other in enumerate(objects) if i < j and one is other]
    with (settings.HERE / f"found-{os.getpid()}.jsonl").open("a") as file:
        file.write(json.dumps({
            "test": request.node.nodeid, "when": when, "values": [plain(each) for each in values], "same": same, **see(),
        }) + "\\n")

def fetched(queryset):
    len(queryset)
    return queryset

def first(value):
    '''The first object with a row in a value.'''
    return next((each for each in parts(value) if isinstance(each, (Shelf, Item)) and each.pk), None)
""".replace("PARTS_OF_VALUES", PARTS)

_RETURNS = (
    "one",
    "one",
    "one",
    "[one, {argument}]",
    "({argument}, one)",
    "{{'one': one, 'other': {argument}}}",
    "Shelf.objects.filter(name__contains='s')",
    "fetched(Shelf.objects.filter(name__contains='s'))",
    "None",
    "{argument}",
    "lambda: Shelf.objects.create(name='late {name}', above=one)",
)


class Graph:
    """The text of one module, from a seed.

    With *wide* it may have a fixture of module scope, whose rows each test sees that runs after the first that requests it.
    """

    def __init__(self, seed: int, *, wide: bool) -> None:
        self.random = random.Random(seed)
        self.wide = wide
        self.names: list[str] = []

    def text(self) -> str:
        """Return it, without the mark."""
        chance, lines = self.random, []
        if self.wide and chance.random() < 0.5:
            lines.append(self._wide())
        for number in range(chance.randint(3, 9)):
            lines.append(self._fixture(f"f{number}", "", self.names))
            self.names.append(f"f{number}")
            if chance.random() < 0.3:
                lines.append(self._setting(f"set_{number}"))
                self.names.append(f"set_{number}")
        lines += [self._test(f"test_{number}", "", self.names) for number in range(chance.randint(4, 12))]
        if chance.random() < 0.5:
            lines.append("class TestIt:")
            names = list(self.names)
            if chance.random() < 0.4:
                own = chance.choice(names)
                arguments = [own] if own != "wide" and chance.random() < 0.5 else []
                lines.append(self._fixture(own, "    ", arguments, always=True))
            lines += [self._test(f"test_in_{number}", "    ", names) for number in range(chance.randint(2, 5))]
        return HEAD + "\n".join(lines)

    def _wide(self) -> str:
        self.names.append("wide")
        value = self.random.choice(["{}", "copied_per_test({})", "[{}]"]).format("Shelf.objects.create(name='wide s')")
        return f"@pytest.fixture(scope='module')\ndef wide(db_module):\n    return {value}\n"

    def _setting(self, name: str) -> str:
        """Return a fixture that only sets, or nearly so."""
        chance = self.random
        arguments = ["settings", "monkeypatch", *chance.sample(self.names, chance.choice([0, 0, 0, 1]))]
        chance.shuffle(arguments)
        sets = chance.choice(
            [
                f"settings.STYLE = '{name}'",
                f"settings.STYLE = ['{name}']",
                f"monkeypatch.setenv('STYLE', '{name}')",
                f"monkeypatch.setattr(settings, 'STYLE', '{name}', raising=False)",
                f"monkeypatch.setattr(json, 'style', lambda: '{name}', raising=False)",
                "translation.activate('de')",
            ]
        )
        autouse = chance.choice(["", "(autouse=True)"])
        end = chance.choice(["pass", "yield", "return settings"])
        return f"@pytest.fixture{autouse}\ndef {name}({', '.join(arguments)}):\n    {sets}\n    {end}\n"

    def _fixture(self, name: str, indent: str, known: list[str], *, always: bool = False) -> str:
        chance = self.random
        most = min(2, len(known))
        arguments = list(known) if always else chance.sample(known, chance.randint(0, most))
        extra = chance.choices(["", "monkeypatch", "settings", "mailoutbox"], [20, 1, 1, 1])[0]
        autouse = "(autouse=True)" if chance.random() < 0.08 else ""
        own = "self, " if indent else ""
        signature = ", ".join([*arguments, *([extra] if extra else []), "db"])
        body = list(self._body(name, arguments))
        lines = [f"@pytest.fixture{autouse}", f"def {name}({own}{signature}):", *("    " + each for each in body)]
        return "\n".join(indent + line for line in lines) + "\n"

    def _body(self, name: str, arguments: list[str]) -> Iterator[str]:
        chance = self.random
        argument = chance.choice(arguments) if arguments else "nothing"
        yield f"one = Shelf.objects.create(name='s {name}')"
        if chance.random() < 0.5:
            yield f"Item.objects.create(label='in {name} ' + style(), shelf=one)"
        for _ in range(chance.randint(0, 3)):
            yield chance.choice(
                [
                    f"one = Item.objects.create(label='i {name} ' + style(), shelf=Shelf.objects.filter(name__contains='s').first())",
                    f"Item.objects.create(label='of {name}', shelf=Shelf.objects.get(name='s {name}'))",
                    f"Shelf.objects.filter(name__startswith='s').exclude(name='s {name}').update(above=None)",
                    "Item.objects.all().delete()",
                    f"(first({argument}) or one).delete() if first({argument}) else None",
                    f"setattr(first({argument}) or one, 'note', 'by {name}')",
                    "list(Shelf.objects.filter(name__contains='s'))[0].save()",
                    "isinstance(getattr(settings, 'STYLE', None), list) and settings.STYLE.append(1)",
                    f"[setattr(each, 'above', first(one)) for each in parts({argument}) if isinstance(each, Shelf)]",
                ]
            )
        rare = chance.random()
        if rare < 0.04:
            yield "mail.send_mail('s', 'b', 'a@b.c', ['a@b.c'])"
        elif rare < 0.08:
            yield f"cache.set('k', '{name}')"
        elif rare < 0.11:
            yield "transaction.on_commit(print)"
        elif rare < 0.14:
            yield f"Shelf.objects.create(name='s {name}')"  # it is there already
        elif rare < 0.17:
            yield "try:"
            yield f"    with transaction.atomic(): Shelf.objects.create(name='s {name}')"
            yield "except Exception: pass"
        elif rare < 0.19:
            yield "raise RuntimeError('half-way')"
        elif rare < 0.23:
            yield f"yield {chance.choice(_RETURNS).format(argument=argument, name=name)}"
            yield "Item.objects.all().delete()"
            return
        yield f"return {chance.choice(_RETURNS).format(argument=argument, name=name)}"

    def _test(self, name: str, indent: str, known: list[str]) -> str:
        chance = self.random
        arguments = chance.sample(known, chance.randint(0, min(3, len(known))))
        own = "self, " if indent else ""
        mark = "@pytest.mark.parametrize('number', [1, 2])" if chance.random() < 0.1 else ""
        signature = ", ".join(["request", "db", *arguments, *(["number"] if mark else [])])
        lines = [*([mark] if mark else []), f"def {name}({own}{signature}):"]
        values = ", ".join(arguments)
        lines.append(f"    record(request, 'first', {values})")
        for _ in range(chance.randint(0, 3)):
            argument = chance.choice(arguments) if arguments else "nothing"
            late = chance.choice([each for each in self.names if each != "wide"] or ["db"])
            what = chance.choice(
                [
                    f"one = first({argument}); one and one.delete()",
                    f"[setattr(each, 'note', 'by {name}') for each in parts({argument}) if not isinstance(each, (list, dict))]",
                    f"{argument}() if callable({argument}) else None",
                    f"{argument}.append(1) if isinstance({argument}, list) else None",
                    "Shelf.objects.filter(name__startswith='s').update(above=None)",
                    "Item.objects.all().delete()",
                    "Shelf.objects.create(name='of a test')",
                    f"record(request, 'late', request.getfixturevalue('{late}'))",
                    "raise AssertionError('on purpose')",
                    "cache.set('k', 'test'); mail.send_mail('s', 'b', 'a@b.c', ['a@b.c'])",
                ]
            )
            lines.append(f"    {what}")
        lines.append(f"    record(request, 'last', {values})")
        return "\n".join(indent + line for line in lines) + "\n"
