#!/usr/bin/env bash
# Whether two versions of mneme compute the same bits: what a change that should change nothing is checked with.
#
#   scripts/same_bits.sh [OPTIONS] BASE [TREE]
#
# BASE and TREE (default: this working tree) are each a git revision, a folder with a checkout, or a program that is
# built. Both compute logits, texts, saved states, chats and converted files of many models in many contexts; each
# must be the same, byte for byte. Exit 1 if one is not.
#
#   --model FILE     only this model, GGUF or folder (may be given more than once)
#   --full           every chunk, thread and K/V encoding with every model and context, not a selection that covers all
#   --quick          a tenth of the selection
#   --no-states      do not compare state files (a new format that forgot its version)
#   --old-states     TREE goes on from states that BASE saved
#   --speed          then also paired speed, A B A B ..., on the 1.1B shape (4 GB of files; six to nine minutes a pair)
#   --speed-only     only that
#   --speed-model X  q8_0, q4_0, f16 or a file (default: the three; may be given more than once)
#   --pairs N        pairs of each measurement (default 3)
#   --dry-run        list the combinations
#
# Environment: JOBS (all cores), BUILD (build/release, of a checkout), MNEME_TEST_DATA (../shared/data). Where the
# command lines of the two differ, BASE_LOGITS, TREE_LOGITS and so on replace those of COMMANDS below.
# What it builds and makes lies in build/same_bits: a program per revision, the models. Needs python3.
set -euo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)
export SAME_BITS_CACHE=$root/build/same_bits SAME_BITS_ROOT=$root JOBS=${JOBS:-$(nproc)}
usage() { sed -n '2,/^set /{/^set /d;s/^# \{0,1\}//;p}' "$0" >&2; exit 2; }
fail() { echo "same_bits: $1" >&2; exit 1; }

# Builds what `$1` names and prints the program; the log is in $SAME_BITS_CACHE.
program() {
  local what=$1 folder sha log=$SAME_BITS_CACHE/build.log
  if [ -f "$what" ] && [ -x "$what" ]; then realpath "$what"; return; fi
  if [ -d "$what" ]; then
    folder=$(cd "$what" && pwd)
    local build=${BUILD:-build/release}
    echo "same_bits: building $folder" >&2
    # With the tests of its configuration: leaving them out here would leave them out of the next build as well.
    (cd "$folder" && cmake --preset release -B "$build" && cmake --build "$build" -j "$JOBS" --target mneme) >"$log" 2>&1 ||
      { tail -n 20 "$log" >&2; fail "$folder does not build; all of it: $log"; }
    (cd "$folder" && realpath "$build/src/cli/mneme")
    return
  fi
  sha=$(git -C "$root" rev-parse --verify --quiet "$what^{commit}") ||
    fail "$what is no revision of this repository, no folder and no program"
  folder=$SAME_BITS_CACHE/$sha
  if [ ! -x "$folder/mneme" ]; then
    echo "same_bits: building $what" >&2
    mkdir -p "$folder"
    git -C "$root" archive "$sha" | tar -x -C "$folder"
    (cd "$folder" && cmake --preset release -DMNEME_TESTS=OFF && cmake --build build/release -j "$JOBS" --target mneme) \
      >"$log" 2>&1 || { tail -n 20 "$log" >&2; fail "$what does not build; all of it: $log"; }
    mv "$folder/build/release/src/cli/mneme" "$SAME_BITS_CACHE/mneme.new"
    rm -rf "$folder"
    mkdir "$folder"
    mv "$SAME_BITS_CACHE/mneme.new" "$folder/mneme"
  fi
  echo "$folder/mneme"
}

options=() versions=()
while [ $# -gt 0 ]; do
  case $1 in
    --model | --speed-model | --pairs)
      [ $# -ge 2 ] || usage
      options+=("$1" "$2")
      shift
      ;;
    --full | --quick | --no-states | --old-states | --speed | --speed-only | --dry-run) options+=("$1") ;;
    -*) usage ;;
    *) versions+=("$1") ;;
  esac
  shift
