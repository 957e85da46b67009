// What all kernels of linear layers share: the layout of weights, and what follows the sums.
//
// A workgroup of 256 computes TOKENS rows of values times PANELS panels of sixteen weight rows
// (two if a gate and its linear layer are computed together). Thread t computes partial sums
// of weight row t mod 16 over every sixteenth chunk of columns from chunk t / 16 on. A panel is
// stored chunk by chunk, each with sixteen bytes of every row, so that the 256 threads read
// 4096 consecutive bytes:
//
//   weights  [panel][chunk][row of the panel] vec4<u32>
//
// Integer sums are exact in any order, so the result depends neither on TOKENS nor on the
// kernel. TAIL 0 stores, 1 adds to the output, 2 stores the gated product of two panels.

const ROWS_AT: u32 = 4u;

struct Params {
    zero: u32,
    // The columns of the input and, for kernels that quantize it, its norms; as in
    // `norm_quantize.wgsl`.
    n_cols: u32,
    first: u32,
    second: u32,
    eps: f32,
    norm_place: u32,
    // The first row of activations of each panel, in rows with all their parts.
    act_row: u32,
    second_act_row: u32,
    // Words per row of activations, four columns each.
    act_stride: u32,
    n_chunks: u32,
    // The first panel, and how many panels after it that of the linear layer of a gate is.
    first_panel: u32,
    second_panel: u32,
    // The number of weight rows, counted from the first panel.
    n_rows: u32,
    // The scale of the first weight row.
    scale_at: u32,
    out_stride: u32,
    out_offset: u32,
    factor: f32,
    place: u32,
}

// Returns the product of a weight row and a row of values: `sums` are those of its parts,
// without the offset of weights.
fn product(sums: array<i32, PARTS>, scale: f32, act_scale: f32) -> f32 {
    var parts = sums;
    let factor = divide(scale, act_scale);
    var value = f32(parts[PARTS - 1u]);
    for (var part = PARTS - 1u; part > 0u; part--) {
        value = rounded(f32(parts[part - 1u]) + divide(value, 254.0));
    }
    return rounded(value * factor);
}

fn gated(gate: f32, up: f32) -> f32 {
    if ACTIVATION == 0u {
        // Not 0·up, which is not 0 for an infinite value.
        if gate > 0.0 {
            return rounded(rounded(gate * gate) * up);
        }
        return 0.0;
    }
    var exponent_of = -gate;
    if ACTIVATION == 2u {
        let cube = rounded(rounded(0.044715 * gate) * rounded(gate * gate));
        exponent_of = -1.5957692 * rounded(cube + gate);
    }
    let sigmoid = rounded(1.0 + exponential(min(exponent_of, 88.0)));
    return rounded(divide(gate, sigmoid) * up);
}

// Does with the product of weight row `row` and token `token` what TAIL says; `other` is the
// product of the second panel.
fn put(row: u32, token: u32, value: f32, other: f32) {
    let at = token * params.out_stride + params.out_offset + row;
    var result = value;
    if TAIL == 0u {
        if params.factor != 1.0 {
            result = rounded(value * params.factor);
        }
    } else if TAIL == 1u {
        if params.factor != 1.0 {
            result = rounded(value * params.factor);
        }
        result = rounded(out[at] + result);
    } else {
        result = gated(value, other);
    }
    out[at] = result;
    if !is_square_finite(result) {
        report(params.place);
    }
}
