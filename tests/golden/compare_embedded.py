"""The embedded model in Python diffusers: the same picture for the same initial latents?

torch==2.5.1 diffusers==0.32.2 transformers==4.48.3 pillow, CPU, float32. Run by hand:

    python tests/golden/compare_embedded.py --write    paints the recorded pictures (tests/golden/embedded/)
    python tests/golden/compare_embedded.py PNG...      compares pictures that denoscope saved

A picture that denoscope saved holds its prompt, seed and settings; this program paints it again from them and prints
the mean absolute difference in grey levels. It fails if any is above 1. The recorded pictures are what the Rust test
`components::embedded` is held against.
"""
import argparse
import json
import sys
from pathlib import Path

import numpy as np
import torch
from diffusers import DDIMScheduler, StableDiffusionPipeline
from diffusers.utils import logging
from PIL import Image

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))
from noise import latents as seeded  # noqa: E402

MODEL = HERE.parent.parent / "data" / "scene-unet"
RECORDED = HERE / "embedded"
#: prompt, seed, steps (few: the test runs on every machine), guidance
CASES = [("a large red house at the top left, on a meadow, in flat style", 7, 10, 4.0), ("a blue fish, at sea", 3, 4, 6.5)]


def paint(pipe, prompt, seed, steps, guidance, negative=""):
    size = pipe.unet.config.sample_size
    latents = seeded(seed, pipe.unet.config.in_channels, size, size)
    image = pipe([prompt], negative_prompt=[negative], num_inference_steps=steps, guidance_scale=guidance, latents=latents,
                 output_type="np").images[0]
    return (image * 255).round().astype("uint8")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=MODEL)
    parser.add_argument("--write", action="store_true", help="paint the recorded pictures anew")
    parser.add_argument("pictures", nargs="*", type=Path)
    args = parser.parse_args()
    logging.disable_progress_bar()
    pipe = StableDiffusionPipeline.from_pretrained(args.model, safety_checker=None)
    pipe.set_progress_bar_config(disable=True)
    assert isinstance(pipe.scheduler, DDIMScheduler), pipe.scheduler
    if args.write:
        RECORDED.mkdir(exist_ok=True)
        cases = []
        for i, (prompt, seed, steps, guidance) in enumerate(CASES):
            Image.fromarray(paint(pipe, prompt, seed, steps, guidance)).save(RECORDED / f"{i}.png")
            cases.append(dict(prompt=prompt, seed=seed, steps=steps, guidance=guidance))
        (RECORDED / "cases.json").write_text(json.dumps(cases, indent=1) + "\n")
    worst = 0.0
    for path in args.pictures:
        picture = Image.open(path)
        facts = json.loads(picture.text["denoscope"])
        s = facts["settings"]
        if s["scheduler"] != "DDIMScheduler" or s["hooks"]:
            sys.exit(f"{path}: made with {s['scheduler']} and hooks {s['hooks']}; only plain DDIM pictures can be compared")
        ours = np.asarray(picture.convert("RGB")).astype(float)
        theirs = paint(pipe, facts["prompt"], facts["seed"], s["steps"], s["guidance"], s["negative"]).astype(float)
        difference = np.abs(ours - theirs).mean()
        worst = max(worst, difference)
        print(f"{path}: {difference:.4f} grey levels apart on average, {np.abs(ours - theirs).max():.0f} at most")
    if worst > 1.0:
        sys.exit(f"worst {worst:.4f}: more than one grey level")


if __name__ == "__main__":
    main()
