"""The definition of labelling in NumPy, timed, and compared with what benches/labelling.rs found.

    python benches/labelling.py FILE        (numpy, safetensors; called by the Rust benchmark)

A map, scaled by its maximum and thresholded at 0.1, against every mask of its picture: IoU > 0.5 is a hit of the mask's
label. Prints the seconds, then what the comparison says.
"""

import sys
import time

import numpy as np
from safetensors.numpy import load_file

data = load_file(sys.argv[1])
index, value, masks, words = data["index"], data["value"], data["masks"].astype(bool), data["words"]
latents, vocabulary = data["hits"].shape
hits = np.zeros((latents, vocabulary), np.uint32)
total = np.zeros((latents, vocabulary))
start = time.perf_counter()
for i in range(len(index)):
    maps = np.zeros((latents, index.shape[1]), np.float32)
    tokens = np.arange(index.shape[1])[:, None]
    maps[index[i], tokens] = value[i]
    most = maps.max(axis=1, keepdims=True)
    above = maps / np.where(most > 0, most, 1) > np.float32(0.1)
    for mask, word in zip(masks[i], words[i]):
        both = (above & mask).sum(axis=1)
        either = (above | mask).sum(axis=1)
        iou = both.astype(np.float32) / either.astype(np.float32)
        hit = iou > 0.5
        hits[hit, word] += 1
        total[hit, word] += iou[hit]
seconds = time.perf_counter() - start
mean = np.where(hits > 0, total / np.maximum(hits, 1), 0)
same = np.array_equal(hits, data["hits"])
apart = np.abs(mean - data["iou"]).max()
print(seconds)
print(f"{(hits > 0).sum()} labels, hits {'equal to the last' if same else 'DIFFER'}, mean IoU apart by at most {apart:.1e}")
if not same or apart > 1e-5:
    sys.exit("the labels differ")
