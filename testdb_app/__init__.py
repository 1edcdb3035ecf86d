"""Put a Django test database back to a known state: exactly, safely, in the order of its foreign keys.

Nothing is imported here: a pytest plugin of the package is imported in every test run, and Django would
cost a quarter of a second.
"""

__version__ = "0.9.0"
