"""The page about `spiderpool-conf`: every key of Spiderpool's configuration and what becomes of it, from what the programs read."""

from __future__ import annotations

from adapters.spiderpool_conf import KEYS, Key, Verdict

HEAD = """# Spiderpool's configuration

Generated from the code by `make generate`; do not edit.

Both programs take Spiderpool's own `conf.yml`: `spiderpoolConf` in their settings names the file, or the folder where the ConfigMap
`spiderpool-conf` is mounted (the chart's `spiderpoolConf` mounts one of the release's namespace into both). What our own settings say
wins. It is read at start. A value of a wrong type is refused; a key that is not listed here is ignored and logged
(`spiderpool_key_unknown`).

| key | what becomes of it |
|---|---|"""


def spiderpool_page() -> str:
    return "\n".join([HEAD, *(f"| `{key.name}` | {_fate(key)} |" for key in KEYS), ""])


def _fate(key: Key) -> str:
    if key.verdict is Verdict.HONOURED:
        targets = ", ".join(f"the {program}'s `{path}`" for program, path in key.targets)
        return f"honoured: sets {targets}{f'; {key.why}' if key.why else ''}"
    joint = " " if key.verdict is Verdict.REPLACED else ": "
    return f"{key.verdict.value}{joint}{key.why}"
