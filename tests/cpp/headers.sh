#!/bin/sh
# ONNX Runtime's C++ headers into FOLDER, for the C++ snippet of docs/integrate.md.
#     tests/cpp/headers.sh FOLDER
# Debian has them since release 13 (package libonnxruntime-dev). On an older one the package is
# fetched from that release, by the machine's own sources, and unpacked; nothing is installed. They
# need no library of their own version: ONNX Runtime serves whoever was compiled against an older.
set -eu
release=trixie
case $1 in /*) folder=$1 ;; *) folder=$PWD/$1 ;; esac
[ ! -f "$folder/onnxruntime_cxx_api.h" ] || exit 0
give_up() {
  echo "headers.sh: $1; unpack a release of ONNX Runtime and set ONNXRUNTIME_INCLUDE to its include" \
    "folder" >&2
  exit 1
}
command -v apt-get >/dev/null || give_up "no apt-get here"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir -p "$work/lists/partial" "$work/archives/partial"
mirror=$(apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' 'Origin: Debian' \
  'Component: main' | head -n 1)
[ -n "$mirror" ] || give_up "apt knows no source of Debian's (apt-get update?)"
echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $mirror $release main" >"$work/sources"
apt() {
  apt-get -qq -o Dir::Etc::sourcelist="$work/sources" -o Dir::Etc::sourceparts=/dev/null \
    -o Dir::State::lists="$work/lists" -o Dir::Cache="$work" -o APT::Sandbox::User=root "$@"
}
apt update
cd "$work"
apt download libonnxruntime-dev
dpkg -x libonnxruntime-dev_*.deb .
mkdir -p "$(dirname "$folder")"
rm -rf "$folder"
mv usr/include/onnxruntime "$folder"
