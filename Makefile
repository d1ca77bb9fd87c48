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
# `make train` and `make default-model`: where the data lie and where everything is kept; remove WORK to begin anew.
DATA ?=
SARCOMAS ?=
WORK ?= build/training
TASK ?= 701
PRESET ?= s4
SELECT ?=
PLAN ?=
RUN ?=
# `make export-trt`: options of `flare-export trt`, such as '--batch 1 4 --verify a.nii.gz'.
TRT ?=
# `make bench`: '--store-ratios' makes this run's ratios the baselines of later ones; '--table FILE' keeps the figures.
BENCH ?=
# `make fuzz`: '--door nifti --count 1000 --seed 2 --jobs 4'; without, 178,000 inputs at all doors.
FUZZ ?=
# A test that takes ten minutes ends its process, and a process that ended is not replaced (its files go to the others):
# pytest-xdist 3.8 waits for ever where it replaces one.
NO_HANG := -o faulthandler_timeout=600 -o faulthandler_exit_on_timeout=true --max-worker-restart 0
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.DEFAULT_GOAL := help
.PHONY: help setup demo docs infer test test-slow test-gpu test-container test-wheel fuzz network-trace lint bench bench-gpu bench-scaling parity train default-model export-onnx export-trt clean

help:  ## print this
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 16

# Made anew where pip is missing: that is what is left where Python's venv package was not installed.
$(BIN)/pip:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.runtime: pyproject.toml | $(BIN)/pip
	@echo "Installing into $(VENV), which takes a minute ..."
	$(BIN)/pip install --quiet -e '.[eval]'
	touch $@

$(VENV)/.dev: pyproject.toml | $(BIN)/pip
	$(BIN)/pip install --quiet $(TORCH)
	$(BIN)/pip install --quiet $(TORCH) -e '.[dev]'
	touch $@ $(VENV)/.runtime

$(VENV)/.docs: pyproject.toml | $(BIN)/pip
	$(BIN)/pip install --quiet -e '.[docs]'
	touch $@

# onnxruntime and onnxruntime-gpu overwrite each other; the latter computes on the CPU as well.
$(VENV)/.gpu: $(VENV)/.dev
	$(BIN)/pip uninstall --quiet --yes onnxruntime
	$(BIN)/pip install --quiet --force-reinstall --no-deps onnxruntime-gpu
	$(BIN)/pip install --quiet -e '.[gpu]'
	touch $@

# What a target cannot do without is asked for before anything is installed.
MEANING_OF_FOLDER := FOLDER=the nnU-Net trained-model folder
MEANING_OF_BUNDLE := BUNDLE=the folder to write
MEANING_OF_CASES := CASES="a_0000.nii.gz b_0000.nii.gz"
MEANING_OF_DATA := DATA=folder of a FLARE-style data set (docs/how-to/training.md)
MEANING_OF_SARCOMAS := SARCOMAS=folder of the sarcomas (docs/reference/default-model.md)
need-%:
	@$(if $(strip $($*)),:,echo 'make $(MAKECMDGOALS): also give $(MEANING_OF_$*)' >&2; exit 2)

setup: $(VENV)/.dev  ## install everything for development into .venv (torch and nnU-Net included)

demo: $(VENV)/.runtime  ## set up, make a phantom CT, segment it, compare, draw it (no torch)
	$(BIN)/python -m flare_phantom --kind thigh -o $(DEMO) --cases 1 --seed 2026
	$(BIN)/flare-infer -i $(DEMO)/imagesTr -o $(DEMO)/masks --report $(DEMO)/run.json --verbose
	$(BIN)/python -m flare_eval.show -i $(DEMO)/imagesTr -r $(DEMO)/labelsTr -p $(DEMO)/masks -o $(DEMO)/overlays
	@printf '%s\n' '' \
	  'What this was: a synthetic phantom of a thigh with a tumour, no patient, and the mask that the shipped network made.' \
	  'That network was trained on 29 scans of soft-tissue sarcomas in limbs. It knows nothing else: not for patients.' \
	  'The picture outlines tumour and mask; $(DEMO)/masks holds the mask and its record.' \
	  'Next, your own scan:' \
	  '  . $(VENV)/bin/activate' \
	  '  flare-infer -i SCAN.nii.gz -o MASK.nii.gz' \
	  'Your own nnU-Net checkpoint: docs/tutorials/own-checkpoint.md'

infer: $(VENV)/.runtime  ## segment IN (file or folder) into OUT with MODEL
	$(BIN)/flare-infer -i $(IN) -o $(OUT) -m $(MODEL)

