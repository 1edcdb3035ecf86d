"""Other processes that reset the same database at the same time.

Each is a process of its own, which reads a request a line and answers it by a line, both JSON: the name of the database and the
options of the resetter, then the name of the error that was raised, or null. It keeps a resetter for each database and target,
so that its resets are warm ones too.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any

from tests.scratch import ScratchDatabase


class Rivals:
    """*number* processes; they start at the first call and end with :meth:`close`."""

    def __init__(self, number: int = 2) -> None:
        self._number = number
        self._processes: list[subprocess.Popen[str]] = []

    def begin(self, name: str, options: dict[str, Any]) -> None:
        """Have each of them begin a reset of the database *name*."""
        while len(self._processes) < self._number:
            command = [sys.executable, "-m", "tests.differential.rivals"]
            self._processes.append(
                subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env={**os.environ})
            )
        for process in self._processes:
            assert process.stdin is not None
            process.stdin.write(json.dumps({"name": name, "options": options}) + "\n")
            process.stdin.flush()

    def finish(self) -> list[str | None]:
        """Wait for them; return what each has raised, as "class: message", or None."""
        answers = []
        for process in self._processes:
            assert process.stdout is not None
            line = process.stdout.readline()
            assert line, f"A process that resets ended by itself, with status {process.wait(10)}"
            answers.append(json.loads(line))
        return answers

    def close(self) -> None:
        """End them."""
        for process in self._processes:
            assert process.stdin is not None
            process.stdin.close()
            process.wait(30)
            assert process.stdout is not None
            process.stdout.close()
        self._processes.clear()


def main() -> None:
    """Answer requests until there are no more."""
    import django

    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "testproject.settings")
    django.setup()
    databases: dict[str, ScratchDatabase] = {}
    resetters: dict[str, Any] = {}
    for line in sys.stdin:
        request = json.loads(line)
        name = request["name"]
        if name not in databases:
            databases.clear()
            resetters.clear()
            databases[name] = ScratchDatabase("rival")
            databases[name].name = name
            databases[name].register("rival")
            databases[name].connection.close()
        target = request["options"]["to"]
        resetter = resetters.setdefault(target, databases[name].resetter(lock_timeout=10, to=target))
        error = None
        try:
            resetter.reset()
        except Exception as raised:
            error = f"{type(raised).__name__}: {raised}"
        databases[name].connection.close()
        print(json.dumps(error), flush=True)


if __name__ == "__main__":
    main()
