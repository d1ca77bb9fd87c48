#!/usr/bin/env bash
# Everything that needs a GPU, in one go: tile times, tests, whole cases beside nnU-Net, agreement on real scans, a worker
# that is killed. Every part has a time limit, and the next one runs whatever becomes of it.
# usage: benchmarks/gpu_check.sh BUNDLE SCAN.nii.gz...   (a bundle of the full network, and scans that it is made for)
set -uo pipefail
bundle=$1; shift
started=$SECONDS failed=0
part() {
  local limit=$1; shift
  echo "=== $((SECONDS - started)) s: $*"
  timeout -k 5 "$limit" "${PYTHON:-python3}" -m "$@" 2>&1 || { failed=$((failed + 1)); echo "=== FAILED ($?): $*"; }
}
for engine in "cudnn fp16 4096" "cudnn fp16 2000" "onnxruntime fp16 4096" "onnxruntime fp32 4096" "onnxruntime fp16 3000"; do
  part 60 benchmarks.gpu_parts tile "$bundle" $engine
done
part 200 pytest tests/runtime -q -m 'gpu or tensorrt' -p no:cacheprovider
part 90 benchmarks.gpu_parts kill "$bundle" "$1"
part 150 benchmarks.gpu_parts agreement models/default "$@"
part 150 benchmarks.gpu_parts agreement "$bundle" "$@"
part 300 benchmarks.gpu_case --eager --gpu-memory 4096 3000 2000
echo "=== $((SECONDS - started)) s: $failed part(s) failed"
exit "$failed"
