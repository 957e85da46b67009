//! Exactness: the same model and tokens give bit-identical logits with every instruction
//! set, any number of threads, any split of a prompt, and any batch.

mod common;

use std::fmt::Write;
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::sync::Arc;

use bitnet_core::{Isa, KvPrecision, TernaryLayout};
use bitnet_inference::{
    Checkpoint, Engine, GenerateOptions, HeadPrecision, Input, Logits, Model, Packing, Plan,
    PlanError, PlanOptions, SamplerOptions, SequenceError, WeightCache, WeightCacheLimits,
    generate,
};
use common::{engine, load, load_with, models};

/// Precision of the output matrix and of the KV cache.
type Precision = (HeadPrecision, KvPrecision);

/// Every precision of the head and of the KV cache at least once.
const PRECISIONS: [Precision; 3] = [
    (HeadPrecision::Exact, KvPrecision::F32),
    (HeadPrecision::Int8, KvPrecision::F16),
    (HeadPrecision::Exact, KvPrecision::Int8),
];

fn tiny(isa: Isa, head: HeadPrecision) -> Arc<Model> {
    let checkpoint = Checkpoint::open(&models("storyteller-tiny")).unwrap();
    load(&checkpoint, isa, head)
}

/// A text of `n` tokens.
fn tokens(n: usize, seed: u32) -> Vec<u32> {
    (0..n as u32)
        .map(|i| (i.wrapping_mul(2_654_435_761) ^ seed.wrapping_mul(40_503)) >> 8 & 0x1fff)
        .map(|id| id.min(8175))
        .collect()
}

fn options(
    isa: Isa,
    n_threads: usize,
    n_sequences: usize,
    (_, kv_precision): Precision,
) -> PlanOptions {
    PlanOptions {
        isa: Some(isa),
        n_threads: Some(n_threads),
        n_sequences: Some(n_sequences),
        kv_precision,
        ..PlanOptions::default()
    }
}

/// Continues a sequence and returns the bits of all logits.
fn all_logits(engine: &mut Engine, sequence: usize, tokens: &[u32]) -> Vec<u32> {
    let mut bits = Vec::new();
    let input = Input {
        sequence,
        tokens,
        logits: Logits::All,
    };
    engine
        .forward(&[input], |_, _, logits| {
            bits.extend(logits.iter().map(|logit| logit.to_bits()));
        })
        .unwrap();
    bits
}

/// The reference: one thread, scalar kernel.
fn expected(precision: Precision, tokens: &[u32]) -> Vec<u32> {
    let model = tiny(Isa::Scalar, precision.0);
    all_logits(
        &mut engine(&model, options(Isa::Scalar, 1, 1, precision)),
        0,
        tokens,
    )
}

#[test]
fn kernels_and_threads_do_not_matter() {
    let tokens = tokens(70, 1);
    for precision in PRECISIONS {
        let expected = expected(precision, &tokens);
        for isa in Isa::available() {
            let model = tiny(isa, precision.0);
            for n_threads in [1, 2, 3, 8] {
                let mut engine = engine(&model, options(isa, n_threads, 1, precision));
                let found = all_logits(&mut engine, 0, &tokens);
                assert!(
                    found == expected,
                    "{isa}, {n_threads} threads, {precision:?}"
                );
            }
        }
    }
}

#[test]
fn how_weights_are_packed_and_where_threads_run_do_not_matter() {
    let tokens = tokens(40, 3);
    let precision = (HeadPrecision::Int8, KvPrecision::F16);
    let expected = expected(precision, &tokens);
    let checkpoint = Checkpoint::open(&models("storyteller-tiny")).unwrap();
    for isa in Isa::available() {
        for layout in [TernaryLayout::TwoBits, TernaryLayout::Base3] {
            let packing = Packing {
                layout: Some(layout),
                ..precision.0.into()
            };
            let model = load(&checkpoint, isa, packing);
            assert_eq!(model.layout(), layout);
            let options = options(isa, 2, 1, precision);
            let mut free = engine(&model, options);
            assert!(
                all_logits(&mut free, 0, &tokens) == expected,
                "{isa}, {layout}"
            );
            let plan = Plan::new(
                model.config(),
                PlanOptions {
                    pinned: true,
                    ..options
                },
            )
            .unwrap();
            match Engine::new(Arc::clone(&model), plan) {
                Ok(mut pinned) => assert!(all_logits(&mut pinned, 0, &tokens) == expected),
                // A single processor, or a platform without thread pinning.
                Err(error) => assert!(matches!(error, PlanError::Pin(_)), "{error}"),
            }
        }
    }
}