done
{ [ ${#versions[@]} -ge 1 ] && [ ${#versions[@]} -le 2 ]; } || usage
mkdir -p "$SAME_BITS_CACHE"
base=$(program "${versions[0]}")
tree=$(program "${versions[1]:-$root}")

exec python3 - "$base" "$tree" "${options[@]}" <<'PY'
import argparse, array, collections, concurrent.futures, itertools, json, os, random, shlex, shutil, statistics, subprocess, sys
import tempfile, time

# Every command line that is used; {words} are filled in.
ENGINE = ("--context {context} --pin {pin} --start-position {start} --kv-k {k} --kv-v {v} --chunk {chunk} "
          "--threads {threads} --memory {memory} {flags}")
SAMPLING = ("--temperature {temperature} --top-k {top_k} --top-p {top_p} --min-p {min_p} --repetition-penalty {penalty} "
            "--seed 7")
COMMANDS = {
    "LOGITS": "eval logits {model} --ids {ids} --out {out} " + ENGINE,
    "IDS": "run {model} -q --ids -f {ids} -n 24 --ignore-end " + ENGINE + " " + SAMPLING,
    "TEXT": "run {model} -q -f {text} -p {prompt} -n 40 --ignore-end " + ENGINE + " " + SAMPLING,
    "SAVE": "run {model} -q --ids -f {ids} --no-generate --state {state} " + ENGINE + " " + SAMPLING,
    "RESUME": "run {model} -q --ids -f {more} -n 24 --ignore-end --state {state} " + ENGINE + " " + SAMPLING,
    "CHAT": "chat {model} --template plain -n 20 --system {prompt} " + ENGINE + " " + SAMPLING,
    "RANDOM": "convert --random {shape} {out} --encoding {encoding}",
    "CONVERT": "convert {model} {out} --encoding {encoding}",
    "BENCH": "bench {model} --json --no-floor --repeat {repeat} --context {context} --depth {depth} --prefill {prefill} "
             "--decode {decode} --batch {batch} --max-seconds {seconds}",
}
CHAT_INPUT = ("Once there was a bird\n/context\nAnd then?\n/save {state}\n/rewind 1\nWhat did it see?\n/rewind 5 tokens\n"
              "The end\n/load {state}\nAgain\n/context\n")
PROMPT = "Once upon a time there was a little bird that"
GREEDY = dict(temperature=0, top_k=0, top_p=1, min_p=0, penalty=1)
SAMPLED = dict(temperature=0.9, top_k=40, top_p=0.95, min_p=0.01, penalty=1.1)

# The stream has NUM_IDS tokens: each context but dense has dropped more than it holds at the end.
NUM_IDS = 700
DENSE = dict(context="dense")
CONTEXTS = [
    DENSE,
    dict(context="window:window=100"),
    dict(context="sinks:sinks=4,window=123"),
    dict(context="sinks:sinks=4,window=200", pin=20),
    dict(context="sinks:sinks=3,window=65", start=1 << 33),
    dict(context="lambda:starts=10,window=96,distance=80"),
    dict(context="lambda:starts=4,window=70,top_k=5,from_layer=1,middle_tokens=300"),
    dict(context="xl:segment=64,previous=1"),
    dict(context="xl:segment=50,previous=3"),
    dict(context="auto", memory="64M"),
]
MEMORIES = [
    dict(context="infini"),
    dict(context="infini:segment=96,previous=2"),
    dict(context="infini:segment=64,previous=0,first=literal"),
]
KV = [("f32", "f32"), ("f16", "f16"), ("bf16", "bf16"), ("q8_0", "q8_0"), ("q4_0", "q4_0"), ("q8_0", "f16")]
CELLS = list(itertools.product([1, 7, 512], [1, 2]))  # chunk, threads
ENCODINGS = ["f32", "f16", "bf16", "q8_0", "q4_0", "q4_1", "q5_0", "q5_1", "q2_k", "q3_k", "q4_k", "q5_k", "q6_k"]
SMALL = "layers=2,dim=256,heads=8,kv_heads=2,ffn=256,vocab=320,length=256"
# Wide enough that products are shared among threads.
WIDE = "layers=1,dim=768,heads=12,kv_heads=12,ffn=2048,vocab=2048,length=1024"

# In MNEME_TEST_DATA: one of each family and position rule.
DATA = ["models/stories260K/stories260K.gguf", "conformance/gptj-hf", "goldens/mistral-window", "goldens/phi3-longrope",
        "goldens/llama-llama3"]
DATA += ["conformance/models/%s.gguf" % name for name in (
    "falcon-40b", "falcon-7b", "gemma", "gemma2", "gemma3", "gpt2", "gptneox-par", "gptneox-seq", "llama-yarn", "mpt-6h",
    "mpt-clamp-8h", "olmo2", "p3-fused", "qwen2", "qwen3", "stablelm", "starcoder2")]

parser = argparse.ArgumentParser()
parser.add_argument("programs", nargs=2)
parser.add_argument("--model", action="append", default=[])
parser.add_argument("--speed-model", action="append", default=[])
parser.add_argument("--pairs", type=int, default=3)
for flag in ("full", "quick", "no-states", "old-states", "speed", "speed-only", "dry-run"):
    parser.add_argument("--" + flag, action="store_true")
options = parser.parse_args()
cache, root = os.environ["SAME_BITS_CACHE"], os.environ["SAME_BITS_ROOT"]
data = os.environ.get("MNEME_TEST_DATA") or os.path.join(root, "..", "shared", "data")
programs = dict(zip(("BASE", "TREE"), options.programs))


def command(side, name, values):
    quoted = {key: shlex.quote(str(value)) if key != "flags" else value for key, value in values.items()}
    template = os.environ.get(side + "_" + name) or COMMANDS[name]
    return [programs[side]] + shlex.split(template.format(**quoted))


def call(line, stdin=""):
    """Exit status, what was written, and the last line of the errors."""
    try:
        done = subprocess.run(line, input=stdin.encode(), capture_output=True, timeout=300)
    except subprocess.TimeoutExpired:
        return 124, b"", "took longer than five minutes"
    errors = done.stderr.decode(errors="replace").strip().splitlines() or [""]
    return done.returncode, done.stdout, errors[-1]


def read(path):
    if not os.path.exists(path):
        return b""
    with open(path, "rb") as file:
        return file.read()


# ---- what is compared

Model = collections.namedtuple("Model", "name path share has_text contexts flags num_ids")


def model(path, share, has_text=False, contexts=None, flags="", num_ids=NUM_IDS):
    name = os.path.relpath(path, cache) if path.startswith(cache) else os.path.basename(path)
    return Model(name + (" " + flags if flags else ""), path, share, has_text, contexts or CONTEXTS, flags, num_ids)


def random_model(shape, encoding, name):
    path = os.path.join(cache, "models", "%s-%s.gguf" % (name, encoding))
    if not os.path.exists(path):
        os.makedirs(os.path.dirname(path), exist_ok=True)
        status, _, error = call(command("BASE", "RANDOM", dict(shape=shape, out=path + ".new", encoding=encoding)))
        if status != 0:
            sys.exit("same_bits: %s cannot be made: %s" % (path, error))
        os.rename(path + ".new", path)
    return path


def models_to_compare():
    """The share of a model is how many of the 36 chunks, threads and K/V encodings each context is computed in."""
    if options.model:
        for path in options.model:
            if not os.path.exists(path):
                sys.exit("same_bits: %s does not exist" % path)
        shares = [(36, NUM_IDS) if os.path.isdir(path) or os.path.getsize(path) < 4 << 20 else (3, 300) for path in options.model]
        return [model(os.path.abspath(path), share, contexts=CONTEXTS + MEMORIES, num_ids=num_ids)
                for path, (share, num_ids) in zip(options.model, shares)]
    models = [model(os.path.join(root, "models", "mneme-tiny.gguf"), 4, True, CONTEXTS + 3 * MEMORIES)]
    for encoding in ENCODINGS:
        path = random_model(SMALL, encoding, "small")
        is_first = encoding == "q8_0"
        models.append(model(path, 36 if is_first else 1, is_first, num_ids=NUM_IDS if is_first else 300))
    for encoding, packs in (("f16", ("never", "float32", "int16", "bf16")), ("bf16", ("int16", "always")),
                            ("q4_k", ("never",)), ("q8_0", ("never",))):
        for pack in packs:
            models.append(model(random_model(SMALL, encoding, "small"), 1, flags="--pack " + pack, num_ids=300))
    for encoding in ("f16", "q8_0", "q4_0"):
        models.append(model(random_model(WIDE, encoding, "wide"), 1, contexts=CONTEXTS[:7:2], num_ids=160))
    missing = 0
    for name in DATA:
        path = os.path.join(data, name)
        if not os.path.exists(path):
            missing += 1
        elif "gpt2" in name:  # positions are learned: nothing slides
            models.append(model(path, 3, contexts=[DENSE], num_ids=400))
        else:
            models.append(model(path, 3, "stories" in name))
    if missing:
        print("same_bits: %d of %d models are not in %s and are skipped: families other than llama, ALiBi, windows of a "
              "model's own" % (missing, len(DATA), data))
    return models


Job = collections.namedtuple("Job", "kind what command values stdin")


def engine(model, context, kv, cell):
    values = dict(pin=0, start=0, memory="2G", flags=model.flags, model=model.path, k=kv[0], v=kv[1], chunk=cell[0],
                  threads=cell[1])
    values.update(context)
    what = "%s, %s%s%s, K %s V %s, chunk %d, %d threads" % (
        model.name, context["context"], " pin %d" % context["pin"] if "pin" in context else "",
        " from %d" % context["start"] if "start" in context else "", kv[0], kv[1], cell[0], cell[1])
    return what, values


def jobs_of(models):
    jobs = []
    folder = os.path.join(cache, "input")
    os.makedirs(folder, exist_ok=True)
    ids = {}
    for count in sorted({model.num_ids for model in models}):
        source = random.Random(1)
        ids[count] = [os.path.join(folder, "%s-%d.ids" % (part, count)) for part in ("all", "first", "rest")]
        tokens = [str(source.randrange(3, 100)) for _ in range(count)]
        cut = count * 3 // 5 + 1
        for path, part in zip(ids[count], (tokens, tokens[:cut], tokens[cut:])):
            with open(path, "w") as file:
                file.write(" ".join(part))
    text = os.path.join(folder, "text.txt")
    with open(text, "w") as file:
        words = "the bird saw a red house and said to her friend that it was time ; we go home in rain".split()
        file.write(" ".join(random.Random(2).choice(words) for _ in range(400)) + ".\n")
    # A deck for each context, so that a few combinations of each model come to all of them over the models.
    decks = {}

    def deal(kind, context):
        key = kind + repr(context)
        if key not in decks:
            cards = list(itertools.product(KV, CELLS))
            random.Random(key).shuffle(cards)
            decks[key] = itertools.cycle(cards)
        return next(decks[key])

    for m, model in enumerate(models):
        files = dict(zip(("ids", "first", "rest"), ids[model.num_ids]))
        for c, context in enumerate(model.contexts):
            for _ in range(36 if options.full else model.share):
                what, values = engine(model, context, *deal("logits", context))
                jobs.append(Job("logits", what, "LOGITS", dict(values, ids=files["ids"]), ""))
            for turn in range(6 if options.full else 1):

                def add(kind, name, sampling, stdin="", **more):
                    what, values = engine(model, context, *deal(kind, context))
                    jobs.append(Job(kind, what, name, dict(values, prompt=PROMPT, text=text, **sampling, **more), stdin))
                if (m + c + turn) % 2 == 0:
                    add("greedy", "IDS", GREEDY, ids=files["ids"])
                else:
                    add("sampled", "IDS", SAMPLED, ids=files["ids"])
                add("restore", "RESUME", SAMPLED, ids=files["first"], more=files["rest"])
                if model.has_text:
                    add("text", "TEXT", SAMPLED)
                    add("chat", "CHAT", SAMPLED, stdin=CHAT_INPUT)
    if not options.model:
        for encoding in ENCODINGS:
            jobs.append(Job("convert", "random " + encoding, "RANDOM", dict(shape=SMALL, encoding=encoding), ""))
            jobs.append(Job("convert", "small-f32 to " + encoding, "CONVERT",
                            dict(model=random_model(SMALL, "f32", "small"), encoding=encoding), ""))
    if options.quick:
        jobs = random.Random(3).sample(jobs, len(jobs) // 10)
    return jobs


def first_difference(a, b, row_values):
    if len(a) != len(b) or len(a) % 4:
        return "%d and %d bytes" % (len(a), len(b))
    x, y = array.array("f", a), array.array("f", b)
    different = [i for i in range(len(x)) if a[4 * i:4 * i + 4] != b[4 * i:4 * i + 4]]
    largest = max(abs(x[i] - y[i]) for i in different)
    return "%d of %d logits, the first in row %d, by at most %.3g" % (
        len(different), len(x), different[0] // row_values, largest)


def compute(job, side, folder, old_state):
    """Exit status, output, file, last error line, the commands."""
    out, state = os.path.join(folder, side + ".out"), os.path.join(folder, side + ".state")
    values = dict(job.values, out=out, state=state)
    lines = []
    if job.kind == "restore":
        lines.append(command(side, "SAVE", values))
        if old_state:
            shutil.copy(old_state, state)
        else:
            status, _, error = call(lines[0])
            if status != 0:
                return status, b"", b"", error, lines
            if side == "BASE" and options.old_states:
                shutil.copy(state, os.path.join(folder, "old.state"))
    lines.append(command(side, job.command, values))
    status, text, error = call(lines[-1], job.stdin.format(state=state))
    made = read(out) if job.kind in ("logits", "convert") else read(state) if job.kind == "restore" else b""
    text = text.replace(out.encode(), b"OUT").replace(state.encode(), b"STATE")
    return status, text if job.kind not in ("logits", "convert") else b"", made, error, lines


def compare(job, work):
    """What became of it (equal, refused, differs), why, and how to see it."""
    with tempfile.TemporaryDirectory(dir=work) as folder:
        base = compute(job, "BASE", folder, None)
        old = os.path.join(folder, "old.state")
        tree = compute(job, "TREE", folder, old if options.old_states and os.path.exists(old) else None)
    commands = "\n".join("  " + shlex.join(line).replace(folder, "/tmp") for line in base[4] + tree[4])
    if base[0] != 0 or tree[0] != 0:
        if base[0] == tree[0] and 0 < base[0] < 124:
            return "refused", base[3], commands
        return "differs", "exit %d (%s) and %d (%s)" % (base[0], base[3], tree[0], tree[3]), commands
    if base[1] != tree[1]:
        return "differs", "another text", commands
    if job.kind in ("logits", "convert", "restore") and not (base[2] and tree[2]):
        return "differs", "no file was written", commands
    if base[2] != tree[2]:
        if job.kind == "logits":
            with open(job.values["ids"]) as file:
                return "differs", first_difference(base[2], tree[2], len(base[2]) // 4 // len(file.read().split())), commands
        # Magic and version, 12 bytes: states of another format are not comparable, the text after them is.
        if job.kind == "restore" and (options.no_states or base[2][:12] != tree[2][:12]):
            return "equal", "", commands
        return "differs", "another %s" % ("state after the same text" if job.kind == "restore" else "file"), commands
    return "equal", "", commands


def compare_all():
    started = time.time()
    models = models_to_compare()
    with tempfile.TemporaryDirectory(prefix="work-", dir=cache) as work:
        jobs = jobs_of(models)
        if options.dry_run:
            for job in jobs:
                print("%s: %s" % (job.kind, job.what))
            print("same_bits: %d combinations" % len(jobs))
            return True
        kinds = collections.Counter(job.kind for job in jobs)
        print("same_bits: %d combinations of %d models: %s" % (
            len(jobs), len(models), ", ".join("%d %s" % (count, kind) for kind, count in kinds.items())), flush=True)
        with concurrent.futures.ThreadPoolExecutor(int(os.environ["JOBS"])) as pool:
            results = []
            for result in pool.map(lambda job: compare(job, work), jobs):
                results.append(result)
                if sys.stderr.isatty() and len(results) % 20 == 0:
                    print("\r%d of %d" % (len(results), len(jobs)), end="\r", file=sys.stderr, flush=True)
    differ = [(job, result) for job, result in zip(jobs, results) if result[0] == "differs"]
    refused = [(job, result) for job, result in zip(jobs, results) if result[0] == "refused"]
    never = [kind for kind in kinds if all(r[0] == "refused" for j, r in zip(jobs, results) if j.kind == kind)]
    report = os.path.join(cache, "report.txt")
    with open(report, "w") as file:
        for job, result in differ + refused:
            file.write("%s: %s: %s\n  %s\n%s\n" % (result[0], job.kind, job.what, result[1], result[2]))
    for job, result in differ[:40]:
        print("differs: %s: %s: %s" % (job.kind, job.what, result[1]))
    if len(differ) > 40:
        print("... and %d more, in %s" % (len(differ) - 40, report))
    for reason, count in collections.Counter(result[1] for _, result in refused).most_common(5):
        print("same_bits: %d refused by both: %s" % (count, reason))
    if never:
        print("same_bits: nothing was compared of: " + ", ".join(never))
    seconds = time.time() - started
    if differ or refused:
        print("same_bits: the commands are in %s" % report)
    if differ or never:
        print("same_bits: %d of %d combinations DIFFER, %.0f s" % (len(differ), len(jobs), seconds))
    else:
        print("same_bits: %d combinations, all equal, %.0f s" % (len(jobs) - len(refused), seconds))
    return not differ and not never


# ---- speed

MEASUREMENTS = [
    ("dense", dict(context="dense", depth="0,4096", prefill=512, decode=32, batch=0, seconds=3600, repeat=2)),
    ("sinks", dict(context="sinks:sinks=4,window=1020", depth="64K", prefill=0, decode=32, batch=0, seconds=1, repeat=2)),
    ("dense", dict(context="dense", depth="16", prefill=0, decode=32, batch=8, seconds=3600, repeat=2)),
]


def speeds(side, path, name, values):
    """Tokens per second by what was measured."""
    line = command(side, "BENCH", dict(values, model=path))
    done = subprocess.run(line, capture_output=True, text=True)
    if done.returncode != 0:
        sys.exit("same_bits: %s\nfailed: %s" % (shlex.join(line), done.stderr.strip()[-500:]))
    found = {}
    for row in json.loads(done.stdout)["rows"]:
        what = row["what"].split()[0]
        if row["note"]:
            sys.exit("same_bits: %s\nmeasured nothing: %s" % (shlex.join(line), row["note"]))
        if not values["batch"] or what == "batch":
            what = {"prefill": "prefill 512", "batch": "8 sessions together"}.get(what, "decode at %d" % row["depth"])
            found["%s, %s" % (what, name)] = row["tokens_per_second"]
    return found


def compare_speed():
    print("| model | what | base tok/s | tree tok/s | tree / base (median of %d pairs; lowest, highest) |" % options.pairs)
    print("|---|---|---|---|---|", flush=True)
    for name in options.speed_model or ["q8_0", "q4_0", "f16"]:
        path = name if os.path.exists(name) else random_model("tinyllama-1.1b", name, "1.1b")
        for measurement in MEASUREMENTS:
            pairs = [(speeds("BASE", path, *measurement), speeds("TREE", path, *measurement)) for _ in range(options.pairs)]
            for what in pairs[0][0]:
                base, tree = ([pair[side][what] for pair in pairs] for side in (0, 1))
                ratios = [b / a for a, b in zip(base, tree)]
                print("| %s | %s | %.1f | %.1f | %.3f (%.3f, %.3f) |" % (
                    os.path.basename(path), what, statistics.median(base), statistics.median(tree),
                    statistics.median(ratios), min(ratios), max(ratios)), flush=True)


same = options.speed_only or compare_all()
if (options.speed or options.speed_only) and not options.dry_run:
    compare_speed()
sys.exit(0 if same else 1)
PY
