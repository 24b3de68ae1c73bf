"""Is the sparse training as good as the dense one? TopK SAEs of PyTorch (dense codes, autograd, Adam) and of denoscope on
the same activations: same start (tied random unit rows, geometric median), same schedule, batch, steps, AuxK and held-out
share. Both are judged here, by the same lines, from the weights that they left.

    denoscope capture capture.json          # a store of scene-unet, for example
    python benches/sae_quality.py STORE_SHARDS_FOLDER WORK_FOLDER [SEEDS EXPANSION K STEPS BATCH]

with `denoscope` on the PATH (or in $DENOSCOPE). torch 2.5.1, safetensors 0.8.0, numpy < 2. Numbers that were measured
stand in the options of `src/sae/options.rs`.
"""

import json
import math
import os
import subprocess
import sys
import time
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

shards, work = Path(sys.argv[1]), Path(sys.argv[2])
seeds, expansion, k, steps, batch = [int(a) for a in sys.argv[3:8]] or [3, 8, 20, 1000, 1024]
ALPHA, AUX_K, HOLDOUT = 0.25, 256, 0.05
work.mkdir(parents=True, exist_ok=True)
x = torch.cat([load_file(p)["activations"].flatten(0, 1).float() for p in sorted(shards.glob("*.safetensors"))])
# Whole pictures lie together in a store: in random order the held-out tokens are of the same pictures as the others.
x = x[torch.randperm(len(x), generator=torch.Generator().manual_seed(0))].contiguous()
save_file({"x": x}, work / "x.safetensors")
d, n, out = x.shape[1], expansion * x.shape[1], round(len(x) * HOLDOUT)
train, held_out = x[: len(x) - out], x[len(x) - out :]
per_epoch = len(train) // batch
epochs = math.ceil(steps / per_epoch)
steps = epochs * per_epoch
window = min(10_000_000, steps * batch // 20)
rate = 2e-4 * math.sqrt(16384 / n)


def judge(encode, w_dec, b_dec):
    """Explained variance (mean over channels) of the held-out tokens, share of latents that no training token fires."""
    fired = torch.zeros(n, dtype=torch.bool)
    for rows in train.split(8192):
        fired |= (encode(rows) > 0).any(0)
    e = held_out - (encode(held_out) @ w_dec + b_dec)
    ev = 1 - e.var(0, unbiased=False) / held_out.var(0, unbiased=False)
    return ev.mean().item(), 1 - fired.float().mean().item()


def top(p, k):
    values, index = p.topk(k, dim=1)
    return torch.zeros_like(p).scatter(1, index, values.relu())


def dense(seed):
    random = torch.Generator().manual_seed(seed)
    scale = math.sqrt(d / train.pow(2).sum(1).mean().item())
    data = train * scale
    centre = data.mean(0)
    for _ in range(20):
        weight = 1 / (data - centre).norm(dim=1, keepdim=True).clamp(min=1e-12)
        centre = (weight * data).sum(0) / weight.sum()
    w_dec = torch.nn.functional.normalize(torch.randn(n, d, generator=random), dim=1)
    w_enc = torch.nn.Parameter(w_dec.clone())
    w_dec, b_enc, b_dec = torch.nn.Parameter(w_dec), torch.nn.Parameter(torch.zeros(n)), torch.nn.Parameter(centre)
    optimiser = torch.optim.Adam([w_enc, b_enc, w_dec, b_dec], lr=rate, betas=(0.9, 0.999), eps=6.25e-10)
    silent = torch.zeros(n, dtype=torch.long)
    for step in range(steps):
        if step % per_epoch == 0:
            order = torch.randperm(len(data), generator=random)
        rows = data[order[(step % per_epoch) * batch :][:batch]]
        p = (rows - b_dec) @ w_enc.T + b_enc
        z = top(p, k)
        e = rows - (z @ w_dec + b_dec)
        loss = e.pow(2).mean()
        dead = (silent >= window).nonzero().squeeze(1)
        if len(dead):
            aux = top(p[:, dead], min(AUX_K, len(dead)))
            loss = loss + ALPHA * (e.detach() - aux @ w_dec[dead]).pow(2).mean()
        optimiser.zero_grad()
        loss.backward()
        with torch.no_grad():
            w_dec.grad -= (w_dec.grad * w_dec).sum(1, keepdim=True) * w_dec
        warm, decay = min((step + 1) / (0.05 * steps), 1), min((steps - step) / (0.2 * steps), 1)
        optimiser.param_groups[0]["lr"] = rate * warm * decay
        optimiser.step()
        with torch.no_grad():
            w_dec /= w_dec.norm(dim=1, keepdim=True)
            fired = (z > 0).any(0)
            silent = torch.where(fired, 0, silent + batch)
    with torch.no_grad():
        b = b_dec / scale
        return judge(lambda rows: top((rows - b) @ w_enc.T + b_enc / scale, k), w_dec, b)


def sparse(seed):
    run = work / f"run-{expansion}-{k}-{steps}-{seed}"
    options = {"epochs": epochs, "batch": batch, "seed": seed, "holdout": HOLDOUT, "dead_window": window,
               "learning_rate": rate, "aux_alpha": ALPHA, "aux_k": AUX_K}
    config = {"activations": {"file": str(work / "x.safetensors")}, "sae": {"architecture": "topk", "k": k},
              "expansion": expansion, "options": options, "run": str(run)}
    path = work / "train.json"
    path.write_text(json.dumps(config))
    subprocess.run([os.environ.get("DENOSCOPE", "denoscope"), "train", str(path)], check=True, capture_output=True)
    w = load_file(run / "sae_weights.safetensors")
    return judge(lambda rows: top((rows - w["b_dec"]) @ w["W_enc"] + w["b_enc"], k), w["W_dec"], w["b_dec"])


print(f"{len(x)} tokens, d {d}, {n} latents, k {k}, {steps} steps of {batch}, torch {torch.__version__}")
mean = lambda rows: [sum(column) / len(rows) for column in zip(*rows)]
found = {"dense PyTorch": [], "denoscope": []}
for seed in range(seeds):
    for (name, rows), work_of in zip(found.items(), [dense, sparse]):
        start = time.perf_counter()
        rows.append(work_of(seed))
        seconds = time.perf_counter() - start
        print(f"seed {seed} {name:<14} explained variance {rows[-1][0]:.4f}, dead {100 * rows[-1][1]:.2f} %, {seconds:.0f} s")
for name, rows in found.items():
    ev, dead = mean(rows)
    print(f"mean   {name:<14} explained variance {ev:.4f}, dead {100 * dead:.2f} %")
