"""Random schemas, random writes, a reset; afterwards everything is as it was. See :mod:`tests.differential.test_differential`.

``scenario`` is the value that one example is: a script of SQL with headers, which can be printed, read again and played.
``values`` … ``upkeep`` make the parts of a random one, ``examples`` the whole. ``stage`` has the sessions, ``image`` what a
database holds, ``playing`` runs a scenario and compares, ``tally`` counts what occurred, ``running`` does it many times.
"""
