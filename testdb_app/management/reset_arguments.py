"""The arguments of ``resetdb``."""

from __future__ import annotations

from argparse import ArgumentParser

from django.db import DEFAULT_DB_ALIAS, connections

from testdb_app.conf import STRATEGIES, TARGETS


def add_arguments(parser: ArgumentParser) -> None:
    """Add the arguments of ``resetdb``."""
    parser.add_argument(
        "labels",
        nargs="*",
        metavar="app_label[.Model]",
        help="What to empty: app labels, models, schema.table, or shell patterns of them. Default: every table.",
    )
    parser.add_argument(
        "--database",
        default=DEFAULT_DB_ALIAS,
        choices=tuple(connections),
        help='The alias. Default: "default".',
    )
    parser.add_argument(
        "--exclude",
        action="append",
        default=[],
        metavar="LABEL",
        help="What to keep; may be given several times.",
    )
    parser.add_argument(
        "--to",
        choices=TARGETS,
        help="The state to go to: no rows, or the captured baseline. Default: the baseline where there is one, else empty.",
    )
    parser.add_argument(
        "--strategy",
        choices=STRATEGIES,
        help='How tables are emptied; auto deletes, and truncates large tables. Default: TESTDB["STRATEGY"], else auto.',
    )
    parser.add_argument(
        "--no-reset-sequences",
        action="store_false",
        dest="reset_sequences",
        help="Leave the sequences where they are.",
    )
    parser.add_argument(
        "--no-post-migrate",
        action="store_false",
        dest="post_migrate",
        help="Do not send post_migrate after a reset to empty, as flush does it; see also --to empty, which sends nothing.",
    )
    parser.add_argument("--dry-run", action="store_true", help="Show what would be done, and change nothing.")
    parser.add_argument("--sql", action="store_true", help="Print it as SQL, and change nothing.")
    parser.add_argument(
        "--allow-database",
        action="append",
        default=[],
        metavar="NAME",
        help="The name of the database that may be emptied although nothing marks it as a test database.",
    )
    parser.add_argument(
        "--lock-timeout",
        type=float,
        metavar="SECONDS",
        help="How long to wait for locks of other sessions. Default: 5.",
    )
    parser.add_argument(
        "--no-input",
        "--noinput",
        action="store_false",
        dest="interactive",
        help="Ask for no confirmation.",
    )
    parser.add_argument(
        "--format",
        default="text",
        choices=("text", "json"),
        help="json prints the report and nothing else.",
    )
    baseline = parser.add_argument_group("the baseline, kept inside the database").add_mutually_exclusive_group()
    baseline.add_argument(
        "--capture",
        action="store_true",
        help="Keep the present rows and sequences as what resets go back to. One that is there already is left as it is.",
    )
    baseline.add_argument("--recapture", action="store_true", help="Keep the present ones in its place.")
    baseline.add_argument("--drop-baseline", action="store_true", help="Take it out of the database.")
    marks = parser.add_argument_group("marks inside the database").add_mutually_exclusive_group()
    marks.add_argument(
        "--mark-protected",
        action="store_true",
        help="Mark the database, and every copy of it, as never to be reset.",
    )
    marks.add_argument("--unmark-protected", action="store_true", help="Take that mark away.")
    marks.add_argument("--mark-test", action="store_true", help="Mark it, under its name, as a test database.")
    marks.add_argument("--unmark-test", action="store_true", help="Take that mark away.")
