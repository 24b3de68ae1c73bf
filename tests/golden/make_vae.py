"""Goldens of the autoencoder: tiny random configurations, every dimension distinct.

torch==2.5.1 diffusers==0.32.2 safetensors, CPU, float32. Run from anywhere: python tests/golden/make_vae.py
"""
import json
from pathlib import Path

import torch
from diffusers import AutoencoderKL
from safetensors.torch import save_file

HERE = Path(__file__).parent / "vae"
COMMON = dict(in_channels=3, out_channels=3)
CONFIGS = {
    # three levels, two layers, shortcut and attention everywhere; height and width differ
    "three_levels": dict(block_out_channels=[6, 9, 12], layers_per_block=2, latent_channels=5, norm_num_groups=3,
                         sample_size=16, scaling_factor=0.31),
    # one level, neither quantisation convolutions nor attention
    "plain": dict(block_out_channels=[10], layers_per_block=1, latent_channels=4, norm_num_groups=5,
                  sample_size=8, use_quant_conv=False, use_post_quant_conv=False, mid_block_add_attention=False),
}

for seed, (name, config) in enumerate(CONFIGS.items()):
    torch.manual_seed(seed)
    levels = len(config["block_out_channels"])
    vae = AutoencoderKL(down_block_types=["DownEncoderBlock2D"] * levels,
                        up_block_types=["UpDecoderBlock2D"] * levels, **COMMON, **config).eval()
    for p in vae.parameters():  # norms' scales and biases away from 1 and 0
        if p.ndim == 1:
            p.data += 0.3 * torch.randn_like(p)
    folder = HERE / name
    vae.save_pretrained(folder, safe_serialization=True)
    sample = torch.rand(2, 3, 12, 20) * 2 - 1
    latents = torch.randn(2, config["latent_channels"], 3, 7)
    with torch.no_grad():
        posterior = vae.encode(sample).latent_dist
        out = dict(sample=sample, mean=posterior.mean, logvar=posterior.logvar, latents=latents,
                   decoded=vae.decode(latents).sample)
    save_file({k: v.contiguous() for k, v in out.items()}, folder / "golden.safetensors")
    print(name, sum(p.numel() for p in vae.parameters()), {k: tuple(v.shape) for k, v in out.items()})

# Tile by tile: three tiles one way and two the other, the last ones cut off.
folder = HERE / "three_levels"
vae = AutoencoderKL.from_pretrained(folder).eval()
vae.enable_tiling()
g = torch.Generator().manual_seed(7)
sample = torch.rand(1, 3, 32, 20, generator=g) * 2 - 1
latents = torch.randn(1, 5, 5, 8, generator=g)
with torch.no_grad():
    posterior = vae.encode(sample).latent_dist
    out = dict(sample=sample, mean=posterior.mean, logvar=posterior.logvar, latents=latents,
               decoded=vae.decode(latents).sample)
save_file({k: v.contiguous() for k, v in out.items()}, folder / "tiled.safetensors")
print("tiled", {k: tuple(v.shape) for k, v in out.items()})
