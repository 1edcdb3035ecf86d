"""One suite of tests against ``TransactionTestCase``, as files of a project. Its base class is chosen by an environment variable.

Each test records what it observes; the same must be observed with Django's class and with ours.
"""

from __future__ import annotations

MODELS = """
from django.db import models

class Shelf(models.Model):
    name = models.CharField(max_length=20, unique=True)
    above = models.ForeignKey("self", models.SET_NULL, null=True, blank=True)

class Item(models.Model):
    shelf = models.ForeignKey(Shelf, models.CASCADE)
    label = models.CharField(max_length=20, default="")
"""

MIGRATION = """
from django.db import migrations, models

def fill(apps, editor):
    Shelf = apps.get_model("shop", "Shelf")
    shelf = Shelf.objects.using(editor.connection.alias).create(name="from a migration")
    Item = apps.get_model("shop", "Item")
    Item.objects.using(editor.connection.alias).create(shelf=shelf).delete()

class Migration(migrations.Migration):
    initial = True
    dependencies = []
    operations = [
        migrations.CreateModel("Shelf", [
            ("id", models.BigAutoField(primary_key=True)),
            ("name", models.CharField(max_length=20, unique=True)),
            ("above", models.ForeignKey("shop.shelf", models.SET_NULL, null=True, blank=True)),
        ]),
        migrations.CreateModel("Item", [
            ("id", models.BigAutoField(primary_key=True)),
            ("shelf", models.ForeignKey("shop.shelf", models.CASCADE)),
            ("label", models.CharField(max_length=20, default="")),
        ]),
        migrations.RunPython(fill, migrations.RunPython.noop),
    ]
"""

FIXTURE = """
[{"model": "shop.shelf", "pk": 70, "fields": {"name": "from a fixture", "above": null}},
 {"model": "shop.item", "pk": 700, "fields": {"shelf": 70, "label": "loaded"}}]
"""

SETTINGS = """
INSTALLED_APPS = ["django.contrib.contenttypes", "django.contrib.auth", "testdb_app", "shop"]
DATABASES["default"].setdefault("TEST", {})
DATABASES["other"] = {**DATABASES["default"], "NAME": str(DATABASES["default"]["NAME"]) + "_other", "TEST": {"DEPENDENCIES": []}}
DATABASES["replica"] = {**DATABASES["default"], "TEST": {"MIRROR": "default"}}
ROOT_URLCONF = "shop.urls"
ALLOWED_HOSTS = ["*"]
STATIC_URL = "static/"
"""

URLS = """
from django.http import HttpResponse
from django.urls import path
from shop.models import Item, Shelf

def view(request):
    Item.objects.create(shelf=Shelf.objects.get_or_create(name="by the server")[0])
    return HttpResponse(str(Item.objects.count()))

urlpatterns = [path("", view)]
"""

