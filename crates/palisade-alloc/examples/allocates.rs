//! Allocates as often as it is told, 100 bytes each time, and says nothing.

#[global_allocator]
static ALLOCATOR: palisade_alloc::Counting = palisade_alloc::Counting;

fn main() {
    let times = std::env::args().nth(1).and_then(|word| word.parse().ok());
    for _ in 0..times.unwrap_or(0) {
        std::hint::black_box(vec![1_u8; 100]);
    }
}