/// Engines that skip what is multiplied by zero, compared with one that reads all.
#[test]
fn weights_that_are_skipped_do_not_matter() {
    let texts = [tokens(40, 1), tokens(9, 4)];
    let checkpoint = Checkpoint::open(&models("storyteller-tiny")).unwrap();
    let precision = (HeadPrecision::Int8, KvPrecision::F16);
    let run = |isa, packing, n_threads| {
        let model = load(&checkpoint, isa, packing);
        let mut engine = engine(&model, options(isa, n_threads, 2, precision));
        let mut bits = Vec::new();
        for cut in [1, 3, 17, 40] {
            engine.truncate(0, 0);
            for part in texts[0].chunks(cut) {
                bits.push(all_logits(&mut engine, 0, part));
            }
        }
        // A batch of two sequences.
        (0..2).for_each(|sequence| engine.truncate(sequence, 0));
        let inputs = [0, 1].map(|sequence| Input {
            sequence,
            tokens: &texts[sequence],
            logits: Logits::All,
        });
        let mut batch = Vec::new();
        let forwarded = engine.forward(&inputs, |_, _, logits| {
            batch.extend(logits.iter().map(|logit| logit.to_bits()));
        });
        forwarded.unwrap();
        bits.push(batch);
        let skipped = engine.skipped();
        let layers = engine.skipped_by_layer();
        let rows = layers.iter().map(|layer| layer.rows.skipped);
        assert_eq!(rows.sum::<usize>(), skipped.rows.skipped);
        assert!(layers.iter().all(|layer| layer.passes == skipped.passes));
        (bits, skipped)
    };
    let read_all = Packing {
        read_all: true,
        ..precision.0.into()
    };
    let (expected, none) = run(Isa::best(), read_all, 1);
    assert_eq!(none.rows.fraction(), None);
    assert_eq!((none.bytes, none.macs), (0, 0));
    for isa in Isa::available() {
        for layout in [TernaryLayout::TwoBits, TernaryLayout::Base3] {
            for n_threads in [1, 3] {
                let packing = Packing {
                    layout: Some(layout),
                    ..precision.0.into()
                };
                let (bits, skipped) = run(isa, packing, n_threads);
                assert!(bits == expected, "{isa}, {layout}, {n_threads} threads");
                if isa.has_sparse() {
                    assert!(skipped.rows.fraction() > Some(0.2), "{skipped:?}");
                    assert!(skipped.columns.fraction() > Some(0.5), "{skipped:?}");
                    assert!(skipped.bytes > 0 && skipped.macs > 0);
                } else {
                    assert_eq!(skipped.rows.total, 0);
                }
            }
        }
    }
}

