#!/usr/bin/env bash
# The main job on real input: a whole book through a model, inside 16 MiB beside the weights. `make demo` calls this.
# Environment: MNEME the program; MODEL and TEXT what to read, each with a default where one is at hand.
set -uo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)
mneme=${MNEME:-$root/build/release/src/cli/mneme}

first_of() {
  local path
  for path in "$@"; do
    [ -e "$path" ] && { echo "$path"; return; }
  done
}
shared=$root/../shared/data
[ -d "$shared" ] && shared=$(cd "$shared" && pwd)
model=${MODEL:-$(first_of "$root/models/mneme-tiny.gguf" "$shared/models/stories260K/stories260K.gguf")}
text=${TEXT:-$(first_of "$shared/books/war-and-peace.txt")}

if [ ! -x "$mneme" ]; then
  echo "demo: $mneme is not built; run: make demo" >&2
  exit 1
fi
missing=""
[ -n "$model" ] || missing="a model (a GGUF file or a Hugging Face folder)"
[ -n "$text" ] || missing="${missing:+$missing and }a text of any length"
if [ -n "$missing" ]; then
  echo "demo: it needs $missing. Give both with: make demo MODEL=path TEXT=path" >&2
  exit 1
fi
for path in "$model" "$text"; do
  [ -e "$path" ] || { echo "demo: $path does not exist. Give others with: make demo MODEL=path TEXT=path" >&2; exit 1; }
done

report=$root/build/demo-report.json
mkdir -p "$root/build"
memory=16M
context=sinks
# The header of stories260K says 2048 tokens; it was trained on 512.
[ "$(basename "$model")" = stories260K.gguf ] && context=sinks:sinks=4,window=507
# A larger model than the small one needs more for its activations; its context is chosen under what the cap leaves.
[ -n "${MODEL:-}" ] && memory=${MEMORY:-1G}

echo "Reading $(basename "$text") ($(($(wc -c <"$text") / 1024)) KiB) with $(basename "$model"), at most $memory beside the weights."
echo
command=("$mneme" run "$model" -f "$text" --context "$context" --memory "$memory" -n 60 --report "$report")
echo "\$ ${command[*]}"
"${command[@]}" || exit $?
echo
echo "The report in full: $report"
echo "What every context would take: $mneme plan $model --tokens 10M"
