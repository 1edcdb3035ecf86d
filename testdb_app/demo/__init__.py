"""A demonstration app: a lending library whose tables are hard to reset. Install it with `"testdb_app.demo"`.

It is a separate app (label `testdb_demo`), so that installing `testdb_app` alone creates no table. It needs only
`django.contrib.contenttypes`. `manage.py loaddemo --size 100000` fills it.
"""
