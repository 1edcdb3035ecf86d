"""Fetch the libraries of the page of ``showdeps``, pinned, with their licences: ``python -m tests.vendor``. It needs npm.

``vendor.json`` records the version, the source and the checksum of each file. A test compares the files with it.
"""

from __future__ import annotations

import hashlib
import json
import subprocess
import tarfile
import tempfile
from pathlib import Path

FOLDER = Path(__file__).parents[1] / "testdb_app" / "showdeps" / "page" / "vendor"

PACKAGE, VERSION, LICENCE = "@dagrejs/dagre", "3.1.3", "MIT"
MEMBERS = {"package/dist/dagre.min.js": "dagre.min.js", "package/dist/dagre.min.js.LEGAL.txt": "dagre.LICENSE.txt"}
"""The files of the package, and their names here. The licence is that of dagre and of graphlib, which it contains."""


def checksum(content: bytes) -> str:
    """Return the SHA-256 of a file's content."""
    return hashlib.sha256(content).hexdigest()


def main() -> None:
    """Replace the vendored files. npm checks the integrity of the package that it fetches."""
    with tempfile.TemporaryDirectory() as folder:
        command = ["npm", "pack", "--silent", f"--pack-destination={folder}", f"{PACKAGE}@{VERSION}"]
        subprocess.run(command, check=True, cwd=folder, stdout=subprocess.DEVNULL)
        (archive,) = Path(folder).glob("*.tgz")
        with tarfile.open(archive) as package:
            files = {name: package.extractfile(member).read() for member, name in MEMBERS.items()}  # type: ignore[union-attr]
    script = files["dagre.min.js"].decode()
    # The page has no source map, and the licence has another name here.
    lines = [line for line in script.splitlines() if not line.startswith(("//# sourceMappingURL", "/*! For license"))]
    files["dagre.min.js"] = ("\n".join([f"/*! {PACKAGE} {VERSION}, {LICENCE} licence */", *lines]) + "\n").encode()
    FOLDER.mkdir(exist_ok=True)
    for name, content in files.items():
        (FOLDER / name).write_bytes(content)
    record = {
        "package": PACKAGE,
        "version": VERSION,
        "licence": LICENCE,
        "sha256": {name: checksum(content) for name, content in sorted(files.items())},
    }
    (FOLDER / "vendor.json").write_text(json.dumps(record, indent=2) + "\n")


if __name__ == "__main__":
    main()
