"""Goldens of CLIP: a tiny random CLIPModel, every dimension distinct, and the preparation of pictures.

torch==2.5.1 transformers==4.48.3 pillow==11.1.0 safetensors, CPU, float32. Run: python tests/golden/make_clip.py
(make_text.py comes first: its tokenizer is used.) With `--full FOLDER` it writes a random ViT-L/14 of the published size
there instead (1.7 GB), which `DENOSCOPE_CLIP=FOLDER cargo test full_size_clip -- --ignored` compares.
"""
import json
import shutil
import sys
from pathlib import Path

import numpy as np
import torch
from PIL import Image, __version__ as pillow
from safetensors.torch import save_file
from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel, CLIPTokenizer

FULL = len(sys.argv) > 1 and sys.argv[1] == "--full"
HERE = Path(sys.argv[2]) if FULL else Path(__file__).parent / "clip"
assert int(pillow.split(".")[0]) < 13, "from 13 on Pillow resizes some pictures columns first, and rounds otherwise"
HERE.mkdir(parents=True, exist_ok=True)
TOKENIZER = Path(__file__).parent / "text/tokenizer"
for name in ["vocab.json", "merges.txt", "special_tokens_map.json", "tokenizer_config.json"]:
    shutil.copy(TOKENIZER / name, HERE / name)
tokenizer = CLIPTokenizer.from_pretrained(HERE)

torch.manual_seed(5)
config = CLIPConfig(
    text_config=dict(vocab_size=len(tokenizer), hidden_size=18, intermediate_size=34, num_hidden_layers=2,
                     num_attention_heads=3, max_position_embeddings=13, eos_token_id=tokenizer.eos_token_id),
    vision_config=dict(hidden_size=20, intermediate_size=28, num_hidden_layers=3, num_attention_heads=5, image_size=15,
                       patch_size=5, layer_norm_eps=1e-4),
    projection_dim=11)
window, processor = 13, CLIPImageProcessor(size={"shortest_edge": 17}, crop_size={"height": 15, "width": 15})
if FULL:  # openai/clip-vit-large-patch14
    text = dict(hidden_size=768, intermediate_size=3072, num_attention_heads=12, eos_token_id=tokenizer.eos_token_id)
    vision = dict(hidden_size=1024, intermediate_size=4096, num_hidden_layers=24, num_attention_heads=16, patch_size=14)
    config = CLIPConfig(text_config=text, vision_config=vision, projection_dim=768)
    window, processor = 77, CLIPImageProcessor()
    path = HERE / "tokenizer_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"model_max_length": window}))
    tokenizer = CLIPTokenizer.from_pretrained(HERE)
model = CLIPModel(config).eval()
for p in model.parameters():  # away from the near-zero initial values, or attention would hardly matter
    if not FULL:
        p.data += (0.3 if p.ndim == 1 else 0.2) * torch.randn_like(p)
model.save_pretrained(HERE, safe_serialization=True)
processor.save_pretrained(HERE)

golden = {}
random = np.random.default_rng(3)
pictures = []
# Larger, smaller, as large as the shorter edge, and with an odd rest to cut: (width, height).
for i, (w, h) in enumerate([(41, 23), (9, 30), (17, 17), (22, 64)]):
    coarse = random.integers(0, 256, (max(h // 5, 2), max(w // 4, 2), 3), dtype=np.uint8)
    picture = np.asarray(Image.fromarray(coarse).resize((w, h), Image.BICUBIC)).copy()
    picture[h // 3 : h // 2, w // 4 : w // 2] = random.integers(0, 256, 3)  # an edge, for over- and undershoot
    pictures.append(Image.fromarray(picture))
    golden[f"picture.{i}"] = torch.tensor(picture)
prepared = processor(images=pictures, return_tensors="pt")["pixel_values"]
golden["prepared"] = prepared
texts = ["a red house and the tree", "the RED Tree", "", "the red house and the red tree " * 3]
tokens = tokenizer(texts, padding="max_length", truncation=True, max_length=window, return_tensors="pt")
with torch.no_grad():
    out = model(**tokens, pixel_values=prepared)
    golden["image_features"] = model.get_image_features(prepared)
    golden["text_features"] = model.get_text_features(**tokens)
golden["cosines"] = out.logits_per_image / model.logit_scale.exp()
golden["logit_scale"] = model.logit_scale.exp().detach()
save_file({k: v.contiguous() for k, v in golden.items()}, HERE / "golden.safetensors")
(HERE / "golden.json").write_text(json.dumps(texts) + "\n")
print({k: tuple(v.shape) for k, v in golden.items()}, golden["cosines"])
