#!/usr/bin/env bash
# Runs every fuzz target, two at a time. Usage: scripts/fuzz.sh DIR MINUTES [TARGET...]
# DIR holds the programs fuzz_* and their seeds (build/fuzz/fuzz after `cmake --build build/fuzz`). New inputs go to
# DIR/corpus/TARGET, findings to DIR/findings/TARGET-*, logs to DIR/logs/TARGET.log. Exit 1 if there is a finding.
# AT_ONCE=N runs N at a time; TIMEOUT=SECONDS (60) is the longest that one input may take.
set -uo pipefail

dir=${1:?usage: scripts/fuzz.sh DIR MINUTES [TARGET...]}
minutes=${2:?usage: scripts/fuzz.sh DIR MINUTES [TARGET...]}
shift 2
here=$(cd "$(dirname "$0")/.." && pwd)
cd "$dir" || exit 1
if [ $# -gt 0 ]; then
  targets=("$@")
else
  targets=()
  for program in fuzz_*; do
    [ -x "$program" ] && [ -f "$program" ] && targets+=("${program#fuzz_}")
  done
fi
[ ${#targets[@]} -gt 0 ] || { echo "fuzz.sh: no fuzz_* programs in $dir" >&2; exit 1; }
mkdir -p logs findings

run_one() {
  local target=$1
  local max_len=65536  # the seeds of model files must fit
  case $target in
    tokenizer_*) max_len=8192 ;;
    tokenizers) max_len=2048 ;;
    jinja) max_len=8192 ;;
    context) max_len=256 ;;
  esac
  mkdir -p "corpus/$target"
  UBSAN_OPTIONS=halt_on_error=1:print_stacktrace=1 ASAN_OPTIONS=allocator_may_return_null=0 \
    nice -n 15 "./fuzz_$target" -max_total_time=$((minutes * 60)) -max_len=$max_len -timeout="${TIMEOUT:-60}" -rss_limit_mb=2048 \
    -malloc_limit_mb=1024 -dict="$here/fuzz/fuzz.dict" -artifact_prefix="findings/$target-" -print_final_stats=1 \
    "corpus/$target" "seeds/$target" >"logs/$target.log" 2>&1
  local code=$?
  local runs
  runs=$(sed -n 's/^stat::number_of_executed_units: *//p' "logs/$target.log" | tail -n 1)
  if [ $code -eq 0 ]; then
    echo "$target: clean, ${runs:-?} inputs in $minutes min"
  else
    echo "$target: FINDING (exit $code), see $dir/logs/$target.log"
    grep -m 3 -E 'ERROR:|runtime error|CHECK failed|SUMMARY' "logs/$target.log"
  fi
  return $code
}

failed=0
pids=()
for target in "${targets[@]}"; do
  run_one "$target" &
  pids+=($!)
  if [ ${#pids[@]} -ge "${AT_ONCE:-2}" ]; then
    wait "${pids[0]}" || failed=1
    pids=("${pids[@]:1}")
  fi
done
for pid in "${pids[@]}"; do
  wait "$pid" || failed=1
done
exit $failed
