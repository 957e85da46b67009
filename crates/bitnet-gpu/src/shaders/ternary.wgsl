// Dot products of ternary weights and int8 activations.
//
// A chunk is 64 columns: a vec4<u32> of a weight row, sixteen words of activations.
// Bits 8b + 2s of word w hold column 16w + 4s + b as code 0, 1 or 2, the weight plus one, so
// that a word shifted right by 2s and masked is four codes, the operand of a packed dot
// product with word 4w + s of the activations:
//
//   bit    31 30 | 29 28 | 27 26 | 25 24 | 23 … 16 | 15 … 8 | 7 6 | 5 4 | 3 2 | 1 0
//   column   15      11       7       3     b = 2     b = 1   12    8     4     0
//
// The dot product of the weights is that of the codes minus the sum of the activations.

const CODES: vec4<u32> = vec4<u32>(0x03030303u);
const COLUMN_SHIFTS: vec4<u32> = vec4<u32>(0u, 2u, 4u, 6u);

fn codes(word: u32) -> vec4<u32> {
    return (vec4<u32>(word) >> COLUMN_SHIFTS) & CODES;
}

fn dot16(w: vec4<u32>, a: vec4<u32>) -> i32 {
    return dot4I8Packed(w.x, a.x) + dot4I8Packed(w.y, a.y) + dot4I8Packed(w.z, a.z)
        + dot4I8Packed(w.w, a.w);
}
