//! The same model on a GPU: agreement with the reference, and the promises within a device.
//!
//! These tests run on the first Vulkan adapter, also on one that is a program on the CPU.
//! Without one they say SKIPPED; with `BITNET_GPU_TESTS=required` they fail.

use std::ops::ControlFlow;
use std::sync::Arc;

use bitnet_core::{ComputeContext, HybridMemoryPool, Isa, KvPage, ThreadPool};
use bitnet_inference::{
    Checkpoint, Device, DeviceKind, Engine, GenerateOptions, HeadPrecision, Input, LoadTarget,
    Logits, Model, Packing, PageStore, Plan, PlanError, PlanOptions, SamplerOptions, Tokenizer,
    generate, perplexity,
};

use super::common::{engine, load, models};
use super::{check_greedy, check_logits, reference};

/// Returns the device of the tests.
#[expect(clippy::print_stderr, reason = "a test that is skipped says so")]
fn device(test: &str) -> Option<Device> {
    match Device::open(DeviceKind::Vulkan, None) {
        Ok(device) => Some(device),
        Err(error) => {
            let is_required = std::env::var_os("BITNET_GPU_TESTS").is_some_and(|v| v == "required");
            assert!(!is_required, "{error}");
            eprintln!("SKIPPED: {test}: {error}");
            None
        }
    }
}

fn load_on(device: &Device, checkpoint: &Checkpoint, context_len: usize) -> Arc<Model> {
    let (pool, mut threads) = (HybridMemoryPool::new(), ThreadPool::new(2));
    let ctx = &mut ComputeContext::new(Isa::best(), &mut threads);
    let packing = Packing::from(HeadPrecision::Int8);
    let target = LoadTarget {
        device,
        context_len,
        cache: None,
    };
    let model = Model::load_on(target, checkpoint, &pool, ctx, packing, |_, _| ());
    Arc::new(model.unwrap())
}

fn tiny() -> Checkpoint {
    Checkpoint::open(&models("storyteller-tiny")).unwrap()
}

fn on(device: &Device) -> PlanOptions {
    PlanOptions {
        device: device.kind(),
        n_threads: Some(2),
        ..PlanOptions::default()
    }
}

fn tokens(seed: usize, n: usize) -> Vec<u32> {
    (0..n)
        .map(|i| ((i * 131 + seed * 977) % 2000) as u32)
        .collect()
}

/// Computes tokens of one sequence in cuts, and returns the bits of the logits of the last.
fn bits(engine: &mut Engine, sequence: usize, cuts: &[&[u32]]) -> Vec<u32> {
    let mut bits = Vec::new();
    for (i, tokens) in cuts.iter().enumerate() {
        let logits = if i + 1 == cuts.len() {
            Logits::Last
        } else {
            Logits::None
        };
        let input = Input {
            sequence,
            tokens,
            logits,
        };
        let on_logits = |_, _, logits: &[f32]| bits.extend(logits.iter().map(|x| x.to_bits()));
        engine.forward(&[input], on_logits).unwrap();
    }
    bits
}

#[test]
fn a_gpu_agrees_with_the_reference() {
    let Some(device) = device("a_gpu_agrees_with_the_reference") else {
        return;
    };
    let built_in = Checkpoint::open(&models("storyteller/storyteller.gguf")).unwrap();
    for (name, checkpoint) in [("storyteller", built_in), ("storyteller-tiny", tiny())] {
        let model = load_on(&device, &checkpoint, 1024);
        let mut on_gpu = engine(&model, on(&device));
        for prompt in &reference(name).prompts {
            check_logits(&mut on_gpu, prompt);
            check_greedy(&mut on_gpu, prompt);
        }
    }
}

#[test]
fn the_likelihood_of_a_text_on_a_gpu_is_that_on_the_cpu() {
    let Some(device) = device("the_likelihood_of_a_text_on_a_gpu_is_that_on_the_cpu") else {
        return;
    };
    let checkpoint = tiny();
    let tokenizer = Tokenizer::from_checkpoint(&checkpoint).unwrap();
    let text = std::fs::read_to_string(models("storyteller/heldout.txt")).unwrap();
    let tokens = tokenizer.encode_without_bos(&text).unwrap();
    let reference = reference("storyteller-tiny");
    let nll = |engine: &mut Engine| {
        let (tokens, bos) = (&tokens[..1024], tokenizer.bos().unwrap());
        let go_on = |_: &_| ControlFlow::Continue(());
        let result = perplexity(engine, tokens, reference.window, bos, go_on).unwrap();
        assert_eq!(result.tokens, 1024);
        result.nll_sum
    };
    let on_gpu = nll(&mut engine(
        &load_on(&device, &checkpoint, 1024),
        on(&device),
    ));
    let model = load(&checkpoint, Isa::best(), HeadPrecision::Int8);
    let on_cpu = nll(&mut engine(&model, PlanOptions::default()));
    let difference = on_gpu / on_cpu - 1.0;
    assert!(
        difference.abs() < 0.0005,
        "on the GPU {on_gpu}, on the CPU {on_cpu}"
    );
}

