"""The embedded models in Python diffusers: the same picture for the same initial latents?

torch==2.5.1 diffusers==0.32.2 transformers==4.48.3 pillow, CPU, float32. Run by hand:

    python tests/golden/compare_embedded.py --write    paints the recorded pictures (tests/golden/embedded/)
    python tests/golden/compare_embedded.py PNG...      compares pictures that denoscope saved

A picture that denoscope saved holds its model, prompt, seed and settings; this program paints it again from them and
prints the mean absolute difference in grey levels. It fails if any is above 1. The recorded pictures are what the Rust
test `components::embedded` is held against.
"""
import argparse
import json
import sys
from pathlib import Path

import numpy as np
import torch
from diffusers import DDIMScheduler, DiffusionPipeline
from diffusers.utils import logging
from PIL import Image

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))
from noise import latents as seeded  # noqa: E402

DATA = HERE.parent.parent / "data"
MODELS = ["scene-unet", "scene-dit"]
RECORDED = HERE / "embedded"
#: prompt, seed, steps (few: the test runs on every machine), guidance
CASES = [("a large red house at the top left, on a meadow, in flat style", 7, 10, 4.0), ("a blue fish, at sea", 3, 4, 6.5)]


def load(name):
    folder = DATA / name if (DATA / name).is_dir() else Path(name)
    index = json.loads((folder / "model_index.json").read_text())
    # Neither is part of a folder without one, and a pipeline warns of it.
    missing = dict(safety_checker=None) if index["_class_name"] == "StableDiffusionPipeline" else {}
    pipe = DiffusionPipeline.from_pretrained(folder, **missing)
    pipe.set_progress_bar_config(disable=True)
    assert isinstance(pipe.scheduler, DDIMScheduler), pipe.scheduler
    return pipe


def paint(pipe, prompt, seed, steps, guidance, negative=""):
    unet = hasattr(pipe, "unet")
    config = (pipe.unet if unet else pipe.transformer).config
    latents = seeded(seed, config.in_channels, config.sample_size, config.sample_size)
    # PixArt's pipeline paints at one of its published sizes unless told not to.
    options = {} if unet else dict(clean_caption=False, use_resolution_binning=False)
    image = pipe([prompt], negative_prompt=[negative], num_inference_steps=steps, guidance_scale=guidance,
                 latents=latents, output_type="np", **options).images[0]
    return (image * 255).round().astype("uint8")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true", help="paint the recorded pictures anew")
    parser.add_argument("pictures", nargs="*", type=Path)
    args = parser.parse_args()
    logging.disable_progress_bar()
    if args.write:
        for name in MODELS:
            pipe, folder, cases = load(name), RECORDED / name, []
            folder.mkdir(parents=True, exist_ok=True)
            for i, (prompt, seed, steps, guidance) in enumerate(CASES):
                Image.fromarray(paint(pipe, prompt, seed, steps, guidance)).save(folder / f"{i}.png")
                cases.append(dict(prompt=prompt, seed=seed, steps=steps, guidance=guidance))
            (folder / "cases.json").write_text(json.dumps(cases, indent=1) + "\n")
    worst, pipes = 0.0, {}
    for path in args.pictures:
        picture = Image.open(path)
        facts = json.loads(picture.text["denoscope"])
        s = facts["settings"]
        if s["scheduler"] != "DDIMScheduler" or s["hooks"]:
            sys.exit(f"{path}: made with {s['scheduler']} and hooks {s['hooks']}; only plain DDIM pictures can be compared")
        pipe = pipes.setdefault(s["model"], None) or load(s["model"])
        pipes[s["model"]] = pipe
        ours = np.asarray(picture.convert("RGB")).astype(float)
        theirs = paint(pipe, facts["prompt"], facts["seed"], s["steps"], s["guidance"], s["negative"]).astype(float)
        difference = np.abs(ours - theirs).mean()
        worst = max(worst, difference)
        print(f"{path}: {difference:.4f} grey levels apart on average, {np.abs(ours - theirs).max():.0f} at most")
    if worst > 1.0:
        sys.exit(f"worst {worst:.4f}: more than one grey level")


if __name__ == "__main__":
    main()
