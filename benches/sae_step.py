"""One step of TopK-SAE training in PyTorch as it is usually written: dense codes, autograd, Adam, decoder rows
renormalised. Timed against one matrix product of its size, in turn; the median of 7.

    python benches/sae_step.py [BATCH D EXPANSION K]        (torch 2.5.1)
"""

import sys
import time

import torch

batch, d, expansion, k = [int(a) for a in sys.argv[1:5]] or [4096, 1280, 4, 20]
n = expansion * d
torch.manual_seed(0)
x = torch.randn(batch, d)
w_dec = torch.nn.functional.normalize(torch.randn(n, d), dim=1)
w_enc = torch.nn.Parameter(w_dec.clone().T.contiguous())
w_dec = torch.nn.Parameter(w_dec)
b_enc, b_dec = torch.nn.Parameter(torch.zeros(n)), torch.nn.Parameter(torch.zeros(d))
optimiser = torch.optim.Adam([w_enc, b_enc, w_dec, b_dec], lr=1e-4, eps=6.25e-10)


def step():
    p = (x - b_dec) @ w_enc + b_enc
    values, index = p.topk(k, dim=1, sorted=False)
    z = torch.zeros_like(p).scatter(1, index, values.relu())
    loss = (z @ w_dec + b_dec - x).pow(2).mean()
    optimiser.zero_grad()
    loss.backward()
    with torch.no_grad():
        along = (w_dec.grad * w_dec).sum(1, keepdim=True)
        w_dec.grad -= along * w_dec
    optimiser.step()
    with torch.no_grad():
        w_dec.data /= w_dec.norm(dim=1, keepdim=True)


def product():
    with torch.no_grad():
        x @ w_enc


times = {product: [], step: []}
step()
for _ in range(7):
    for work in times:
        start = time.perf_counter()
        work()
        times[work].append(time.perf_counter() - start)
a, b = (sorted(t)[3] for t in times.values())
print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, batch {batch}, d {d}, {n} latents, k {k}:")
print(f"product {a:.3f} s, dense step {b:.3f} s, ratio {b / a:.2f}")
