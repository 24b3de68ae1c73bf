"""Goldens for the U-Net: tiny randomly initialised diffusers models with every dimension distinct.

Made with Python 3.11+, torch==2.5.1, diffusers==0.32.2, safetensors, numpy (CPU, f32):

    python tests/golden/make_unet.py            # writes tests/golden/unet/<case>/

Each case holds the model as diffusers saves it (weights rounded to half precision, to be small; all computing is in
f32), `golden.safetensors` (inputs, outputs, full captures at some places, outputs after edits) and `digests.json`: for
every module's input and output its shape, its norm and its product with cos(0.37 k), k the flat index in diffusers'
layout, which together notice any transposition.
"""

import json
import os
import sys

import torch
from diffusers import UNet2DConditionModel
from diffusers.models.embeddings import Timesteps
from safetensors.torch import save_file

HERE = os.path.dirname(os.path.abspath(__file__))
SKIPPED = (torch.nn.SiLU, torch.nn.GELU, torch.nn.Mish, torch.nn.ReLU, torch.nn.Dropout, torch.nn.ModuleList, Timesteps)

DOWN, CROSS_DOWN = "DownBlock2D", "CrossAttnDownBlock2D"
UP, CROSS_UP = "UpBlock2D", "CrossAttnUpBlock2D"

# name: (config, batch, height, width, text tokens, sites captured in full, sites edited)
CASES = {
    # The embedded model's shape: SD 1 projections by convolution, two levels; guidance halves in the batch.
    "two_levels": (
        dict(
            in_channels=5, out_channels=3, block_out_channels=[8, 12], down_block_types=[CROSS_DOWN, CROSS_DOWN],
            up_block_types=[CROSS_UP, CROSS_UP], layers_per_block=1, attention_head_dim=2, cross_attention_dim=7,
            norm_num_groups=4,
        ),
        4, 4, 6, 3,
        ["down_blocks.0.attentions.0:input", "down_blocks.0.attentions.0:output", "mid_block.attentions.0:output",
         "up_blocks.1.attentions.0:output", "up_blocks.1.resnets.1:input", "time_embedding:output",
         "mid_block.attentions.0.transformer_blocks.0.attn2:output", "conv_norm_out:output",
         "down_blocks.0.downsamplers.0:output"],
        ["mid_block.attentions.0:residual", "down_blocks.0.attentions.0:output", "up_blocks.1.attentions.0:input",
         "mid_block.attentions.0.transformer_blocks.0.attn2:output", "conv_norm_out:output", "up_blocks.0:output",
         "down_blocks.0:output", "time_embedding:output", "mid_block.attentions.0.transformer_blocks.0.attn1.to_q:input",
         "up_blocks.1.resnets.0.norm2:output", "conv_in:input"],
    ),
    # SD 2: linear projections, a list of heads; a list of layers, mixed block types, three levels, odd sizes.
    "three_levels": (
        dict(
            in_channels=4, out_channels=6, block_out_channels=[6, 9, 15], down_block_types=[CROSS_DOWN, DOWN, CROSS_DOWN],
            up_block_types=[UP, CROSS_UP, CROSS_UP], layers_per_block=[1, 2, 1], attention_head_dim=[2, 3, 5],
            transformer_layers_per_block=[2, 1, 1], cross_attention_dim=7, norm_num_groups=3, use_linear_projection=True,
            flip_sin_to_cos=False, freq_shift=1, norm_eps=1e-3,
        ),
        3, 5, 9, 2,
        ["mid_block.attentions.0:output", "up_blocks.0.upsamplers.0:output", "down_blocks.0.attentions.0.proj_in:output"],
        ["down_blocks.0.attentions.0.transformer_blocks.1:output", "up_blocks.1.attentions.2.transformer_blocks.0.ff:residual"],
    ),
    # SD 1.4's own block types in small; five heads in none of the widths' way.
    "four_levels": (
        dict(
            in_channels=4, out_channels=4, block_out_channels=[4, 6, 8, 10],
            down_block_types=[CROSS_DOWN, CROSS_DOWN, CROSS_DOWN, DOWN], up_block_types=[UP, CROSS_UP, CROSS_UP, CROSS_UP],
            layers_per_block=2, attention_head_dim=2, cross_attention_dim=5, norm_num_groups=2,
        ),
        2, 16, 8, 3,
        ["up_blocks.1.attentions.0:output", "down_blocks.2.attentions.1:output"],
        ["up_blocks.1.attentions.1:residual"],
    ),
    # One level, no attention in the middle, scale and shift by the time, both attentions on the text.
    "one_level": (
        dict(
            in_channels=3, out_channels=2, block_out_channels=[10], down_block_types=[CROSS_DOWN],
            up_block_types=[CROSS_UP], mid_block_type="UNetMidBlock2D", layers_per_block=2, attention_head_dim=3,
            cross_attention_dim=4, norm_num_groups=5, act_fn="gelu", resnet_time_scale_shift="scale_shift",
            only_cross_attention=True, center_input_sample=True, mid_block_scale_factor=1.5, conv_in_kernel=5,
            conv_out_kernel=1, time_embedding_act_fn="mish", timestep_post_act="silu",
        ),
        3, 3, 7, 5,
        ["down_blocks.0.attentions.1:output"],
        ["down_blocks.0.resnets.0.norm1:output"],
    ),
    # No middle block, an odd number of channels, padding below and to the right, layers listed for each attention.
    "no_middle": (
        dict(
            in_channels=2, out_channels=5, block_out_channels=[7, 14], down_block_types=[DOWN, CROSS_DOWN],
            up_block_types=[CROSS_UP, UP], mid_block_type=None, layers_per_block=[2, 1], attention_head_dim=[1, 4],
            transformer_layers_per_block=[[1, 2], [2]], reverse_transformer_layers_per_block=[[1, 2], [1, 1, 1]],
            cross_attention_dim=[9, 3], norm_num_groups=7, act_fn="mish", downsample_padding=0, time_embedding_dim=11,
            only_cross_attention=[False, True],
        ),
        3, 6, 4, 4,
        ["up_blocks.0.attentions.1:output"],
        ["up_blocks.0.attentions.0:residual"],
    ),
}


