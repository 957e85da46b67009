// Reports a value that is not finite. Places are numbered in the order of computation, so
// the smallest is the first; only a failure writes.
fn report(place: u32) {
    atomicMin(&first_bad, place);
}
