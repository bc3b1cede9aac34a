#!/usr/bin/env bash
# Trains the same small decoder with every kind of memory and prints perplexity on a held-back book beside the
# bytes that one segment leaves to the next: the table of docs/infini.md.
#   scripts/compare_memories.sh [OUT]        MNEME: the program (default build/release/src/cli/mneme)
set -euo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)
mneme=${MNEME:-$root/build/release/src/cli/mneme}
out=${1:-$root/runs/compare}
mkdir -p "$out"
out=$(cd "$out" && pwd)
[ -x "$mneme" ] || { echo "compare: $mneme is not built; run: make setup-train build" >&2; exit 1; }

# name, then section.key=value...
compare() {
  local name=$1 changes=()
  shift
  for change in "$@"; do changes+=(--set "$change"); done
  if ! "$mneme" train "$root/recipes/compare.toml" --set "out=$out/$name" \
    --set "vocabulary.path=$out/vocabulary.model" "${changes[@]}" 2>"$out/$name.txt" >/dev/null; then
    echo "compare: $name failed: $(tail -n 1 "$out/$name.txt")" >&2
    exit 1
  fi
  printf '%-20s %s\n' "$name" "$(sed -n 's/^step .*: \([0-9.]* +- .*\)/\1/p' "$out/$name.txt" | tail -n 1)"
}

compare window memory.attention=xl memory.previous=0
compare xl memory.attention=xl memory.previous=1
compare memorizing memory.attention=memorizing memory.previous=1
compare infini-linear memory.update=linear
compare infini-delta memory.update=delta
compare infini-gated-delta memory.update=gated-delta
compare infini-shifted memory.update=gated-delta memory.key_shift=true
