"""Goldens for PixArt: tiny randomly initialised diffusers transformers with every dimension distinct, and a pipeline.

Made with Python 3.11+, torch==2.5.1, diffusers==0.32.2, transformers==4.48.3, sentencepiece, safetensors (CPU, f32):

    python tests/golden/make_pixart.py            # writes tests/golden/pixart/<case>/ and tests/golden/pixart/pipeline/

Each case holds what make_unet.py's cases hold, whose functions this script shares: the model (weights rounded to half
precision, to be small; all computing is in f32), `golden.safetensors` and `digests.json`. The pipeline takes the
tokenizer that make_t5.py trained.
"""

import json
import os
import sys
from pathlib import Path

import torch
from diffusers import (AutoencoderKL, DDIMScheduler, DPMSolverMultistepScheduler, PixArtAlphaPipeline,
                       PixArtTransformer2DModel)
from safetensors.torch import load_file, save_file
from transformers import T5Config, T5EncoderModel, T5Tokenizer

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))
from make_unet import digest, edited, randomise, watch  # noqa: E402
from noise import latents as seeded  # noqa: E402

# name: (config, batch, height, width, text tokens, sites captured in full, sites edited)
CASES = {
    # The 1024 models' shape in small: told the size, captions projected; guidance halves in the batch.
    "sized": (
        dict(
            num_attention_heads=3, attention_head_dim=4, in_channels=5, out_channels=10, num_layers=2,
            cross_attention_dim=12, sample_size=8, use_additional_conditions=True, caption_channels=7,
        ),
        4, 6, 10, 5,
        ["pos_embed:input", "pos_embed:output", "transformer_blocks.0:input", "transformer_blocks.1:output",
         "transformer_blocks.0.attn1:output", "transformer_blocks.0.attn2:output", "transformer_blocks.1.ff:output",
         "adaln_single:input", "adaln_single.emb.resolution_embedder:output", "adaln_single.emb:output",
         "caption_projection:output", "transformer_blocks.0.attn2.to_k:input", "norm_out:output"],
        ["transformer_blocks.0:residual", "transformer_blocks.1:input", "transformer_blocks.0.attn1:output",
         "transformer_blocks.1.attn2:residual", "transformer_blocks.1.ff:residual", "transformer_blocks.0.norm1:output",
         "pos_embed:output", "adaln_single:output", "adaln_single:input", "adaln_single.emb:output",
         "adaln_single.emb.resolution_embedder:output", "caption_projection:output", "norm_out:output",
         "transformer_blocks.0.attn2.to_k:input", "transformer_blocks.0.ff.net.0:output"],
    ),
    # Not told the size, captions as they are, weights in the norms, no biases in the attention, gated feed-forward; the
    # very grid it was trained on; the output has the input's channels.
    "unsized": (
        dict(
            num_attention_heads=2, attention_head_dim=8, in_channels=3, out_channels=None, num_layers=2,
            cross_attention_dim=9, sample_size=9, patch_size=3, activation_fn="geglu", norm_elementwise_affine=True,
            norm_eps=1e-3, attention_bias=False, interpolation_scale=1.5,
        ),
        3, 9, 9, 4,
        ["transformer_blocks.0.attn1.to_q:output", "transformer_blocks.1.norm2:output", "transformer_blocks.1:output"],
        ["transformer_blocks.0.attn1.to_v:output", "transformer_blocks.0.attn2:output", "proj_out:output"],
    ),
    # No cross-attention; the size and the scale of positions that follow from a side of 128; patches of one latent.
    "uncaptioned": (
        dict(
            num_attention_heads=1, attention_head_dim=12, in_channels=4, out_channels=8, num_layers=1,
            cross_attention_dim=None, sample_size=128, patch_size=1, activation_fn="swiglu",
        ),
        2, 5, 7, 3,
        ["transformer_blocks.0:output"],
        ["transformer_blocks.0.ff.net.0:output"],
    ),
    # The other first layers of a feed-forward network. Latents that make no whole patches.
    "gelu": (dict(num_attention_heads=2, attention_head_dim=2, in_channels=2, out_channels=3, num_layers=1,
                  cross_attention_dim=4, sample_size=6, activation_fn="gelu", caption_channels=3), 2, 7, 5, 6, [], []),
    "geglu_approximate": (dict(num_attention_heads=2, attention_head_dim=4, in_channels=2, out_channels=4, num_layers=1,
                               cross_attention_dim=5, sample_size=64, activation_fn="geglu-approximate"),
                          2, 4, 6, 3, [], []),
    "linear_silu": (dict(num_attention_heads=4, attention_head_dim=3, in_channels=2, out_channels=4, num_layers=1,
                         cross_attention_dim=7, sample_size=4, activation_fn="linear-silu"), 2, 4, 2, 2, [], []),
}


