"""Draws the SVGs beside it: ``python docs/explanation/drawings/draw.py``. A test compares them with what it draws.

They are narrow, so that a phone shows their text in a size to read, and follow the reader's light or dark scheme.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from xml.sax.saxutils import escape

LANE, BAR, TOP, NOTE = 40, 30, 10, 24
STYLE = """
text { font: 12px system-ui, -apple-system, "Segoe UI", Helvetica, Arial, sans-serif; fill: #1f2328 }
.lane { font-weight: 600 } .note { font-size: 11px; fill: #59636e }
.server { fill: #eaeef2; stroke: #818b98 } .open { fill: #ddf4ff; stroke: #0969da }
.commit { fill: #fff8c5; stroke: #9a6700 } .clean { fill: #dafbe1; stroke: #1a7f37 }
.stay { fill: #ffebe9; stroke: #cf222e }
@media (prefers-color-scheme: dark) {
  text { fill: #f0f6fc } .note { fill: #9198a1 }
  .server { fill: #212830; stroke: #6e7681 } .open { fill: #0c2d6b; stroke: #4493f8 }
  .commit { fill: #3b2300; stroke: #d29922 } .clean { fill: #033a16; stroke: #3fb950 }
  .stay { fill: #490202; stroke: #f85149 }
}
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Bar:
    """A stretch of time, of 360 in all, and what happens in it; ``kind`` is a class of the style."""

    start: int
    end: int
    text: str
    kind: str


def server(text: str) -> tuple[str, list[Bar]]:
    """Return the lane of the database."""
    return "session", [Bar(start=62, end=354, text=text, kind="server")]


DRAWINGS = {
    "rollback": (
        [
            server("create, migrate, …, drop"),
            ("class", [Bar(start=84, end=332, text="BEGIN, setUpTestData, …, ROLLBACK", kind="open")]),
            (
                "test",
                [
                    Bar(start=102, end=206, text="SAVEPOINT …", kind="open"),
                    Bar(start=214, end=318, text="SAVEPOINT …", kind="open"),
                ],
            ),
        ],
        "rolled back: all but the calls of sequences",
    ),
    "flush": (
        [
            server("create, migrate, …, drop"),
            (
                "test",
                [
                    Bar(start=84, end=164, text="commits", kind="commit"),
                    Bar(start=166, end=332, text="TRUNCATE every table", kind="clean"),
                ],
            ),
            ("", [Bar(start=166, end=332, text="post_migrate, close", kind="clean")]),
        ],
        "gone: what the test wrote, and the rows of migrations",
    ),
    "by-hand": (
        [
            server("create, migrate, …, drop"),
            (
                "class",
                [
                    Bar(start=84, end=164, text="commits rows", kind="commit"),
                    Bar(start=166, end=354, text="they stay", kind="stay"),
                ],
            ),
            ("test", [Bar(start=176, end=286, text="SAVEPOINT …", kind="open")]),
        ],
        "rolled back: what the tests wrote, and nothing else",
    ),
    "scopes": (
        [
            server("create, migrate, …, drop"),
            ("module", [Bar(start=74, end=342, text="BEGIN, its rows, …, ROLLBACK", kind="open")]),
            ("class", [Bar(start=142, end=322, text="SAVEPOINT, its rows, …", kind="open")]),
            (
                "test",
                [
                    Bar(start=84, end=136, text="…", kind="open"),
                    Bar(start=186, end=248, text="…", kind="open"),
                    Bar(start=252, end=314, text="…", kind="open"),
                ],
            ),
        ],
        "rolled back: each after its last test",
    ),
    "reset": (
        [
            server("create, migrate, capture, …, drop"),
            (
                "test",
                [
                    Bar(start=84, end=150, text="commits", kind="commit"),
                    Bar(start=152, end=206, text="reset", kind="clean"),
                    Bar(start=218, end=284, text="commits", kind="commit"),
                    Bar(start=286, end=340, text="reset", kind="clean"),
                ],
            ),
        ],
        "put back: what the test wrote, and its sequences",
    ),
}


def draw(name: str) -> str:
    """Return the drawing of that name."""
    lanes, note = DRAWINGS[name]
    height = TOP + len(lanes) * LANE + NOTE
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 360 {height}" width="480" role="img">',
        f"<title>{escape(note)}</title>",
        f"<style>{STYLE}</style>",
    ]
    for number, (label, bars) in enumerate(lanes):
        y = TOP + number * LANE
        parts.append(f'<text class="lane" x="6" y="{y + 19}">{label}</text>')
        for bar in bars:
            parts += [
                f'<rect class="{bar.kind}" x="{bar.start}" y="{y}" width="{bar.end - bar.start}" height="{BAR}" rx="4"/>',
                f'<text x="{(bar.start + bar.end) / 2:g}" y="{y + 19}" text-anchor="middle">{escape(bar.text)}</text>',
            ]
    parts += [f'<text class="note" x="6" y="{TOP + len(lanes) * LANE + 12}">{escape(note)}</text>', "</svg>", ""]
    return "\n".join(parts)


if __name__ == "__main__":
    for drawing in DRAWINGS:
        Path(__file__).with_name(f"{drawing}.svg").write_text(draw(drawing), "utf-8")
