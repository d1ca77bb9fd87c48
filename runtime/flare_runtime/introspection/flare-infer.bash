# Completion of flare-infer by bash, made by `python -m tests.reference_pages`.
_flare_infer() {
    local word=${COMP_WORDS[COMP_CWORD]} before=${COMP_WORDS[COMP_CWORD - 1]} command="" first="" options words
    if [[ $word == = ]]; then
        word=""
    elif [[ $before == = ]]; then
        before=${COMP_WORDS[COMP_CWORD - 2]}
    fi
    ((COMP_CWORD > 1)) && case ${COMP_WORDS[1]} in
        list | info | doctor | check | completion | status | merge | slurm | ray) command=${COMP_WORDS[1]} ;;
    esac
    case $command in
        "") options="-h --help --version -i --input --recursive --shard --any-intensity --any-spacing --max-shear --straighten-tilt --reorient --max-voxels -m --model --device --backend --precision --step --crop --tta --threads --gpu-memory -o --output --output-type --keep-largest --min-volume-mm3 --probabilities --preview --html --lesions --records --no-records --keep-header-text --resume --resume-failed --max-tries --verify-hashes --report --flare --quiet --verbose" ;;
        list) options="-h --help --json" ;;
        info) options="-h --help --json" ;;
        doctor) options="-h --help -m --model --json" ;;
        check) options="-h --help --recursive -m --model --json" ;;
        completion) options="-h --help" ;;
        status) options="-h --help --of --recursive --json --watch --max-tries" ;;
        merge) options="-h --help -o --output --lesions" ;;
        slurm) options="-h --help --version --tasks --partition --time --gpus-per-task --cpus-per-task --mem --array-parallelism --signal-delay --sbatch --log-folder --executor --wait -i --input --recursive --shard --any-intensity --any-spacing --max-shear --straighten-tilt --reorient --max-voxels -m --model --device --backend --precision --step --crop --tta --threads --gpu-memory -o --output --output-type --keep-largest --min-volume-mm3 --probabilities --preview --html --lesions --records --no-records --keep-header-text --resume --resume-failed --max-tries --verify-hashes --report --flare --quiet --verbose" ;;
        ray) options="-h --help --version --address --actors --cpus-per-actor --gpus-per-actor --memory-per-actor -i --input --recursive --shard --any-intensity --any-spacing --max-shear --straighten-tilt --reorient --max-voxels -m --model --device --backend --precision --step --crop --tta --threads --gpu-memory -o --output --output-type --keep-largest --min-volume-mm3 --probabilities --preview --html --lesions --records --no-records --keep-header-text --resume --resume-failed --max-tries --verify-hashes --report --flare --quiet --verbose" ;;
    esac
    words=$options
    case "$command $before" in
        " -i" | " --input" | " -m" | " --model" | " -o" | " --output" | " --lesions" | " --report") words="FILES" ;;
        " --shard" | " --max-shear" | " --reorient" | " --max-voxels" | " --step" | " --threads" | " --gpu-memory" | " --min-volume-mm3" | " --max-tries") words="" ;;
        " --device") words="auto cpu cuda" ;;
        " --backend") words="auto openvino onnxruntime tensorrt cudnn tensorrt-rtx" ;;
        " --precision") words="auto fp32 bf16 int8 fp16" ;;
        " --crop") words="nonzero body" ;;
        " --output-type") words="nifti dicom-seg rtstruct dicom-sr" ;;
        " --keep-largest") words="label foreground" ;;
        " --probabilities") words="input network" ;;
        " flare-infer" | " "*/flare-infer) words="list info doctor check completion status merge slurm ray" ;;
        "info "*) words="FILES" ;;
        "doctor -m" | "doctor --model") words="FILES" ;;
        "check -m" | "check --model") words="FILES" ;;
        "check "*) words="FILES" ;;
        "completion "*) words="bash zsh" ;;
        "status --of") words="FILES" ;;
        "status --watch" | "status --max-tries") words="" ;;
        "status "*) words="FILES" ;;
        "merge -o" | "merge --output" | "merge --lesions") words="FILES" ;;
        "merge "*) words="FILES" ;;
        "slurm --tasks" | "slurm --partition" | "slurm --time" | "slurm --gpus-per-task" | "slurm --cpus-per-task" | "slurm --mem" | "slurm --array-parallelism" | "slurm --signal-delay" | "slurm --sbatch" | "slurm --shard" | "slurm --max-shear" | "slurm --reorient" | "slurm --max-voxels" | "slurm --step" | "slurm --threads" | "slurm --gpu-memory" | "slurm --min-volume-mm3" | "slurm --max-tries") words="" ;;
        "slurm --log-folder" | "slurm -i" | "slurm --input" | "slurm -m" | "slurm --model" | "slurm -o" | "slurm --output" | "slurm --lesions" | "slurm --report") words="FILES" ;;
        "slurm --executor") words="slurm local debug" ;;
        "slurm --device") words="auto cpu cuda" ;;
        "slurm --backend") words="auto openvino onnxruntime tensorrt cudnn tensorrt-rtx" ;;
        "slurm --precision") words="auto fp32 bf16 int8 fp16" ;;
        "slurm --crop") words="nonzero body" ;;
        "slurm --output-type") words="nifti dicom-seg rtstruct dicom-sr" ;;
        "slurm --keep-largest") words="label foreground" ;;
        "slurm --probabilities") words="input network" ;;
        "ray --address" | "ray --actors" | "ray --cpus-per-actor" | "ray --gpus-per-actor" | "ray --memory-per-actor" | "ray --shard" | "ray --max-shear" | "ray --reorient" | "ray --max-voxels" | "ray --step" | "ray --threads" | "ray --gpu-memory" | "ray --min-volume-mm3" | "ray --max-tries") words="" ;;
        "ray -i" | "ray --input" | "ray -m" | "ray --model" | "ray -o" | "ray --output" | "ray --lesions" | "ray --report") words="FILES" ;;
        "ray --device") words="auto cpu cuda" ;;
        "ray --backend") words="auto openvino onnxruntime tensorrt cudnn tensorrt-rtx" ;;
        "ray --precision") words="auto fp32 bf16 int8 fp16" ;;
        "ray --crop") words="nonzero body" ;;
        "ray --output-type") words="nifti dicom-seg rtstruct dicom-sr" ;;
        "ray --keep-largest") words="label foreground" ;;
        "ray --probabilities") words="input network" ;;
    esac
    COMPREPLY=()
    if [[ $word == -* ]]; then
        mapfile -t COMPREPLY < <(compgen -W "$options" -- "$word")
    elif [[ $words == FILES ]]; then
        compopt -o default
    else
        [[ $word == *,* ]] && first=${word%,*},
        mapfile -t COMPREPLY < <(compgen -P "$first" -W "$words" -- "${word#"$first"}")
    fi
}
complete -F _flare_infer flare-infer
