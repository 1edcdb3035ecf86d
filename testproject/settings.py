"""Settings of the test project: the app, its demonstration models, and some contrib apps."""

from testproject.databases import configured_databases

DATABASES = configured_databases()

INSTALLED_APPS = [
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sites",
    "django.contrib.sessions",
    "testdb_app",
    "testdb_app.demo",
]

MIDDLEWARE = [
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
]

ROOT_URLCONF = "testproject.urls"
SITE_ID = 1
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
USE_TZ = True

# It guards nothing: this project is never served to anybody.
SECRET_KEY = "of-the-test-project"
ALLOWED_HOSTS = ["localhost", "127.0.0.1", "testserver"]