/// Every way in which the repository's models store weights, mapped from a cache.
#[test]
fn whether_packed_weights_are_mapped_does_not_matter() {
    let folder = tempfile::tempdir().unwrap();
    let limits = WeightCacheLimits {
        max_bytes: 1 << 30,
        min_model_bytes: 0,
    };
    let cache = WeightCache::open(folder.path(), limits).unwrap();
    let data = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data"));
    let families = data.join("families").read_dir().unwrap();
    let mut paths: Vec<_> = families.map(|entry| entry.unwrap().path()).collect();
    paths.retain(|path| path.extension().is_none_or(|end| end == "gguf"));
    paths.push(data.join("tiny-bitnet-i2_s.gguf"));
    paths.push(models("storyteller/storyteller.gguf"));
    paths.push(models("storyteller-tiny"));
    let mut n_mapped = 0;
    for path in paths {
        let checkpoint = Checkpoint::open(&path).unwrap();
        let n_tokens = if checkpoint.config().vocab_size > 8000 {
            8
        } else {
            20
        };
        let vocab_size = checkpoint.config().vocab_size as u32;
        let text: Vec<_> = tokens(n_tokens, 5)
            .iter()
            .map(|id| id % vocab_size)
            .collect();
        for (precision, isa, n_threads) in [
            (PRECISIONS[0], Isa::Scalar, 1),
            (PRECISIONS[1], Isa::best(), 3),
            ((HeadPrecision::ExactTopK, KvPrecision::F16), Isa::best(), 2),
        ] {
            let bits = |model: &Arc<Model>| {
                let mut engine = engine(model, options(isa, n_threads, 1, precision));
                let mut bits = all_logits(&mut engine, 0, &text[..3]);
                bits.extend(all_logits(&mut engine, 0, &text[3..]));
                bits
            };
            let load_cached = || load_with(Some(&cache), &checkpoint, isa, precision.0);
            for entry in cache.entries().unwrap() {
                cache.remove(&entry).unwrap();
            }
            let packed = load_cached();
            assert!(!packed.is_from_cache(), "{}", path.display());
            packed
                .save_packed(&cache, |_, _| ControlFlow::Continue(()))
                .unwrap();
            let mapped = load_cached();
            n_mapped += usize::from(mapped.is_from_cache());
            assert_eq!(mapped.notes(), packed.notes());
            assert_eq!(mapped.n_bytes(), packed.n_bytes());
            assert_eq!(mapped.bytes_per_token(), packed.bytes_per_token());
            assert_eq!(mapped.layout(), packed.layout());
            assert!(bits(&mapped) == bits(&packed), "{}, {isa}", path.display());
        }
    }
    assert!(n_mapped > 30, "{n_mapped} models were mapped");
}

#[test]
fn cutting_a_prompt_does_not_matter() {
    // More than one pass for any split.
    let tokens = tokens(300, 2);
    for precision in PRECISIONS {
        let model = tiny(Isa::best(), precision.0);
        let mut engine = engine(&model, options(Isa::best(), 2, 1, precision));
        assert!(engine.plan().batch_tokens < tokens.len());
        let expected = all_logits(&mut engine, 0, &tokens);
        for cut in [1, 2, 7, 16, 33, 255] {
            engine.truncate(0, 0);
            let mut found = Vec::new();
            for part in tokens.chunks(cut) {
                found.extend(all_logits(&mut engine, 0, part));
            }
            assert!(found == expected, "parts of {cut} tokens, {precision:?}");
        }
        // A kept prefix with a different suffix.
        engine.truncate(0, 123);
        let again = all_logits(&mut engine, 0, &tokens[123..]);
        assert!(again == expected[expected.len() - again.len()..]);
    }
}

#[test]
fn neighbours_in_a_batch_do_not_matter() {
    let texts = [tokens(40, 3), tokens(9, 4), tokens(65, 5), tokens(1, 6)];
    for precision in PRECISIONS {
        let model = tiny(Isa::best(), precision.0);
        let alone: Vec<_> = texts.iter().map(|text| expected(precision, text)).collect();
        let mut engine = engine(&model, options(Isa::best(), 2, texts.len(), precision));

        // All of them in one pass.
        let inputs: Vec<_> = (0..)
            .zip(&texts)
            .map(|(sequence, tokens)| Input {
                sequence,
                tokens,
                logits: Logits::All,
            })
            .collect();
        let mut found = vec![Vec::new(); texts.len()];
        engine
            .forward(&inputs, |input, _, logits| {
                found[input].extend(logits.iter().map(|logit| logit.to_bits()));
            })
            .unwrap();
        assert!(found == alone, "one pass, {precision:?}");

        // In a batch, one token of each at a time.
        (0..texts.len()).for_each(|sequence| engine.truncate(sequence, 0));
        let mut found = vec![Vec::new(); texts.len()];
        for i in 0..texts.iter().map(Vec::len).max().unwrap() {
            let inputs: Vec<_> = (0..)
                .zip(&texts)
                .filter_map(|(sequence, tokens)| {
                    Some(Input {
                        sequence,
                        tokens: tokens.get(i..=i)?,
                        logits: Logits::Last,
                    })
                })
                .collect();
            engine
                .forward(&inputs, |input, _, logits| {
                    let bits = logits.iter().map(|logit| logit.to_bits());
                    found[inputs[input].sequence].extend(bits);
                })
                .unwrap();
        }
        assert!(found == alone, "a token at a time, {precision:?}");
    }
}

