// Reads a buffer, to measure how fast the device reads.
//
// Grid: any number of workgroups, which share the vectors.

struct Params {
    n_vectors: u32,
    n_groups: u32,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> data: array<vec4<u32>>;
@group(0) @binding(2) var<storage, read_write> sums: array<u32>;

@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) t: u32) {
    var sum = vec4<u32>(0u);
    for (var i = group.x * 256u + t; i < params.n_vectors; i += params.n_groups * 256u) {
        sum ^= data[i];
    }
    // Never true, which the compiler does not know: the reads are not optimized away.
    if (sum.x ^ sum.y ^ sum.z ^ sum.w) == 0x9e3779b9u {
        sums[0] = sum.x;
    }
}
