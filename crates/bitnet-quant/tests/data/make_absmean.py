"""Writes absmean.txt: how transformers rounds master weights to trits.

    pip install torch==2.15.0 transformers==5.24.0 numpy==2.4.6
    TORCHDYNAMO_DISABLE=1 python make_absmean.py > absmean.txt

For each type of masters `ty`: `ty.masters` as they are stored, `ty.weights` what
`WeightQuant` makes of them, in the same type; bytes in hexadecimal, [8, 96].
"""

import torch
from transformers.integrations.bitnet import WeightQuant

torch.manual_seed(2024)


def write(key, tensor):
    print(key, tensor.contiguous().view(torch.uint8).numpy().tobytes().hex())


for key, dtype in [("F32", torch.float32), ("F16", torch.float16), ("BF16", torch.bfloat16)]:
    masters = (torch.randn(8, 96) * 0.02).to(dtype)
    masters[3] = 0
    masters[5, :4] = torch.tensor([1.0, -2.0, 0.5, -0.25])
    write(f"{key}.masters", masters)
    write(f"{key}.weights", WeightQuant.apply(masters))