test: $(VENV)/.dev  ## set up and run the tests
	$(BIN)/python -m pytest -n auto --maxprocesses 4 --dist loadfile $(NO_HANG)

test-slow: $(VENV)/.dev  ## the tests that take minutes as well
	$(BIN)/python -m pytest -m 'slow or not slow'

test-gpu: $(VENV)/.gpu  ## the tests that need a GPU, and TensorRT where it is installed
	$(BIN)/python -m pytest -m 'gpu or tensorrt'

test-container: $(VENV)/.dev  ## build the challenge's CPU image and segment a phantom in it (root, buildah, debootstrap; 3 minutes)
	$(BIN)/python -m pytest -m slow tests/test_container.py

test-wheel: $(VENV)/.dev  ## build the wheel, install it alone into a fresh environment, segment a phantom with it
	bash tests/wheel.sh $(PYTHON) $(BIN)/python

fuzz: $(VENV)/.dev  ## thousands of odd files at every door of the program; what is not refused cleanly is kept
	$(BIN)/python -m tests.fuzz $(FUZZ)

network-trace: $(VENV)/.dev  ## run every command under strace: none may speak to anybody or write into the home (7 minutes)
	$(BIN)/python -m tests.network_trace

lint: $(VENV)/.dev  ## ruff, mypy --strict, import contracts
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: $(VENV)/.dev  ## benchmarks by stage, each beside its reference; fails where one lost half its lead
	$(BIN)/python -m pytest benchmarks -m '' --benchmark-only --benchmark-group-by=group --benchmark-columns=min,median,rounds $(BENCH)

bench-scaling: $(VENV)/.dev  ## how time and memory grow with voxels, tiles and cases, drawn in build/scaling
	$(BIN)/python -m benchmarks.scaling

bench-gpu: $(VENV)/.gpu  ## the whole command on a GPU beside nnU-Net's, cold and warm
	$(BIN)/python -m benchmarks.gpu_case

parity: need-FOLDER need-CASES $(VENV)/.dev  ## compare with nnU-Net on CASES, voxel by voxel: make parity FOLDER=... CASES="a.nii.gz b.nii.gz"
	$(BIN)/flare-export $(FOLDER) -o $(VENV)/parity-bundle --verify $(CASES)

train: export nnUNet_raw ?= $(abspath $(WORK))/nnUNet_raw
train: export nnUNet_preprocessed ?= $(abspath $(WORK))/nnUNet_preprocessed
train: export nnUNet_results ?= $(abspath $(WORK))/nnUNet_results
train: need-DATA $(VENV)/.dev  ## train by the paper's recipe on the data set DATA, again to resume: make train DATA=folder RUN='--gpus 2'
	test -f $(WORK)/facts/facts.jsonl || $(BIN)/flare-train inspect $(DATA) -o $(WORK)/facts
	$(BIN)/flare-train select $(WORK)/facts/facts.jsonl -o $(nnUNet_raw)/Dataset$(TASK)_Lesions $(SELECT)
	test -f $(nnUNet_preprocessed)/Dataset$(TASK)_Lesions/flare_$(PRESET).json || \
	  $(BIN)/flare-train plan $(TASK) --preset $(PRESET) $(PLAN)
	$(BIN)/flare-train run $(TASK) --plans flare_$(PRESET) $(RUN)
	$(BIN)/flare-train report $(nnUNet_results)/Dataset$(TASK)_Lesions/FlareTrainer__flare_$(PRESET)__3d_fullres -o $(WORK)/report

default-model: need-SARCOMAS $(VENV)/.dev  ## train the default network on the sarcomas in SARCOMAS (see its card; 5 hours on 2 cores), export it
	bash train/default_model.sh $(BIN) $(SARCOMAS)

export-onnx: need-FOLDER need-BUNDLE $(VENV)/.dev  ## export a model folder to a bundle: make export-onnx FOLDER=... BUNDLE=...
	$(BIN)/flare-export $(FOLDER) -o $(BUNDLE)

export-trt: $(VENV)/.runtime  ## build and verify this machine's TensorRT engine of MODEL (needs an NVIDIA GPU)
	$(BIN)/pip install --quiet -e '.[tensorrt]'
	$(BIN)/python -c 'import onnxruntime' || $(BIN)/pip install --quiet -e '.[ort]'
	$(BIN)/flare-export trt $(MODEL) $(TRT)

docs: $(VENV)/.docs  ## build the documentation into build/docs; a broken link fails
	$(BIN)/python -m sphinx --fail-on-warning --keep-going --nitpicky --quiet docs build/docs
	@echo "build/docs/index.html"

clean:  ## remove the environment and everything made
	rm -rf $(VENV) $(DEMO) dist build .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis .benchmarks