#[test]
fn shared_prefixes_do_not_matter() {
    // They end within a page, so that pages are copied, too.
    let (prefix, ends) = (
        tokens(200, 9),
        [tokens(90, 10), tokens(3, 11), tokens(60, 12)],
    );
    let text = |parts: &[&[u32]]| parts.concat();
    for precision in PRECISIONS {
        let model = tiny(Isa::best(), precision.0);
        let mut alone = engine(&model, options(Isa::best(), 2, 1, precision));
        let mut expected = |tokens: &[u32], from: usize| {
            alone.truncate(0, 0);
            let bits = all_logits(&mut alone, 0, tokens);
            bits[bits.len() / tokens.len() * from..].to_vec()
        };
        let mut engine = engine(&model, options(Isa::best(), 2, 4, precision));
        let [a, b, c] = &ends;

        let first = engine.start(&text(&[&prefix, a]), 400).unwrap();
        assert_eq!(first.n_reused, 0);
        let first = first.sequence;
        let found = all_logits(&mut engine, first, &text(&[&prefix, a]));
        assert!(found == expected(&text(&[&prefix, a]), 0), "{precision:?}");

        // A prompt with a prefix in another sequence.
        let reused = engine.start(&text(&[&prefix, b]), 400).unwrap();
        assert_eq!(reused.n_reused, prefix.len());
        let reused = reused.sequence;
        let found = all_logits(&mut engine, reused, b);
        let whole = expected(&text(&[&prefix, b]), prefix.len());
        assert!(found == whole, "reused, {precision:?}");

        // A prompt that is completely in another sequence.
        let same = engine.start(&text(&[&prefix, a]), 400).unwrap();
        assert_eq!(same.n_reused, prefix.len() + a.len() - 1);
        let same = same.sequence;
        let found = all_logits(&mut engine, same, &a[a.len() - 1..]);
        let whole = expected(&text(&[&prefix, a]), prefix.len() + a.len() - 1);
        assert!(found == whole, "all reused, {precision:?}");

        // Both sides of a fork continue differently in one pass.
        let fork = engine.fork(first, 400).unwrap();
        let mut found = [Vec::new(), Vec::new()];
        let input = |sequence, tokens| Input {
            sequence,
            tokens,
            logits: Logits::All,
        };
        let inputs = [input(first, &c[..]), input(fork, &b[..])];
        engine
            .forward(&inputs, |input, _, logits| {
                found[input].extend(logits.iter().map(|logit| logit.to_bits()));
            })
            .unwrap();
        let from = prefix.len() + a.len();
        assert!(
            found[0] == expected(&text(&[&prefix, a, c]), from),
            "{precision:?}"
        );
        assert!(
            found[1] == expected(&text(&[&prefix, a, b]), from),
            "{precision:?}"
        );

        // Finishing or truncating a sequence does not affect those that share its pages.
        engine.finish(first);
        engine.truncate(same, 150);
        let found = all_logits(&mut engine, same, c);
        let whole = expected(&text(&[&prefix[..150], c]), 150);
        assert!(found == whole, "forgotten, {precision:?}");
        let found = all_logits(&mut engine, fork, c);
        let whole = expected(&text(&[&prefix, a, b, c]), from + b.len());
        assert!(found == whole, "fork, {precision:?}");
        let found = all_logits(&mut engine, reused, c);
        let whole = expected(&text(&[&prefix, b, c]), prefix.len() + b.len());
        assert!(found == whole, "reused, {precision:?}");

        for sequence in [reused, same, fork] {
            engine.finish(sequence);
        }
        assert_eq!(engine.kv_usage().pages, 0);
    }
}

