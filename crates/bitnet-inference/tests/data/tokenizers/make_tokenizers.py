"""Trains small vocabularies and records how HuggingFace's tokenizers cut texts.

Run beside this file:

    pip install tokenizers==0.23.3 sentencepiece==0.2.3 transformers==5.24.0
    python make_tokenizers.py

Published vocabularies are large; what decides the ids besides them is how text
is normalized and cut, and those configurations are the published ones. The
byte-level vocabulary is trained on the texts without any cut, so that its
tokens cross every place where a configuration cuts: a wrong cut changes ids.
"""

import io
import json
import pathlib

import sentencepiece
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers
from tokenizers import pre_tokenizers, trainers
from transformers.convert_slow_tokenizer import generate_merges

HERE = pathlib.Path(__file__).parent
STORIES = HERE / "../../../../../models/storyteller/heldout.txt"

TEXTS = [
    "",
    " ",
    "a",
    "Hello, world!",
    "Hello,  world !",
    " leading and trailing ",
    "I'm, you're, he's, we'll, they'd, I've, don't",
    "I'M, YOU'RE, HE'S, WE'LL, THEY'D, I'VE, DON'T 'ſ 'K",
    "it’s ‘quoted’ “text” — with dashes – and… dots",
    "1 12 123 1234 12345 123456 1234567890",
    "3.14159, 1e-5, 0xFF, 1,000,000 and 50% of $9.99",
    "٠١٢٣٤ १२३४५ ⅷ ½ ² ①②③ 𝟙𝟚𝟛",
    "tabs\tand\t\tmore\t\t\tof them",
    "lines\nand\n\nparagraphs\n\n\n  indented\r\nwindows\r\n\r\nold\rmac",
    "many spaces:" + " " * 37 + "end" + " " * 16,
    "\n \n  \n   \n\t\n",
    "def f(x):\n    if x > 0:\n        return x ** 2  # square\n    return -x\n",
    "for (int i = 0; i < n; ++i) { a[i] += b[i]*c[i]; } /* end */\n",
    "<div class=\"a\">&nbsp;</div> {{ jinja }} {% if x %}y{% endif %}",
    "https://example.org/a?b=c&d=%20e#f user@example.org",
    "camelCase snake_case SCREAMING_CASE kebab-case x86_64 C++17 F#",
    "naïve café Zürich Straße ŒUVRE ﬁne",
    "nai\u0308ve cafe\u0301 Zu\u0308rich \u212b \u2126 \u1e9b\u0323",
    "Привет, мир! Україна. Ελληνικά; γειά σου",
    "שלום עולם! مرحبا بالعالم، كيف حالك؟ \u202eabc\u202c \u200fx\u200e",
    "你好，世界！今天天气很好。龍與鳳",
    "こんにちは世界。カタカナとひらがな、漢字。ｶﾀｶﾅ",
    "안녕하세요 세계! 한국어 \u1112\u1161\u11ab",
    "नमस्ते दुनिया। ภาษาไทยไม่มีช่องว่าง",
    "😀😃 👨‍👩‍👧‍👦 👍🏽 🇩🇪🇯🇵 ❤️ 🐉 lived",
    "a\u0300\u0301\u0302\u0303\u0304 Z͑ͫ̓ͪ̂ͫ̽͏̴̙̤̞͉͚̯̞̠͍A̴̵̜̰͔ͫ͗͢",
    "zero\u200bwidth\u200cjoin\u200der\u2060s \ufeffbom \u00adsoft",
    "nbsp\u00a0thin\u2009ideographic\u3000line\u2028para\u2029nel\u0085ogham\u1680mvs\u180e.",
    "controls \x00\x01\x02\x07\x08\x0b\x0c\x1b\x1c\x1d\x1e\x1f\x7f\x80\x9f end",
    "private \ue000\uf8ff unassigned \u0378 nonchar \ufffe\uffff \U0010ffff",
    "replacement \ufffd and again \ufffd\ufffd",
    "<|begin_of_text|>system<|eot_id|>text<|eot_id|> more",
    "<think>a thought</think> <think>",
    "▁ lower one eighth block ▁▁ Ġ and Ċ are letters here",
    "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
    "!!!??? ... --- === *** ### ~~~ ``` ||| \\\\\\ ///",
    " 's 'S ' s\n's  't",
    "x\u2003\u2003y \u3000\u3000 z  \u00a0\n",
    "Once upon a time there was a king who had three sons.",
]

SPECIAL = ["<|begin_of_text|>", "<|eot_id|>"]
USER = ["<think>", "</think>"]

CONTRACTIONS = "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
REST = r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
LLAMA3 = CONTRACTIONS + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}|" + REST
QWEN2 = CONTRACTIONS + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}|" + REST


def split(pattern):
    return pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(pattern), "isolated", invert=False),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
    ])


