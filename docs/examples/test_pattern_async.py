"""Async: Django's test cases run coroutines by themselves; in pytest, a function runs one."""

from asgiref.sync import async_to_sync

from testdb_app.demo.models import Genre
from testdb_app.testcases import ResetTransactionTestCase


class GenreTest(ResetTransactionTestCase):
    async def test_add(self) -> None:
        await Genre.objects.acreate(name="Drama")
        self.assertEqual(await Genre.objects.acount(), 12)

    async def test_and_it_is_gone(self) -> None:
        self.assertEqual(await Genre.objects.acount(), 11)


async def add(name: str) -> int:
    """Add a genre; return how many there are."""
    await Genre.objects.acreate(name=name)
    return await Genre.objects.acount()


def test_a_coroutine_in_a_function(reset_db: None) -> None:
    # Not asyncio.run(): this way the queries come over the session of the test.
    assert async_to_sync(add)("Drama") == 12
