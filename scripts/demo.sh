#!/usr/bin/env bash
# The main job on real input. Without arguments: a pass key is hidden at the front of a million tokens, the text
# streams through the model that ships, and the model is asked for the key, all in a state that does not grow.
# With MODEL and TEXT: that text through that model. MODEL=smollm2 fetches a small chat model (get_model.sh) and
# talks to it, or reads TEXT with it. `make demo` calls this.
# Environment: MNEME the program; MODEL, TEXT, MEMORY what to read and under which cap; TOKENS how many (about).
set -uo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)
mneme=${MNEME:-$root/build/release/src/cli/mneme}
model=${MODEL:-$root/models/mneme-tiny.gguf}
text=${TEXT:-}
memory=${MEMORY:-64M}
tokens=${TOKENS:-1000000}
report=$root/build/demo-report.json
mkdir -p "$root/build"

fail() {
  echo "demo: $1" >&2
  exit 1
}
[ -x "$mneme" ] || fail "$mneme is not built; run: make demo"
if [ "$model" = smollm2 ]; then
  model=$("$root/scripts/get_model.sh" smollm2) || exit 1
  if [ -z "$text" ]; then
    command=("$mneme" run "$model" --chat -p "Tell me about the moon in three sentences." -n 120)
    echo "\$ ${command[*]}"
    "${command[@]}" || exit $?
    echo
    echo "Talk to it: $mneme chat $model"
    exit 0
  fi
fi
[ -e "$model" ] || fail "$model does not exist. Give another with: make demo MODEL=path TEXT=path"
[ -z "$text" ] || [ -e "$text" ] || fail "$text does not exist. Give another with: make demo MODEL=path TEXT=path"
[ -z "${MODEL:-}" ] || [ -n "$text" ] || fail "MODEL is given; give TEXT, what it reads, too"

if [ -n "$text" ]; then
  # A larger model than the small one needs more for its activations.
  [ -n "${MODEL:-}" ] && memory=${MEMORY:-1G}
  echo "Reading $(basename "$text") ($(($(wc -c <"$text") / 1024)) KiB) with $(basename "$model"), at most $memory beside the weights."
  echo
  command=("$mneme" run "$model" -f "$text" --memory "$memory" -n 60 --report "$report")
  echo "\$ ${command[*]}"
  "${command[@]}" || exit $?
  echo
  echo "The report in full: $report"
  exit 0
fi

key=$((10000 + (RANDOM * 32768 + RANDOM) % 90000))
story=$root/build/demo.txt
# The filler of the papers: five sentences over and over, 25 tokens in all.
awk -v key="$key" -v rounds=$((tokens / 25)) 'BEGIN {
  printf "There is an important info hidden inside a lot of irrelevant text. Find it and memorize them. "
  printf "I will quiz you about the important information there.\n"
  printf "The pass key is %s. Remember it. %s is the pass key.\n", key, key
  for (i = 0; i < rounds; ++i) {
    printf "%sThe grass is green. The sky is blue. The sun is yellow. Here we go. There and back again.", i ? " " : ""
  }
  printf "\n"
}' >"$story"
echo "A pass key, $key, stands at the front of $(($(wc -c <"$story") / 1024)) KiB of text, about $tokens tokens."
echo "The model attends to the last 256 tokens or fewer; whatever it knows of the key is in its memory, at most $memory."
echo
command=("$mneme" run "$model" -f "$story" -p "What is the pass key? The pass key is" -n 7 --temperature 0 --memory "$memory"
  --report "$report")
echo "\$ ${command[*]}"
answer=$("${command[@]}") || exit $?
echo
echo "The answer: The pass key is$answer"
if [[ "$answer" == *"$key"* ]]; then
  echo "Right: it was $key."
else
  echo "Wrong: it was $key. models/README.md says how often this happens."
fi
echo "The report in full: $report"
echo "Another try: make demo; a text of your own: make demo TEXT=path; by length and depth: $mneme eval passkey --lengths 32K,1M"