#[test]
fn neighbours_cuts_and_shared_prefixes_do_not_matter_on_a_gpu() {
    let Some(device) = device("neighbours_cuts_and_shared_prefixes_do_not_matter_on_a_gpu") else {
        return;
    };
    let model = load_on(&device, &tiny(), 600);
    let options = PlanOptions {
        n_sequences: Some(8),
        context_len: Some(600),
        ..on(&device)
    };
    let mut engine = engine(&model, options);
    let (prompt, others) = (tokens(1, 300), tokens(2, 90));
    let expected = bits(&mut engine, 0, &[&prompt]);
    assert_eq!(expected.len(), model.config().vocab_size);

    // In cuts, the last of them single tokens as in decoding.
    engine.truncate(0, 0);
    let cuts = [
        &prompt[..7],
        &prompt[7..130],
        &prompt[130..298],
        &prompt[298..299],
        &prompt[299..],
    ];
    assert_eq!(bits(&mut engine, 0, &cuts), expected);

    // Among others, in one pass and token by token.
    engine.truncate(0, 299);
    for sequence in 1..8 {
        engine.truncate(sequence, 0);
    }
    let inputs: Vec<_> = (0..8)
        .map(|sequence| Input {
            sequence,
            tokens: if sequence == 0 {
                &prompt[299..]
            } else {
                &others[..sequence * 11]
            },
            logits: if sequence == 0 {
                Logits::Last
            } else {
                Logits::Top(3)
            },
        })
        .collect();
    let mut found = Vec::new();
    let computed = engine.forward(&inputs, |input, _, logits| {
        if input == 0 {
            found.extend(logits.iter().map(|x| x.to_bits()));
        }
    });
    computed.unwrap();
    assert_eq!(found, expected);

    // A sequence that shares a prefix gets its own copy of the page that it writes to.
    for sequence in 1..8 {
        engine.finish(sequence);
    }
    let forked = engine.fork(0, 600).unwrap();
    let pages = engine.kv_usage().pages;
    bits(&mut engine, forked, &[&others]);
    assert!(engine.kv_usage().pages > pages);
    engine.truncate(0, 299);
    assert_eq!(bits(&mut engine, 0, &[&prompt[299..]]), expected);
    let handle = engine.start(&prompt, 400).unwrap();
    assert_eq!(handle.n_reused, 299);
    let rest = &prompt[handle.n_reused..];
    assert_eq!(bits(&mut engine, handle.sequence, &[rest]), expected);
}

#[test]
fn the_largest_logits_on_a_gpu_are_those_of_all() {
    let Some(device) = device("the_largest_logits_on_a_gpu_are_those_of_all") else {
        return;
    };
    let model = load_on(&device, &tiny(), 100);
    let mut engine = engine(&model, on(&device));
    let prompt = tokens(3, 40);
    let mut compute = |wanted| {
        engine.truncate(0, 0);
        let input = Input {
            sequence: 0,
            tokens: &prompt,
            logits: wanted,
        };
        let mut found = Vec::new();
        let computed = engine.forward(&[input], |_, _, logits| found.extend_from_slice(logits));
        computed.unwrap();
        found
    };
    let all = compute(Logits::Last);
    let mut ids: Vec<usize> = (0..all.len()).collect();
    ids.sort_by(|&a, &b| all[b].total_cmp(&all[a]).then(a.cmp(&b)));
    for k in [1, 40, all.len()] {
        let top = compute(Logits::Top(k));
        for (rank, &id) in ids.iter().enumerate() {
            let expected = if rank < k { all[id] } else { f32::NEG_INFINITY };
            assert_eq!(
                top[id].to_bits(),
                expected.to_bits(),
                "{k}: {id} of rank {rank}"
            );
        }
    }
}