TESTS = '''
import json, os, threading, time, urllib.request
from asgiref.sync import sync_to_async
from django.apps import apps
from django.conf import settings
from django.contrib.auth.models import Permission, User
from django.contrib.contenttypes.models import ContentType
from django.db import DatabaseError, IntegrityError, connection, connections, transaction
from django.test import LiveServerTestCase, TransactionTestCase
from shop.models import Item, Shelf

which = os.environ["SUITE_BASE"]
Base, LiveBase = TransactionTestCase, LiveServerTestCase
if which.startswith("ours"):
    from testdb_app.testcases import ResetLiveServerTestCase, ResetTransactionTestCase
    Base = type("Base", (ResetTransactionTestCase,), {"reset_to": which.removeprefix("ours-"), "__module__": __name__})
    LiveBase = type("LiveBase", (ResetLiveServerTestCase,), {"reset_to": which.removeprefix("ours-"), "__module__": __name__})

def record(test, **found):
    with (settings.HERE / f"found-{os.getpid()}.jsonl").open("a") as file:
        file.write(json.dumps({"test": test.id(), **found}) + "\\n")

def look(alias="default"):
    """What a test finds, without the rows of the migration, which only Django's class loses."""
    return {
        "shelves": list(Shelf.objects.using(alias).exclude(name="from a migration").order_by("pk").values_list("name", flat=True)),
        "items": Item.objects.using(alias).count(),
        "users": User.objects.using(alias).count(),
        "types": sorted(ContentType.objects.using(alias).values_list("app_label", "model")),
        "permissions": Permission.objects.using(alias).count(),
        "usable": connections[alias].is_usable(),
        "autocommit": connections[alias].get_autocommit(),
    }

class Plain(Base):
    def test_1_writes(self):
        record(self, **look())
        shelf = Shelf.objects.create(name="one")
        Item.objects.create(shelf=shelf)
        User.objects.create_user("someone")

    def test_2_finds_nothing(self):
        record(self, **look())

    def test_3_an_error(self):
        Shelf.objects.create(name="left by an error")
        if os.environ["SUITE_ERRORS"] == "1":
            raise RuntimeError("on purpose")

    def test_4_after_the_error(self):
        record(self, **look())
        Shelf.objects.all().delete()
        Permission.objects.all().delete()
        ContentType.objects.all().delete()

    def test_5_after_deleting_everything(self):
        record(self, **look(), cached=ContentType.objects.get_for_model(Shelf).model)

    def test_6_an_integrity_error(self):
        Shelf.objects.create(name="twice")
        with self.assertRaises(IntegrityError):
            Shelf.objects.create(name="twice")
        record(self, shelves=look()["shelves"])

    def test_7_durable_and_on_commit(self):
        called = []
        with transaction.atomic(durable=True):
            transaction.on_commit(lambda: called.append("committed"))
            Shelf.objects.create(name="durable")
        record(self, called=called)

    def test_a_select_for_update_and_threads(self):
        Shelf.objects.create(name="locked")
        with transaction.atomic():
            record(self, locked=Shelf.objects.select_for_update().get(name="locked").name)
        if connection.vendor == "postgresql":
            def write():
                Shelf.objects.create(name="by a thread")
                connection.close()
            thread = threading.Thread(target=write)
            thread.start()
            thread.join()
            record(self, shelves=look()["shelves"])

    def test_b_cycle(self):
        first = Shelf.objects.create(name="first")
        first.above = Shelf.objects.create(name="second", above=first)
        first.save()

    def test_c_after_the_cycle(self):
        record(self, **look())

    def test_d_closes_the_connection(self):
        Shelf.objects.create(name="closed")
        connection.close()

    def test_e_after_the_closed_connection(self):
        record(self, **look())

    async def test_f_async(self):
        await Shelf.objects.acreate(name="async")
        record(self, count=await Shelf.objects.filter(name="async").acount())

    def test_g_after_async(self):
        record(self, **look())

    def test_h_session_state(self):
        if connection.vendor == "postgresql":
            with connection.cursor() as cursor:
                cursor.execute("SET TIME ZONE 'Asia/Tokyo'; CREATE TEMPORARY TABLE kept (id int)")
                cursor.execute("SELECT pg_advisory_lock(42)")
                cursor.execute("LISTEN something")

    def test_i_after_session_state(self):
        record(self, **look())
        if connection.vendor == "postgresql":
            # The server ends a closed session, and with it its lock, some time after the client has closed it.
            for _ in range(200):
                with connection.cursor() as cursor:
                    cursor.execute("SELECT current_setting('TimeZone'), to_regclass('kept') IS NULL, "
                                   "(SELECT count(*) FROM pg_locks l JOIN pg_database d ON d.oid = l.database "
                                   " WHERE l.locktype = 'advisory' AND d.datname = current_database()), "
                                   "(SELECT count(*) FROM pg_listening_channels())")
                    state = cursor.fetchone()
                if not state[2]:
                    break
                time.sleep(0.05)
            record(self, state=state)

class WithSetUp(Base):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        Shelf.objects.create(name="by setUpClass")

    def setUp(self):
        Shelf.objects.create(name="by setUp")

    def test_1(self):
        record(self, **look())

    def test_2(self):
        record(self, **look())

class WithFixtures(Base):
    fixtures = ["shelves.json"]

    def test_1(self):
        record(self, **look())
        Item.objects.all().delete()

    def test_2(self):
        record(self, **look())

class WithSequences(Base):
    reset_sequences = True

    def test_1(self):
        record(self, item=Item.objects.create(shelf=Shelf.objects.get_or_create(name="of a sequence", defaults={"pk": 90})[0]).pk)

    def test_2(self):
        record(self, item=Item.objects.create(shelf=Shelf.objects.get_or_create(name="of a sequence", defaults={"pk": 90})[0]).pk)

class WithSerializedRollback(Base):
    serialized_rollback = True

    def test_1(self):
        record(self, rows=sorted(Shelf.objects.values_list("name", flat=True)))
        Shelf.objects.all().delete()

    def test_2(self):
        record(self, rows=sorted(Shelf.objects.values_list("name", flat=True)), **look())

class WithAvailableApps(Base):
    available_apps = ["shop", "django.contrib.contenttypes"]

    def test_1(self):
        Shelf.objects.create(name="available")
        record(self, installed=[config.label for config in apps.get_app_configs()])

    def test_2(self):
        record(self, shelves=look()["shelves"], installed=[config.label for config in apps.get_app_configs()])

class WithTwoDatabases(Base):
    databases = {"default", "other", "replica"}

    def test_1(self):
        Shelf.objects.create(name="here")
        Shelf.objects.using("other").create(name="there")
        record(self, mirrored=list(Shelf.objects.using("replica").filter(name="here").values_list("name", flat=True)))

    def test_2(self):
        record(self, here=look(), there=look("other"))

class WithOneDatabaseOnly(Base):
    def test_another_is_forbidden(self):
        with self.assertRaises(Exception) as caught:
            Shelf.objects.using("other").count()
        record(self, error=type(caught.exception).__name__)

class WithServer(LiveBase):
    def test_1(self):
        answers = [urllib.request.urlopen(self.live_server_url, timeout=20).read().decode() for _ in range(2)]
        record(self, answers=answers, items=Item.objects.count())

    def test_2(self):
        record(self, **look())
'''
