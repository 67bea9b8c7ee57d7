#!/usr/bin/env bash
# Remake a table of docs/results.md: tables.sh steps | depth | iterations | ablation | obedience [CLIPS]
# or, of MCM (arXiv 2406.06890) in small, its tables 4, 5 and 6: tables.sh mcm-steps | mcm-motion | mcm-source [CLIPS]
# Two CPU cores, about an hour each (depth two, mcm-steps three); whatever is already in runs/ is kept, so the same command
# resumes. The mcm- tables share clips, teacher and students in runs/mcm and runs/tables/mcm.
# Wanted first: `make mini`, or at least its corpus (python -m training.mini.corpus --out runs/mini/corpus ...).
set -euo pipefail
cd "$(dirname "$0")/.."
table=${1:-} clips=${2:-512}
case $table in
  steps | depth | iterations | ablation | obedience | mcm-steps | mcm-motion | mcm-source) ;;
  *)
    echo "no table is called '$table'; allowed: steps, depth, iterations, ablation, obedience, mcm-steps, mcm-motion," \
      "mcm-source. Name one of these." >&2
    exit 1
    ;;
esac
python=${PYTHON:-.venv/bin/python}
mini=runs/mini mcm=runs/mcm corpus=runs/mini/corpus out=runs/tables/$table
text=models/videolcm-mini-teacher.safetensors
if ! ls "$corpus"/*.npz >/dev/null 2>&1; then
  echo "no clips in $corpus; render them with: $python -m training.mini.corpus --out $corpus --furniture" \
    '"$(scripts/fetch_furniture.sh runs/furniture)"' >&2
  exit 1
fi

judges() {
  [ -f $mini/recognizer.pt ] || "$python" -m training.mini.recognizer --corpus $corpus --out $mini/recognizer.pt
  [ -f $mini/retriever.pt ] || "$python" -m training.mini.retrieval --corpus $corpus --out $mini/retriever.pt
}

evaluate() {
  judges
  "$python" -m training.evaluate --corpus $corpus --out "$out" --clips "$clips" --workers 2 \
    --i3d "$(PYTHON=$python scripts/fetch_i3d.sh runs/i3d)" --metrics fvd agreement retrieval flicker "$@"
}

# A student of 100 steps as the shipped one's first 100, with one thing changed.
changed() {
  local name=$1
  shift
  [ -f "$out/$name.safetensors" ] || "$python" -m training.distill --corpus $corpus --recipe mini --steps 100 \
    --rate-schedule constant --out "$out/$name" --export "$out/$name.safetensors" "$@"
}

# Bad clips with a watermark, clean images of other prompts, and an autoencoder, a teacher and a judge that know both.
degraded_family() {
  local part name
  for part in video:clips images:images all:all; do
    name=${part#*:}
    "$python" -m training.mini.degraded --corpus $corpus --out $mcm/$name --part "${part%:*}"
  done
  PYTHON=$python scripts/fetch_metrics.sh runs/metrics >/dev/null
  PYTHON=$python scripts/fetch_inception.sh runs/metrics >/dev/null
  "$python" -m training.mini.decoder --corpus $corpus $mcm/all --start $text --lpips runs/metrics/lpips_alex_v0.1.pt \
    --out $mcm/decoder.pt --steps 500 --batch 8 --learning-rate 8e-4
  [ -f $mcm/teacher_tuned.safetensors ] || "$python" -m training.mini.pretrain --corpus $mcm/clips --autoencoder $text \
    --start $text --frozen-text --image-steps 0 --steps 400 --batch 12 --image-batch 64 --learning-rate 4e-4 \
    --ema 0.99 --out $mcm/teacher.pt --export $mcm/teacher_tuned.safetensors --export-autoencoder $mcm/decoder.pt
  # What it learnt as a LoRA on the shipped teacher: small enough to ship, and the teacher of all that follows.
  [ -f $mcm/teacher.safetensors ] || "$python" -m training.students.extract --base $text \
    --tuned $mcm/teacher_tuned.safetensors --rank 16 --out $mcm/watermark_lora.safetensors \
    --merged $mcm/teacher.safetensors
  [ -f $mcm/recognizer.pt ] || "$python" -m training.mini.recognizer --corpus $corpus $mcm/all --out $mcm/recognizer.pt
}

# A student of that teacher, NAME and then how it differs.
distilled() {
  local name=$1
  shift
  [ -f "$mcm/$name.safetensors" ] || "$python" -m training.distill --method mcm --recipe mini --lora 16 \
    --teacher $mcm/teacher.safetensors --corpus $mcm/clips --out "$mcm/$name" --export-peft "$mcm/${name}_peft" \
    --export-kohya "$mcm/${name}_lora.safetensors" --export "$mcm/$name.safetensors" "$@"
}

# Its LCM student, where all others begin: consistency takes longest, and they differ in what comes after.
begun() {
  degraded_family
  distilled begun --steps 500 --motion raw --lambda-real 1 --adversarial-weight 0
}

# One more leg from there: all have the same clips, rank and number of steps.
mcm_student() {
  local name=$1
  shift
  distilled "$name" --lora-start $mcm/begun_peft "$@"
}

# Measure students at STEPS, by name, and what follows "--": cells of the teacher.
evaluate_mcm() {
  local steps=$1 students=() cells=() images=() fid=()
  shift
  # FID is what the paper tells of images with its first table; it costs as much as FVD.
  [ "$table" = mcm-steps ] && images=("images=$mcm/images") fid=(fid)
  while [ $# -gt 0 ] && [ "$1" != -- ]; do
    students+=("$1=$mcm/$1.safetensors")
    cells+=("$1:lcm:$steps")
    shift
  done
  [ $# -gt 0 ] && shift
  "$python" -m training.evaluate --corpus $corpus --out "$out" --cache runs/tables/mcm --clips "$clips" --workers 2 \
    --reference-corpus clean=$corpus degraded=$mcm/clips "${images[@]}" --baseline "${students[0]%%=*}" \
    --teacher $mcm/teacher.safetensors --student "${students[@]}" --cells "${cells[@]}" "$@" --cfg 3 \
    --i3d "$(PYTHON=$python scripts/fetch_i3d.sh runs/i3d)" --recognizer $mcm/recognizer.pt \
    --metrics fvd "${fid[@]}" agreement watermark sharpness flicker
}
clean_images="--image-set $mcm/images"

case $table in
  steps)
    evaluate --cfg 3 --cells student:lcm:1,2,4,8 teacher:ddim:4,50 teacher:ddim-trailing:4
    ;;
  depth)
    evaluate --cfg 1.5 --given depth --teacher models/videolcm-mini-vcomposer-teacher.safetensors \
      --student models/videolcm-mini-vcomposer.safetensors --cells student:lcm:4,1 teacher:ddim:4
    ;;
  iterations)
    mkdir -p "$out"
    students=()
    for steps in 25 100; do
      file=$out/i$steps.safetensors
      # One run, stopped on its way, before the shipped one's rate begins to fall.
      [ -f "$file" ] || "$python" -m training.distill --teacher $text --corpus $corpus --recipe mini --steps $steps \
        --rate-schedule constant --out "$out/run" --export "$file"
      students+=("i$steps=$file")
    done
    evaluate --cfg 3 --student "${students[@]}" student=models/videolcm-mini.safetensors \
      --cells i25:lcm:4 i100:lcm:4 student:lcm:4
    ;;
  ablation)
    if [ ! -f $mini/teacher_first.pt ]; then
      echo "$mini/teacher_first.pt is missing, the half-trained teacher; make mini leaves it." >&2
      exit 1
    fi
    mkdir -p "$out"
    for w in 2 5 9 15; do changed w$w --teacher $text --w $w; done
    changed video-only --teacher $text --images 0 --videos 1
    changed from-half-teacher --teacher $mini/teacher_first.pt --autoencoder $mini/decoder.pt
    students=()
    for name in w2 w5 w9 w15 video-only from-half-teacher; do students+=("$name=$out/$name.safetensors"); done
    evaluate --student student=models/videolcm-mini.safetensors half-teacher=$mini/teacher_first.pt "${students[@]}" \
      --cells student:lcm:4 teacher:ddim:4:3 teacher:ddim:4:10 w2:lcm:4 w5:lcm:4 w9:lcm:4 w15:lcm:4 video-only:lcm:4 \
      from-half-teacher:lcm:4 half-teacher:ddim:4:3
    ;;
  mcm-steps)
    begun
    # Without a discriminator nothing looks at images.
    mcm_student lcm --motion raw --lambda-real 1 --adversarial-weight 0
    mcm_student raw --motion raw --lambda-real 1 $clean_images
    mcm_student learned --motion learned --lambda-real 1 $clean_images
    mcm_student mixed --motion learned --lambda-real 0.5 $clean_images
    evaluate_mcm 1,2,4,8 lcm raw learned mixed -- teacher:ddim:1,2,4,8 teacher:dpm++:1,2,4,8
    ;;
  mcm-motion)
    begun
    motions=(raw difference correlation low_frequency high_frequency learned)
    for motion in "${motions[@]}"; do
      mcm_student $motion --motion $motion --lambda-real 1 $clean_images
    done
    evaluate_mcm 4 "${motions[@]}"
    ;;
  mcm-source)
    begun
    mcm_student learned --motion learned --lambda-real 1 $clean_images
    mcm_student mixed --motion learned --lambda-real 0.5 $clean_images
    mcm_student simulated --motion learned --lambda-real 0 $clean_images
    evaluate_mcm 1,4 learned mixed simulated
    ;;
  obedience)
    PYTHON=$python scripts/fetch_metrics.sh runs/metrics >/dev/null
    [ -f $mini/judge.pt ] || "$python" -m training.mini.depth --corpus $corpus --out $mini/judge.pt --steps 600 --seed 7
    measure=("$python" -m training.mini.control --corpus $corpus --judge $mini/judge.pt --metrics runs/metrics --cfg 1.5)
    "${measure[@]}" --out "$out/64" --clips 64 --settings depth sketch
    "${measure[@]}" --out "$out/32" --clips 32 --settings inpainting motion "first frame" all
    ;;
esac
