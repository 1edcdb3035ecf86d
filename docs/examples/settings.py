"""A project that has the demonstration models and a test database, on the server that DATABASE_URL names."""

import os
from pathlib import Path

import dj_database_url

HERE = Path(__file__).parent

DATABASES = {"default": dj_database_url.parse(os.environ.get("DATABASE_URL") or f"sqlite:///{HERE}/library.sqlite3")}
# A second database on the same server, for the examples with two.
DATABASES["archive"] = {**DATABASES["default"], "NAME": f"{DATABASES['default']['NAME']}_archive"}

INSTALLED_APPS = [
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.staticfiles",
    "testdb_app",
    "testdb_app.demo",
]

ROOT_URLCONF = "urls"
STATIC_URL = "static/"
ALLOWED_HOSTS = ["*"]
SECRET_KEY = "of the examples"
USE_TZ = True
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
