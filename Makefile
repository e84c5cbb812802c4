# Every target sets up what it needs; `make` alone lists them.
.DEFAULT_GOAL := help
PY := .venv/bin/python
CNI_BIN := build/cni
# What users read and operators load: links and commands of the pages; promtool over metrics and alerts; every query of the dashboard.
OBSERVED := tests/docs $(addprefix tests/unit/observability/test_,metrics.py alerts.py dashboard.py values_page.py)
export PYTHONDONTWRITEBYTECODE ?=

.PHONY: help
help: ## List the targets
	@grep -hE '^[a-z][a-z0-9-]*:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 16

.PHONY: setup
setup: ## Install Debian packages and the virtual environment
	@tools/bootstrap core ebpf browser

.PHONY: check
check: setup ## Formatting, lint, types, import layers, generated files, docs, metrics, alerts, dashboard, chart
	$(PY) -m ruff format --check .
	$(PY) -m ruff check .
	$(PY) -m mypy
	.venv/bin/lint-imports
	$(PY) -m crds.generate --check
	$(PY) -m e2e.reference --check
	$(PY) tools/module_map.py --check
	$(PY) -m pytest -q --durations=0 --durations-min=5 -m "not netns" $(OBSERVED)
	tools/chart-check

.PHONY: format
format: setup ## Format the code
	$(PY) -m ruff format .
	$(PY) -m ruff check --fix .

.PHONY: generate
generate: setup ## Write what is generated: CRDs, policies, reference pages
	$(PY) -m crds.generate
	$(PY) tools/values_schema.py
	$(PY) -m e2e.reference
	$(PY) tools/module_map.py

.PHONY: shim
shim: setup ## Build the static CNI binary
	$(PY) -m cni.build $(CNI_BIN)

.PHONY: shim-arm64
shim-arm64: setup ## Cross-build the CNI binary for arm64 and run its tests on it under qemu
	tools/shim-arm64

.PHONY: test
test: shim ## All tests that run without a cluster
	$(PY) -m pytest -n 2 -m "not cluster" tests --ignore tests/netns --ignore tests/browser --ignore tests/docs
	$(PY) -m pytest -m "not cluster" tests/netns tests/browser tests/docs

.PHONY: lab
lab: shim ## The main job: pods on three nodes get addresses (SCENARIO=story, NODES=n, SIZE=pods, API=embedded|real, JSON=1)
	@$(PY) -m e2e.lab run $(or $(SCENARIO),story) $(if $(NODES),--nodes $(NODES)) $(if $(SIZE),--size $(SIZE)) $(if $(API),--api $(API)) $(if $(JSON),--json)

.PHONY: e2e
e2e: e2e-control-plane e2e-lab e2e-nodes ## Everything on a real Kubernetes: control plane, the lab on it, kubelets, containerd, the chart

.PHONY: e2e-control-plane
e2e-control-plane: shim ## etcd, kube-apiserver, scheduler, controllers: contract suites, restarts, security
	$(PY) -m e2e.cluster versions
	$(PY) -m e2e.cluster run -- $(PY) -m pytest tests/contract
	$(PY) -m pytest -m "cluster and not nodes" tests/cluster

.PHONY: e2e-lab
e2e-lab: shim ## The lab's story on the real control plane
	$(PY) -m e2e.lab run story --api real

.PHONY: e2e-nodes
e2e-nodes: shim ## Real kubelets and containerd; with the image, the chart installed
	@tools/bootstrap nodes
	tools/image build
	$(PY) -m pytest -p tests.compat.plugin --compat-outcomes=build/compat/cluster.json -m nodes tests/cluster

.PHONY: image
image: setup ## Build the container image without a daemon, and check it (build/nephila.tar)
	tools/image build

.PHONY: bench
bench: shim ## Measure ADD beside an empty binary and host-local, then what verification costs
	$(PY) -m e2e.bench.lab
	$(PY) -m e2e.bench.wire

.PHONY: bench-nodes
bench-nodes: shim ## Measure on real kubelets beside host-local, a pool without a spare address, the leader over 300 nodes
	@tools/bootstrap nodes
	$(PY) -m e2e.cluster.nodes bench
	$(PY) -m e2e.cluster.nodes scale

.PHONY: bench-leader
bench-leader: shim ## Measure the leader over 5,000 nodes and 150,000 pods, and ADDs while it fails over; fails on a missed target
	$(PY) -m e2e.bench.leader

.PHONY: sim
sim: setup ## Deterministic simulation (SEEDS=200, MUTANTS=1 for the planted bugs)
	$(PY) -m sim $(if $(MUTANTS),mutants,run --seeds $(or $(SEEDS),200))

.PHONY: model
model: setup ## Exhaust the lease protocol's state space; the known-bad variants must fail
	$(PY) -m sim.model

.PHONY: docs
docs: setup ## Build the documentation as a site (build/site)
	@[ -x build/docs-venv/bin/zensical ] || { python3 -m venv build/docs-venv && build/docs-venv/bin/pip install -q zensical==0.0.73; }
	build/docs-venv/bin/zensical build -s

.PHONY: clean
clean: ## Remove build results
	rm -rf build .cache .mypy_cache .ruff_cache .pytest_cache .hypothesis

.PHONY: lock
lock: setup ## Pin the dependencies of programs and tests anew, not the chart's (needs the registry)
	$(PY) -m pip install -q uv
	$(PY) -m uv pip compile -q pyproject.toml --generate-hashes --no-emit-index-url --no-emit-find-links -o requirements.lock
	$(PY) -m uv pip compile -q pyproject.toml --extra dev -c requirements.lock --generate-hashes --no-emit-index-url --no-emit-find-links -o requirements-dev.lock
