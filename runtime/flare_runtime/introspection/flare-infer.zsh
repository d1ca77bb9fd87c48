#compdef flare-infer
# Completion of flare-infer by zsh, made by `python -m tests.reference_pages`.
_flare_infer() {
    local -a commands=(
        'list:the bundles there are - the shipped one, and those in the folders of FLARE_BUNDLES'
        'info:what a bundle is - labels, training, licence, caution, agreement with nnU-Net'
        'doctor:what this machine has, and what auto takes of it for a bundle, and why'
        'check:what would be read and refused, with tiles and memory; no network runs'
        'completion:what a shell completes the words of flare-infer by - source <(flare-infer completion bash)'
        'status:how far the cases of an output folder are - done, refused or failed and why, in work and by whom, the rate'
        'merge:write the records of an output folder as one table, a row a case'
        'slurm:Submit a job array to SLURM, each task of which is flare-infer --resume with these options. They share the cases.'
        'ray:Segment the cases as flare-infer does, by actors on a Ray cluster, each with the model loaded once. They share the cases with each other, and with any flare-infer --resume into the same OUT.'
    )
    if ((CURRENT > 2)); then
        case $words[2] in
            list)
                shift words
                ((CURRENT--))
                _arguments \
                    '(-h --help)'{-h,--help}'[show this help message and exit]' \
                    --json'[print JSON]'
                return ;;
            info)
                shift words
                ((CURRENT--))
                _arguments \
                    '(-h --help)'{-h,--help}'[show this help message and exit]' \
                    '::BUNDLE:_files' \
                    --json'[print JSON]'
                return ;;
            doctor)
                shift words
                ((CURRENT--))
                _arguments \
                    '(-h --help)'{-h,--help}'[show this help message and exit]' \
                    '(-m --model)'{-m+,--model=}'[folder or zip (default\: the model that is shipped)]:BUNDLE:_files' \
                    --json'[print JSON]'
                return ;;
            check)
                shift words
                ((CURRENT--))
                _arguments \
                    '(-h --help)'{-h,--help}'[show this help message and exit]' \
                    ':IN:_files' \
                    --recursive'[look into folders in the folder too]' \
                    '(-m --model)'{-m+,--model=}'[folder or zip (default\: the model that is shipped)]:BUNDLE:_files' \
                    --json'[print JSON]'
                return ;;
            completion)
                shift words
                ((CURRENT--))
                _arguments \
                    '(-h --help)'{-h,--help}'[show this help message and exit]' \
                    ':SHELL:(bash zsh)'
                return ;;
            status)
                shift words
                ((CURRENT--))
                _arguments \
                    '(-h --help)'{-h,--help}'[show this help message and exit]' \
                    ':OUT:_files' \
                    --of='[what -i was\: also say what is not begun and how long it takes]:IN:_files' \
                    --recursive'[with --of, as the run had it]' \
                    --json'[print JSON, with the names of all cases that are not done]' \
                    --watch='[look again and again until all is done (default\: every 5 s)]::SECONDS: ' \
                    --max-tries='[after how many runs a case is given up, as --max-tries of the runs says (default\: 5)]:N: '
                return ;;
            merge)
                shift words
                ((CURRENT--))
                _arguments \
                    '(-h --help)'{-h,--help}'[show this help message and exit]' \
                    ':OUT:_files' \
                    '(-o --output)'{-o+,--output=}'[a .csv or .parquet file for the cases]:TABLE:_files' \
                    --lesions='[another one for the lesions, a row each]:TABLE:_files'
                return ;;
            slurm)
                shift words
                ((CURRENT--))
                _arguments \
                    '(-h --help)'{-h,--help}'[show this help message and exit]' \
                    --version'[show program'\''s version number and exit]' \
                    --tasks='[how many workers]:N: ' \
                    --partition='[of the cluster]:P: ' \
                    --time='[of one task, which is then queued again and goes on (default\: 60)]:MIN: ' \
                    --gpus-per-task='[(default\: none)]:G: ' \
                    --cpus-per-task='[(default\: the cluster'\''s)]:C: ' \
                    --mem='[of one task (default\: the cluster'\''s)]:GB: ' \
                    --array-parallelism='[let at most so many tasks run at once (default\: 256)]:K: ' \
                    --signal-delay='[warn a task so long before its end, in which it finishes its case or drops it (default\: 120)]:S: ' \
                    --sbatch='[another option of sbatch, such as account=lab; can be given several times]:NAME=VALUE: ' \
                    --log-folder='[for what the tasks say; all machines have to see it (default\: flare-slurm)]:DIR:_files' \
                    --executor='[local\: processes of this machine; debug\: one after the other in this one (default\: slurm)]:{slurm,local,debug}:(slurm local debug)' \
                    --wait'[wait for all tasks, and return the worst of their exit codes]' \
                    '(-i --input)'{-i+,--input=}'[a NIfTI, .nrrd or .mha file, a folder of them, or DICOM; or a list of cases (.csv, .jsonl); or a URL of images (s3\://, gs\://, az\://)]:IN:_files' \
                    --recursive'[look into folders in the folder too; the output mirrors them]' \
                    --shard='[segment the Ith of N shares of the cases, such as 1/4]:I/N: ' \
                    --any-intensity'[take a CT that cannot be in Hounsfield units, with a remark]' \
                    --any-spacing'[take scans however far their spacing is from the model'\''s]' \
                    --max-shear='[take scans whose axes are at most so far off right angles (default\: 0.6)]:DEGREES: ' \
                    --straighten-tilt'[move the slices of a tilted gantry (DICOM) onto a grid at right angles, with a remark]' \
                    --reorient='[turn scans so that their axes point there, such as LPS, and the masks back (default\: as the model'\''s reader does)]:CODE: ' \
                    --max-voxels='[refuse larger inputs (default\: 2e9)]:N: ' \
                    '(-m --model)'{-m+,--model=}'[folder or zip (default\: the model that is shipped)]:BUNDLE:_files' \
                    --device='[cpu, cuda\:N, several GPUs as in cuda\:0,cuda\:1, cuda\:all, or auto\: a GPU where one can be used (default\: auto)]:DEVICE:(auto cpu cuda)' \
                    --backend='[openvino (CPU), onnxruntime, tensorrt, tensorrt-rtx or cudnn (GPU), or auto (default\: auto)]:NAME:(auto openvino onnxruntime tensorrt cudnn tensorrt-rtx)' \
                    --precision='[auto, fp32, bf16 or int8 (CPU), or fp16 (default\: auto, the lowest that the bundle records to agree)]:TYPE:(auto fp32 bf16 int8 fp16)' \
                    --step='[distance of tiles as a share of the patch (default\: the model'\''s, 0.5)]:SHARE: ' \
                    --crop='[nonzero, as nnU-Net does, or body\: leave out the air around the patient (default\: nonzero)]:HOW:(nonzero body)' \
                    --tta'[average over mirrored tiles, as nnU-Net does by default; up to 8 times the work]' \
                    --threads='[for the network (default\: all cores)]:N: ' \
                    --gpu-memory='[take at most so much of a GPU'\''s memory (default\: 4096)]:MIB: ' \
                    '(-o --output)'{-o+,--output=}'[a file or a FOLDER/ for a file, a folder for a folder; or its URL]:OUT:_files' \
                    --output-type='[nifti; of DICOM also dicom-seg or rtstruct; or several, with commas; dicom-sr adds a structured report of the lesions (default\: nifti)]:TYPES:_values -s , TYPES nifti dicom-seg rtstruct dicom-sr' \
                    --keep-largest='[keep the largest component alone\: of every label, or of the whole foreground (default HOW\: label)]::HOW:(label foreground)' \
                    --min-volume-mm3='[remove components of the mask that are smaller]:MM3: ' \
                    --probabilities='[also write <case>.probabilities.npz, on the grid of the input or of the network (default GRID\: input)]::GRID:(input network)' \
                    --preview'[also write <case>.preview.png\: its largest lesions in three planes]' \
                    --html'[also write <case>.html\: its lesions, its slices, what ran]' \
                    --lesions='[write a table of the lesions of all cases]:FILE.csv:_files' \
                    '(--records --no-records)'{--records,--no-records}'[write a JSON record of each case beside its mask (default\: yes)]' \
                    --keep-header-text'[copy the free text of the images'\'' headers, which may name the patient, into the masks]' \
                    --resume'[leave cases whose record says that they were segmented with this model, these options and these images, and share the others with all processes that do the same]' \
                    --resume-failed'[--resume, and try those again that were refused or failed]' \
                    --max-tries='[give a case up that has failed so often, or cost so many processes (default\: 5)]:N: ' \
                    --verify-hashes'[believe no size and time of change\: read every input and mask again and compare their SHA-256]' \
                    --report='[write a JSON report of the whole run]:FILE:_files' \
                    --flare'[the FLARE challenge'\''s rules\: --crop body --gpu-memory 3584 --no-records, where nothing else is given]' \
                    --quiet'[say nothing unless a case fails]' \
                    --verbose'[also print the time of every stage and every lesion]'
                return ;;
            ray)
                shift words
                ((CURRENT--))
                _arguments \
                    '(-h --help)'{-h,--help}'[show this help message and exit]' \
                    --version'[show program'\''s version number and exit]' \
                    --address='[HOST\:PORT of the cluster'\''s head, auto for the cluster that this machine is part of, or local for one that is started here and ends with the run (default\: auto)]:WHERE: ' \
                    --actors='[how many processes segment (default\: as many as there is room for)]:N: ' \
                    --cpus-per-actor='[cores of each, which are its --threads as well (default\: 4, or all of a smaller machine)]:C: ' \
                    --gpus-per-actor='[GPUs of each, or a share of one such as 0.5 (default\: 1 unless --device is cpu or there is none)]:G: ' \
                    --memory-per-actor='[memory that is set aside for each (default\: an estimate from the headers of the first 32 cases)]:MIB: ' \
                    '(-i --input)'{-i+,--input=}'[a NIfTI, .nrrd or .mha file, a folder of them, or DICOM; or a list of cases (.csv, .jsonl); or a URL of images (s3\://, gs\://, az\://)]:IN:_files' \
                    --recursive'[look into folders in the folder too; the output mirrors them]' \
                    --shard='[segment the Ith of N shares of the cases, such as 1/4]:I/N: ' \
                    --any-intensity'[take a CT that cannot be in Hounsfield units, with a remark]' \
                    --any-spacing'[take scans however far their spacing is from the model'\''s]' \
                    --max-shear='[take scans whose axes are at most so far off right angles (default\: 0.6)]:DEGREES: ' \
                    --straighten-tilt'[move the slices of a tilted gantry (DICOM) onto a grid at right angles, with a remark]' \
                    --reorient='[turn scans so that their axes point there, such as LPS, and the masks back (default\: as the model'\''s reader does)]:CODE: ' \
                    --max-voxels='[refuse larger inputs (default\: 2e9)]:N: ' \
                    '(-m --model)'{-m+,--model=}'[folder or zip (default\: the model that is shipped)]:BUNDLE:_files' \
                    --device='[cpu, cuda\:N, several GPUs as in cuda\:0,cuda\:1, cuda\:all, or auto\: a GPU where one can be used (default\: auto)]:DEVICE:(auto cpu cuda)' \
                    --backend='[openvino (CPU), onnxruntime, tensorrt, tensorrt-rtx or cudnn (GPU), or auto (default\: auto)]:NAME:(auto openvino onnxruntime tensorrt cudnn tensorrt-rtx)' \
                    --precision='[auto, fp32, bf16 or int8 (CPU), or fp16 (default\: auto, the lowest that the bundle records to agree)]:TYPE:(auto fp32 bf16 int8 fp16)' \
                    --step='[distance of tiles as a share of the patch (default\: the model'\''s, 0.5)]:SHARE: ' \
                    --crop='[nonzero, as nnU-Net does, or body\: leave out the air around the patient (default\: nonzero)]:HOW:(nonzero body)' \
                    --tta'[average over mirrored tiles, as nnU-Net does by default; up to 8 times the work]' \
                    --threads='[for the network (default\: all cores)]:N: ' \
                    --gpu-memory='[take at most so much of a GPU'\''s memory (default\: 4096)]:MIB: ' \
                    '(-o --output)'{-o+,--output=}'[a file or a FOLDER/ for a file, a folder for a folder; or its URL]:OUT:_files' \
                    --output-type='[nifti; of DICOM also dicom-seg or rtstruct; or several, with commas; dicom-sr adds a structured report of the lesions (default\: nifti)]:TYPES:_values -s , TYPES nifti dicom-seg rtstruct dicom-sr' \
                    --keep-largest='[keep the largest component alone\: of every label, or of the whole foreground (default HOW\: label)]::HOW:(label foreground)' \
                    --min-volume-mm3='[remove components of the mask that are smaller]:MM3: ' \
                    --probabilities='[also write <case>.probabilities.npz, on the grid of the input or of the network (default GRID\: input)]::GRID:(input network)' \
                    --preview'[also write <case>.preview.png\: its largest lesions in three planes]' \
                    --html'[also write <case>.html\: its lesions, its slices, what ran]' \
                    --lesions='[write a table of the lesions of all cases]:FILE.csv:_files' \
                    '(--records --no-records)'{--records,--no-records}'[write a JSON record of each case beside its mask (default\: yes)]' \
                    --keep-header-text'[copy the free text of the images'\'' headers, which may name the patient, into the masks]' \
                    --resume'[leave cases whose record says that they were segmented with this model, these options and these images, and share the others with all processes that do the same]' \
                    --resume-failed'[--resume, and try those again that were refused or failed]' \
                    --max-tries='[give a case up that has failed so often, or cost so many processes (default\: 5)]:N: ' \
                    --verify-hashes'[believe no size and time of change\: read every input and mask again and compare their SHA-256]' \
                    --report='[write a JSON report of the whole run]:FILE:_files' \
                    --flare'[the FLARE challenge'\''s rules\: --crop body --gpu-memory 3584 --no-records, where nothing else is given]' \
                    --quiet'[say nothing unless a case fails]' \
                    --verbose'[also print the time of every stage and every lesion]'
                return ;;
        esac
    fi
    if ((CURRENT == 2)) && [[ $words[2] != -* ]]; then
        _describe command commands
        return
    fi
    _arguments \
        '(-h --help)'{-h,--help}'[show this help message and exit]' \
        --version'[show program'\''s version number and exit]' \
        '(-i --input)'{-i+,--input=}'[a NIfTI, .nrrd or .mha file, a folder of them, or DICOM; or a list of cases (.csv, .jsonl); or a URL of images (s3\://, gs\://, az\://)]:IN:_files' \
        --recursive'[look into folders in the folder too; the output mirrors them]' \
        --shard='[segment the Ith of N shares of the cases, such as 1/4]:I/N: ' \
        --any-intensity'[take a CT that cannot be in Hounsfield units, with a remark]' \
        --any-spacing'[take scans however far their spacing is from the model'\''s]' \
        --max-shear='[take scans whose axes are at most so far off right angles (default\: 0.6)]:DEGREES: ' \
        --straighten-tilt'[move the slices of a tilted gantry (DICOM) onto a grid at right angles, with a remark]' \
        --reorient='[turn scans so that their axes point there, such as LPS, and the masks back (default\: as the model'\''s reader does)]:CODE: ' \
        --max-voxels='[refuse larger inputs (default\: 2e9)]:N: ' \
        '(-m --model)'{-m+,--model=}'[folder or zip (default\: the model that is shipped)]:BUNDLE:_files' \
        --device='[cpu, cuda\:N, several GPUs as in cuda\:0,cuda\:1, cuda\:all, or auto\: a GPU where one can be used (default\: auto)]:DEVICE:(auto cpu cuda)' \
        --backend='[openvino (CPU), onnxruntime, tensorrt, tensorrt-rtx or cudnn (GPU), or auto (default\: auto)]:NAME:(auto openvino onnxruntime tensorrt cudnn tensorrt-rtx)' \
        --precision='[auto, fp32, bf16 or int8 (CPU), or fp16 (default\: auto, the lowest that the bundle records to agree)]:TYPE:(auto fp32 bf16 int8 fp16)' \
        --step='[distance of tiles as a share of the patch (default\: the model'\''s, 0.5)]:SHARE: ' \
        --crop='[nonzero, as nnU-Net does, or body\: leave out the air around the patient (default\: nonzero)]:HOW:(nonzero body)' \
        --tta'[average over mirrored tiles, as nnU-Net does by default; up to 8 times the work]' \
        --threads='[for the network (default\: all cores)]:N: ' \
        --gpu-memory='[take at most so much of a GPU'\''s memory (default\: 4096)]:MIB: ' \
        '(-o --output)'{-o+,--output=}'[a file or a FOLDER/ for a file, a folder for a folder; or its URL]:OUT:_files' \
        --output-type='[nifti; of DICOM also dicom-seg or rtstruct; or several, with commas; dicom-sr adds a structured report of the lesions (default\: nifti)]:TYPES:_values -s , TYPES nifti dicom-seg rtstruct dicom-sr' \
        --keep-largest='[keep the largest component alone\: of every label, or of the whole foreground (default HOW\: label)]::HOW:(label foreground)' \
        --min-volume-mm3='[remove components of the mask that are smaller]:MM3: ' \
        --probabilities='[also write <case>.probabilities.npz, on the grid of the input or of the network (default GRID\: input)]::GRID:(input network)' \
        --preview'[also write <case>.preview.png\: its largest lesions in three planes]' \
        --html'[also write <case>.html\: its lesions, its slices, what ran]' \
        --lesions='[write a table of the lesions of all cases]:FILE.csv:_files' \
        '(--records --no-records)'{--records,--no-records}'[write a JSON record of each case beside its mask (default\: yes)]' \
        --keep-header-text'[copy the free text of the images'\'' headers, which may name the patient, into the masks]' \
        --resume'[leave cases whose record says that they were segmented with this model, these options and these images, and share the others with all processes that do the same]' \
        --resume-failed'[--resume, and try those again that were refused or failed]' \
        --max-tries='[give a case up that has failed so often, or cost so many processes (default\: 5)]:N: ' \
        --verify-hashes'[believe no size and time of change\: read every input and mask again and compare their SHA-256]' \
        --report='[write a JSON report of the whole run]:FILE:_files' \
        --flare'[the FLARE challenge'\''s rules\: --crop body --gpu-memory 3584 --no-records, where nothing else is given]' \
        --quiet'[say nothing unless a case fails]' \
        --verbose'[also print the time of every stage and every lesion]'
}
if [[ $funcstack[1] == _flare_infer ]]; then
    _flare_infer "$@"
else
    compdef _flare_infer flare-infer
fi
