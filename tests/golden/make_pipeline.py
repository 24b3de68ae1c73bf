"""A tiny random Stable Diffusion pipeline, and what it paints in ten steps.

torch==2.5.1 diffusers==0.32.2 transformers==4.48.3, CPU, float32. Run from anywhere:
python tests/golden/make_pipeline.py (after make_text.py, whose vocabulary of plain words it takes)
"""
import json
import sys
from pathlib import Path

import torch
from diffusers import (AutoencoderKL, DDIMScheduler, DPMSolverMultistepScheduler, EulerDiscreteScheduler, PNDMScheduler,
                       StableDiffusionPipeline, UNet2DConditionModel)
from safetensors.torch import save_file
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))
from noise import latents as seeded  # noqa: E402

FOLDER = HERE / "pipeline" / "tiny"

torch.manual_seed(0)
tokenizer = CLIPTokenizer.from_pretrained(HERE / "text" / "world")
text = CLIPTextModel(CLIPTextConfig(vocab_size=len(tokenizer), hidden_size=20, intermediate_size=28, num_hidden_layers=2,
                                    num_attention_heads=2, max_position_embeddings=12,
                                    eos_token_id=tokenizer.eos_token_id)).eval()
for p in text.parameters():
    p.data += 0.2 * torch.randn_like(p)
unet = UNet2DConditionModel(sample_size=(8, 12), in_channels=4, out_channels=4, layers_per_block=1,
                            block_out_channels=(8, 12), norm_num_groups=4, cross_attention_dim=20, attention_head_dim=2,
                            down_block_types=("CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
                            up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D")).eval()
vae = AutoencoderKL(block_out_channels=(8, 12), norm_num_groups=4, latent_channels=4, sample_size=20, scaling_factor=0.4,
                    down_block_types=["DownEncoderBlock2D"] * 2, up_block_types=["UpDecoderBlock2D"] * 2).eval()
vae.decoder.conv_out.weight.data *= 4  # more contrast
scheduler = DDIMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", clip_sample=False,
                          set_alpha_to_one=False, steps_offset=1)
pipe = StableDiffusionPipeline(vae=vae, text_encoder=text, tokenizer=tokenizer, unet=unet, scheduler=scheduler,
                               safety_checker=None, feature_extractor=None, requires_safety_checker=False)
pipe.save_pretrained(FOLDER, safe_serialization=True)
index = FOLDER / "model_index.json"
index.write_text(json.dumps(json.loads(index.read_text()) | {"_guidance_scale": 3.5}, indent=2) + "\n")

pipe = StableDiffusionPipeline.from_pretrained(FOLDER, safety_checker=None)
pipe.set_progress_bar_config(disable=True)
prompts = ["a red house left of the tree", "the tree at the bottom of that there red house here and there and there"]
latents = torch.cat([seeded(seed, 4, 8, 12) for seed in (7, 8)])
out = {"latents": latents}


def paint(name, **settings):
    images = pipe(prompts, latents=latents, num_inference_steps=10, output_type="np", **settings).images
    out[name] = torch.from_numpy((images * 255).round().astype("uint8"))
    final = pipe(prompts, latents=latents, num_inference_steps=10, output_type="latent", **settings).images
    out[f"{name}.latents"] = final.contiguous()
    print(name, images.mean(), images.std())


paint("ddim", guidance_scale=3.5)
paint("negative", guidance_scale=3.5, negative_prompt=["tree"] * 2)
paint("unguided", guidance_scale=1.0)
for name, cls, extra in [("pndm", PNDMScheduler, dict(skip_prk_steps=True)), ("dpm", DPMSolverMultistepScheduler, {}),
                         ("euler", EulerDiscreteScheduler, {})]:
    pipe.scheduler = cls.from_config(scheduler.config, **extra)
    paint(name, guidance_scale=3.5)
save_file({k: v.contiguous() for k, v in out.items()}, HERE / "pipeline" / "golden.safetensors")
