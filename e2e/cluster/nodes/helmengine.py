"""Run by the interpreter of `.venv-chart`, which has Helm's engine: reads what to do as JSON on stdin, says on stdout what came of it.

`install`, `upgrade`  →  {"notes": NOTES.txt as rendered}
`test`                →  {"logs": what the test's pod said}; exit status 1, with Helm's words on stderr, if the test failed
"""

from __future__ import annotations

import json
import sys
from typing import Any

import helm_python as helm  # type: ignore[import-not-found,unused-ignore]  # in .venv-chart only


def main() -> int:
    given: dict[str, Any] = json.load(sys.stdin)
    try:
        with helm.Config(kubeconfig_path=given["kubeconfig"], namespace=given["namespace"]) as config:
            json.dump(_do(config, given), sys.stdout)
    except helm.HelmError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


def _do(config: Any, given: dict[str, Any]) -> dict[str, str]:
    chart, name = given["chart"], given["name"]
    match given["action"]:
        case "install":
            config.install(chart, name, given["values"], create_namespace=True)
        case "upgrade":
            config.upgrade(chart, name, given["values"], reset_values=True)
        case "test":
            return {"logs": str(config.test(name, timeout=given["timeout_s"], logs=True)["logs"])}
        case other:
            raise SystemExit(f"no such action: {other}")
    return {"notes": str(config.get_all(name)["info"].get("notes", ""))}


if __name__ == "__main__":
    sys.exit(main())
