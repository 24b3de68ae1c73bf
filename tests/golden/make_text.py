"""Goldens of the CLIP text encoder and tokenizer: tiny random configurations, every dimension distinct.

torch==2.5.1 transformers==4.48.3 safetensors, CPU, float32. Run from anywhere: python tests/golden/make_text.py
"""
import json
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer
from transformers.models.clip.tokenization_clip import bytes_to_unicode

HERE = Path(__file__).parent / "text"

# ---- encoder ----
CONFIGS = {
    "quick": dict(vocab_size=53, hidden_size=24, intermediate_size=40, num_hidden_layers=3, num_attention_heads=4,
                  max_position_embeddings=11, hidden_act="quick_gelu", eos_token_id=52),
    "gelu": dict(vocab_size=31, hidden_size=20, intermediate_size=52, num_hidden_layers=2, num_attention_heads=5,
                 max_position_embeddings=9, hidden_act="gelu", layer_norm_eps=1e-3, eos_token_id=2),
}
for seed, (name, config) in enumerate(CONFIGS.items()):
    torch.manual_seed(seed)
    model = CLIPTextModel(CLIPTextConfig(**config)).eval()
    for p in model.parameters():  # away from the near-zero initial values, or attention would hardly matter
        p.data += (0.3 if p.ndim == 1 else 0.2) * torch.randn_like(p)
    folder = HERE / name
    model.save_pretrained(folder, safe_serialization=True)
    ids = torch.randint(0, config["vocab_size"], (3, config["max_position_embeddings"]))
    with torch.no_grad():
        save_file({"input_ids": ids, "last_hidden_state": model(ids).last_hidden_state,
                   "short": model(ids[:2, :5]).last_hidden_state}, folder / "golden.safetensors")

# ---- encoder with a mask, on a model from above as it is stored ----
folder = HERE / "quick"
ids = load_file(folder / "golden.safetensors")["input_ids"]
mask = torch.ones_like(ids)
mask[0, 5:], mask[1, 1:4], mask[2, 2] = 0, 0, 0
with torch.no_grad():
    states = CLIPTextModel.from_pretrained(folder)(ids, attention_mask=mask).last_hidden_state
save_file({"attention_mask": mask, "last_hidden_state": states}, HERE / "masked.safetensors")

# ---- tokenizer: merges that overlap, so that ranks matter ----
MERGES = """t h
th e</w>
r e
re d</w>
t re
tre e</w>
h o
ho u
hou se
s e</w>
hou s
hous e</w>
a n
an d</w>
à l
Ã ¤
Ã ¤</w>
' s</w>
! !
! !</w>
! !!</w>
i n
in g</w>
< |
| ></w>
ð Ł
ðŁ ĺ""".split("\n")
symbols = list(bytes_to_unicode().values())
merges = [m for m in MERGES if all(c in "".join(symbols) + " </w>" for c in m)]
vocab = symbols + [s + "</w>" for s in symbols]
vocab += [t for t in dict.fromkeys(m.replace(" ", "") for m in merges) if t not in vocab]
vocab += ["<|startoftext|>", "<|endoftext|>"]
folder = HERE / "tokenizer"
folder.mkdir(parents=True, exist_ok=True)
(folder / "vocab.json").write_text(json.dumps({t: i for i, t in enumerate(vocab)}))
(folder / "merges.txt").write_text("#version: 0.2\n" + "\n".join(merges) + "\n")
special = dict(lstrip=False, normalized=True, rstrip=False, single_word=False)
(folder / "special_tokens_map.json").write_text(json.dumps({
    "bos_token": {"content": "<|startoftext|>", **special}, "eos_token": {"content": "<|endoftext|>", **special},
    "pad_token": "<|endoftext|>", "unk_token": {"content": "<|endoftext|>", **special}}))
(folder / "tokenizer_config.json").write_text(json.dumps({
    "add_prefix_space": False, "do_lower_case": True, "errors": "replace", "model_max_length": 24,
    "tokenizer_class": "CLIPTokenizer", "pad_token": "<|endoftext|>"}))

STRINGS = [
    "", " ", "a red house and the tree", "The RED Tree", "it's the house's, they'll don't I'VE we'RE",
    "  many   spaces\tand\nnew\r\nlines  ", "1234 and 5.67e-8", "!!! !!!! !?!", "hyphen-ated under_scored e-mail@x.org",
    "Käse GRÜN ÀÉÎ", "e\u0301 composed \u00e9", "ﬁ ligature ½ ² Ⅷ", "Straße İstanbul ΣΊΣΥΦΟΣ", "日本語のテキスト and 中文",
    "한국어", "русский текст", "हिन्दी", "עברית العربية", "emoji 😀🫠 👩‍👩‍👧 ❤️", "zero\u200bwidth\u00a0nbsp\u00adsoft\u2028line",
    "ctrl\x00\x01\x7f\x85chars\ufffd", "quotes “curly” ‘single’ it’s", "<|startoftext|> inside <|endoftext|>!",
    "x<|endoftext|>y", "<|ENDOFTEXT|> upper", "a </w> b", "'S 'T'd", "日1本2", "\u3000ideographic\u3000space",
    "the red house and the red tree " * 4, "ǅ Ǆ ß ŉ", "٣ ३ ④", "math 𝒳 𝟛", "e\u0301\u0323 a\u0328\u0301",
]
tokenizer = CLIPTokenizer.from_pretrained(folder)
cases = [{"text": s, "pieces": tokenizer(s, add_special_tokens=False)["input_ids"],
          "ids": tokenizer(s, padding="max_length", truncation=True, max_length=24)["input_ids"]} for s in STRINGS]
(folder / "golden.json").write_text(json.dumps(cases))
print(len(vocab), "tokens;", len(merges), "merges;", len(cases), "strings")

# ---- a vocabulary of plain words, written by `Tokenizer::from_words` (tests/components/text.rs) ----
folder = HERE / "world"
if folder.exists():
    tokenizer = CLIPTokenizer.from_pretrained(folder)
    strings = ["a red tree left of the house", "There that trees, Käse ed re ee tre", "unknown words 12 é 日本 😀", "",
               "a red house at the bottom left of the tree that is here and there"]
    cases = [{"text": s, "pieces": tokenizer(s, add_special_tokens=False)["input_ids"],
              "ids": tokenizer(s, padding="max_length", truncation=True)["input_ids"]} for s in strings]
    (folder / "golden.json").write_text(json.dumps(cases))
