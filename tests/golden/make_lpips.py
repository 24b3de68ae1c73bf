"""Goldens of LPIPS: the lpips package with its own linear layers on an AlexNet whose weights come from a formula.

torch==2.5.1 torchvision==0.20.1 lpips==0.1.4, CPU, float32. Run from anywhere: python tests/golden/make_lpips.py
Weights and pictures are whole numbers hashed or added up, so that the test makes the same ones and none are stored.
With `--trunk FOLDER` it writes AlexNet there as torchvision's files hold it, as a zip archive and as before PyTorch 1.6
(490 MB), which `DENOSCOPE_ALEXNET=FOLDER cargo test whole_files -- --ignored` reads.
`alex.pth` and `LICENSE` are copied from the package (BSD 2-Clause, Richard Zhang and others).
"""
import json
import shutil
import sys
from importlib.metadata import distribution
from pathlib import Path

import lpips
import numpy as np
import torch
import torchvision

HERE = Path(__file__).parent / "lpips"


def formula(layer, count, bound):
    """`count` numbers in ±bound: a mixed 32-bit hash of layer and index."""
    z = np.arange(count, dtype=np.uint32) * np.uint32(0x9E3779B1) + np.uint32((layer * 0x85EBCA77) % 2**32)
    z ^= z >> np.uint32(15)
    z *= np.uint32(0x2C1B3C6D)
    z ^= z >> np.uint32(12)
    z *= np.uint32(0x297A2D39)
    z ^= z >> np.uint32(15)
    return ((z >> np.uint32(8)).astype(np.float64) / 2**23 - 1.0) * bound


def picture(kind):
    """48 rows of 57 pixels."""
    y, x, c = np.mgrid[0:48, 0:57, 0:3]
    values = [x * 7 + y * 13 + c * 31 + x * y // 5, x * x // 9 + y * 4 + c * 90, (x // 8 + y // 6) * 37 + c * 11,
              x * 7 + y * 13 + c * 31 + x * y // 5 + (x > 30) * 40]
    return (values[kind] % 256).astype(np.uint8)


def tensor(kind):
    return torch.tensor(picture(kind)).permute(2, 0, 1)[None].float() / 127.5 - 1


def layers(model, a, b):
    with torch.no_grad():
        return [float(x) for x in model(tensor(a), tensor(b), retPerLayer=True)[1]]


package = Path(lpips.__file__).parent
shutil.copy(package / "weights/v0.1/alex.pth", HERE / "alex.pth")
license = next(f for f in distribution("lpips").files if f.name == "LICENSE")
shutil.copy(license.locate(), HERE / "LICENSE")
models = {}
for name, learnt in [("lpips", True), ("baseline", False)]:
    model = lpips.LPIPS(net="alex", lpips=learnt, pnet_rand=True, verbose=False).eval()
    convolutions = [m for m in model.net.modules() if isinstance(m, torch.nn.Conv2d)]
    assert [c.weight.shape[0] for c in convolutions] == [64, 192, 384, 256, 256]
    for i, c in enumerate(convolutions):
        fan_in = c.weight[0].numel()
        c.weight.data = torch.tensor(formula(2 * i, c.weight.numel(), (6 / fan_in) ** 0.5)).float().view_as(c.weight)
        c.bias.data = torch.tensor(formula(2 * i + 1, c.bias.numel(), 0.1)).float()
    models[name] = model
if len(sys.argv) > 1 and sys.argv[1] == "--trunk":
    whole = torchvision.models.alexnet(weights=None)
    for ours, theirs in zip(convolutions, [m for m in whole.features if isinstance(m, torch.nn.Conv2d)]):
        theirs.load_state_dict(ours.state_dict())
    for name, zipped in [("zip.pth", True), ("stream.pth", False)]:
        torch.save(whole.state_dict(), Path(sys.argv[2]) / name, _use_new_zipfile_serialization=zipped)
    sys.exit()
golden = {name: [{"a": a, "b": b, "layers": layers(model, a, b)} for a, b in [(0, 1), (2, 1), (0, 3), (2, 2)]]
          for name, model in models.items()}
(HERE / "golden.json").write_text(json.dumps(golden, indent=1) + "\n")
print(json.dumps(golden["lpips"], indent=1))
