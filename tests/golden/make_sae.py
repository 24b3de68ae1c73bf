"""Goldens of SAE files: what the packages wrote, and what they compute from it.

sae-lens==6.54.12 eai-sparsify==1.3.3 dictionary-learning==0.1.0 torch==2.5.1 safetensors, CPU, float32.
Run from anywhere:

    python tests/golden/make_sae.py                  writes tests/golden/sae/
    python tests/golden/make_sae.py --check FOLDER   reads FOLDER, which the Rust test wrote, with sae-lens and sparsify

dictionary_learning's own package file imports what runs language models; its modules are imported without that. sdxl-unbox
is no package: its files are written as SAE/sae.py of wendlerc/sdxl-unbox (commit 4c06dc1) writes them.
"""
import importlib
import importlib.util
import json
import os
import sys
import types
import warnings
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

warnings.filterwarnings("ignore")
os.environ["SPARSIFY_DISABLE_TRITON"] = "1"
HERE = Path(__file__).parent / "sae"
D, N, K, TOKENS = 6, 14, 3, 9


def scatter(x):
    """Random numbers in place of a module's parameters; decoder rows keep lengths away from 1."""
    with torch.no_grad():
        for name, p in sorted(x.named_parameters()):
            p.copy_(torch.randn_like(p) * (0.3 if p.ndim == 1 else 0.6))
            if name == "threshold":
                p.copy_(0.2 + 0.3 * torch.rand_like(p))
    return x


def golden(folder, x, codes, out):
    tensors = dict(x=x, codes=codes, out=out)
    save_file({k: v.detach().contiguous() for k, v in tensors.items()}, folder / "golden.safetensors")
    density = (codes > 0).float().mean().item()
    assert 0.05 < density < 0.7, (folder, density)
    print(folder.name, f"{density:.2f}")


def inputs(seed):
    torch.manual_seed(seed)
    return torch.randn(TOKENS, D) + 0.5


def saelens():
    import sae_lens as sl

    sized = dict(d_in=D, d_sae=N)
    inference = {
        "standard": sl.StandardSAE(sl.StandardSAEConfig(**sized)),
        "standard_b_dec_on_output_only": sl.StandardSAE(sl.StandardSAEConfig(**sized, apply_b_dec_to_input=False)),
        "topk": sl.TopKSAE(sl.TopKSAEConfig(**sized, k=K)),
        "topk_by_norm": sl.TopKSAE(sl.TopKSAEConfig(**sized, k=K, rescale_acts_by_decoder_norm=True)),
        "jumprelu": sl.JumpReLUSAE(sl.JumpReLUSAEConfig(**sized)),
        "gated": sl.GatedSAE(sl.GatedSAEConfig(**sized)),
        "gated_b_dec_on_output_only": sl.GatedSAE(sl.GatedSAEConfig(**sized, apply_b_dec_to_input=False)),
    }
    for seed, (name, sae) in enumerate(inference.items()):
        x = inputs(seed)
        folder = HERE / f"saelens_{name}"
        scatter(sae).save_model(folder)
        golden(folder, x, sae.encode(x), sae(x))

    # Training forms: as they are saved during training, and folded.
    training = {
        "batchtopk": sl.BatchTopKTrainingSAE(sl.BatchTopKTrainingSAEConfig(**sized, k=2.5)),
        "matryoshka": sl.MatryoshkaBatchTopKTrainingSAE(
            sl.MatryoshkaBatchTopKTrainingSAEConfig(**sized, k=2, matryoshka_widths=[4, 8, N])),
        "jumprelu": sl.JumpReLUTrainingSAE(sl.JumpReLUTrainingSAEConfig(**sized)),
    }
    for seed, (name, sae) in enumerate(training.items()):
        x = inputs(20 + seed)
        scatter(sae)
        if name != "jumprelu":
            sae.topk_threshold.fill_(0.45)
        folder = HERE / f"saelens_training_{name}"
        sae.save_model(folder)
        folded = HERE / f"saelens_folded_{name}"
        sae.save_inference_model(folded)
        read = sl.SAE.load_from_disk(folded)
        for f in (folder, folded):
            golden(f, x, read.encode(x), read(x))

    # Before version 6: flat fields, TopK as an activation function.
    for seed, (name, fields) in enumerate({
        "standard": dict(architecture="standard", activation_fn_str="relu", activation_fn_kwargs={}, hook_layer=2,
                         normalize_activations="none", finetuning_scaling_factor=False, sae_lens_training_version="3.0.0"),
        "topk": dict(activation_fn="topk", activation_fn_kwargs=dict(k=K), normalize_activations=False,
                     apply_b_dec_to_input=False),
    }.items()):
        x = inputs(30 + seed)
        folder = HERE / f"saelens_old_{name}"
        scatter(sl.StandardSAE(sl.StandardSAEConfig(**sized))).save_model(folder)
        cfg = dict(d_in=D, d_sae=N, dtype="torch.float32", device="cpu", model_name="none", hook_point="blocks.2.hook",
                   context_size=128, prepend_bos=True, **fields)
        (folder / "cfg.json").write_text(json.dumps(cfg))
        read = sl.SAE.load_from_disk(folder)
        golden(folder, x, read.encode(x), read(x))


