#!/usr/bin/env bash
# Builds the wheel, installs it into a fresh environment and segments a phantom there: no torch may come along.
# usage: wheel.sh PYTHON BUILD_PYTHON
set -euo pipefail
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
"$2" -m build --quiet --wheel --outdir "$scratch" .
"$1" -m venv "$scratch/env"
"$scratch/env/bin/pip" install --quiet --disable-pip-version-check "$scratch"/*.whl
cd "$scratch"
if env/bin/pip list 2>/dev/null | grep -iE '^(torch|nnunetv2|onnx|matplotlib) '; then
  echo "the wheel pulled in what the runtime must not need" >&2
  exit 1
fi
env/bin/python -m flare_phantom -o data --cases 1 --seed 1 --shape 64 128 128 --spacing 3 2.5 2.5
env/bin/flare-infer -i data/imagesTr -o masks --report run.json --verbose
test -s masks/*.nii.gz
grep -q '"status": "done"' run.json
echo "the wheel works by itself"
