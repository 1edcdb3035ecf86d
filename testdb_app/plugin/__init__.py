"""The parts of the pytest plugin: what tests ask for, the scopes that are open, transactional tests, leaks, durations."""