def halve(folder):
    """Rewrites weights whose numbers are half precision already."""
    for path in Path(folder).rglob("*.safetensors"):
        tensors = load_file(path)
        if "golden" not in path.name and "captions" not in path.name:
            save_file({k: v.half().contiguous() for k, v in tensors.items()}, path, metadata={"format": "pt"})


@torch.no_grad()
def make(name, config, batch, height, width, tokens, captures, edits):
    folder = HERE / "pixart" / name
    seed = 200 + list(CASES).index(name)
    torch.manual_seed(seed)
    model = PixArtTransformer2DModel(**config).eval()
    randomise(model, seed)
    model.save_config(folder)
    halves = {k: v.half().contiguous() for k, v in model.state_dict().items()}
    save_file(halves, folder / "diffusion_pytorch_model.safetensors", metadata={"format": "pt"})

    text = config.get("caption_channels") or config["cross_attention_dim"] or 6
    lengths = torch.tensor([tokens, 1, tokens - 1, 2][:batch])
    inputs = {
        "sample": torch.randn(batch, config["in_channels"], height, width),
        "timestep": torch.tensor([999.0, 500.0, 1.0, 37.0][:batch]),
        "encoder_hidden_states": torch.randn(batch, tokens, text),
        "encoder_attention_mask": (torch.arange(tokens)[None] < lengths[:, None]).float(),
    }
    size = {}
    if model.use_additional_conditions:
        size = {"resolution": torch.tensor([[768.0, 1280.0], [512.0, 512.0], [1024.0, 960.0], [64.0, 32.0]])[:batch],
                "aspect_ratio": torch.tensor([[0.6], [1.0], [1.0667], [2.0]])[:batch]}

    def run(**changed):
        given = {**inputs, **changed}
        return model(given["sample"], given["encoder_hidden_states"], given["timestep"],
                     added_cond_kwargs=size or {"resolution": None, "aspect_ratio": None},
                     encoder_attention_mask=given["encoder_attention_mask"], return_dict=False)[0]

    seen = {}
    handles = watch(model, seen)
    out = {**inputs, **size, "out": run()}
    for handle in handles:
        handle.remove()
    out["unmasked"] = run(encoder_attention_mask=None)
    time = seen["adaln_single:output"].reshape(batch, 6, -1)
    for i, block in enumerate(model.transformer_blocks):
        out[f"modulation.{i}"] = block.scale_shift_table[None] + time
    out.update({site: seen[site] for site in captures})
    half = batch == 4
    out.update({f"edited:{site}": edited(model, site, half, run) for site in edits})
    for site in edits:
        assert not torch.allclose(out[f"edited:{site}"], out["out"], rtol=1e-3), site
    save_file({k: v.contiguous().clone() for k, v in out.items()}, folder / "golden.safetensors")
    with open(folder / "digests.json", "w") as f:
        f.write("{\n" + ",\n".join(f"{json.dumps(k)}: {json.dumps(digest(v))}" for k, v in seen.items()) + "\n}\n")
    size = sum(os.path.getsize(folder / f) for f in os.listdir(folder))
    print(f"{name}: {len(seen) // 2} modules, {sum(p.numel() for p in model.parameters())} parameters, {size / 1024:.0f} KB")


