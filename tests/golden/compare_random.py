"""Random small configurations against diffusers and transformers: every one must agree or be refused by name.

torch==2.5.1 diffusers==0.32.2 transformers==4.48.3 safetensors numpy pillow, CPU, float32. By hand, from anywhere:

    python tests/golden/compare_random.py DENOSCOPE [--seed 0] [--each 20] [--keep FOLDER] [--only KIND …]

draws `--each` configurations of every kind (unet, vae, text, transformer, scheduler), saves the model as diffusers does,
runs `denoscope forward` (for a scheduler `denoscope generate`) on random inputs, and compares. About one in five has a
field changed that leads out of what is supported; a refusal must then name the field. Configurations that diffusers
itself cannot build or run are drawn anew. Bars: relative error 1e-5; pictures: one grey level anywhere, .02 on average.
"""
import argparse
import json
import random
import shutil
import subprocess
import sys
import tempfile
import warnings
from pathlib import Path

import numpy as np
import torch
from diffusers import (AutoencoderKL, DDIMScheduler, DPMSolverMultistepScheduler, EulerDiscreteScheduler,
                       PixArtTransformer2DModel, PNDMScheduler, StableDiffusionPipeline, UNet2DConditionModel)
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import CLIPTextConfig, CLIPTextModel

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))
from noise import latents as seeded  # noqa: E402

BAR = 1e-5
R = random.Random()


def maybe(p):
    return R.random() < p


def odd(mutations, config):
    """One time in five a change that leads out of what is supported; returns the field."""
    if not maybe(0.2):
        return None
    change = R.choice(mutations)
    config.update(change)
    return next(iter(change))


def stir(model):
    for p in model.parameters():
        if p.ndim == 1:  # norms' scales and biases away from 1 and 0
            p.data += 0.3 * torch.randn_like(p)
    return model.eval()


def unet():
    levels = R.randint(1, 4)
    groups = R.choice([2, 3, 4])
    heads = [R.choice([1, 2, 3]) for _ in range(levels)]
    same = maybe(0.5)
    channels = [groups * (heads[0] if same else heads[i]) * R.randint(1, 3) for i in range(levels)]
    cross = [maybe(0.6) for _ in range(levels)]
    per_level = lambda draw: draw() if maybe(0.6) else [draw() for _ in range(levels)]
    layers = per_level(lambda: R.randint(1, 2))
    config = dict(
        sample_size=R.choice([8, 16, (8, 12)]), in_channels=R.randint(1, 5), out_channels=R.randint(1, 5),
        center_input_sample=maybe(0.2), flip_sin_to_cos=maybe(0.7), freq_shift=R.choice([0, 0, 1]),
        down_block_types=["CrossAttnDownBlock2D" if c else "DownBlock2D" for c in cross],
        up_block_types=["CrossAttnUpBlock2D" if c else "UpBlock2D" for c in reversed(cross)],
        mid_block_type=R.choice(["UNetMidBlock2DCrossAttn"] * 4 + ["UNetMidBlock2D", None]),
        only_cross_attention=per_level(lambda: maybe(0.2)), block_out_channels=channels, layers_per_block=layers,
        downsample_padding=R.choice([1, 1, 1, 0]), mid_block_scale_factor=R.choice([1, 1, 1.4]),
        act_fn=R.choice(["silu", "silu", "swish", "gelu", "mish", "relu"]), norm_num_groups=groups,
        norm_eps=R.choice([1e-5, 1e-6, 1e-3]), cross_attention_dim=R.randint(3, 20),
        attention_head_dim=heads[0] if same else heads, use_linear_projection=maybe(0.4), upcast_attention=maybe(0.2),
        transformer_layers_per_block=per_level(lambda: R.randint(1, 2)),
        resnet_time_scale_shift=R.choice(["default", "default", "scale_shift"]),
        time_embedding_dim=R.choice([None, None, 22]), time_embedding_act_fn=R.choice([None, None, "silu", "gelu"]),
        timestep_post_act=R.choice([None, None, "silu", "mish"]), conv_in_kernel=R.choice([3, 3, 1, 5]),
        conv_out_kernel=R.choice([3, 3, 1, 5]),
    )
    changed = odd([
        {"class_embed_type": "timestep"}, {"num_class_embeds": 5}, {"time_embedding_type": "fourier"},
        {"encoder_hid_dim": 7, "encoder_hid_dim_type": "text_proj"}, {"dual_cross_attention": True},
        {"time_cond_proj_dim": 6}, {"attention_type": "gated"}, {"norm_num_groups": None}, {"dropout": 0.3},
        {"resnet_skip_time_act": True}, {"resnet_out_scale_factor": 0.7}, {"cross_attention_norm": "layer_norm"},
        {"mid_block_type": "UNetMidBlock2DSimpleCrossAttn"}, {"act_fn": "elu"},
        {"addition_embed_type": "text", "addition_embed_type_num_heads": 1},
        {"down_block_types": ["AttnDownBlock2D"] * levels, "up_block_types": ["AttnUpBlock2D"] * levels},
        {"down_block_types": ["ResnetDownsampleBlock2D"] * levels, "up_block_types": ["ResnetUpsampleBlock2D"] * levels},
        {"num_attention_heads": heads[0]},
    ], config)
    model = stir(UNet2DConditionModel(**config))
    step = 2 ** (levels - 1)
    batch, text = R.randint(1, 3), config.get("encoder_hid_dim") or config["cross_attention_dim"]
    x = {"sample": torch.randn(batch, config["in_channels"], step * R.randint(1, 3), step * R.randint(1, 3)),
         "timestep": torch.randint(0, 1000, (batch,)).float(),
         "encoder_hidden_states": torch.randn(batch, R.randint(1, 9), text)}
    return model, "unet", "unet", x, {"sample": model(**x).sample}, changed


