"""Reference pages generated from the code: metrics, events, settings. `python -m e2e.reference [--check]`."""
