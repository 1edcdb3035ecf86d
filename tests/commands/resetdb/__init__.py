"""``manage.py resetdb``: exact output, exit statuses, what it asks, and what it leaves alone."""