def sparsify():
    from sparsify.config import SparseCoderConfig
    from sparsify.sparse_coder import SparseCoder

    for seed, (name, config) in enumerate({
        "num_latents": SparseCoderConfig(num_latents=N, k=K),
        "expansion": SparseCoderConfig(expansion_factor=2, k=K + 1),
    }.items()):
        x = inputs(40 + seed)
        sae = scatter(SparseCoder(D, config))
        folder = HERE / f"sparsify_{name}"
        sae.save_to_disk(folder)
        found = sae.encode(x)
        codes = torch.zeros(TOKENS, sae.num_latents).scatter(1, found.top_indices, found.top_acts)
        golden(folder, x, codes, sae.decode(found.top_acts, found.top_indices))


def dictionary_learning():
    spec = importlib.util.find_spec("dictionary_learning")
    for name in ("dictionary_learning", "dictionary_learning.trainers"):
        module = types.ModuleType(name)
        module.__path__ = [str(Path(spec.origin).parent / Path(*name.split(".")[1:]))]
        sys.modules[name] = module
    dictionary = importlib.import_module("dictionary_learning.dictionary")
    of = lambda trainer, name: getattr(importlib.import_module(f"dictionary_learning.trainers.{trainer}"), name)
    for seed, (name, sae) in enumerate({
        "AutoEncoder": dictionary.AutoEncoder(D, N),
        "AutoEncoderNew": dictionary.AutoEncoderNew(D, N),
        "GatedAutoEncoder": dictionary.GatedAutoEncoder(D, N),
        "JumpReluAutoEncoder": dictionary.JumpReluAutoEncoder(D, N),
        "AutoEncoderTopK": of("top_k", "AutoEncoderTopK")(D, N, K),
        "BatchTopKSAE": of("batch_top_k", "BatchTopKSAE")(D, N, K),
        "MatryoshkaBatchTopKSAE": of("matryoshka_batch_top_k", "MatryoshkaBatchTopKSAE")(D, N, K, [4, 4, 6]),
    }.items()):
        x = inputs(50 + seed)
        scatter(sae)
        if hasattr(sae, "threshold") and not isinstance(sae.threshold, torch.nn.Parameter):
            sae.threshold.fill_(0.35)
        folder = HERE / f"dictionary_learning_{name}"
        folder.mkdir(parents=True, exist_ok=True)
        torch.save(sae.state_dict(), folder / "ae.pt")
        trainer = dict(trainer_class="Trainer", dict_class=name, activation_dim=D, dict_size=N, lr=1e-4, layer=3,
                       lm_name="none", wandb_name="x", steps=7, seed=0, device="cpu")
        if hasattr(sae, "k"):
            trainer["k"] = K
        (folder / "config.json").write_text(json.dumps(dict(trainer=trainer, buffer=dict(d_submodule=D, ctx_len=8))))
        if name == "AutoEncoder":
            sae.normalize_decoder()  # what its reader does
        out, codes = sae(x, output_features=True)  # AutoEncoderNew: features times the decoder's norms
        golden(folder, x, codes, out)


class Unbox(torch.nn.Module):
    """Names, shapes and memory layout of sdxl-unbox's SparseAutoencoder."""

    def __init__(self):
        super().__init__()
        self.encoder = torch.nn.Linear(D, N, bias=False)
        self.decoder = torch.nn.Linear(N, D, bias=False)
        self.pre_bias = torch.nn.Parameter(torch.zeros(D))
        self.latent_bias = torch.nn.Parameter(torch.zeros(N))
        self.register_buffer("stats_last_nonzero", torch.zeros(N, dtype=torch.long))

    def encode(self, x):
        values, indices = torch.topk(self.encoder(x - self.pre_bias) + self.latent_bias, k=K, dim=-1)
        return torch.zeros(TOKENS, N).scatter(-1, indices, torch.relu(values))


def sdxl_unbox():
    x = inputs(60)
    sae = scatter(Unbox())
    sae.decoder.weight.data = sae.decoder.weight.data.T.contiguous().T  # by columns, as there
    folder = HERE / "sdxl_unbox"
    folder.mkdir(parents=True, exist_ok=True)
    torch.save({"state_dict": sae.state_dict()}, folder / "state_dict.pth")
    config = dict(n_dirs_local=N, d_model=D, k=K, auxk=256, dead_steps_threshold=2441)
    (folder / "config.json").write_text(json.dumps(config))
    codes = sae.encode(x)
    golden(folder, x, codes, sae.decoder(codes) + sae.pre_bias)


def check(folder):
    """Reads every SAE that the Rust test wrote and compares with what its origin's package computed."""
    import sae_lens as sl
    from sparsify.sparse_coder import SparseCoder

    for case in sorted(folder.iterdir()):
        kind, _, name = case.name.partition("-")
        g = load_file(HERE / name / "golden.safetensors")
        if kind == "saelens":
            sae = sl.SAE.load_from_disk(case)
            codes, out = sae.encode(g["x"]), sae(g["x"])
            assert sae.cfg.metadata.denoscope, "our facts travel in the metadata"
        else:
            sae = SparseCoder.load_from_disk(case)
            found = sae.encode(g["x"])
            codes = torch.zeros(TOKENS, sae.num_latents).scatter(1, found.top_indices, found.top_acts)
            out = sae.decode(found.top_acts, found.top_indices)
        errors = [(a - b).abs().max().item() for a, b in ((codes, g["codes"]), (out, g["out"]))]
        print(case.name, type(sae).__name__, *(f"{e:.1e}" for e in errors))
        assert max(errors) <= 1e-5


if __name__ == "__main__":
    if sys.argv[1:2] == ["--check"]:
        check(Path(sys.argv[2]))
    else:
        for make in (saelens, sparsify, dictionary_learning, sdxl_unbox):
            make()
