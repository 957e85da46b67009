//! Generates a continuation of a text: `cargo run --release --example generate -- MODEL TEXT`.

use bitnet_inference::{Checkpoint, Engine, GenerateOptions, PlanOptions, Tokenizer, generate};

#[expect(clippy::print_stdout, reason = "a program")]
fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut args = std::env::args().skip(1);
    let (model, text) = (args.next().zip(args.next())).ok_or("expected MODEL TEXT")?;
    let checkpoint = Checkpoint::open(model.as_ref())?;
    let tokenizer = Tokenizer::from_checkpoint(&checkpoint)?;
    let mut engine = Engine::load(&checkpoint, PlanOptions::default())?;
    let prompt = tokenizer.encode(&text)?;
    let options = GenerateOptions::new(&prompt, 64);
    let is_eog = |id| tokenizer.is_eog(id);
    let go_on = |_| std::ops::ControlFlow::Continue(());
    let story = generate(&mut engine, &options, is_eog, go_on)?;
    println!("{text}{}", tokenizer.decode(&story.ids, false));
    Ok(())
}
