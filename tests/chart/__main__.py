"""python -m tests.chart FOLDER: writes what the chart renders for each set of values, one file each, and its alerts for promtool."""

from __future__ import annotations

import sys
from pathlib import Path

import yaml

from tests.chart.rendering import CASES, rendered

folder = Path(sys.argv[1])
folder.mkdir(parents=True, exist_ok=True)
for case in CASES:
    (folder / f"{case}.yaml").write_text(
        yaml.safe_dump_all([dict(item) for item in rendered(case).objects], sort_keys=False)
    )
[rule] = rendered("full").all("PrometheusRule")
(folder / "rules.yml").write_text(yaml.safe_dump(dict(rule["spec"]), sort_keys=False))
