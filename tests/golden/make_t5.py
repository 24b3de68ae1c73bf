"""Goldens of the T5 encoder and its tokenizers: tiny random configurations, every dimension distinct.

torch==2.5.1 transformers==4.48.3 sentencepiece==0.2.3 safetensors, CPU, float32. Run from anywhere:
python tests/golden/make_t5.py (with a folder as argument the tokenizer's model is made with SentencePiece's full
nmt_nfkc rules and written there: too large for the repository, but the same strings must agree)
"""
import json
import sys
import tempfile
from pathlib import Path

import sentencepiece as spm
import torch
from safetensors.torch import save_file
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from transformers import T5Config, T5EncoderModel, T5Tokenizer, T5TokenizerFast

HERE = Path(__file__).parent / "t5"

# ---- encoder ----
CONFIGS = {
    # T5 1.1, as PixArt has it; heads × width is not the width of the model
    "gated": dict(vocab_size=53, d_model=24, d_kv=7, d_ff=40, num_layers=3, num_heads=4, feed_forward_proj="gated-gelu"),
    # the first T5; an odd number of classes, a short reach
    "relu": dict(vocab_size=31, d_model=20, d_kv=6, d_ff=52, num_layers=2, num_heads=3, feed_forward_proj="relu",
                 relative_attention_num_buckets=11, relative_attention_max_distance=19, layer_norm_epsilon=1e-3),
}


@torch.no_grad()
def encoder(seed, name, config):
    torch.manual_seed(seed)
    model = T5EncoderModel(T5Config(**config)).eval()
    for p in model.parameters():  # away from the near-zero initial values, or attention would hardly matter
        p.data += 0.3 * torch.randn_like(p)
        p.data = p.data.half().float()
    folder = HERE / name
    model.config.save_pretrained(folder)
    weights = {k: v.half().contiguous() for k, v in model.state_dict().items() if k != "encoder.embed_tokens.weight"}
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    ids = torch.randint(0, config["vocab_size"], (3, 11))
    mask = (torch.arange(11)[None] < torch.tensor([11, 4, 1])[:, None]).long()
    far = torch.randint(0, config["vocab_size"], (1, 150))  # beyond the last class of distance
    out = {"input_ids": ids, "attention_mask": mask, "last_hidden_state": model(ids, attention_mask=mask)[0],
           "unmasked": model(ids)[0], "far_ids": far, "far": model(far)[0]}
    save_file({k: v.contiguous() for k, v in out.items()}, folder / "golden.safetensors")
    print(name, sum(p.numel() for p in model.parameters()), {k: tuple(v.shape) for k, v in out.items()})


# ---- tokenizer ----
CORPUS = """a red house in a meadow under a blue sky with white clouds and a tree
the quick brown fox jumps over the lazy dog near the river bank
a portrait of an old man with a long beard in the style of rembrandt
an oil painting of a ship in a storm at night with lightning
a photo of a cat sitting on a table next to a bowl of fruit
it's the artist's house, they don't paint 12 or 345 trees!
highly detailed, cinematic light, 8k, trending: (masterpiece) [wide-angle]
käse und brötchen, café crème, naïve façade
""".strip().split("\n")

# What SentencePiece's nmt_nfkc does, in small: compatibility forms, composition, odd spaces, deleted controls.
RULES = {"ﬁ": "fi", "½": "1⁄2", "e\u0301": "é", "A\u0308": "Ä", "\u00a0": " ", "\u3000": " ", "\t": " ", "\n": " ",
         "\r": " ", "\u200b": "", "\u0007": "", "…": "...", "ｆｏｏ": "foo", "ｆ": "f", "①": "1", "™": "TM"}

STRINGS = [
    "", " ", "a red house and the tree", "The RED Tree", "it's the house's, they'll don't i've we're",
    "  many   spaces\tand\nnew\r\nlines  ", "1234 and 5.67e-8", "!!! !!!! !?!", "hyphen-ated under_scored e-mail@x.org",
    "käse grün àéî", "e\u0301 composed \u00e9", "ﬁ ligature ½ ² Ⅷ ™ ①", "ｆｏｏ ｆｏ ｆ", "日本語のテキスト and 中文",
    "русский текст", "emoji 😀🫠 👩‍👩‍👧 ❤️", "zero\u200bwidth\u00a0nbsp\u3000ideographic", "\u200b lead", "trail \u200b ",
    "ctrl\x07\x01\x7fchars\ufffd", "a literal ▁ lower block ▁", "▁", "</s> inside </s>!", "x</s>y", "ends with </s>",
    "<unk> and <pad> spelled", "a <extra_id_0> b <extra_id_3>c", "<extra_id_9>", "<keep>whole <keep>", "a<keep>",
    "a red house and the red tree " * 4, "A\u0308 a\u0308 e\u0301\u0323", "supercalifragilistic " * 3,
]


def cases(tokenizer):
    return [{"text": s, "pieces": tokenizer(s, add_special_tokens=False)["input_ids"],
             "ids": tokenizer(s, padding="max_length", truncation=True, max_length=24)["input_ids"]} for s in STRINGS]


def trained(folder, full):
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch:
        rules = Path(scratch) / "rules.tsv"
        code = lambda text: " ".join(f"{ord(c):X}" for c in text)
        rules.write_text("".join(f"{code(a)}\t{code(b)}\n" for a, b in RULES.items()))
        normalization = {} if full else dict(normalization_rule_tsv=str(rules))
        spm.SentencePieceTrainer.train(
            sentence_iterator=iter(CORPUS * 20), model_prefix=f"{scratch}/spiece", vocab_size=115, model_type="unigram",
            pad_id=0, eos_id=1, unk_id=2, bos_id=-1, user_defined_symbols=["<keep>"], minloglevel=2, **normalization)
        (folder / "spiece.model").write_bytes((Path(scratch) / "spiece.model").read_bytes())
    tokenizer = T5Tokenizer(str(folder / "spiece.model"), extra_ids=5, legacy=True)
    tokenizer.save_pretrained(folder)
    (folder / "golden.json").write_text(json.dumps(cases(tokenizer)))
    print(folder.name, len(tokenizer), "tokens;", len(STRINGS), "strings;",
          (folder / "spiece.model").stat().st_size, "bytes")
    return tokenizer


def fast(folder, slow):
    """The same pieces as tokenizer.json, with the normalisation that transformers' own conversion writes."""
    pieces = [(slow.sp_model.id_to_piece(i), slow.sp_model.get_score(i)) for i in range(len(slow.sp_model))]
    tokenizer = Tokenizer(models.Unigram(pieces, unk_id=2))
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.NFKC(), normalizers.Strip(left=False, right=True), normalizers.Replace(Regex(" {2,}"), "▁")])
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="always")
    tokenizer.decoder = decoders.Metaspace(replacement="▁", prepend_scheme="always")
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    tokenizer = T5TokenizerFast(tokenizer_object=tokenizer, extra_ids=5)
    tokenizer.save_pretrained(folder)
    (folder / "golden.json").write_text(json.dumps(cases(tokenizer)))
    print(folder.name, len(tokenizer), "tokens")


if len(sys.argv) > 1:
    trained(Path(sys.argv[1]), full=True)
else:
    for seed, (name, config) in enumerate(CONFIGS.items()):
        encoder(seed, name, config)
    fast(HERE / "fast", trained(HERE / "tokenizer", full=False))
