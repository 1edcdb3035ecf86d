"""A lending library whose tables show what makes a reset hard. Install it with `"testdb_app.demo"`.

An app of its own (label `testdb_demo`), so that installing `testdb_app` alone creates no table. It needs
`django.contrib.contenttypes` and nothing else; `manage.py loaddemo --size 100000` fills it.
"""
