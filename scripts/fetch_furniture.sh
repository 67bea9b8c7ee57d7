#!/usr/bin/env bash
# Unpack the 3-D models that the training corpus is rendered from: fetch_furniture.sh [FOLDER]
# They are the Debian package sweethome3d-furniture (CC0 and CC BY 3.0); nothing is installed. Needs apt-get and dpkg,
# and for rendering: apt-get install --no-install-recommends libegl1 libgl1-mesa-dri libgl1
set -euo pipefail
folder=${1:-runs/furniture}
mkdir -p "$folder"
cd "$folder"
if ! ls usr/share/sweethome3d/furniture/*.sh3f >/dev/null 2>&1; then
  command -v apt-get >/dev/null || { echo "apt-get not found: unpack the Debian package sweethome3d-furniture into $folder by other means." >&2; exit 1; }
  apt-get -q download sweethome3d-furniture >&2  # only the folder goes to the standard output
  dpkg -x sweethome3d-furniture_*.deb .
  rm sweethome3d-furniture_*.deb
fi
echo "$folder/usr/share/sweethome3d/furniture"
