"""Records what the commands print, in a terminal, as the SVG beside it: ``python docs/pictures/record.py``.

It runs on the embedded server, on the demonstration models. A test runs the commands again, and compares.
"""

from __future__ import annotations

import os
import pty
import re
import subprocess
import sys
from html import unescape
from io import StringIO
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PICTURE = Path(__file__).with_name("resetdb.svg")
DATABASE = "shop"
PLACE = Path("/tmp/pg")  # noqa: S108 - a short name for the folder in which the server listens, while it is recorded
COLUMNS = 88
BEFORE = (
    "migrate --verbosity 0",
    f"resetdb --capture --allow-database {DATABASE} --verbosity 0",
    "loaddemo --size 200 --verbosity 0",
)
COMMANDS = (
    "resetdb --no-input",
    f"resetdb --dry-run --allow-database {DATABASE}",
    f"resetdb --no-input --allow-database {DATABASE}",
)
# Of rich's own template, without its frame of a window and the font that it would fetch.
FORMAT = """<svg xmlns="http://www.w3.org/2000/svg" class="rich-terminal" viewBox="0 0 {width} {height}" role="img">
<title>resetdb refuses a database that it does not know, shows its plan for one that is named, and carries it out</title>
<style>
.{unique_id}-matrix {{ font-family: ui-monospace, SFMono-Regular, Menlo, Consolas, monospace; font-size: {char_height}px;
line-height: {line_height}px }}
{styles}
</style>
<defs>{lines}</defs>
<rect fill="#292929" width="{width}" height="{height}" rx="8"/>
<g transform="translate(9, 20)"><g class="{unique_id}-matrix">{matrix}</g></g>
</svg>
"""


def run(command: str, url: str) -> str:
    """Run ``manage.py`` with *command* in a terminal, on the database of *url*; return what it printed, colours included."""
    strange = ("COV", "DJANGO", "NO_COLOR", "PYTEST", "TESTPROJECT")
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(strange)}
    environment = {**inherited, "DATABASE_URL": url, "COLUMNS": str(COLUMNS), "TERM": "xterm-256color"}
    ours, theirs = pty.openpty()
    with subprocess.Popen(
        [sys.executable, "manage.py", *command.split()], cwd=ROOT, env=environment, stdout=theirs, stderr=theirs
    ):
        os.close(theirs)
        printed = b""
        try:
            while part := os.read(ours, 65_536):
                printed += part
        except OSError:
            pass  # the end, as Linux tells it
        finally:
            os.close(ours)
    return printed.decode().replace("\r\n", "\n")


def record(url: str, name: str) -> str:
    """Fill the empty database *name*, which *url* leads to, and return the commands and what they printed."""
    for command in BEFORE:
        run(command.replace(DATABASE, name), url)
    shown = []
    for command in COMMANDS:
        printed = run(command.replace(DATABASE, name), url).replace(name, DATABASE)
        shown.append(f"\x1b[1m$ python manage.py {command}\x1b[0m\n{printed}")
    return "\n".join(shown)


def draw(recorded: str) -> str:
    """Return the SVG of what was recorded."""
    from rich.console import Console  # noqa: PLC0415 - the tests read the picture without it
    from rich.text import Text  # noqa: PLC0415

    console = Console(record=True, width=COLUMNS, file=StringIO(), force_terminal=True, color_system="truecolor")
    console.print(Text.from_ansi(recorded))
    return console.export_svg(title="", code_format=FORMAT, unique_id="terminal")


def words(recorded: str) -> str:
    """Return what was recorded without colours, line breaks, times and the server's place, which differ from run to run."""
    plain = " ".join(re.sub(r"\x1b\[[\d;]*m", "", recorded).split())
    return re.sub(r"in [\d.]+ ms", "in … ms", re.sub(r'(alias "default"), [^)]*', r"\1", plain))


def words_of(picture: str) -> str:
    """Return the same of a picture."""
    return words(" ".join(unescape(text) for text in re.findall(r"<text [^>]*>(.*?)</text>", picture)))


def main() -> None:
    """Record, on a database that is made for it and dropped again."""
    import psycopg  # noqa: PLC0415 - the tests have a server of their own

    sys.path.insert(0, str(ROOT))
    from testproject.embedded import shared_server, superuser_dsn  # noqa: PLC0415

    shared_server().ensure_running()
    with psycopg.connect(superuser_dsn(dbname="postgres"), autocommit=True) as session:
        session.execute(f"CREATE DATABASE {DATABASE}")
        try:
            PLACE.symlink_to(session.info.host)
            host = str(PLACE).replace("/", "%2F")
            url = f"postgres://{session.info.user}@{host}:{session.info.port}/{DATABASE}"
            PICTURE.write_text(draw(record(url, DATABASE)), "utf-8")
        finally:
            PLACE.unlink(missing_ok=True)
            session.execute(f"DROP DATABASE {DATABASE} WITH (FORCE)")


if __name__ == "__main__":
    main()
