"""Writes tiny.gguf beside this file with the gguf package of PyPI, version 0.19.0."""

from pathlib import Path

import numpy as np
from gguf import GGUFWriter

writer = GGUFWriter(Path(__file__).with_name("tiny.gguf"), "tiny")
writer.add_custom_alignment(64)
writer.add_uint8("tiny.u8", 200)
writer.add_int8("tiny.i8", -100)
writer.add_uint16("tiny.u16", 60_000)
writer.add_int16("tiny.i16", -30_000)
writer.add_uint32("tiny.u32", 4_000_000_000)
writer.add_int32("tiny.i32", -2_000_000_000)
writer.add_float32("tiny.f32", 0.5)
writer.add_bool("tiny.bool", True)
writer.add_string("tiny.string", "Ġternär")
writer.add_uint64("tiny.u64", 1 << 63)
writer.add_int64("tiny.i64", -(1 << 62))
writer.add_float64("tiny.f64", 0.1)
writer.add_array("tiny.strings", ["a", "b c"])
writer.add_array("tiny.i32s", [1, -2, 3])
writer.add_array("tiny.f32s", [0.25, -1.0])
writer.add_array("tiny.bools", [True, False])
writer.add_tensor("blk.0.attn_q.weight", np.arange(6, dtype=np.float32).reshape(2, 3))
writer.add_tensor("output_norm.weight", np.ones(4, dtype=np.float16))
writer.write_header_to_file()
writer.write_kv_data_to_file()
writer.write_tensors_to_file()
writer.close()
