"""The value that describes a template database, and the name that stands for it in messages."""

from __future__ import annotations

import base64
import binascii
import json
import time
import zlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from testdb_app.creation.key import FORMAT, Manifest

_PACKED = ("parts", "manifest", "used_parts")
_DAY = 86_400


@dataclass(frozen=True, slots=True, kw_only=True)
class DatabaseProperties:
    """What a PostgreSQL database has outside of its files, so that a clone loses it.

    - ``settings``: role ("" for all roles), name and value of each ``ALTER DATABASE … SET``.
    - ``grants``: grantee ("" for PUBLIC), privilege, and whether it may be passed on. None means PostgreSQL's default.
    - ``comment``: the comment of the database.
    - ``connection_limit``: the most connections; -1 for no limit.
    """

    settings: tuple[tuple[str, str, str], ...] = ()
    grants: tuple[tuple[str, str, bool], ...] | None = None
    comment: str | None = None
    connection_limit: int = -1

    @classmethod
    def from_dict(cls, given: Mapping[str, Any]) -> DatabaseProperties:
        """Make it from :func:`dataclasses.asdict`, which has passed through JSON."""
        grants = given["grants"]
        return cls(
            settings=tuple((role, name, value) for role, name, value in given["settings"]),
            grants=None if grants is None else tuple((who, what, bool(option)) for who, what, option in grants),
            comment=given["comment"],
            connection_limit=int(given["connection_limit"]),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Template:
    """A template database, and what it was built from.

    - ``name``: of the database, or the path of the SQLite file.
    - ``alias``, ``project``: whose it is; the project is a folder.
    - ``static``: the digest of what is known before a build; ``parts`` are its parts.
    - ``key``: the digest of all it depends on; ``manifest`` and ``used_parts`` are what the build used, and its contents.
    - ``made``, ``used``: seconds since the epoch. ``uses``: the number of test databases made from it.
    - ``seconds``: how long the migrations took.
    - ``baseline``: when the baseline in it was captured; "" if it has none, so that no reset can go back to its rows.
    - ``frozen``: the columns whose rows hold the time of the build.
    - ``elsewhere``: the aliases that its migrations wrote to, besides their own. A clone cannot repeat that.
    - ``outside``: what its migrations did outside of any database, as far as that was seen.
    - ``receivers``: the receivers of ``post_migrate`` outside of Django that ran.
    - ``server_started``: when the server started, if there are unlogged tables; "" without one. A crash empties them.
    - ``extensions``: the installed extensions, with the versions that the server would install.
    """

    name: str
    alias: str
    project: str
    static: str
    parts: Mapping[str, str]
    key: str
    manifest: Manifest
    used_parts: Mapping[str, str]
    made: float
    used: float
    seconds: float
    uses: int = 0
    baseline: str = ""
    frozen: tuple[str, ...] = ()
    elsewhere: tuple[str, ...] = ()
    outside: tuple[str, ...] = ()
    receivers: tuple[str, ...] = ()
    server_started: str = ""
    extensions: Mapping[str, str] = field(default_factory=dict)
    properties: DatabaseProperties = DatabaseProperties()

    @property
    def family(self) -> tuple[str, str, str, str]:
        """The templates that one may take the place of: collection counts them together.

        Those of another Django or Python are apart. Otherwise the runs of a test matrix would evict each other's.
        """
        return self.project, self.alias, self.parts.get("Django", ""), self.parts.get("Python", "")

    @property
    def short_name(self) -> str:
        """The name in messages."""
        return self.key[:8]

    def describe_age(self) -> str:
        """Return when it was made, and how long that took."""
        return f"made {describe_time_since(self.made)} ago in {describe_seconds(self.seconds)}"

    def with_use(self) -> Template:
        """Return it with one more use, now."""
        return replace(self, used=time.time(), uses=self.uses + 1)

    def as_document(self) -> str:
        """Return all but the name as JSON on one line, which any encoding can hold. What only programs read is packed."""
        given = asdict(self)
        given["manifest"] = self.manifest.as_dict()
        del given["name"]
        packed = json.dumps({key: given.pop(key) for key in _PACKED}, separators=(",", ":"))
        given["packed"] = base64.b85encode(zlib.compress(packed.encode(), 9)).decode()
        return json.dumps({"format": FORMAT, **given})

    @classmethod
    def from_document(cls, name: str, text: str) -> Template | None:
        """Read what :meth:`as_document` wrote; None if *text* is something else, or of another format."""
        try:
            given = json.loads(text)
            if given.pop("format") != FORMAT:
                return None
            given |= json.loads(zlib.decompress(base64.b85decode(given.pop("packed"))))
            given["manifest"] = Manifest.from_dict(given["manifest"])
            given["properties"] = DatabaseProperties.from_dict(given["properties"])
            for each in ("frozen", "elsewhere", "outside", "receivers"):
                given[each] = tuple(given[each])
            return cls(name=name, **given)
        except (ValueError, KeyError, TypeError, AttributeError, zlib.error, binascii.Error):
            return None


def describe_seconds(seconds: float) -> str:
    """Return a duration in words: "0.4 s", "12 s", "1 min 41 s", "2 h 5 min"."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    if round(seconds) < 60:
        return f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes >= 60:
        return f"{minutes // 60} h {minutes % 60} min"
    return f"{minutes} min {rest} s" if rest else f"{minutes} min"


def describe_time_since(when: float) -> str:
    """Return the time since *when* in its largest unit: "12 s", "3 min", "2 h", "5 days"."""
    seconds = max(0.0, time.time() - when)
    for unit, size in (("days", _DAY), ("h", 3600), ("min", 60)):
        if seconds >= size * (2 if unit == "days" else 1):
            return f"{int(seconds // size)} {unit}"
    return f"{int(seconds)} s"


def describe_bytes(size: int) -> str:
    """Return a size in words: "812 kB", "26 MB", "1.4 GB"."""
    if size < 1024**2:
        return f"{size / 1024:.0f} kB"
    return f"{size / 1024**2:.0f} MB" if size < 1024**3 else f"{size / 1024**3:.1f} GB"
