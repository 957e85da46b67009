"""Writes the corpus of hand-written malformed files, a folder of `corpus/` per fuzz target.

    python make_corpus.py

Needs only Python. Each file is a valid file with one defect, after which it is named;
`sound` is the valid file. A `safetensors` file has three parts, separated by a line of
four dashes: config.json, the index, and the tensors. A `tokenizer` file has a line with
model and pre-tokenizer, then lines of `token`, `token<TAB>type` or
`token<TAB>type<TAB>score`, and after an empty line the merges. A `template` file is a
chat template.

The other four are what a server reads. An `access` file has the headers Host, Origin and
Authorization as lines; `sound` is answered, `keyless` by a server without keys alone. A
`request` file has a line with the endpoint, and the body. A `tool_calls` file is a text, its
name begins with the number of calls in it. A `grammar` file is an object with the field of a
request that limits a text.
"""

import json
import struct
from pathlib import Path

HERE = Path(__file__).parent / "corpus"
U8, U32, F32, BOOL, STRING, ARRAY, U64 = 0, 4, 6, 7, 8, 9, 10


def put(folder, name, data):
    path = HERE / folder
    path.mkdir(parents=True, exist_ok=True)
    (path / name).write_bytes(data)


def string(text):
    text = text.encode() if isinstance(text, str) else text
    return struct.pack("<Q", len(text)) + text


def kv(key, ty, value):
    return string(key) + struct.pack("<I", ty) + value


def header(version=3, n_tensors=0, n_kv=0):
    return b"GGUF" + struct.pack("<IQQ", version, n_tensors, n_kv)


def tensor(name, dims, ty, offset):
    dims = struct.pack(f"<I{len(dims)}Q", len(dims), *dims)
    return string(name) + dims + struct.pack("<IQ", ty, offset)


def array(ty, count, items=b""):
    return struct.pack("<IQ", ty, count) + items


def with_kv(*values):
    return header(n_kv=len(values)) + b"".join(values)


def with_tensors(*infos, data=64):
    head = header(n_tensors=len(infos)) + b"".join(infos)
    return head + bytes(-len(head) % 32) + bytes(data)


# --- a model with one layer and nine tokens: hidden size 64 in Q2_0, or 128 in I2_S ---

MATRICES = ["attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down"]
NORMS = ["attn_norm", "attn_sub_norm", "ffn_norm", "ffn_sub_norm"]
SIZES = {
    "context_length": 16,
    "block_count": 1,
    "attention.head_count": 2,
    "attention.head_count_kv": 2,
}
TOKENS = ["a", "b", "ab", "<s>", "</s>", "c", "d", "e", "f"]