@torch.no_grad()
def pipeline():
    """What a tiny pipeline paints in ten steps of DPM-Solver++, as PixArt comes, and of DDIM."""
    folder = HERE / "pixart" / "pipeline"
    torch.manual_seed(300)
    tokenizer = T5Tokenizer.from_pretrained(HERE / "t5" / "tokenizer")
    text = T5EncoderModel(T5Config(vocab_size=len(tokenizer) + 8, d_model=20, d_kv=6, d_ff=28, num_layers=2,
                                   num_heads=3, feed_forward_proj="gated-gelu")).eval()
    for p in text.parameters():
        p.data += 0.3 * torch.randn_like(p)
    transformer = PixArtTransformer2DModel(num_attention_heads=3, attention_head_dim=8, num_layers=3, sample_size=128,
                                           cross_attention_dim=24, caption_channels=20).eval()
    vae = AutoencoderKL(block_out_channels=(8, 12), norm_num_groups=4, latent_channels=4, sample_size=20,
                        scaling_factor=0.4, down_block_types=["DownEncoderBlock2D"] * 2,
                        up_block_types=["UpDecoderBlock2D"] * 2).eval()
    vae.decoder.conv_out.weight.data *= 4  # more contrast
    for module in (text, transformer, vae):
        for p in module.parameters():
            p.data = p.data.half().float()
    scheduler = DPMSolverMultistepScheduler(algorithm_type="dpmsolver++", solver_order=2)
    pipe = PixArtAlphaPipeline(tokenizer=tokenizer, text_encoder=text, vae=vae, transformer=transformer,
                               scheduler=scheduler)
    pipe.save_pretrained(folder / "tiny", safe_serialization=True)
    halve(folder / "tiny")
    pipe = PixArtAlphaPipeline.from_pretrained(folder / "tiny")
    pipe.set_progress_bar_config(disable=True)

    prompts = ["a red house in the Meadow ", "an oil painting of a ship in a storm at night, with a cat on a table"]
    latents = torch.cat([seeded(seed, 4, 8, 12) for seed in (7, 8)])
    out = {"latents": latents}
    common = dict(latents=latents, num_inference_steps=10, height=16, width=24, use_resolution_binning=False,
                  clean_caption=False)

    def paint(name, **settings):
        images = pipe(output_type="np", **common, **settings).images
        out[name] = torch.from_numpy((images * 255).round().astype("uint8"))
        out[f"{name}.latents"] = pipe(output_type="latent", **common, **settings).images
        print(name, images.mean(), images.std())

    paint("dpm", prompt=prompts)
    paint("negative", prompt=prompts, negative_prompt="lightning", guidance_scale=3.0)
    paint("unguided", prompt=prompts, guidance_scale=1.0)
    names = ["prompt_embeds", "prompt_attention_mask", "negative_prompt_embeds", "negative_prompt_attention_mask"]
    captions = dict(zip(names, pipe.encode_prompt(prompts, True, clean_caption=False)))
    out["prompt_embeds"] = captions["prompt_embeds"]
    paint("captions", prompt=None, negative_prompt=None, **captions)
    pipe.scheduler = DDIMScheduler(clip_sample=False, timestep_spacing="trailing")
    (folder / "ddim.json").write_text(pipe.scheduler.to_json_string())
    paint("ddim", prompt=prompts)
    save_file({k: v.contiguous() for k, v in captions.items()}, folder / "captions.safetensors")
    save_file({k: v.contiguous() for k, v in out.items()}, folder / "golden.safetensors")


if __name__ == "__main__":
    torch.set_num_threads(1)
    for name, case in CASES.items():
        if len(sys.argv) == 1 or name in sys.argv[1:]:
            make(name, *case)
    if len(sys.argv) == 1 or "pipeline" in sys.argv[1:]:
        pipeline()
