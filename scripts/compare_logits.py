#!/usr/bin/env python3
"""What mneme computes of a GGUF file, beside what another engine computes of the same file.

  scripts/compare_logits.py PEER MODEL.gguf TEXT...     PEER: llama.cpp or transformers

llama.cpp is the Python package llama-cpp-python; transformers needs torch and gguf as well and decodes the file's
weights to float32. For each text the ids of both tokenizers are compared. Of the first text the logits of the first
LOGITS (512) tokens, and the perplexity of the first 512, 2048 and 8192; then both go on greedily from the first PROMPT
(64) tokens for GREEDY (128), until they part, with how far the two best logits were apart there. mneme is run twice:
with --pack exact, where nothing is rounded, and as it runs by default.

Environment: MNEME (build/release/src/cli/mneme), THREADS (all cores), LENGTHS ("512 2048 8192"), LOGITS, PROMPT, GREEDY.
"""
import os, subprocess, sys, tempfile

import numpy as np

MNEME = os.environ.get("MNEME", "build/release/src/cli/mneme")
THREADS = int(os.environ.get("THREADS", os.cpu_count()))


class Mneme:
    """Logits of mneme, streamed through a pipe: 8192 rows of a large vocabulary are gigabytes."""

    def __init__(self, model, pack):
        self.model, self.pack = model, pack

    def tokenize(self, path):
        command = [MNEME, "tokenize", self.model, "-f", path]
        out = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        return [int(word) for word in out.split()]

    def rows(self, ids, vocab):
        with tempfile.TemporaryDirectory() as folder:
            ids_path, pipe = folder + "/ids", folder + "/logits"
            with open(ids_path, "w") as file:
                file.write(" ".join(map(str, ids)))
            os.mkfifo(pipe)
            command = [MNEME, "eval", "logits", self.model, "--ids", ids_path, "--out", pipe, "--pack", self.pack,
                       "--threads", str(THREADS)]
            process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
            with open(pipe, "rb") as file:
                for _ in ids:
                    row = file.read(4 * vocab)
                    if len(row) != 4 * vocab:
                        break
                    yield np.frombuffer(row, np.float32)
            errors = process.communicate()[1]
            if process.returncode != 0:
                sys.exit("compare_logits.py: mneme failed: " + errors.strip()[-500:])

    def greedy(self, ids, count):
        command = [MNEME, "run", self.model, "--ids", "-f", "-", "-n", str(count), "--temperature", "0", "-q",
                   "--ignore-end", "--context", "dense", "--kv", "f32", "--pack", self.pack, "--threads", str(THREADS)]
        done = subprocess.run(command, capture_output=True, text=True, input=" ".join(map(str, ids)))
        if done.returncode != 0:
            sys.exit("compare_logits.py: mneme failed: " + done.stderr.strip()[-500:])
        return [int(word) for word in done.stdout.split()]


class LlamaCpp:
    BATCH = 512

    def __init__(self, model, length):
        import llama_cpp
        self.api = llama_cpp
        self.engine = llama_cpp.Llama(model, n_ctx=length, n_batch=self.BATCH, n_ubatch=self.BATCH, n_threads=THREADS,
                                      n_threads_batch=THREADS, logits_all=False, verbose=False, type_k=0, type_v=0)
        self.vocab = self.engine.n_vocab()

    def tokenize(self, path):
        with open(path, "rb") as file:
            return self.engine.tokenize(file.read(), add_bos=False, special=False)

    def clear(self):
        self.api.llama_memory_clear(self.api.llama_get_memory(self.engine.ctx), True)

    def feed(self, ids, first):
        batch = self.api.llama_batch_init(len(ids), 0, 1)
        batch.n_tokens = len(ids)
        for i, token in enumerate(ids):
            batch.token[i], batch.pos[i] = token, first + i
            batch.n_seq_id[i], batch.seq_id[i][0], batch.logits[i] = 1, 0, True
        if self.api.llama_decode(self.engine.ctx, batch) != 0:
            sys.exit("compare_logits.py: llama.cpp failed")
        logits = self.api.llama_get_logits(self.engine.ctx)
        rows = np.ctypeslib.as_array(logits, shape=(len(ids), self.vocab)).copy()
        self.api.llama_batch_free(batch)
        return rows

    def rows(self, ids):
        self.clear()
        for first in range(0, len(ids), self.BATCH):
            yield from self.feed(ids[first:first + self.BATCH], first)

    def greedy(self, ids, count):
        self.clear()
        row, out = self.feed(ids, 0)[-1], []
        while len(out) < count:
            out.append(int(row.argmax()))
            row = self.feed(out[-1:], len(ids) + len(out) - 1)[-1]
        return out