def model(sizes={}, more=[], i2_s=None, scale=0.5, shapes={}, types={}, drop=(), extra=()):
    """Returns a GGUF file with some values replaced; `i2_s` is the byte of all weights."""
    width = 64 if i2_s is None else 128
    sizes = {**SIZES, "embedding_length": width, "feed_forward_length": width, **sizes}

    def strings(items):
        return array(STRING, len(items), b"".join(string(item) for item in items))

    values = [kv("general.architecture", STRING, string("bitnet"))]
    values += [kv(f"bitnet.{k}", U32, struct.pack("<I", v)) for k, v in sizes.items()]
    values += [kv("bitnet.attention.layer_norm_rms_epsilon", F32, struct.pack("<f", 1e-5))]
    values += [kv("tokenizer.ggml.model", STRING, string("gpt2")), kv("tokenizer.ggml.pre", STRING, string("llama-bpe"))]
    values += [kv("tokenizer.ggml.tokens", ARRAY, strings(TOKENS))]
    values += [kv("tokenizer.ggml.merges", ARRAY, strings(["a b"]))]
    values += [kv("tokenizer.ggml.bos_token_id", U32, struct.pack("<I", 3))]
    values += [kv("tokenizer.ggml.eos_token_id", U32, struct.pack("<I", 4))]
    values += list(more)
    tensors = {"token_embd.weight": [width, len(TOKENS)], "output_norm.weight": [width]}
    tensors |= {f"blk.0.{part}.weight": [width] for part in NORMS}
    tensors |= {f"blk.0.{part}.weight": [width, width] for part in MATRICES}
    tensors |= dict(extra)
    infos, data = [], b""
    for name, dims in tensors.items():
        if name in drop:
            continue
        n = 1
        for dim in dims:
            n *= dim
        if len(dims) == 2 and name.startswith("blk") and i2_s is not None:
            ty = 36
            stored = bytes([i2_s] * (n // 4)) + struct.pack("<f", scale) + bytes(28)
        elif len(dims) == 2 and name.startswith("blk"):
            ty = 42
            stored = (struct.pack("<e", scale) + bytes([0b01_10_00_01] * 16)) * (n // 64)
        else:
            ty = 0
            stored = struct.pack(f"<{n}f", *[(i % 7 - 3) * 0.25 for i in range(n)])
        infos.append(tensor(name, shapes.get(name, dims), types.get(name, ty), len(data)))
        data += stored + bytes(-len(stored) % 32)
    head = header(3, len(infos), len(values)) + b"".join(values) + b"".join(infos)
    return head + bytes(-len(head) % 32) + data


def u32(key, value):
    return kv(key, U32, struct.pack("<I", value))


Q = "blk.0.attn_q.weight"
GGUF = {
    "sound": model(),
    "empty": b"",
    "magic-of-zip": b"PK\x03\x04 and more",
    "magic-only": b"GGUF",
    "version-0": header(0),
    "version-1": header(1),
    "version-4": header(4),
    "big-endian": b"GGUF" + struct.pack(">IQQ", 3, 0, 0),
    "tensors-2-64": header(3, 2**64 - 1, 0),
    "tensors-more-than-bytes": header(3, 1000, 0) + bytes(100),
    "metadata-2-64": header(3, 0, 2**64 - 1),
    "key-2-63": header(3, 0, 1) + struct.pack("<Q", 2**63) + bytes(64),
    "string-2-40": with_kv(string("k") + struct.pack("<IQ", STRING, 2**40)),
    "string-not-utf8": with_kv(kv("k", STRING, string(b"ab\xff"))),
    "bool-2": with_kv(kv("k", BOOL, b"\x02")),
    "value-type-13": with_kv(kv("k", 13, bytes(8))),
    "array-2-62-of-u64": with_kv(kv("k", ARRAY, array(U64, 2**62, bytes(64)))),
    "array-2-61-overflows-bytes": with_kv(kv("k", ARRAY, array(U64, 2**61, bytes(64)))),
    "array-2-40-of-strings": with_kv(kv("k", ARRAY, array(STRING, 2**40, bytes(64)))),
    "array-of-type-99": with_kv(kv("k", ARRAY, array(99, 1, bytes(8)))),
    "array-nested-1000": with_kv(kv("k", ARRAY, b"".join(array(ARRAY, 1) for _ in range(1000)) + array(U8, 0))),
    "key-twice": with_kv(kv("k", U8, b"\x01"), kv("k", U8, b"\x01")),
    "alignment-0": with_kv(u32("general.alignment", 0)),
    "alignment-3": with_kv(u32("general.alignment", 3)),
    "alignment-2-31": with_kv(u32("general.alignment", 2**31)),
    "alignment-is-text": with_kv(kv("general.alignment", STRING, string("32"))),
    "dimensions-5": with_tensors(tensor("t", [1] * 5, 0, 0)),
    "dimensions-2-32": header(3, 1, 0) + string("t") + struct.pack("<I", 2**32 - 1) + bytes(64),
    "dimension-0": with_tensors(tensor("t", [3, 0], 0, 0)),
    "shape-overflows": with_tensors(tensor("t", [2**32, 2**32], 0, 0)),
    "offset-misaligned": with_tensors(tensor("t", [1], 0, 16)),
    "offset-outside": with_tensors(tensor("t", [1], 0, 1 << 20)),
    "offset-2-64": with_tensors(tensor("t", [1], 0, 2**64 - 32)),
    "tensors-at-one-place": with_tensors(tensor("t", [1], 0, 0), tensor("u", [1], 0, 0)),
    "tensor-twice": with_tensors(tensor("t", [1], 0, 0), tensor("t", [1], 0, 32)),
    "architecture-unknown": with_kv(kv("general.architecture", STRING, string("mamba"))),
    "architecture-is-number": with_kv(u32("general.architecture", 1)),
    "layers-2-32": model(sizes={"block_count": 2**32 - 1}),
    "layers-0": model(sizes={"block_count": 0}),
    "hidden-2-32": model(sizes={"embedding_length": 2**32 - 1}),
    "hidden-0": model(sizes={"embedding_length": 0}),
    "heads-0": model(sizes={"attention.head_count": 0}),
    "heads-3": model(sizes={"attention.head_count": 3}),
    "kv-heads-2-32": model(sizes={"attention.head_count_kv": 2**32 - 1}),
    "ffn-2-32": model(sizes={"feed_forward_length": 2**32 - 1}),
    "context-0": model(sizes={"context_length": 0}),
    "rope-dimensions-2-32": model(more=[u32("bitnet.rope.dimension_count", 2**32 - 1)]),
    "tensor-missing": model(drop=[Q]),
    "tensor-unexpected": model(extra=[("blk.0.attn_q.bias", [64])]),
    "tensor-longer-than-its-span": model(shapes={Q: [64, 256]}),
    "tensor-beyond-memory": model(shapes={Q: [2**31, 2**31]}),
    "tensor-of-type-99": model(types={Q: 99}),
    "tensor-of-tl1": model(types={Q: 38}),
    "norm-as-i2_s": model(types={"output_norm.weight": 36}),
    "vocabulary-2-40": model(shapes={"token_embd.weight": [64, 2**40]}),
    "code-3-in-i2_s": model(i2_s=0xFF),
    "scale-nan-in-i2_s": model(i2_s=0x55 + 1, scale=float("nan")),
    "scale-infinite-in-i2_s": model(i2_s=0x56, scale=float("inf")),
}
for name, data in GGUF.items():
    put("gguf", name, data)

# --- SafeTensors ----------------------------------------------------------------------

CONFIG = dict(
    architectures=["BitNetForCausalLM"],
    model_type="bitnet",
    hidden_size=8,
    num_hidden_layers=1,
    num_attention_heads=2,
    num_key_value_heads=2,
    intermediate_size=8,
    vocab_size=4,
    max_position_embeddings=16,
    rms_norm_eps=1e-5,
    hidden_act="relu2",
    tie_word_embeddings=True,
    quantization_config=dict(quant_method="bitnet", linear_class="autobitlinear", quantization_mode="offline"),
)
LAYER = "model.layers.0."
HF = {"model.embed_tokens.weight": ("F32", [4, 8]), "model.norm.weight": ("F32", [8])}
for part in ["input_layernorm", "post_attention_layernorm", "self_attn.attn_sub_norm", "mlp.ffn_sub_norm"]:
    HF[f"{LAYER}{part}.weight"] = ("F32", [8])
for part in ["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj", "mlp.gate_proj", "mlp.up_proj", "mlp.down_proj"]:
    HF[f"{LAYER}{part}.weight"] = ("U8", [2, 8])
    HF[f"{LAYER}{part}.weight_scale"] = ("F32", [1])


def safetensors(edit=lambda header: None, tensors=HF):
    head, data = {}, b""
    for name, (dtype, shape) in tensors.items():
        n = 1
        for dim in shape:
            n *= dim
        stored = bytes([0b01_10_00_01]) * n if dtype == "U8" else struct.pack(f"<{n}f", *[0.5] * n)
        head[name] = dict(dtype=dtype, shape=shape, data_offsets=[len(data), len(data) + len(stored)])
        data += stored
    edit(head)
    head = json.dumps(head).encode()
    return struct.pack("<Q", len(head)) + head + data


def folder(name, config=CONFIG, index=None, tensors=safetensors()):
    if not isinstance(config, bytes):
        config = json.dumps(config).encode()
    if index is None:
        index = json.dumps(dict(weight_map=dict.fromkeys(HF, "model.safetensors"))).encode()
    put("safetensors", name, b"\n----\n".join([config, index, tensors]))


def at(name, **values):
    return lambda header: header[name].update(values)


EMBED = "model.embed_tokens.weight"
GATE = LAYER + "mlp.gate_proj.weight"
folder("sound")
folder("config-nested-2000", config=b'{"a":' * 2000)
folder("config-not-json", config=b"GGUF")
folder("config-negative", config={**CONFIG, "hidden_size": -8})
folder("config-huge", config={**CONFIG, "hidden_size": 2**60, "num_hidden_layers": 2**60})
folder("config-layers-2-32", config={**CONFIG, "num_hidden_layers": 2**32})
folder("config-eps-text", config={**CONFIG, "rms_norm_eps": "small"})
folder("index-not-json", index=b"[1, 2")
folder("index-outside", index=b'{"weight_map": {"a": "../../etc/passwd"}}')
folder("index-itself", index=b'{"weight_map": {"a": "model.safetensors.index.json"}}')
folder("index-missing-shard", index=b'{"weight_map": {"a": "model-00001-of-00002.safetensors"}}')
folder("index-empty", index=b'{"weight_map": {}}')
folder("header-2-63", tensors=struct.pack("<Q", 2**63) + b"{}")
folder("header-longer-than-file", tensors=struct.pack("<Q", 1000) + b"{}")
folder("header-not-json", tensors=struct.pack("<Q", 4) + b"abcd")
folder("header-nested", tensors=struct.pack("<Q", 5000) + b'{"a":' * 1000)
folder("tensor-outside", tensors=safetensors(at(EMBED, data_offsets=[0, 2**40])))
folder("tensor-backwards", tensors=safetensors(at(EMBED, data_offsets=[128, 0])))
folder("tensors-overlap", tensors=safetensors(at("model.norm.weight", data_offsets=[96, 128])))
folder("shape-overflows", tensors=safetensors(at(EMBED, shape=[2**40, 2**40])))
folder("shape-of-three", tensors=safetensors(at(GATE, shape=[2, 2, 4])))
folder("shape-empty", tensors=safetensors(at(EMBED, shape=[0, 8], data_offsets=[0, 0])))
folder("dtype-of-floats-for-trits", tensors=safetensors(tensors={**HF, GATE: ("F32", [8, 8])}))
folder("scale-of-no-tensor", tensors=safetensors(tensors={**HF, "x.weight_scale": ("F32", [1])}))
folder("scale-of-two-values", tensors=safetensors(tensors={**HF, GATE + "_scale": ("F32", [2])}))
folder("truncated", tensors=safetensors()[:-9])

# --- tokenizer metadata -----------------------------------------------------------------

BYTE_LEVEL, SCORED = b"gpt2 gpt-2\n", b"llama\n<unk>\t2\n"
put("tokenizer", "sound", BYTE_LEVEL + b"ab\n<s>\t3\n</s>\t3\n\na b")
put("tokenizer", "sound-llama-bpe", b"gpt2 llama-bpe\nab\n\na b")
put("tokenizer", "sound-scores", SCORED + b"a\t1\t-1\nb\t1\t-2\nab\t1\t-0.5\n\xe2\x96\x81\n<s>\t3\n\n")
put("tokenizer", "empty", b"")
put("tokenizer", "model-unknown", b"bert gpt-2\nab\n\n")
put("tokenizer", "pre-tokenizer-unknown", b"gpt2 none\nab\n\n")
put("tokenizer", "merge-of-unknown", BYTE_LEVEL + b"ab\n\na xyz")
put("tokenizer", "merge-of-one", BYTE_LEVEL + b"ab\n\nab")
put("tokenizer", "merge-of-three", BYTE_LEVEL + b"ab\n\na b c")
put("tokenizer", "token-twice", BYTE_LEVEL + b"aa\naa\n\na a")
put("tokenizer", "token-empty", BYTE_LEVEL + b"\t1\n\t3\n\n")
put("tokenizer", "type-unknown", BYTE_LEVEL + b"aa\t99\nbb\t-5\n\n")
put("tokenizer", "tokens-long", BYTE_LEVEL + b"a" * 3000 + b"\n" + b"b" * 3000 + b"\n\n")
put("tokenizer", "not-utf8", BYTE_LEVEL + b"\xff\xfe\na\n\na a")
put("tokenizer", "score-nan", SCORED + b"a\t1\tnan\n\n")
put("tokenizer", "no-unknown-no-bytes", b"llama\na\t1\t-1\n\n")
# Every split of every token is a merge.
put("tokenizer", "scores-many-merges", SCORED + b"".join(b"a" * n + b"\n" for n in range(1, 200)) + b"\n")

# --- chat templates -----------------------------------------------------------------------

TEMPLATES = {
    "sound": "{% for m in messages %}{{ m.role | capitalize }}: {{ m.content | trim }}\n{% endfor %}Assistant:",
    "sound-functions": "{{ messages | tojson(indent=2) }}{{ strftime_now('%Y') }}{{ bos_token.upper() }}",
    "not-utf8": b"{{ '\xff' }}",
    "time": "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}",
    "output": "{% for i in range(99999) %}{{ 'x' * 99999 }}{% endfor %}",
    "doubling": "{% set ns = namespace(x='x') %}{% for i in range(99) %}{% set ns.x = ns.x ~ ns.x %}{% endfor %}",
    "repeat-2-33": "{{ 'x' * 9999999999 }}",
    "replace": "{{ ('x' * 99999) | replace('x', 'y' * 99999) | length }}",
    "json-long": "{{ (['x' * 1000000] * 50000) | tojson }}",
    "indent-wide": "{{ 'x' | indent(999999999) }}",
    "format-wide": "{{ '%999999999d' | format(1) }}",
    "format-key-not-ascii": "{{ '%(\u00e9)s' | format(1) }}",
    "format-method-key-not-ascii": "{{ '{a[\u00e9]}'.format(a={}) }}",
    "sound-format": "{{ '\u00e9 %s (\u00e9)' | format('\u00e9') }}{{ '\u00e9 [\u00e9] {} [\u00e9] {x[y]}'.format(1, x={'y': 2}) }}",
    "strftime-unknown": "{{ strftime_now('%Q') }}",
    "include": "{% include '/etc/passwd' %}",
    "recursive": "{% macro f(x) %}{{ f(x) }}{% endmacro %}{{ f(1) }}",
    "lists-deep": "{{ " + "[" * 500 + "]" * 500 + " }}",
    "blocks-deep": "{% if 1 %}" * 100 + "{% endif %}" * 100,
    "unfinished": "{% for m in messages %}{{ m.content",
    "unknown-filter": "{{ messages | nothing }}",
    "raises": "{{ raise_exception('no system message') }}",
}
for name, source in TEMPLATES.items():
    put("template", name, source if isinstance(source, bytes) else source.encode())

# --- who may use a server -------------------------------------------------------------------

BEARER = "Bearer secret"
ACCESS = {
    "sound-localhost": ["localhost:8080", "", BEARER],
    "sound-ipv4": ["127.0.0.1", "", BEARER],
    "sound-ipv6": ["[::1]:8080", "", BEARER],
    "sound-name": ["BOX.lan:80", "", BEARER],
    "sound-no-host": ["", "", BEARER],
    "sound-own-page": ["localhost:8080", "http://localhost:8080", BEARER],
    "sound-named-page": ["localhost", "https://a.example", BEARER],
    "keyless": ["localhost", "", ""],
    "keyless-wrong": ["localhost", "", "Bearer secret2"],
    "keyless-short": ["localhost", "", "Bearer"],
    "keyless-basic": ["localhost", "", "Basic secret"],
    "host-elsewhere": ["evil.example", "", BEARER],
    "host-begins-with-localhost": ["localhost.evil.example", "", BEARER],
    "host-begins-with-address": ["127.0.0.1.evil.example", "", BEARER],
    "host-with-user": ["127.0.0.1@evil.example", "", BEARER],
    "host-after-user": ["evil.example@127.0.0.1", "", BEARER],
    "host-port-is-a-name": ["localhost:evil.example", "", BEARER],
    "host-not-ascii": ["l\u00f6calhost", "", BEARER],
    "host-of-a-number": ["2130706433", "", BEARER],
    "origin-elsewhere": ["localhost", "https://evil.example", BEARER],
    "origin-null": ["localhost", "null", BEARER],
    "origin-ends-with-host": ["localhost", "https://evil-localhost", BEARER],
    "origin-other-port": ["localhost:8080", "http://localhost:8081", BEARER],
}
for name, lines in ACCESS.items():
    put("access", name, "\n".join(lines).encode())

# --- requests of a server -------------------------------------------------------------------

ADD = {"type": "function", "function": {"name": "add", "parameters": {"type": "object"}}}
ASKS = {"role": "user", "content": "Hi"}
CALL = {"id": "1", "type": "function", "function": {"name": "add", "arguments": "{}"}}
REQUESTS = {
    "sound-chat": ("chat", {"messages": [{"role": "developer", "content": "Be brief."}, ASKS]}),
    "sound-chat-of-parts": ("chat", {"messages": [{"role": "user", "content": [{"type": "text", "text": "Hi"}]}]}),
    "sound-chat-with-tools": ("chat", {"messages": [ASKS, {"role": "assistant", "tool_calls": [CALL]}, {"role": "tool", "tool_call_id": "1", "content": "3"}], "tools": [ADD], "tool_choice": "required"}),
    "sound-chat-options": ("chat", {"messages": [ASKS], "n": 2, "stream": True, "stream_options": {"include_usage": True}, "logprobs": True, "top_logprobs": 3, "max_completion_tokens": 5, "max_tokens": 6, "chat_template_kwargs": {"a": 1}, "user": "me"}),
    "sound-completion": ("completion", {"prompt": "A", "max_tokens": 2.0, "seed": -1, "stop": ["a", "b"], "echo": True, "logprobs": 0, "best_of": 2}),
    "sound-completion-of-tokens": ("completion", {"prompt": [[1, 2], [3]], "temperature": 0, "top_k": -1, "top_p": 0.5, "min_p": 0.1, "logit_bias": {"5": -100}, "repetition_penalty": 1.1, "repeat_last_n": -1, "ignore_eos": True}),
    "sound-completion-schema": ("completion", {"prompt": "A", "response_format": {"type": "json_schema", "json_schema": {"name": "a", "schema": {"type": "object"}, "strict": True}}}),
    "sound-completion-lenient": ("completion lenient", {"prompt": "A", "model": "other", "nonsense": {"a": [1]}, "suffix": "x"}),
    "sound-embedding": ("embedding", {"input": ["a", "b"], "encoding_format": "base64"}),
    "sound-embedding-of-tokens": ("embedding", {"input": [1, 2]}),
    "sound-tokenize": ("tokenize", {"content": "\u00e9 <s>", "add_special": True, "with_pieces": True}),
    "sound-detokenize": ("detokenize", {"tokens": [0, 1, 200, 300]}),
    "sound-template": ("template", {"messages": [ASKS], "add_generation_prompt": False}),
    "unknown-field": ("completion", {"prompt": "A", "nonsense": 1}),
    "model-unknown": ("completion", {"prompt": "A", "model": "other"}),
    "prompt-missing": ("completion", {"max_tokens": 1}),
    "prompt-empty": ("completion", {"prompt": []}),
    "prompt-of-both": ("completion", {"prompt": ["a", 1]}),
    "token-2-40": ("completion", {"prompt": [2**40]}),
    "number-1e400": ("completion", b'{"prompt": "A", "temperature": 1e400}'),
    "seed-2-70": ("completion", {"prompt": "A", "seed": 2**70}),
    "stops-many": ("completion", {"prompt": "A", "stop": ["a"] * 17}),
    "two-grammars": ("completion", {"prompt": "A", "guided_regex": "a", "json_schema": {}}),
    "content-of-images": ("chat", {"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}),
    "arguments-no-json": ("chat", {"messages": [ASKS, {"role": "assistant", "tool_calls": [{**CALL, "function": {"name": "add", "arguments": "{"}}]}]}),
    "tool-choice-of-none": ("chat", {"messages": [ASKS], "tool_choice": "required"}),
    "kwargs-of-messages": ("chat", {"messages": [ASKS], "chat_template_kwargs": {"messages": []}}),
    "list": ("completion", b"[]"),
    "twice": ("completion", b'{"prompt": "A"}{"prompt": "A"}'),
    "nested-10000": ("completion", b'{"prompt": ' + b"[" * 10000 + b"]" * 10000 + b"}"),
    "not-utf8": ("completion", b'{"prompt": "\xff"}'),
    "surrogate": ("completion", b'{"prompt": "\\ud800"}'),
    "empty": ("completion", b""),
}
for name, (endpoint, body) in REQUESTS.items():
    body = body if isinstance(body, bytes) else json.dumps(body).encode()
    put("request", name, endpoint.encode() + b"\n" + body)

# --- calls of tools in a text ---------------------------------------------------------------

OPEN, CLOSE = "<tool_call>", "</tool_call>"
TOOL_CALLS = {
    "1-call": f'Let me see. {OPEN}\n{{"name": "add", "arguments": {{"a": 1}}}}\n{CLOSE} So.',
    "2-calls": f'{OPEN}{{"name": "a"}}{CLOSE}\n{OPEN}{{"name": "b"}}{CLOSE}',
    "1-call-after-a-broken-one": f'{OPEN}{{{CLOSE}{OPEN}{{"name": "a", "arguments": null}}{CLOSE}',
    "0-no-name": f'{OPEN}{{"arguments": {{}}}}{CLOSE}',
    "0-name-is-number": f'{OPEN}{{"name": 1}}{CLOSE}',
    "0-unfinished": f'{OPEN}{{"name": "a"}}</tool_cal',
    "0-begun": "a <tool_ca",
    "0-only-the-end": f"a {CLOSE}",
    "0-within": f'{OPEN}{OPEN}{{"name": "a"}}{CLOSE}{CLOSE}',
    "0-nested-200": f'{OPEN}{{"name": "a", "arguments": {"[" * 200}{"]" * 200}}}{CLOSE}',
    "0-empty": "",
}
for name, text in TOOL_CALLS.items():
    put("tool_calls", name, text.encode())

# --- what limits a text ---------------------------------------------------------------------

GRAMMARS = {
    "sound-object": {"json_schema": {"type": "object", "properties": {"a": {"type": "string", "maxLength": 5}}, "required": ["a"], "additionalProperties": False}},
    "sound-any": {"response_format": {"type": "json_object"}},
    "sound-refs": {"json_schema": {"$ref": "#/$defs/a", "$defs": {"a": {"anyOf": [{"const": 1}, {"enum": ["b", None]}]}}}},
    "sound-number": {"json_schema": {"type": "number", "minimum": -1.5, "maximum": 2, "multipleOf": 0.5}},
    "sound-formats": {"json_schema": {"type": "string", "format": "date-time"}},
    "sound-regex": {"guided_regex": "[0-9]{4}-(a|b)*"},
    "sound-choices": {"guided_choice": ['a "b"', "<\\>", "\u00e9(.*)"]},
    "sound-lark": {"grammar": 'start: "(" start? ")"'},
    "sound-nothing": {},
    "schema-false": {"json_schema": False},
    "schema-of-no-value": {"json_schema": {"type": "integer", "minimum": 2, "maximum": 1}},
    "schema-ref-elsewhere": {"json_schema": {"$ref": "https://elsewhere.example/"}},
    "schema-ref-to-nothing": {"json_schema": {"$ref": "#/$defs/a"}},
    "schema-contains": {"json_schema": {"type": "array", "contains": {}}},
    "regex-open": {"guided_regex": "("},
    "sound-regex-large": {"guided_regex": "((a{20}){20}){20}"},
    "choices-none": {"guided_choice": []},
    "lark-undefined": {"grammar": "start: x"},
    "lark-endless": {"grammar": "start: start"},
    "two": {"guided_regex": "a", "json_schema": {}},
}
for name, fields in GRAMMARS.items():
    put("grammar", name, json.dumps(fields).encode())