def vae():
    levels, groups = R.randint(1, 4), R.choice([1, 2, 3, 4])
    config = dict(
        in_channels=3, out_channels=3, down_block_types=["DownEncoderBlock2D"] * levels,
        up_block_types=["UpDecoderBlock2D"] * levels, layers_per_block=R.randint(1, 3), latent_channels=R.randint(1, 6),
        block_out_channels=[groups * R.randint(1, 4) for _ in range(levels)], norm_num_groups=groups,
        sample_size=R.choice([16, 32]), scaling_factor=R.uniform(0.1, 1), act_fn=R.choice(["silu", "silu", "swish"]),
        use_quant_conv=maybe(0.7), use_post_quant_conv=maybe(0.7), mid_block_add_attention=maybe(0.8))
    changed = odd([{"act_fn": "mish"}, {"latents_mean": [0.1]}, {"shift_factor": 0.1},
                   {"down_block_types": ["AttnDownEncoderBlock2D"] * levels},
                   {"up_block_types": ["AttnUpDecoderBlock2D"] * levels}, {"force_upcast": False}], config)
    model = stir(AutoencoderKL(**config))
    step, batch = 2 ** (levels - 1), R.randint(1, 2)
    if maybe(0.5):
        x = {"sample": torch.rand(batch, 3, step * R.randint(1, 5), step * R.randint(1, 5)) * 2 - 1}
        return model, "vae", "vae-encode", x, {"latents": model.encode(x["sample"]).latent_dist.mean}, changed
    x = {"latents": torch.randn(batch, config["latent_channels"], R.randint(1, 6), R.randint(1, 6))}
    return model, "vae", "vae-decode", x, {"sample": model.decode(x["latents"]).sample}, changed


def text():
    heads = R.choice([1, 2, 3, 4])
    config = dict(
        vocab_size=R.randint(20, 60), hidden_size=heads * R.randint(2, 9), intermediate_size=R.randint(5, 40),
        num_hidden_layers=R.randint(1, 4), num_attention_heads=heads, max_position_embeddings=R.randint(5, 77),
        hidden_act=R.choice(["quick_gelu", "quick_gelu", "gelu"]), layer_norm_eps=R.choice([1e-5, 1e-6]),
        eos_token_id=R.choice([2, 11]), projection_dim=R.randint(3, 9), attention_dropout=R.choice([0.0, 0.1]))
    changed = odd([{"hidden_act": "relu"}, {"hidden_act": "gelu_new"}, {"hidden_act": "selu"},
                   {"use_attention_mask": True}], config)
    model = stir(CLIPTextModel(CLIPTextConfig(**config)))
    batch, n = R.randint(1, 4), R.randint(1, config["max_position_embeddings"])
    x = {"input_ids": torch.randint(0, config["vocab_size"], (batch, n))}
    if maybe(0.4):
        x["attention_mask"] = (torch.arange(n)[None] < torch.randint(1, n + 1, (batch, 1))).long()
    return model, "text_encoder", "text", x, {"last_hidden_state": model(**x).last_hidden_state}, changed


