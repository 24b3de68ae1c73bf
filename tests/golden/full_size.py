"""The real configurations of SD 1.4 and PixArt-XL-2-1024-MS with random weights, against diffusers.

Needs Python 3.11+, torch==2.5.1, diffusers==0.32.2, safetensors, numpy (CPU), 10 GB of disk and 16 GB of memory:

    python tests/golden/full_size.py make FOLDER             # the components with random weights, inputs, outputs
    python tests/golden/full_size.py check FOLDER DENOSCOPE  # `denoscope forward` on the same inputs: a Markdown table
    cargo bench --profile dev --bench against_diffusers -- FOLDER python   # times in turn, in one run; starts `serve`

FOLDER/NAME/{unet,vae,transformer} are laid out as diffusers saves them, beside them NAME-CASE.inputs.safetensors and
NAME-CASE.outputs.safetensors. Weights are PyTorch's default initialisation; no published weights are needed.
"""

import json
import os
import resource
import subprocess
import sys
import time
from pathlib import Path

import torch
from diffusers import AutoencoderKL, PixArtTransformer2DModel, UNet2DConditionModel
from safetensors.torch import load_file, save_file

THREADS = 2

# The fields of the published config.json files.
UNET = dict(
    sample_size=64, in_channels=4, out_channels=4, center_input_sample=False, flip_sin_to_cos=True, freq_shift=0,
    down_block_types=["CrossAttnDownBlock2D"] * 3 + ["DownBlock2D"],
    up_block_types=["UpBlock2D"] + ["CrossAttnUpBlock2D"] * 3,
    block_out_channels=[320, 640, 1280, 1280], layers_per_block=2, downsample_padding=1, mid_block_scale_factor=1,
    act_fn="silu", norm_num_groups=32, norm_eps=1e-5, cross_attention_dim=768, attention_head_dim=8,
)
VAE = dict(
    in_channels=3, out_channels=3, down_block_types=["DownEncoderBlock2D"] * 4,
    up_block_types=["UpDecoderBlock2D"] * 4, block_out_channels=[128, 256, 512, 512], layers_per_block=2, act_fn="silu",
    latent_channels=4, norm_num_groups=32, sample_size=512,
)
PIXART = dict(
    num_attention_heads=16, attention_head_dim=72, in_channels=4, out_channels=8, num_layers=28, dropout=0.0,
    norm_num_groups=32, cross_attention_dim=1152, attention_bias=True, sample_size=128, patch_size=2,
    activation_fn="gelu-approximate", num_embeds_ada_norm=1000, upcast_attention=False, norm_type="ada_norm_single",
    norm_elementwise_affine=False, norm_eps=1e-6, caption_channels=4096,
)

# name: (class, config, subfolder)
MODELS = {
    "sd14": (UNet2DConditionModel, UNET, "unet"),
    "sd14-vae": (AutoencoderKL, VAE, "vae"),
    "pixart": (PixArtTransformer2DModel, PIXART, "transformer"),
    # One of the 28 blocks, to time it by itself (with what is around the blocks, which is little).
    "pixart-block": (PixArtTransformer2DModel, {**PIXART, "num_layers": 1}, "transformer"),
}

# case: (model, component of `denoscope forward`)
CASES = {
    "sd14-unet": ("sd14", "unet"),
    "sd14-vae-encode": ("sd14-vae", "vae-encode"),
    "sd14-vae-decode": ("sd14-vae", "vae-decode"),
    "pixart-transformer": ("pixart", "transformer"),
    "pixart-one-block": ("pixart-block", "transformer"),
}


def inputs(case):
    g = torch.Generator().manual_seed(1)
    normal = lambda *shape: torch.randn(*shape, generator=g)
    if case == "sd14-unet":
        # Guidance: both halves in the batch.
        return {"sample": normal(2, 4, 64, 64), "timestep": torch.tensor([731.0, 731.0]),
                "encoder_hidden_states": normal(2, 77, 768)}
    if case == "sd14-vae-encode":
        return {"sample": (0.5 * normal(1, 3, 512, 512)).clamp(-1, 1)}
    if case == "sd14-vae-decode":
        return {"latents": normal(1, 4, 64, 64)}
    mask = (torch.arange(120)[None] < torch.tensor([[100], [7]])).float()
    return {"sample": normal(2, 4, 128, 128), "timestep": torch.tensor([731.0, 731.0]),
            "encoder_hidden_states": normal(2, 120, 4096), "encoder_attention_mask": mask,
            "resolution": torch.tensor([[1024.0, 1024.0]] * 2), "aspect_ratio": torch.tensor([[1.0]] * 2)}


