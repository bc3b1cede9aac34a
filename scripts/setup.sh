#!/usr/bin/env bash
# Installs what the build needs from Debian's packages, and only what is missing. Works as root or through sudo.
# Usage: scripts/setup.sh          installs
#        scripts/setup.sh --train  also what training needs (LibTorch, about 160 MB and its own needs); the next build has it
#        scripts/setup.sh --check  says what is missing, installs nothing; exit 1 if something is (with --train too)
set -euo pipefail
check= train=
for argument in "$@"; do
  case $argument in
    --check) check=1 ;;
    --train) train=1 ;;
    *) echo "setup.sh: unknown argument $argument; there are --check and --train" >&2; exit 2 ;;
  esac
done

packages=(
  g++ cmake ninja-build make pkg-config ccache
  libhwy-dev        # portable SIMD
  libcli11-dev      # command line
  nlohmann-json3-dev
  libtomlplusplus-dev  # suites of evaluations, training
  libfmt-dev
  libxxhash-dev     # every hash and checksum
  libstemmer-dev    # stems of words in ROUGE
  libedit-dev       # line editing in chat
  libicu-dev        # Unicode classes, read at build time only
  libgtest-dev
)
[ -z "$train" ] || packages+=(libtorch-dev libsentencepiece-dev libopenblas0-pthread)

missing=()
for package in "${packages[@]}"; do
  status=$(dpkg-query -W -f='${db:Status-Status}' "$package" 2>/dev/null || true)
  [ "$status" = installed ] || missing+=("$package")
done
if [ ${#missing[@]} -eq 0 ]; then
  exit 0
fi
echo "missing packages: ${missing[*]}" >&2
[ -z "$check" ] || exit 1

if ! command -v apt-get >/dev/null; then
  echo "setup.sh: this is not a Debian system; install the packages above by hand" >&2
  exit 1
fi
as_root=()
if [ "$(id -u)" -ne 0 ]; then
  command -v sudo >/dev/null || { echo "setup.sh: run as root, or install sudo" >&2; exit 1; }
  as_root=(sudo)
fi
export DEBIAN_FRONTEND=noninteractive
"${as_root[@]}" apt-get update -qq
"${as_root[@]}" apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