def randomise(model, seed):
    """Default initial weights, but norms that do something, all rounded to half precision."""
    generator = torch.Generator().manual_seed(seed)
    for name, p in model.named_parameters():
        if "norm" in name:
            p.data = torch.randn(p.shape, generator=generator) * 0.3 + (1.0 if name.endswith("weight") else 0.0)
        p.data = p.data.half().float()


def digest(x):
    flat = x.detach().double().flatten()
    pattern = torch.cos(0.37 * torch.arange(flat.numel(), dtype=torch.float64))
    return [list(x.shape), flat.norm().item(), (flat @ pattern).item()]


def first(value):
    return value[0] if isinstance(value, tuple) else value


def entering(args, kwargs):
    return args[0] if args else kwargs["hidden_states"]


def edit(x, half):
    """The edit of all `edited:` goldens: on the second half of a batch of guidance halves, or on all of it."""
    y = x.clone()
    part = slice(len(x) // 2, None) if half else slice(None)
    y[part] = 1.7 * x[part] + 0.1
    return y


def watch(model, seen):
    handles = []
    for path, module in model.named_modules():
        if path and not isinstance(module, SKIPPED):
            def hook(module, args, kwargs, output, path=path):
                seen[f"{path}:input"] = entering(args, kwargs).detach().clone()
                seen[f"{path}:output"] = first(output).detach().clone()
            handles.append(module.register_forward_hook(hook, with_kwargs=True))
    return handles


def edited(model, site, half, run):
    path, kind = site.split(":")
    module = model.get_submodule(path)

    def before(module, args, kwargs):
        if args:
            return (edit(args[0], half), *args[1:]), kwargs
        return args, {**kwargs, "hidden_states": edit(kwargs["hidden_states"], half)}

    def after(module, args, kwargs, output):
        x, y = entering(args, kwargs), first(output)
        y = x + edit(y - x, half) if kind == "residual" else edit(y, half)
        return (y, *output[1:]) if isinstance(output, tuple) else y

    if kind == "input":
        handle = module.register_forward_pre_hook(before, with_kwargs=True)
    else:
        handle = module.register_forward_hook(after, with_kwargs=True)
    out = run()
    handle.remove()
    return out


@torch.no_grad()
def make(name, config, batch, height, width, tokens, captures, edits):
    folder = os.path.join(HERE, "unet", name)
    seed = 100 + list(CASES).index(name)
    torch.manual_seed(seed)
    model = UNet2DConditionModel(**config).eval()
    randomise(model, seed)
    model.save_config(folder)
    halves = {k: v.half().contiguous() for k, v in model.state_dict().items()}
    save_file(halves, os.path.join(folder, "diffusion_pytorch_model.safetensors"), metadata={"format": "pt"})

    text = config["cross_attention_dim"]
    text = text if isinstance(text, int) else text[-1]
    inputs = {
        "sample": torch.randn(batch, config["in_channels"], height, width),
        "timestep": torch.tensor([999.0, 500.0, 1.0, 37.0][:batch]),
        "encoder_hidden_states": torch.randn(batch, tokens, text),
    }
    run = lambda: model(return_dict=False, **inputs)[0]
    seen = {}
    handles = watch(model, seen)
    out = {**inputs, "out": run()}
    for handle in handles:
        handle.remove()
    out.update({site: seen[site] for site in captures})
    half = batch == 4
    out.update({f"edited:{site}": edited(model, site, half, run) for site in edits})
    for site in edits:
        assert not torch.allclose(out[f"edited:{site}"], out["out"], rtol=1e-3), site
    save_file({k: v.contiguous() for k, v in out.items()}, os.path.join(folder, "golden.safetensors"))
    with open(os.path.join(folder, "digests.json"), "w") as f:
        f.write("{\n" + ",\n".join(f"{json.dumps(k)}: {json.dumps(digest(v))}" for k, v in seen.items()) + "\n}\n")
    size = sum(os.path.getsize(os.path.join(folder, f)) for f in os.listdir(folder))
    print(f"{name}: {len(seen) // 2} modules, {sum(p.numel() for p in model.parameters())} parameters, {size / 1024:.0f} KB")


if __name__ == "__main__":
    torch.set_num_threads(1)
    for name, case in CASES.items():
        if len(sys.argv) == 1 or name in sys.argv[1:]:
            make(name, *case)
