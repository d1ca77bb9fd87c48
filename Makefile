# Everything a person types; `make` alone prints it.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
# The torch of tests and export. Plain PyPI gives the CUDA build; an index of CPU builds works as well.
# timm, which nnU-Net's networks need, asks for the torchvision of the same release.
TORCH ?= torch==2.13.0 torchvision==0.28.0
MODEL ?= models/default
DEMO ?= demo
IN ?= $(DEMO)/imagesTr
OUT ?= $(DEMO)/masks
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.DEFAULT_GOAL := help
.PHONY: help setup demo infer test test-slow test-wheel lint bench parity train default-model export-onnx clean

help:  ## print this
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 16

$(VENV)/.runtime: pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet -e '.[eval]'
	touch $@

$(VENV)/.dev: pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet $(TORCH)
	$(BIN)/pip install --quiet $(TORCH) -e '.[dev]'
	touch $@ $(VENV)/.runtime

setup: $(VENV)/.dev  ## install everything for development into .venv (torch and nnU-Net included)

demo: $(VENV)/.runtime  ## set up, make a phantom CT, segment it, compare, draw it (no torch)
	$(BIN)/python -m flare_train.phantom -o $(DEMO) --cases 1 --seed 2026
	$(BIN)/flare-infer -i $(DEMO)/imagesTr -o $(DEMO)/masks --report $(DEMO)/run.json --verbose
	$(BIN)/python -m flare_eval.show -i $(DEMO)/imagesTr -r $(DEMO)/labelsTr -p $(DEMO)/masks -o $(DEMO)/overlays

infer: $(VENV)/.runtime  ## segment IN (file or folder) into OUT with MODEL
	$(BIN)/flare-infer -i $(IN) -o $(OUT) -m $(MODEL)

test: $(VENV)/.dev  ## set up and run the tests
	$(BIN)/python -m pytest

test-slow: $(VENV)/.dev  ## the tests that take minutes as well
	$(BIN)/python -m pytest -m 'slow or not slow'

test-wheel: $(VENV)/.dev  ## build the wheel, install it alone into a fresh environment, segment a phantom with it
	bash tests/wheel.sh $(PYTHON) $(BIN)/python

lint: $(VENV)/.dev  ## ruff, mypy --strict, import contracts
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: $(VENV)/.dev  ## benchmarks by stage, each beside its reference
	$(BIN)/python -m pytest benchmarks -m '' --benchmark-only --benchmark-group-by=group --benchmark-columns=min,median,rounds

parity: $(VENV)/.dev  ## compare with nnU-Net on CASES, voxel by voxel: make parity FOLDER=... CASES="a.nii.gz b.nii.gz"
	$(BIN)/flare-export $(FOLDER) -o $(VENV)/parity-bundle --verify $(CASES)

train: $(VENV)/.dev  ## train on the FLARE-style data set DATA by the paper's recipe: make train DATA=folder (again to resume)
	$(BIN)/flare-train inspect $(DATA) -o $(WORK)/facts
	$(BIN)/flare-train select $(WORK)/facts/facts.jsonl -o $(nnUNet_raw)/Dataset$(TASK) $(SELECT)
	$(BIN)/flare-train plan $(TASK) $(PLAN)
	$(BIN)/flare-train run $(TASK) $(RUN)
	$(BIN)/flare-train report $(nnUNet_results)/Dataset$(TASK)/FlareTrainer__$(PLANS)__3d_fullres -o $(WORK)/report

default-model: $(VENV)/.dev  ## train the default network on the sarcomas in SARCOMAS (see its card; two hours on 2 cores), export it
	bash train/default_model.sh $(BIN) $(SARCOMAS)

export-onnx: $(VENV)/.dev  ## export the nnU-Net model folder FOLDER to the bundle BUNDLE
	$(BIN)/flare-export $(FOLDER) -o $(BUNDLE)

clean:  ## remove the environment and everything made
	rm -rf $(VENV) $(DEMO) dist build .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis .benchmarks
