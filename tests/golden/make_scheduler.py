"""Goldens of the schedulers: every step of a chain driven by a fixed, nonlinear stand-in for the network.

torch==2.5.1 diffusers==0.32.2, CPU, float32. Run from anywhere: python tests/golden/make_scheduler.py
"""
import json
from pathlib import Path

import torch
from diffusers import DDIMScheduler, DPMSolverMultistepScheduler, EulerDiscreteScheduler, PNDMScheduler
from safetensors.torch import save_file

HERE = Path(__file__).parent / "scheduler"
HERE.mkdir(parents=True, exist_ok=True)
SD = dict(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear")
CASES = [
    (DDIMScheduler, dict(**SD, clip_sample=False, set_alpha_to_one=False, steps_offset=1), 10),
    (DDIMScheduler, dict(), 7),
    (DDIMScheduler, dict(beta_schedule="squaredcos_cap_v2", prediction_type="v_prediction", clip_sample=False,
                         timestep_spacing="trailing", rescale_betas_zero_snr=True), 9),
    (DDIMScheduler, dict(prediction_type="sample", timestep_spacing="linspace", clip_sample_range=0.7), 6),
    (DDIMScheduler, dict(num_train_timesteps=77, timestep_spacing="trailing", clip_sample=False), 13),
    (PNDMScheduler, dict(**SD, skip_prk_steps=True, steps_offset=1), 10),
    (PNDMScheduler, dict(), 8),
    (PNDMScheduler, dict(set_alpha_to_one=True, prediction_type="v_prediction", skip_prk_steps=True,
                         timestep_spacing="trailing"), 7),
    (DPMSolverMultistepScheduler, dict(**SD), 10),
    (DPMSolverMultistepScheduler, dict(**SD, timestep_spacing="leading", steps_offset=1), 20),
    (DPMSolverMultistepScheduler, dict(solver_type="heun", final_sigmas_type="sigma_min", lower_order_final=False), 8),
    (DPMSolverMultistepScheduler, dict(**SD, use_karras_sigmas=True, prediction_type="v_prediction"), 11),
    (DPMSolverMultistepScheduler, dict(timestep_spacing="trailing", lambda_min_clipped=-5.1, prediction_type="sample",
                                       beta_schedule="squaredcos_cap_v2", euler_at_final=True), 12),
    (DPMSolverMultistepScheduler, dict(solver_order=1, beta_end=0.01), 5),
    (EulerDiscreteScheduler, dict(**SD, timestep_spacing="leading", steps_offset=1), 10),
    (EulerDiscreteScheduler, dict(), 7),
    (EulerDiscreteScheduler, dict(**SD, use_karras_sigmas=True, prediction_type="v_prediction",
                                  timestep_spacing="trailing"), 9),
    (EulerDiscreteScheduler, dict(prediction_type="sample", final_sigmas_type="sigma_min"), 6),
]


def network(x, t):
    """Bounded, nonlinear, cheap, and the same in both languages."""
    return torch.sin(1.3 * x + 0.01 * t) - 0.2 * x


tensors, cases = {}, []
for i, (cls, config, steps) in enumerate(CASES):
    scheduler = cls(**config)
    scheduler.set_timesteps(steps)
    generator = torch.Generator().manual_seed(i)
    x = torch.randn(2, 3, 5, generator=generator) * scheduler.init_noise_sigma
    rows = [x]
    for t in scheduler.timesteps:
        x = scheduler.step(network(scheduler.scale_model_input(x, t), float(t)), t, x).prev_sample
        rows.append(x)
    assert all(torch.isfinite(r).all() for r in rows), (cls, config)
    tensors[f"{i}"] = torch.stack(rows).float()
    fresh = cls(**config)
    clean, noise, at = torch.randn(3, 4, generator=generator), torch.randn(3, 4, generator=generator), [1, 33, 70]
    tensors[f"{i}.clean"], tensors[f"{i}.noise"] = clean, noise
    a = fresh.alphas_cumprod[at].reshape(3, 1)
    tensors[f"{i}.noisy"] = a**0.5 * clean + (1 - a) ** 0.5 * noise
    tensors[f"{i}.alphas"] = fresh.alphas_cumprod
    # what diffusers itself writes, defaults included
    written = json.loads(fresh.to_json_string())
    cases.append(dict(steps=steps, timesteps=[float(t) for t in scheduler.timesteps], config=json.dumps(written),
                      init_noise_sigma=float(scheduler.init_noise_sigma)))
save_file({k: v.contiguous() for k, v in tensors.items()}, HERE / "golden.safetensors")
(HERE / "golden.json").write_text(json.dumps(cases, indent=0))
