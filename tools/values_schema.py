"""Writes helm/nephila/values.schema.json: `.venv/bin/python tools/values_schema.py [--check | --settings FOLDER]`.

The chart's own keys are in helm/values.schema.skeleton.json; `agent.settings` and `leader.settings` come from the programs' own settings, so that a
key which a program does not know is refused before anything is installed. With `--settings FOLDER` the programs read every rendered ConfigMap there.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import msgspec
import yaml

from leader.config import LeaderConfig
from leader.config import load_config as load_leader
from nodeagent.config import AgentConfig
from nodeagent.config import load_config as load_agent

ROOT = Path(__file__).resolve().parent.parent
SKELETON, SCHEMA = ROOT / "helm/values.schema.skeleton.json", ROOT / "helm/nephila/values.schema.json"
# What the chart says itself: it would be wrong to say it twice.
FIXED = {"node", "socket", "stateDir", "healthAddress", "leader", "webhook", "spiderpoolConf"}


def settings(program: type[Any]) -> dict[str, Any]:
    """The JSON schema of a program's settings, without what the chart fixes, with every part in place."""
    _, parts = msgspec.json.schema_components((program,), ref_template="{name}")

    def inlined(node: Any) -> Any:
        if isinstance(node, dict):
            if "$ref" in node:
                return inlined({key: value for key, value in parts[node["$ref"]].items() if key != "title"})
            return {key: inlined(value) for key, value in node.items() if key != "default"}
        return [inlined(item) for item in node] if isinstance(node, list) else node

    schema: dict[str, Any] = inlined(parts[program.__name__])
    schema["properties"] = {name: part for name, part in schema["properties"].items() if name not in FIXED}
    schema.pop("required", None)
    return {key: value for key, value in schema.items() if key != "title"}


def text() -> str:
    """The whole schema."""
    schema = json.loads(SKELETON.read_text())
    for part, program in (("agent", AgentConfig), ("leader", LeaderConfig)):
        schema["properties"][part]["properties"]["settings"] = settings(program)
    return json.dumps(schema, indent=2) + "\n"


def unreadable(folder: Path) -> list[str]:
    """What the programs say of the settings that the chart rendered; empty if they take all of them."""
    found: list[str] = []
    seen = 0
    readers: dict[str, Callable[[Path], object]] = {
        "agent.yaml": lambda path: load_agent(path, {"NODE_NAME": "n"}),
        "leader.yaml": lambda path: load_leader(path, node="n"),
    }
    for manifest in sorted(folder.glob("*.yaml")):
        for document in yaml.safe_load_all(manifest.read_text()):
            if document["kind"] != "ConfigMap" or document["metadata"]["name"] != "nephila-settings":
                continue
            for key, content in document["data"].items():
                with TemporaryDirectory() as place:
                    path = Path(place, key)
                    mounted = Path(place, "spiderpool-conf")
                    mounted.mkdir()
                    (mounted / "conf.yml").touch()
                    path.write_text(content.replace("/etc/nephila-spiderpool/", f"{place}/"))
                    try:
                        readers[key](path)
                    except Exception as error:  # noqa: BLE001  # whatever a program says against its settings is the answer
                        found.append(f"{manifest.name}: {key}: {error}")
                seen += 1
    return found if seen else [f"no settings were rendered below {folder}"]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="exit with 1 if the file is not current")
    parser.add_argument("--settings", type=Path, metavar="FOLDER")
    options = parser.parse_args()
    if options.settings:
        found = unreadable(options.settings)
        print("\n".join(found), file=sys.stderr)
        return int(bool(found))
    if options.check:
        if SCHEMA.exists() and SCHEMA.read_text() == text():
            return 0
        print(
            f"{SCHEMA.relative_to(ROOT)} is not current: run .venv/bin/python tools/values_schema.py", file=sys.stderr
        )
        return 1
    SCHEMA.write_text(text())
    return 0


if __name__ == "__main__":
    sys.exit(main())
