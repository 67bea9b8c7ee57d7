#!/usr/bin/env bash
# Remake a table of docs/results.md: tables.sh steps | depth | iterations | ablation | obedience [CLIPS]
# Two CPU cores, about an hour each (depth two); whatever is already in runs/ is kept, so the same command resumes.
# Wanted first: `make mini`, or at least its corpus (python -m training.mini.corpus --out runs/mini/corpus ...).
set -euo pipefail
cd "$(dirname "$0")/.."
table=${1:-} clips=${2:-512}
case $table in
  steps | depth | iterations | ablation | obedience) ;;
  *)
    echo "no table is called '$table'; allowed: steps, depth, iterations, ablation, obedience. Name one of these." >&2
    exit 1
    ;;
esac
python=${PYTHON:-.venv/bin/python}
mini=runs/mini corpus=runs/mini/corpus out=runs/tables/$table
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
  obedience)
    PYTHON=$python scripts/fetch_metrics.sh runs/metrics >/dev/null
    [ -f $mini/judge.pt ] || "$python" -m training.mini.depth --corpus $corpus --out $mini/judge.pt --steps 600 --seed 7
    measure=("$python" -m training.mini.control --corpus $corpus --judge $mini/judge.pt --metrics runs/metrics --cfg 1.5)
    "${measure[@]}" --out "$out/64" --clips 64 --settings depth sketch
    "${measure[@]}" --out "$out/32" --clips 32 --settings inpainting motion "first frame" all
    ;;
esac