class Transformers:
    BATCH = 256

    def __init__(self, model, length):
        import torch
        import transformers
        torch.set_num_threads(THREADS)
        torch.set_grad_enabled(False)
        self.torch = torch
        folder, name = os.path.split(os.path.abspath(model))
        self.tokenizer = transformers.AutoTokenizer.from_pretrained(folder, gguf_file=name)
        self.model = transformers.AutoModelForCausalLM.from_pretrained(folder, gguf_file=name, dtype=torch.float32)
        self.model.eval()
        self.vocab = self.model.get_output_embeddings().weight.shape[0]

    def tokenize(self, path):
        with open(path, encoding="utf-8", newline="") as file:
            return self.tokenizer(file.read(), add_special_tokens=False, split_special_tokens=True)["input_ids"]

    def rows(self, ids):
        cache = None
        for first in range(0, len(ids), self.BATCH):
            out = self.model(self.torch.tensor([ids[first:first + self.BATCH]]), past_key_values=cache, use_cache=True)
            cache = out.past_key_values
            yield from out.logits[0].numpy()

    def greedy(self, ids, count):
        out, cache, feed = [], None, ids
        while len(out) < count:
            result = self.model(self.torch.tensor([feed]), past_key_values=cache, use_cache=True)
            cache = result.past_key_values
            feed = [int(result.logits[0, -1].argmax())]
            out += feed
        return out


def log_softmax(row):
    row = row.astype(np.float64)
    row = row - row.max()
    return row - np.log(np.exp(row).sum())


def compare_logits(mneme, peer, ids):
    """Largest difference over the deviation of the logits, its median by row, Kullback-Leibler divergence, equal best."""
    worst, gaps, kl, same = 0.0, [], [], 0
    for ours, theirs in zip(mneme.rows(ids, peer.vocab), peer.rows(ids)):
        gap = np.abs(ours - theirs).max() / theirs.std()
        worst = max(worst, gap)
        gaps.append(gap)
        p, q = log_softmax(theirs), log_softmax(ours)
        kl.append((np.exp(p) * (p - q)).sum())
        same += int(ours.argmax() == theirs.argmax())
    return worst, float(np.median(gaps)), float(np.mean(kl)), same / len(ids)


def losses(rows, ids):
    return np.array([-log_softmax(row)[target] for row, target in zip(rows, ids[1:])])


def main():
    if len(sys.argv) < 4 or sys.argv[1] not in ("llama.cpp", "transformers"):
        sys.exit(__doc__)
    peer_name, model, texts = sys.argv[1], sys.argv[2], sys.argv[3:]
    lengths = [int(word) for word in os.environ.get("LENGTHS", "512 2048 8192").split()]
    num_logits, num_prompt = int(os.environ.get("LOGITS", 512)), int(os.environ.get("PROMPT", 64))
    num_greedy = int(os.environ.get("GREEDY", 128))
    most = max(lengths + [num_logits, num_prompt + num_greedy])
    peer = (LlamaCpp if peer_name == "llama.cpp" else Transformers)(model, most)
    ours = {"exact": Mneme(model, "exact"), "auto": Mneme(model, "auto")}
    print("%s beside %s" % (os.path.basename(model), peer_name))
    first = None
    for path in texts:
        mine, theirs = ours["auto"].tokenize(path), list(peer.tokenize(path))
        first = first or mine
        differ = sum(a != b for a, b in zip(mine, theirs)) + abs(len(mine) - len(theirs))
        print("  %-28s %8d tokens, %d differ" % (os.path.basename(path), len(mine), differ), flush=True)
    for pack, engine in ours.items():
        worst, median, kl, same = compare_logits(engine, peer, first[:num_logits])
        print("  --pack %-6s logits of %d: largest difference %.2g of their deviation (median by token %.2g), "
              "divergence %.2g, same best %.4f" % (pack, num_logits, worst, median, kl, same), flush=True)
    engines = [(peer_name, peer.rows)]
    engines += [("--pack " + pack, lambda ids, e=engine: e.rows(ids, peer.vocab)) for pack, engine in ours.items()]
    for name, rows in engines:
        loss = losses(rows(first[:max(lengths)]), first[:max(lengths)])
        figures = ["%d: %.4f" % (n, np.exp(loss[:n - 1].mean())) for n in lengths if n <= len(first)]
        print("  perplexity, %-14s %s" % (name, "   ".join(figures)), flush=True)
    theirs = peer.greedy(first[:num_prompt], num_greedy)
    for pack, engine in ours.items():
        mine = engine.greedy(first[:num_prompt], num_greedy)
        at = next((i for i, (a, b) in enumerate(zip(mine, theirs)) if a != b), None)
        if at is None:
            print("  --pack %-6s greedy: %d tokens, all the same" % (pack, num_greedy))
            continue
        *_, row = peer.rows((first[:num_prompt] + theirs)[:num_prompt + at])
        best = np.sort(row)[-2:]
        print("  --pack %-6s greedy: the same for %d tokens; there %s has its two best %.2g of the deviation apart"
              % (pack, at, peer_name, (best[1] - best[0]) / row.std()), flush=True)


main()
