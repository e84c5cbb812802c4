"""A CycloneDX bill of materials of the image: Python packages from the lock, Debian packages from dpkg's list, to standard output."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Iterator
from email import message_from_string
from pathlib import Path
from typing import Any


def python_document(lock: Path) -> dict[str, Any]:
    """What cyclonedx-py makes of the lock: versions and hashes."""
    tool = Path(sys.executable).parent / "cyclonedx-py"
    command = [str(tool), "requirements", str(lock), "--of", "JSON", "--output-reproducible", "-o", "-"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
    document: dict[str, Any] = json.loads(done.stdout)
    return document


def debian_components(status: str) -> Iterator[dict[str, Any]]:
    """One component per installed package of a dpkg status file."""
    for paragraph in status.split("\n\n"):
        fields = message_from_string(paragraph)
        if not str(fields.get("Status", "")).endswith(" installed"):
            continue
        name, version, architecture = (str(fields[key]) for key in ("Package", "Version", "Architecture"))
        purl = f"pkg:deb/debian/{name}@{version}?arch={architecture}&distro=bookworm"
        yield {"type": "library", "name": name, "version": version, "purl": purl, "bom-ref": purl}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--lock", type=Path, required=True)
    parser.add_argument("--dpkg", type=Path, required=True)
    parser.add_argument("--name", required=True, help="of the image")
    options = parser.parse_args()
    document = python_document(options.lock)
    for component in document["components"]:
        component.pop("description", None)  # the lock's line, hashes and all
    document["components"] += sorted(debian_components(options.dpkg.read_text()), key=lambda item: str(item["name"]))
    name, _, version = options.name.rpartition(":")
    document.setdefault("metadata", {})["component"] = {"type": "container", "name": name, "version": version}
    print(json.dumps(document, indent=1, sort_keys=True))
    return 0


if __name__ == "__main__":
    sys.exit(main())
