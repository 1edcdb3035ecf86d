"""Random test classes: ``setUp()`` makes, changes and deletes rows, sets attributes and does other things; tests record what they see."""

from __future__ import annotations

import random

from tests.plugin.sharing_graphs import PARTS

HEAD = """
import json

def plain(value):
    if isinstance(value, (Shelf, Item)):
        return [type(value).__name__, str(getattr(value, "name", getattr(value, "label", ""))), value.pk is None]
    if isinstance(value, (list, tuple)):
        return [plain(each) for each in value]
    if isinstance(value, dict):
        return {str(key): plain(each) for key, each in value.items()}
    if hasattr(value, "model"):
        return ["queryset", sorted(map(str, map(plain, value)))]
    return "other" if callable(value) else value

PARTS_OF_VALUES
class Base(*BASES):
    kept = []

    def see(self, when):
        attributes = {name: getattr(self, name, "none") for name in ("a0", "a1", "a2", "a3", "a4", "t0", "t1")}
        objects = [each for value in attributes.values() for each in parts(value)]
        same = [[i, j] for i, one in enumerate(objects) for j, other in enumerate(objects) if i < j and one is other]
        with (settings.HERE / f"found-{os.getpid()}.jsonl").open("a") as file:
            file.write(json.dumps({
                "test": self.id(), "when": when, "same": same,
                "attributes": {name: plain(value) for name, value in attributes.items()},
                "own": sorted(name for name in vars(self) if len(name) == 2),
                "shelves": sorted([s.name, s.above and s.above.name] for s in Shelf.objects.all()),
                "items": sorted([i.label, i.shelf.name] for i in Item.objects.all()),
                "mails": len(mail.outbox), "cache": cache.get("k"), "kept": len(self.kept),
                "language": translation.get_language(), "cookie": str(self.client.cookies.get("c")),
                "callbacks": len(connection.run_on_commit),
            }) + "\\n")

    def first(self, kind=Shelf):
        return kind.objects.exclude(name="from a migration").first() if kind is Shelf else kind.objects.first()

    @classmethod
    def tearDownClass(cls):
        super().tearDownClass()
        translation.activate("en-us")
        cache.clear()
""".replace("PARTS_OF_VALUES", PARTS)

# What a set-up may do, by how often; most of it can be shared.
_STEPS = (
    (8, "self.{a} = Shelf.objects.create(name='{name}')"),
    (4, "self.{a} = Item.objects.create(shelf=Shelf.objects.create(name='{name}'), label='{name}')"),
    (3, "self.{a} = [self.first(), self.first(Item), getattr(self, '{b}', None)]"),
    (3, "self.{a} = getattr(self, '{b}', None)"),
    (2, "self.{a} = {{'one': getattr(self, '{b}', None), 'other': self.t0}}"),
    (2, "self.{a} = Shelf.objects.filter(name__contains='s')"),
    (2, "self.{a} = lambda: Shelf.objects.create(name='{name}')"),
    (2, "self.t1.label = 'by setUp'; self.t1.save()"),
    (2, "Shelf.objects.filter(name__startswith='s').update(above=self.t0)"),
    (1, "Item.objects.all().delete()"),
    (1, "self.t0.delete()"),
    (1, "self.client.cookies['c'] = '{name}'"),
    (1, "self.assertEqual(Shelf.objects.filter(name='{name}').count(), 0)"),
    (1, "Shelf.objects.create(name='{name}'); Shelf.objects.filter(name='{name}').delete()"),
)
_EFFECTS = (
    "self.addCleanup(Shelf.objects.all().delete)",
    "mail.send_mail('s', 'b', 'a@b.c', ['a@b.c'])",
    "cache.set('k', Shelf.objects.count())",
    "self.kept.append(1)",
    "activate('de')",
    "transaction.on_commit(print)",
    "self.a4 = self.id()[-6:]",
    "self.a4 = iter([1])",
    "self.fail('on purpose') if self.first() else None",
    "self.skipTest('on purpose') if cache.get('k') else None",
)
_OF_TESTS = (
    "one = self.first(); one and one.delete()",
    "[setattr(each, 'name', 'by a test') for each in parts(getattr(self, '{a}', None)) if isinstance(each, Shelf)]",
    "[each.append(1) for each in parts(getattr(self, '{a}', None)) if isinstance(each, list)]",
    "[each.delete() for each in parts(getattr(self, '{a}', None)) if isinstance(each, (Shelf, Item)) and each.pk]",
    "callable(getattr(self, '{a}', None)) and self.{a}()",
    "Item.objects.all().delete()",
    "Shelf.objects.create(name='of a test')",
    "self.client.cookies['c'] = 'test'",
    "cache.set('k', 'test'); mail.send_mail('s', 'b', 'a@b.c', ['a@b.c'])",
    "self.fail('on purpose')",
)


class SetUps:
    """The text of one module, from a seed: two classes, of which the second inherits from the first."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.number = 0

    def text(self) -> str:
        """Return it. The module has to define ``BASES`` before."""
        chance = self.random
        lines = [
            HEAD,
            "class First(Base):",
            "    @classmethod",
            "    def setUpTestData(cls):",
            "        cls.t0 = Shelf.objects.create(name='data')",
            "        cls.t1 = Item.objects.create(shelf=cls.t0, label='data')",
            *self._set_up(inherits=False),
            *self._tests(),
            "class Second(First):",
            *(self._set_up(inherits=True) if chance.random() < 0.7 else ()),
            *self._tests(),
        ]
        return "\n".join(lines) + "\n"

    def _set_up(self, *, inherits: bool) -> list[str]:
        chance = self.random
        weights, steps = zip(*_STEPS, strict=True)
        chosen = chance.choices(steps, weights, k=chance.randint(1, 6))
        if chance.random() < 0.25:
            chosen.insert(chance.randint(0, len(chosen)), chance.choice(_EFFECTS))
        if inherits:
            chosen.insert(chance.randint(0, len(chosen)), "super().setUp()")
        return ["    def setUp(self):", *(f"        {self._filled(each)}" for each in chosen)]

    def _tests(self) -> list[str]:
        chance, lines = self.random, []
        for number in range(chance.randint(3, 6)):
            steps = [self._filled(chance.choice(_OF_TESTS)) for _ in range(chance.randint(0, 3))]
            body = ["self.see('first')", *steps, "self.see('last')"]
            lines += [f"    def test_{number}(self):", *(f"        {each}" for each in body)]
        return lines

    def _filled(self, step: str) -> str:
        self.number += 1
        attributes = [f"a{number}" for number in range(4)]
        a, b = self.random.choice(attributes), self.random.choice([*attributes, "t0", "t1"])
        return step.format(a=a, b=b, name=f"s{self.number}")
