#!/usr/bin/env bash
# Paired speed of mneme and llama.cpp's llama-bench (or a relative of it) on the same GGUF files, in one run.
#
#   scripts/compare_peer.sh PATH_TO_LLAMA_BENCH MODEL.gguf...
#
# Environment: MNEME (build/release/src/cli/mneme), THREADS (all cores), DEPTHS ("0 4096"), PREFILL (512), DECODE (32), PAIRS (3),
# PEER_FLAGS (more flags for the peer, say "-rtr 1" or "-fa 0"), MNEME_FLAGS (more flags for mneme bench). With BATCH=8 and
# PEER_BATCHED=PATH_TO_LLAMA_BATCHED_BENCH (flags for it: PEER_BATCHED_FLAGS) also so many sessions decoded together.
# The two take turns, so that a drift of the machine hits both; each row is the median of PAIRS runs. It builds nothing. Needs python3.
set -euo pipefail

[ $# -ge 2 ] || { sed -n '2,11s/^# \{0,1\}//p' "$0" >&2; exit 2; }
peer=$1
shift
export peer MNEME=${MNEME:-build/release/src/cli/mneme} THREADS=${THREADS:-$(nproc)} DEPTHS=${DEPTHS:-0 4096}
export PREFILL=${PREFILL:-512} DECODE=${DECODE:-32} PAIRS=${PAIRS:-3} PEER_FLAGS=${PEER_FLAGS:-} MNEME_FLAGS=${MNEME_FLAGS:-}
export BATCH=${BATCH:-0} PEER_BATCHED=${PEER_BATCHED:-} PEER_BATCHED_FLAGS=${PEER_BATCHED_FLAGS:-}
[ -x "$peer" ] || { echo "compare_peer.sh: $peer cannot be run" >&2; exit 1; }
[ -x "$MNEME" ] || { echo "compare_peer.sh: $MNEME cannot be run; build first, or set MNEME" >&2; exit 1; }

exec python3 - "$@" <<'PY'
import json, os, shlex, statistics, subprocess, sys

env = os.environ
peer, mneme, threads = env["peer"], env["MNEME"], env["THREADS"]
depths = [int(depth) for depth in env["DEPTHS"].split()]
prefill, decode, pairs = int(env["PREFILL"]), int(env["DECODE"]), int(env["PAIRS"])
help_text = subprocess.run([peer, "--help"], capture_output=True, text=True)
help_text = help_text.stdout + help_text.stderr
has_depth = "--n-depth" in help_text


def run(command, with_errors=False):
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        sys.exit("compare_peer.sh: %s\nfailed: %s" % (shlex.join(command), done.stderr.strip()[-500:]))
    return done.stdout if not with_errors else done.stdout + done.stderr


def peer_speed(model, n_prompt, n_gen, depth):
    command = [peer, "-m", model, "-t", threads, "-r", "1", "-o", "json"] + shlex.split(env["PEER_FLAGS"])
    if depth == 0 or n_gen == 0:
        command += ["-p", str(n_prompt), "-n", str(n_gen)]
    elif has_depth:
        command += ["-p", "0", "-n", str(n_gen), "-d", str(depth)]
    elif "-gp <" in help_text:
        command += ["-p", "0", "-n", "0", "-gp", "%d,%d" % (depth, n_gen)]
    else:
        return None  # this build cannot decode at a depth
    text = run(command)
    rows = json.loads(text[text.index("["):])
    return rows[-1]["avg_ts"]


def mneme_speed(model, n_prompt, n_gen, depth):
    command = [mneme, "bench", model, "--threads", threads, "--prefill", str(n_prompt), "--decode", str(n_gen), "--depth",
               str(depth), "--repeat", "1", "--no-floor", "--max-seconds", "3600", "--json"]
    command += shlex.split(env["MNEME_FLAGS"]) or ["--context", "dense"]
    rows = json.loads(run(command))["rows"]
    return rows[-1]["tokens_per_second"]


def peer_batch(model, n_gen, batch):
    command = [env["PEER_BATCHED"], "-m", model, "-t", threads, "-c", str(batch * (n_gen + 64)), "-npp", "16", "-ntg", str(n_gen),
               "-npl", str(batch)] + shlex.split(env["PEER_BATCHED_FLAGS"])
    # Some builds print the table to the standard error.
    cells = [line.split("|") for line in run(command, with_errors=True).splitlines() if line.startswith("|")]
    column = [cell.strip() for cell in cells[0]].index("S_TG t/s")
    return float(cells[-1][column])


def mneme_batch(model, n_gen, batch):
    command = [mneme, "bench", model, "--threads", threads, "--prefill", "0", "--decode", str(n_gen), "--batch", str(batch),
               "--depth", "16", "--repeat", "1", "--no-floor", "--max-seconds", "3600", "--json"]
    command += shlex.split(env["MNEME_FLAGS"]) or ["--context", "dense"]
    rows = json.loads(run(command))["rows"]
    return rows[-1]["tokens_per_second"]


def print_row(model, what, ours, theirs):
    name = os.path.basename(model)
    if None in theirs:
        print("| %s | %s | %.1f | - | - |" % (name, what, statistics.median(ours)))
    else:
        ratio = statistics.median(a / b for a, b in zip(ours, theirs))
        print("| %s | %s | %.1f | %.1f | %.2f |" % (name, what, statistics.median(ours), statistics.median(theirs), ratio))
    sys.stdout.flush()


print("| model | what | mneme tok/s | peer tok/s | ratio (median of %d pairs) |" % pairs)
print("|---|---|---|---|---|")
for model in sys.argv[1:]:
    cases = ([(prefill, 0, 0)] if prefill else []) + [(0, decode, depth) for depth in depths if decode]
    for n_prompt, n_gen, depth in cases:
        ours, theirs = [], []
        for _ in range(pairs):
            ours.append(mneme_speed(model, n_prompt, n_gen, depth))
            theirs.append(peer_speed(model, n_prompt, n_gen, depth))
        what = "prefill %d" % n_prompt if n_prompt else "decode at depth %d" % depth
        print_row(model, what, ours, theirs)
    batch = int(env["BATCH"])
    if batch > 1:
        ours, theirs = [], []
        for _ in range(pairs):
            ours.append(mneme_batch(model, decode, batch))
            theirs.append(peer_batch(model, decode, batch) if env["PEER_BATCHED"] else None)
        print_row(model, "%d sessions together" % batch, ours, theirs)
PY
