"""The chart, rendered by Helm's own engine. Run by `tools/chart-check` in `.venv-chart`; skipped where that is not the environment."""