@torch.no_grad()
def forward(case, model, x):
    if case.startswith("sd14-unet"):
        return {"sample": model(**x).sample}
    if case == "sd14-vae-encode":
        return {"latents": model.encode(x["sample"]).latent_dist.mean}
    if case == "sd14-vae-decode":
        return {"sample": model.decode(x["latents"]).sample}
    sized = {"resolution": x["resolution"], "aspect_ratio": x["aspect_ratio"]}
    return {"sample": model(x["sample"], timestep=x["timestep"], encoder_hidden_states=x["encoder_hidden_states"],
                            encoder_attention_mask=x["encoder_attention_mask"], added_cond_kwargs=sized).sample}


def weights(folder):
    return sum(path.stat().st_size for path in folder.rglob("*.safetensors"))


def make(root):
    # Processes of their own, so that peak memory is their own; a process inherits its parent's peak.
    run = lambda *args: subprocess.run([sys.executable, __file__, args[0], str(root), args[1]], check=True)
    for name in MODELS:
        run("draw", name)
    for case in CASES:
        save_file(inputs(case), root / f"{case}.inputs.safetensors")
        run("reference", case)


def draw(root, name):
    kind, config, sub = MODELS[name]
    torch.manual_seed(0)
    kind(**config).eval().save_pretrained(root / name / sub)


def load(root, case):
    name = CASES[case][0]
    kind, _, sub = MODELS[name]
    return kind.from_pretrained(root / name / sub).eval()


def reference(root, case):
    model, x = load(root, case), load_file(root / f"{case}.inputs.safetensors")
    start = time.time()
    out = forward(case, model, x)
    seconds = time.time() - start
    save_file({k: v.contiguous() for k, v in out.items()}, root / f"{case}.outputs.safetensors")
    # ru_maxrss counts KiB on Linux.
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    (root / f"{case}.json").write_text(json.dumps({"seconds": seconds, "peak": peak}))


def check(root, program):
    print("| case | relative error | weights | peak memory | peak − weights | diffusers' peak |\n|---|---|---|---|---|---|")
    environment = {**os.environ, "RAYON_NUM_THREADS": str(THREADS)}
    failed = False
    for case, (name, component) in CASES.items():
        out = root / f"{case}.found.safetensors"
        command = [program, "forward", str(root / name), component, str(root / f"{case}.inputs.safetensors"), "--out", str(out)]
        child = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL)
        _, status, usage = os.wait4(child.pid, 0)
        child.returncode = os.waitstatus_to_exitcode(status)
        if child.returncode != 0:
            raise SystemExit(f"{' '.join(command)} failed")
        found, expected = load_file(out), load_file(root / f"{case}.outputs.safetensors")
        error = max(float((found[k].double() - v.double()).norm() / v.double().norm()) for k, v in expected.items())
        size, peak = weights(root / name), usage.ru_maxrss * 1024
        theirs = json.loads((root / f"{case}.json").read_text())["peak"]
        # Half of an autoencoder lies idle in the other half's run, but is loaded.
        print(f"| {case} | {error:.1e} | {size / 1e9:.2f} GB | {peak / 1e9:.2f} GB | {(peak - size) / 1e9:.2f} GB | {theirs / 1e9:.2f} GB |")
        failed |= not error <= 1e-4 or peak - size > 1.5e9
    if failed:
        raise SystemExit("a bar is missed: relative error ≤ 1e-4, peak memory ≤ weights + 1.5 GB")


def serve(root, case):
    """Runs a forward pass for every line that comes in and answers with its seconds, and those of the processor."""
    model, x = load(root, case), load_file(root / f"{case}.inputs.safetensors")
    print("ready", flush=True)
    for _ in sys.stdin:
        start, used = time.perf_counter(), time.process_time()
        forward(case, model, x)
        print(time.perf_counter() - start, time.process_time() - used, flush=True)


if __name__ == "__main__":
    if len(sys.argv) < 3 or sys.argv[1] not in ("make", "draw", "reference", "check", "serve"):
        raise SystemExit(__doc__)
    torch.set_num_threads(THREADS)
    command, root, *rest = sys.argv[1:]
    root = Path(root)
    root.mkdir(parents=True, exist_ok=True)
    {"make": make, "draw": draw, "reference": reference, "check": check, "serve": serve}[command](root, *rest)