#[test]
fn a_sequence_that_does_not_fit_disturbs_none_that_runs() {
    let precision = (HeadPrecision::Int8, KvPrecision::F16);
    let model = tiny(Isa::best(), precision.0);
    let options = PlanOptions {
        kv_pages: Some(2),
        ..options(Isa::best(), 2, 3, precision)
    };
    let text = tokens(200, 13);
    let expected = expected(precision, &text);
    let mut engine = engine(&model, options);
    let running = engine.start(&text, 200).unwrap().sequence;
    let mut found = all_logits(&mut engine, running, &text[..100]);
    let refused = engine.start(&tokens(10, 14), 10).unwrap_err();
    let expected_error = SequenceError::PagesExhausted {
        needed: 1,
        free: 0,
        max_pages: 2,
    };
    assert_eq!(refused, expected_error);
    let uninvited = [Input {
        sequence: 2,
        tokens: &text[..1],
        logits: Logits::All,
    }];
    let refused = engine.forward(&uninvited, |_, _, _| unreachable!());
    assert_eq!(refused.unwrap_err(), expected_error.into());
    found.extend(all_logits(&mut engine, running, &text[100..]));
    assert!(found == expected);
    engine.finish(running);
    engine.start(&tokens(10, 14), 10).unwrap();
}

#[test]
fn a_seed_gives_the_same_text_with_every_kernel_and_any_number_of_threads() {
    let prompt = tokens(12, 7);
    let precision = (HeadPrecision::Int8, KvPrecision::F16);
    let story = |isa, n_threads| {
        let model = tiny(isa, precision.0);
        let mut engine = engine(&model, options(isa, n_threads, 1, precision));
        let options = GenerateOptions {
            prompt: &prompt,
            max_tokens: 40,
            sampling: SamplerOptions {
                temperature: 1.2,
                top_p: 0.9,
                min_p: 0.01,
                repeat_penalty: 1.1,
                seed: 11,
                ..SamplerOptions::GREEDY
            },
            logit_bias: &[],
            reuse: 0,
            speculate: false,
        };
        let go_on = |_| std::ops::ControlFlow::Continue(());
        generate(&mut engine, &options, |_| false, go_on)
            .unwrap()
            .ids
    };
    let expected = story(Isa::Scalar, 1);
    for isa in Isa::available() {
        for n_threads in [1, 3] {
            assert_eq!(story(isa, n_threads), expected, "{isa}, {n_threads}");
        }
    }
}

#[test]
fn drafts_change_no_text() {
    // What repeats is drafted.
    let prompt = tokens(12, 7).repeat(3);
    let random = SamplerOptions {
        temperature: 0.6,
        top_k: 20,
        seed: 5,
        ..SamplerOptions::GREEDY
    };
    let penalized = SamplerOptions {
        presence_penalty: 0.4,
        repeat_penalty: 1.05,
        ..random
    };
    let write = |engine: &mut Engine, sampling, speculate| {
        let options = GenerateOptions {
            prompt: &prompt,
            max_tokens: 60,
            sampling,
            logit_bias: &[],
            reuse: 0,
            speculate,
        };
        let go_on = |_| std::ops::ControlFlow::Continue(());
        generate(engine, &options, |_| false, go_on).unwrap()
    };
    let mut accepted = 0;
    let samplings = [random, SamplerOptions::GREEDY, penalized];
    for (precision, sampling) in PRECISIONS.into_iter().zip(samplings) {
        let model = tiny(Isa::Scalar, precision.0);
        let mut one = engine(&model, options(Isa::Scalar, 1, 1, precision));
        let expected = write(&mut one, sampling, false);
        assert_eq!(expected.drafted, 0);
        for isa in Isa::available() {
            let model = tiny(isa, precision.0);
            for n_threads in [1, 3] {
                let mut engine = engine(&model, options(isa, n_threads, 4, precision));
                let drafted = write(&mut engine, sampling, true);
                assert_eq!(drafted.ids, expected.ids, "{isa}, {sampling:?}");
                accepted += drafted.accepted;
            }
        }
    }
    // How many are drafted depends on what drafts cost, which is measured.
    assert!(accepted > 0, "no draft was accepted");
}

