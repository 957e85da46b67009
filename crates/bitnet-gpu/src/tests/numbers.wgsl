// Applies the shared arithmetic to pairs of numbers.

struct Params {
    zero: u32,
    n: u32,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> pairs: array<vec2<f32>>;
@group(0) @binding(2) var<storage, read_write> results: array<array<f32, 5>>;

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3<u32>) {
    if id.x < params.n {
        let x = pairs[id.x].x;
        let y = pairs[id.x].y;
        results[id.x] = array<f32, 5>(
            divide(x, y),
            square_root(y),
            exponential(-y),
            rounded(x * y) + x,
            fused(x, y, pairs[(id.x + 1u) % params.n].x),
        );
    }
}