#[test]
fn drafts_and_seeds_change_no_text_on_a_gpu() {
    let Some(device) = device("drafts_and_seeds_change_no_text_on_a_gpu") else {
        return;
    };
    let model = load_on(&device, &tiny(), 256);
    let random = SamplerOptions {
        temperature: 0.7,
        top_k: 20,
        seed: 5,
        ..SamplerOptions::GREEDY
    };
    // What repeats is drafted.
    let prompt = tokens(12, 7).repeat(3);
    for sampling in [SamplerOptions::GREEDY, random] {
        let [plain, drafted] = [false, true].map(|speculate| {
            let options = GenerateOptions {
                prompt: &prompt,
                max_tokens: 40,
                sampling,
                logit_bias: &[],
                reuse: 0,
                speculate,
            };
            let go_on = |_| ControlFlow::Continue(());
            let mut engine = engine(&model, on(&device));
            generate(&mut engine, &options, |_| false, go_on).unwrap()
        });
        assert_eq!(plain.ids, drafted.ids, "{sampling:?}");
        assert_eq!((plain.ids.len(), plain.drafted), (40, 0));
    }
}

#[test]
fn saved_pages_of_a_gpu_are_read_again_by_it_alone() {
    let Some(device) = device("saved_pages_of_a_gpu_are_read_again_by_it_alone") else {
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let checkpoint = tiny();
    let model = load_on(&device, &checkpoint, 600);
    let options = PlanOptions {
        n_sequences: Some(2),
        context_len: Some(600),
        ..on(&device)
    };
    let prompt = tokens(4, 3 * KvPage::POSITIONS + 5);
    let mut first = engine(&model, options);
    let expected = bits(&mut first, 0, &[&prompt]);
    let mut store = PageStore::open(folder.path(), 1 << 30, "tiny", &first).unwrap();
    while store.save_one(&mut first, &[0]).unwrap() {}

    let mut second = engine(&model, options);
    let mut store = PageStore::open(folder.path(), 1 << 30, "tiny", &second).unwrap();
    let restored = store.restore(&mut second, &prompt).unwrap().unwrap();
    assert_eq!(restored.n_pages, 3);
    let rest = &prompt[3 * KvPage::POSITIONS..];
    assert_eq!(bits(&mut second, restored.sequence, &[rest]), expected);
    assert!(store.take_notes().is_empty());

    let model = load(&checkpoint, Isa::best(), HeadPrecision::Int8);
    let cpu = PlanOptions {
        device: DeviceKind::Cpu,
        ..options
    };
    let mut on_cpu = engine(&model, cpu);
    let mut store = PageStore::open(folder.path(), 1 << 30, "tiny", &on_cpu).unwrap();
    assert_eq!(store.restore(&mut on_cpu, &prompt).unwrap(), None);
}

#[test]
fn a_model_too_large_for_a_gpus_limit_is_refused_with_the_numbers() {
    let Some(device) = device("a_model_too_large_for_a_gpus_limit_is_refused_with_the_numbers")
    else {
        return;
    };
    let checkpoint = tiny();
    let head = HeadPrecision::Int8;
    let plan = Plan::new(checkpoint.config(), on(&device)).unwrap();
    let estimate = plan.memory_estimate(&checkpoint, head);
    let fits = Plan::within(estimate.total(), &checkpoint, head, on(&device)).unwrap();
    assert_eq!(fits.kv_bytes, estimate.kv);
    let refused = Plan::within(estimate.total() - 1, &checkpoint, head, on(&device));
    let Err(PlanError::MemoryLimit(error)) = refused else {
        panic!("{refused:?}");
    };
    assert_eq!(error.estimate, estimate);
    assert!(
        error
            .fits
            .iter()
            .all(|fit| fit.context_len < plan.context_len)
    );

    // The estimate is what the device counts.
    let model = load_on(&device, &checkpoint, plan.context_len);
    let _engine = Engine::new(Arc::clone(&model), plan).unwrap();
    let usage = model.pool().usage();
    let counted = usage.of(bitnet_core::memory::Category::Device).current;
    assert_eq!(counted, estimate.total());
}

#[test]
fn a_plan_is_for_the_device_of_the_model() {
    let Some(device) = device("a_plan_is_for_the_device_of_the_model") else {
        return;
    };
    let model = load_on(&device, &tiny(), 100);
    let cpu = Plan::new(model.config(), PlanOptions::default()).unwrap();
    let refused = Engine::new(model, cpu).unwrap_err();
    assert_eq!(
        refused.to_string(),
        "the plan is for device cpu, but the model is on device vulkan"
    );
}
