#!/bin/bash
# Every stage on one large GPU, side by side where they can be: the autoencoder beside the CLIP pair, then the UNet,
# then both ControlNets. What comes later compiles while what comes earlier trains.
#
#     bash gpu_job.sh DATA OUT [options of train_gpu.py]
#
# VAE, CLIP, UNET and CONTROL are the seconds from now at which these stages end; their parts of OUT/model appear a few
# seconds later, whole.
set -u
data=$1 out=$2
shift 2
here=$(cd "$(dirname "$0")" && pwd)
began=$(date +%s)
mkdir -p "$out/model"
cp -r "$data/tokenizer" "$out/model/"
export PYTHONUNBUFFERED=1 TOKENIZERS_PARALLELISM=false OMP_NUM_THREADS=2
export PYTORCH_ALLOC_CONF=expandable_segments:True
shape="--unet-channels 96,192,288 --unet-plain 1 --clip-text 256x4 --clip-image 256x6"

stage() { # name, seconds from now at the end, options
    local name=$1 end=$2
    shift 2
    python3 "$here/train_gpu.py" --data "$data" --out "$out" --stages "$name" --until $((began + end)) --wait 900 \
        $shape --no-state "$@"
}

stage vae "${VAE:-200}" --gan-from 2 --vae-lr 8e-4 --workers 4 "$@" >"$out/vae.log" 2>&1 &
first=$!
stage clip "${CLIP:-160}" --workers 8 "$@" >"$out/clip.log" 2>&1 &
second=$!
stage unet "${UNET:-560}" --compile-stages unet --refresh 0.125 --unet-lr 6e-4 --sheet-minutes 99 --workers 6 "$@" \
    >"$out/unet.log" 2>&1 &
if ! wait $second || ! wait $first; then
    echo "vae or clip failed" | tee "$out/failed"
    kill 0
fi
for control in qr canny; do
    stage controlnet "${CONTROL:-655}" --compile-stages controlnet --control $control --ctrl-lr 4e-4 --workers 4 "$@" \
        >"$out/controlnet-$control.log" 2>&1 &
done
wait
echo "done after $(($(date +%s) - began)) s" | tee "$out/done"
