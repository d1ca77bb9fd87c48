#!/bin/sh
# FLARE's convention: inputs/CASE_0000.nii.gz becomes outputs/CASE.nii.gz; options given here go to flare-infer.
exec flare-infer --flare --input /workspace/inputs --output /workspace/outputs --model /workspace/model "$@"