#[test]
fn a_screened_head_gives_the_same_logits_and_text() {
    let prompt = tokens(30, 8);
    let isa = Isa::best();
    let checkpoint = Checkpoint::open(&models("storyteller/storyteller.gguf")).unwrap();
    let mut engines = [HeadPrecision::Exact, HeadPrecision::ExactTopK].map(|head| {
        let options = options(isa, 2, 1, (head, KvPrecision::F16));
        engine(&load(&checkpoint, isa, head), options)
    });

    for k in [1, 40, 8192] {
        let [exact, screened] = engines.each_mut().map(|engine| {
            engine.truncate(0, 0);
            let mut last = Vec::new();
            let input = Input {
                sequence: 0,
                tokens: &prompt,
                logits: Logits::Top(k),
            };
            engine
                .forward(&[input], |_, _, logits| last.extend_from_slice(logits))
                .unwrap();
            last
        });
        let mut sorted = exact.clone();
        sorted.sort_by(|a, b| b.total_cmp(a));
        let mut n_computed = 0;
        for (screened, exact) in screened.iter().zip(&exact) {
            n_computed += usize::from(*screened > f32::NEG_INFINITY);
            if *exact >= sorted[k - 1] || *screened > f32::NEG_INFINITY {
                assert_eq!(screened.to_bits(), exact.to_bits());
            }
        }
        assert!(n_computed >= k && (n_computed < 4096) == (k < 8192));
    }

    let random = SamplerOptions {
        temperature: 1.0,
        top_k: 40,
        seed: 5,
        ..SamplerOptions::GREEDY
    };
    for sampling in [
        SamplerOptions::GREEDY,
        random,
        SamplerOptions { top_k: 0, ..random },
        SamplerOptions {
            repeat_penalty: 1.3,
            ..random
        },
        SamplerOptions {
            repeat_penalty: 0.9,
            top_p: 0.9,
            ..random
        },
        SamplerOptions {
            presence_penalty: 1.5,
            frequency_penalty: 0.5,
            ..random
        },
        SamplerOptions {
            presence_penalty: 2.0,
            penalty_window: 3,
            ..SamplerOptions::GREEDY
        },
        SamplerOptions {
            frequency_penalty: -1.0,
            ..random
        },
        SamplerOptions {
            repeat_penalty: 1.3,
            penalty_window: usize::MAX,
            ..random
        },
    ] {
        let [exact, screened] = engines.each_mut().map(|engine| {
            let options = GenerateOptions {
                prompt: &prompt,
                max_tokens: 60,
                sampling,
                logit_bias: &[],
                reuse: 0,
                speculate: false,
            };
            let go_on = |_| std::ops::ControlFlow::Continue(());
            generate(engine, &options, |_| false, go_on).unwrap().ids
        });
        assert_eq!(screened, exact, "{sampling:?}");
    }
}

/// Recorded results of this engine, valid on every machine. They change only on purpose.
#[test]
fn logits_are_those_of_the_golden_record() {
    let checkpoint = Checkpoint::open(&models("storyteller/storyteller.gguf")).unwrap();
    let prompt = [8176, 46, 1277, 597, 258, 587, 469, 310, 258];
    let mut record = String::new();
    for precision in PRECISIONS {
        let (head, kv_precision) = precision;
        let model = load(&checkpoint, Isa::best(), head);
        let options = PlanOptions {
            kv_precision,
            ..PlanOptions::default()
        };
        let mut engine = engine(&model, options);
        let input = Input {
            sequence: 0,
            tokens: &prompt,
            logits: Logits::All,
        };
        let mut hash = 0xcbf2_9ce4_8422_2325u64;
        let mut top = Vec::new();
        engine
            .forward(&[input], |_, _, logits| {
                for byte in logits.iter().flat_map(|logit| logit.to_le_bytes()) {
                    // FNV-1a
                    hash = (hash ^ byte as u64).wrapping_mul(0x100_0000_01b3);
                }
                top = (0..)
                    .zip(logits.iter().copied())
                    .collect::<Vec<(u32, f32)>>();
            })
            .unwrap();
        top.sort_by(|a, b| b.1.total_cmp(&a.1));
        writeln!(record, "{precision:?} {hash:016x} {:?}", &top[..3]).unwrap();
    }
    insta::assert_snapshot!(record, @r"
    (Exact, F32) d21242c20e4ef5c4 [(668, 8.180743), (542, 8.027077), (439, 7.4057817)]
    (Int8, F16) 98d47c35b1fb9702 [(668, 8.152), (542, 8.02163), (439, 7.3759065)]
    (Exact, Int8) defca72081bbbadd [(668, 8.142462), (542, 8.03508), (439, 7.3993196)]
    ");
}
