#!/usr/bin/env bash
# Trains the default network: the 36 sarcomas of docs/reference/default-model.md and five thigh phantoms, seven held out.
# Five trainings on growing patches, each from the weights of the one before. Run it again to resume.
# usage: default_model.sh BIN_OF_THE_ENVIRONMENT FOLDER_OF_SARCOMAS
set -euo pipefail
bin=$1 sarcomas=$2 work=build/default_model
export nnUNet_raw=$PWD/$work/nnUNet_raw nnUNet_preprocessed=$PWD/$work/nnUNet_preprocessed
export nnUNet_results=$PWD/$work/nnUNet_results

test -d $work/phantoms || "$bin/python" -m flare_phantom --kind thigh -o $work/phantoms --cases 5 --seed 10000
test -f $work/facts/facts.jsonl || "$bin/flare-train" inspect "$sarcomas" $work/phantoms -o $work/facts
"$bin/flare-train" select $work/facts/facts.jsonl -o "$nnUNet_raw/Dataset702_Sarcoma" --validation 'STS_*[05]'

# plan PLANS Z Y X; train PLANS OPTIONS...; weights PLANS EPOCHS
plan() {
  test -f "$nnUNet_preprocessed/Dataset702_Sarcoma/$1.json" ||
    "$bin/flare-train" plan 702 --features 16 32 64 128 --name "$1" --patch "$2" "$3" "$4"
}
train() {
  "$bin/flare-train" run 702 --plans "$1" --fold 0 --optimizer adamw --weight-decay 1e-2 --augmenters 0 "${@:2}"
}
weights() { echo "$nnUNet_results/Dataset702_Sarcoma/FlareTrainer__$1__3d_fullres/fold_0/checkpoint_epoch_$2.pth"; }
plan flare_small 48 64 64
plan flare_medium 64 96 96
plan flare_large 80 128 128
plan flare_long 80 128 128
plan flare_longer 80 128 128
train flare_small --epochs 20 --last 20 --iterations 120 --val-iterations 10
train flare_medium --epochs 8 --last 8 --iterations 100 --val-iterations 4 --initial-weights "$(weights flare_small 20)"
train flare_large --epochs 9 --last 9 --iterations 50 --val-iterations 3 --learning-rate 5e-4 \
  --initial-weights "$(weights flare_medium 8)"
train flare_long --epochs 32 --last 32 --iterations 50 --val-iterations 2 --initial-weights "$(weights flare_large 9)"
train flare_longer --epochs 30 --last 30 --iterations 50 --val-iterations 2 --initial-weights "$(weights flare_long 32)"
for plans in flare_small flare_medium flare_large flare_long flare_longer; do
  model=$nnUNet_results/Dataset702_Sarcoma/FlareTrainer__${plans}__3d_fullres
  "$bin/flare-train" report "$model" -o $work/report/$plans
done
"$bin/flare-export" "$model" --fold 0 --checkpoint checkpoint_epoch_30.pth -o models/default \
  --force --licence CC-BY-3.0 --name "soft-tissue sarcoma, 4 stages" --model-card docs/reference/default-model.md \
  --caution "research only; trained on crops of soft-tissue sarcomas, it marks healthy tissue elsewhere"
# 8-bit integers, by five of the training cases.
"$bin/flare-export" int8 models/default --calibrate "$sarcomas"/images/STS_00{1,2,3,4,6}_0000.nii.gz