def transformer():
    heads, size = R.choice([1, 2, 3, 4]), R.choice([4, 6, 8, 12])
    width, patch = heads * size, R.choice([1, 2, 2, 4])
    captions = R.choice([None, R.randint(3, 20), R.randint(3, 20)])
    sized = width % 3 == 0 and maybe(0.5)
    config = dict(
        num_attention_heads=heads, attention_head_dim=size, in_channels=R.randint(1, 5),
        out_channels=R.choice([None, R.randint(1, 9)]), num_layers=R.randint(1, 4), attention_bias=maybe(0.7),
        cross_attention_dim=width if captions else R.choice([width, R.randint(3, 20)]), caption_channels=captions,
        sample_size=patch * R.choice([4, 8, 32]), patch_size=patch, norm_elementwise_affine=maybe(0.2),
        activation_fn=R.choice(["gelu-approximate", "gelu-approximate", "gelu", "geglu", "geglu-approximate", "linear-silu"]),
        norm_eps=R.choice([1e-6, 1e-5]), interpolation_scale=R.choice([None, None, 2, 0.5]),
        use_additional_conditions=sized, upcast_attention=maybe(0.2), dropout=R.choice([0.0, 0.1]))
    changed = odd([{"norm_type": "layer_norm"}, {"activation_fn": "swiglu"}, {"attention_type": "gated"},
                   {"num_embeds_ada_norm": None}, {"norm_type": "ada_norm"}], config)
    model = stir(PixArtTransformer2DModel(**config))
    batch, n = R.randint(1, 3), R.randint(1, 9)
    x = {"sample": torch.randn(batch, config["in_channels"], patch * R.randint(1, 5), patch * R.randint(1, 5)),
         "timestep": torch.randint(0, 1000, (batch,)).float(),
         "encoder_hidden_states": torch.randn(batch, n, captions or config["cross_attention_dim"])}
    extra = {"resolution": None, "aspect_ratio": None}
    if sized:
        extra = {"resolution": torch.rand(batch, 2) * 1000 + 100, "aspect_ratio": torch.rand(batch, 1) + 0.5}
    mask = (torch.arange(n)[None] < torch.randint(1, n + 1, (batch, 1))).float() if maybe(0.6) else None
    inputs = {("hidden_states" if k == "sample" else k): v for k, v in x.items()}
    out = model(**inputs, encoder_attention_mask=mask, added_cond_kwargs=extra).sample
    x |= {k: v for k, v in (extra | {"encoder_attention_mask": mask}).items() if v is not None}
    return model, "transformer", "transformer", x, {"sample": out}, changed


def scheduler(folder, program):
    kind = R.choice([DDIMScheduler, PNDMScheduler, DPMSolverMultistepScheduler, EulerDiscreteScheduler])
    config = dict(
        num_train_timesteps=R.choice([1000, 1000, 500]), beta_start=R.choice([0.00085, 0.0001]),
        beta_end=R.choice([0.012, 0.02]), beta_schedule=R.choice(["scaled_linear", "linear", "squaredcos_cap_v2"]),
        prediction_type=R.choice(["epsilon", "epsilon", "v_prediction", "sample"]),
        timestep_spacing=R.choice(["leading", "trailing", "linspace"]), steps_offset=R.choice([0, 1]))
    if kind is DDIMScheduler:
        config |= dict(clip_sample=maybe(0.3), clip_sample_range=R.choice([1.0, 2.5]), set_alpha_to_one=maybe(0.5),
                       rescale_betas_zero_snr=maybe(0.2))
    if kind is PNDMScheduler:
        config |= dict(skip_prk_steps=maybe(0.7), set_alpha_to_one=maybe(0.5))
    if kind is DPMSolverMultistepScheduler:
        config |= dict(solver_order=R.choice([1, 2, 2, 3]), solver_type=R.choice(["midpoint", "heun"]),
                       lower_order_final=maybe(0.7), euler_at_final=maybe(0.3), use_karras_sigmas=maybe(0.3),
                       final_sigmas_type=R.choice(["zero", "sigma_min"]))
    if kind is EulerDiscreteScheduler:
        config |= dict(use_karras_sigmas=maybe(0.3), final_sigmas_type=R.choice(["zero", "sigma_min"]))
    mutations = {DDIMScheduler: [{"thresholding": True}],
                 PNDMScheduler: [{"prediction_type": "sample"}],
                 DPMSolverMultistepScheduler: [{"algorithm_type": "sde-dpmsolver++"}, {"algorithm_type": "dpmsolver"},
                                               {"thresholding": True}, {"use_lu_lambdas": True}],
                 EulerDiscreteScheduler: [{"interpolation_type": "log_linear"}, {"timestep_type": "continuous"},
                                          {"use_exponential_sigmas": True}]}[kind]
    changed = odd(mutations, config)
    if config.get("solver_order") == 3:
        changed = "solver_order"
    if kind is PNDMScheduler and config["prediction_type"] == "sample":
        changed = "prediction_type"
    shutil.copytree(HERE / "pipeline" / "tiny", folder, dirs_exist_ok=True)
    pipe = StableDiffusionPipeline.from_pretrained(folder, safety_checker=None, low_cpu_mem_usage=False)
    pipe.set_progress_bar_config(disable=True)
    pipe.scheduler = kind(**config)
    pipe.scheduler.save_pretrained(folder / "scheduler")
    index = json.loads((folder / "model_index.json").read_text())
    index["scheduler"] = ["diffusers", kind.__name__]
    (folder / "model_index.json").write_text(json.dumps(index))
    steps, seed, prompt = R.randint(1, 12), R.randint(0, 99), "a red house left of the tree"
    image = pipe(prompt, latents=seeded(seed, 4, 8, 12), num_inference_steps=steps, guidance_scale=3.5,
                 output_type="np").images[0]
    if not np.isfinite(image).all():
        raise ValueError("diffusers paints no numbers")
    command = [program, "generate", str(folder), prompt, "--seeds", str(seed), "--steps", str(steps), "--out", str(folder)]

    def compare():
        found = np.asarray(Image.open(folder / f"{seed}.png")).astype(float)
        apart = np.abs(found - (image * 255).round())
        return apart.max() / 255 * (BAR if apart.max() <= 1 and apart.mean() <= 0.02 else 1), f"{apart.max():.0f} grey levels"

    return command, compare, changed, {"class": kind.__name__, "steps": steps, **config}


