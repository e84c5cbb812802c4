"""Removes the kernel watcher: `python -m probes.ebpf.remove`. For uninstalling; an upgrade replaces it by itself.

Filters of others stay, and so does the clsact hook, which others may use. Safe to run twice.
"""

from __future__ import annotations

import sys

from probes.ebpf.loader import detach_everywhere, unpin


def main() -> int:
    try:
        for name in detach_everywhere():
            print(f"detached from {name}")
        for folder in unpin():
            print(f"removed {folder}")
    except OSError as error:
        print(f"the watcher could not be removed: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
