// The sums of sixteen weight rows over a workgroup.

const SUMS: u32 = TOKENS * PARTS * PANELS;

// [sum][thread]
var<workgroup> partial: array<i32, 256 * SUMS>;

// Returns the sum of 256 threads' partial sums of a weight row.
fn sum_of(index: u32, row: u32) -> i32 {
    var sum = 0;
    for (var slice = 0u; slice < 16u; slice++) {
        sum += partial[index * 256u + slice * 16u + row];
    }
    return sum;
}
