#!/bin/sh
# Drops from a virtual environment what no program of Nephila ever reads, and compiles the rest. `tools/image check` starts every program afterwards.
set -eu
venv=$1
site=$(echo "$venv"/lib/python3*/site-packages)

# Programs that belong to development.
rm -rf "$site"/sim "$site"/e2e "$site"/pip "$site"/pip-* "$site"/setuptools "$site"/setuptools-* "$site"/pkg_resources "$site"/_distutils_hack \
  "$site"/distutils-precedence.pth "$venv"/bin/pip* "$venv"/bin/activate* "$venv"/bin/Activate* "$venv"/include

# The official client's classes for every kind: Nephila has its own (adapters/kube/transport.py). Its kubeconfig loader imports the models of `aio`.
rm -rf "$site"/kubernetes/client/models "$site"/kubernetes/client/api "$site"/kubernetes/aio/client/api \
  "$site"/kubernetes/docs "$site"/kubernetes/test "$site"/kubernetes/e2e_test "$site"/kubernetes/aio/docs "$site"/kubernetes/aio/test

find "$site" \( -name tests -o -name test -o -name __pycache__ \) -type d -prune -exec rm -rf {} +
find "$site" \( -name '*.pyi' -o -name '*.c' -o -name '*.pyx' -o -name '*.pxd' -o -name '*.h' \) -not -path '*/probes/*' -delete

# Compiled once here, because the root file system is read-only there; by hash, so that two builds give the same files.
"$venv"/bin/python -m compileall -q -j 2 --invalidation-mode unchecked-hash "$site"
