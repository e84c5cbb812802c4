"""python -m tests.chart.install: installs, changes and removes the chart on the cluster of $KUBECONFIG, with Helm's own engine.

No pod runs there (no kubelet): what is shown is that a real API server takes every object, that an upgrade changes what it should, and what stays.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from typing import Any

import helm_python as helm  # type: ignore[import-not-found,unused-ignore]  # in .venv-chart only

from tests.chart.rendering import CHART, NAMESPACE, RELEASE, values_of


def _said(release: Mapping[str, Any]) -> str:
    return ", ".join(f"{key} {release[key]}" for key in ("version", "status") if key in release)


def main() -> int:
    changed = values_of("full")
    changed["monitoring"] = {
        "dashboards": {"enabled": True}
    }  # the kinds of the others belong to an operator that is not there
    with helm.Config(kubeconfig_path=os.environ["KUBECONFIG"], namespace=NAMESPACE) as config:
        print("installed:", _said(config.install(str(CHART), RELEASE, {}, create_namespace=True)))
        print("upgraded:", _said(config.upgrade(str(CHART), RELEASE, changed)))
        config.rollback(RELEASE)
        print("rolled back:", _said(config.status(RELEASE)))
        config.uninstall(RELEASE)
    return 0


if __name__ == "__main__":
    sys.exit(main())
