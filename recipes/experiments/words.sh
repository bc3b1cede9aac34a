#!/usr/bin/env bash
# Share of the words that a model of recipes/experiments/text.toml writes which are words of its books: at a high
# temperature it puts pieces together that form none.
# Usage: words.sh MNEME MODEL.gguf FOLDER_OF_BOOKS [options of `mneme run`: --backspace --temperature 1.2]
set -euo pipefail
mneme=$1 model=$2 books=$3
shift 3
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
split() { tr -cs "A-Za-z'" '\n' | tr A-Z a-z | grep . ; }
cat "$books"/*.txt | split | sort -u >"$scratch/known"
taken_back=0
for seed in $(seq 20); do
  "$mneme" run "$model" -p "It was a fine day when" -n 120 --context dense --top-k 0 --top-p 1 --min-p 0 --seed "$seed" --report "$scratch/report" -q "$@" >>"$scratch/text"
  count=$(sed -n 's/^ *"backspaces": \([0-9]*\),\{0,1\}$/\1/p' "$scratch/report" | head -1)
  taken_back=$((taken_back + count))
done
split <"$scratch/text" >"$scratch/words"
total=$(wc -l <"$scratch/words")
known=$(grep -Fxc -f "$scratch/known" "$scratch/words" || true)
awk -v k="$known" -v n="$total" -v b="$taken_back" \
  'BEGIN { p = k / n; printf "%d of %d words are words: %.1f%% +- %.1f%%; %d tokens taken back\n", k, n, 100 * p, 100 * sqrt(p * (1 - p) / n), b }'