def component(draw, folder, program):
    model, sub, name, x, expected, changed = draw()
    if not all(torch.isfinite(v).all() for v in expected.values()):
        raise ValueError("not finite")
    model.save_pretrained(folder / sub, safe_serialization=True)
    save_file({k: v.contiguous() for k, v in x.items()}, folder / "in.safetensors")
    out = folder / "out.safetensors"
    command = [program, "forward", str(folder), name, str(folder / "in.safetensors"), "--out", str(out)]

    def compare():
        found = load_file(out)
        for key, value in expected.items():
            if found[key].shape != value.shape:
                return float("inf"), f"{tuple(found[key].shape)} for {tuple(value.shape)}"
        error = max(float((found[k].double() - v.double()).norm() / v.double().norm()) for k, v in expected.items())
        return error, f"{error:.1e}"

    config = json.loads((folder / sub / "config.json").read_text())
    return command, compare, changed, config


@torch.no_grad()
def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("program")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--each", type=int, default=20)
    parser.add_argument("--keep", type=Path)
    parser.add_argument("--only", nargs="*")
    a = parser.parse_args()
    warnings.filterwarnings("ignore")
    kinds = {"unet": unet, "vae": vae, "text": text, "transformer": transformer, "scheduler": None}
    bad = 0
    for kind, draw in kinds.items():
        if a.only and kind not in a.only:
            continue
        agreed, refused, redrawn, worst, i = 0, [], [], 0.0, 0
        while agreed + len(refused) < a.each and i < 10 * a.each:
            i += 1
            R.seed(f"{a.seed} {kind} {i}")
            torch.manual_seed(R.randrange(1 << 30))
            folder = Path(tempfile.mkdtemp(prefix=f"{kind}-{i}-", dir=a.keep))
            try:
                case = scheduler(folder, a.program) if draw is None else component(draw, folder, a.program)
            except Exception as e:  # diffusers' own no
                redrawn.append(f"{type(e).__name__}: {e}".splitlines()[0][:100])
                shutil.rmtree(folder)
                continue
            command, compare, changed, config = case
            run = subprocess.run(command, capture_output=True, text=True)
            problem = None
            if run.returncode == 0:
                error, shown = compare()
                if error <= BAR:
                    agreed, worst = agreed + 1, max(worst, error)
                else:
                    problem = f"differs: {shown}"
            else:
                message = run.stderr.strip().splitlines()[-1] if run.stderr.strip() else "no message"
                fields = [f for f in config if f in message]
                if changed and (changed in message or fields):
                    refused.append(f"{changed}: {message[-110:]}")
                else:
                    problem = f"refused: {message}"
            if problem:
                bad += 1
                print(f"BAD {kind} {i} (changed {changed}): {problem}\n    {json.dumps(config)}", flush=True)
                agreed += 1
            if not a.keep:
                shutil.rmtree(folder)
        print(f"{kind}: {agreed} compared, worst {worst:.1e}; {len(refused)} refused; {len(redrawn)} that diffusers does not take", flush=True)
        for line in sorted(set(refused)):
            print("    ", line)
        if "-v" in sys.argv or len(redrawn) > a.each:
            for line in sorted(set(redrawn)):
                print("     diffusers:", line)
    if bad:
        raise SystemExit(f"{bad} configurations differ or are refused without a name")


if __name__ == "__main__":
    main()
