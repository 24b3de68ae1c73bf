"""Polygons and run lengths as pycocotools reads them (tests/masks.rs holds ours against this).

pycocotools==2.0.8 numpy<2

    python tests/golden/make_coco.py
"""
import json
from pathlib import Path

import numpy as np
from pycocotools import mask as coco

HERE = Path(__file__).parent / "coco"
rng = np.random.default_rng(5)


def polygon(w, h, corners):
    angles = np.sort(rng.uniform(0, 2 * np.pi, corners))
    radius = rng.uniform(0.2, 1.0, corners)
    x = np.clip(w / 2 * (1 + radius * np.cos(angles)), 0, w)
    y = np.clip(h / 2 * (1 + radius * np.sin(angles)), 0, h)
    return np.round(np.stack([x, y], 1), 2).ravel().tolist()


cases = []
for i, (w, h) in enumerate([(17, 11), (64, 64), (5, 40), (33, 7), (1, 9), (100, 80)]):
    for corners in (3, 4, 9, 30):
        polygons = [polygon(w, h, corners) for _ in range(1 + i % 2)]
        rle = coco.merge(coco.frPyObjects(polygons, h, w))
        mask = coco.decode(rle)
        cases.append(dict(width=w, height=h, polygons=polygons, counts=rle["counts"].decode(),
                          rows=["".join(map(str, row)) for row in mask.tolist()]))
for w, h, share in [(13, 6, 0.5), (40, 30, 0.02), (64, 64, 0.97)]:
    mask = np.asfortranarray((rng.uniform(size=(h, w)) < share).astype(np.uint8))
    cases.append(dict(width=w, height=h, polygons=[], counts=coco.encode(mask)["counts"].decode(),
                      rows=["".join(map(str, row)) for row in mask.tolist()]))
HERE.mkdir(exist_ok=True)
(HERE / "golden.json").write_text(json.dumps(cases) + "\n")
print(len(cases), "cases,", (HERE / "golden.json").stat().st_size, "bytes")