# As the published tokenizer.json of each family has it.
BYTE_LEVEL = {
    # meta-llama/Meta-Llama-3-8B, microsoft/bitnet-b1.58-2B-4T, tiiuae/Falcon3-7B-Base
    "llama-bpe": (None, split(LLAMA3), True),
    # Qwen/Qwen2-7B, Qwen/Qwen3-8B
    "qwen2": (normalizers.NFC(), split(QWEN2), False),
    # openai-community/gpt2
    "gpt-2": (None, pre_tokenizers.ByteLevel(add_prefix_space=False), False),
    # EleutherAI/gpt-neox-20b, allenai/OLMo-1.7-7B-hf
    "olmo": (normalizers.NFC(), pre_tokenizers.ByteLevel(add_prefix_space=False), False),
    # HuggingFaceTB/SmolLM-135M, bigcode/starcoder
    "smollm": (
        None,
        pre_tokenizers.Sequence([
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]),
        False,
    ),
}


def cut(tokenizer):
    ids = [tokenizer.encode(text, add_special_tokens=False).ids for text in TEXTS]
    texts = [tokenizer.decode(row, skip_special_tokens=False) for row in ids]
    return {"ids": ids, "decoded": texts}


def parts(tokenizer):
    document = json.loads(tokenizer.to_str())
    return {key: document[key] for key in ("normalizer", "pre_tokenizer", "decoder")}


def byte_level():
    trainer = trainers.BpeTrainer(
        vocab_size=1100,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    trained = Tokenizer(models.BPE())
    trained.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    # Added tokens are no text, so no merge gives them.
    plain = [text for text in TEXTS if not any(token in text for token in SPECIAL + USER)]
    trained.train_from_iterator(plain + plain[:12], trainer)
    model = json.loads(trained.to_str())["model"]
    vocab = model["vocab"]
    # Tokens that no merge gives: only a model that ignores merges finds them.
    for word in ["upon", "Ġworld", "Ġking"]:
        vocab.setdefault(word, len(vocab))
    merges = [tuple(pair) for pair in model["merges"]]

    configurations = {}
    for name, (normalizer, pre_tokenizer, ignore_merges) in BYTE_LEVEL.items():
        tokenizer = Tokenizer(models.BPE(vocab, merges, ignore_merges=ignore_merges))
        if normalizer:
            tokenizer.normalizer = normalizer
        tokenizer.pre_tokenizer = pre_tokenizer
        tokenizer.decoder = decoders.ByteLevel()
        tokenizer.add_special_tokens(SPECIAL)
        tokenizer.add_tokens([AddedToken(t, normalized=False) for t in USER])
        configurations[name] = {
            "ignore_merges": ignore_merges, **parts(tokenizer), **cut(tokenizer),
        }
    return {
        "tokens": sorted(vocab, key=vocab.get),
        "merges": [" ".join(pair) for pair in merges],
        "special": SPECIAL,
        "user": USER,
        "configurations": configurations,
    }


def sentence_piece():
    stories = STORIES.read_text("utf-8").splitlines()[:300]
    lines = stories + [line for text in TEXTS for line in text.splitlines()]
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(line for line in lines if "\x00" not in line),
        model_writer=model,
        model_type="bpe",
        vocab_size=900,
        character_coverage=0.98,
        byte_fallback=True,
        split_digits=True,
        allow_whitespace_only_pieces=True,
        remove_extra_whitespaces=False,
        normalization_rule_name="identity",
        user_defined_symbols=USER,
        minloglevel=2,
    )
    (HERE / "tokenizer.model").write_bytes(model.getvalue())
    processor = sentencepiece.SentencePieceProcessor(model_proto=model.getvalue())
    pieces = range(processor.get_piece_size())

    def kind(i):
        if processor.is_unknown(i):
            return 2
        if processor.is_control(i):
            return 3
        if processor.is_byte(i):
            return 6
        return 4 if processor.id_to_piece(i) in USER else 1

    tokens = [processor.id_to_piece(i) for i in pieces]
    vocab = {token: i for i, token in enumerate(tokens)}
    scores = {token: processor.get_score(i) for i, token in enumerate(tokens)}
    # What transformers does with tokenizer.model of LLaMA 2.
    merges = generate_merges(vocab, scores)

    def tokenizer(prefix):
        result = Tokenizer(
            models.BPE(vocab, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True)
        )
        steps = [normalizers.Prepend("▁")] if prefix else []
        result.normalizer = normalizers.Sequence(steps + [normalizers.Replace(" ", "▁")])
        decoding = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
        if prefix:
            decoding.append(decoders.Strip(" ", 1, 0))
        result.decoder = decoders.Sequence(decoding)
        result.add_special_tokens(["<unk>", "<s>", "</s>"])
        result.add_tokens([AddedToken(t, normalized=False) for t in USER])
        return result

    return {
        "tokens": tokens,
        "scores": [scores[token] for token in tokens],
        "types": [kind(i) for i in pieces],
        "merges": [" ".join(pair) for pair in merges],
        "with_prefix": {**parts(tokenizer(True)), **cut(tokenizer(True))},
        "without_prefix": {**parts(tokenizer(False)), **cut(tokenizer(False))},
        # The original program: no special tokens inside texts.
        "sentencepiece": [processor.encode(text) for text in TEXTS],
    }


def main():
    document = {"texts": TEXTS, "byte_level": byte_level(), "sentencepiece": sentence_piece()}
    text = json.dumps(document, ensure_ascii=True, separators=(",", ":"))
    # A line for each configuration keeps differences readable.
    text = text.replace('},"', '},\n"')
    (HERE / "tokenizers.json").write_text(text + "\n")


main()
