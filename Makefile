.POSIX:
.PHONY: setup demo test check format lock clean

PYTHON ?= python3
TORCH_BACKEND ?= cpu
TORCH_VERSION = 2.13.0
BIN = .venv/bin
STAMP = .venv/.ready

setup: $(STAMP)

$(STAMP): requirements/dev.lock pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	sh requirements/install-torch.sh $(BIN)/python $(TORCH_VERSION) $(TORCH_BACKEND)
	$(BIN)/python -m pip install --quiet --requirement requirements/dev.lock
	$(BIN)/python -m pip install --quiet --no-deps --editable .
	touch $(STAMP)
