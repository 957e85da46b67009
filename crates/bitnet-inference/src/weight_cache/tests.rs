use std::fs;

use bitnet_core::memory::Category;
use bitnet_core::{ComputeContext, HybridMemoryPool, Isa, TernaryLayout};

use super::*;
use crate::device::Device;
use crate::format::checkpoint::Checkpoint;
use crate::format::i2s_layout::I2SLayout;
use crate::model::{HeadPrecision, LoadTarget, Model, Packing};

const ALL: WeightCacheLimits = WeightCacheLimits {
    max_bytes: 1 << 30,
    min_model_bytes: 0,
};

/// A folder with a model and a cache.
struct Folder(tempfile::TempDir);

impl Folder {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let source = concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/tests/data/tiny-bitnet-i2_s.gguf"
        );
        fs::copy(source, folder.path().join("model.gguf")).unwrap();
        Self(folder)
    }

    fn model(&self) -> PathBuf {
        self.0.path().join("model.gguf")
    }

    fn checkpoint(&self) -> Checkpoint {
        Checkpoint::open(&self.model()).unwrap()
    }

    fn cache(&self, limits: WeightCacheLimits) -> WeightCache {
        WeightCache::open(&self.0.path().join("cache"), limits).unwrap()
    }

    /// The files of the cache, temporary ones too.
    fn files(&self) -> Vec<PathBuf> {
        let entries = fs::read_dir(self.0.path().join("cache")).unwrap();
        entries.map(|entry| entry.unwrap().path()).collect()
    }
}

fn load(cache: &WeightCache, checkpoint: &Checkpoint, packing: Packing) -> Model {
    load_by(Isa::best(), cache, checkpoint, packing)
}

fn load_by(isa: Isa, cache: &WeightCache, checkpoint: &Checkpoint, packing: Packing) -> Model {
    let (pool, mut threads) = (HybridMemoryPool::new(), ThreadPool::new(2));
    let ctx = &mut ComputeContext::new(isa, &mut threads);
    let to = LoadTarget {
        device: &Device::Cpu,
        context_len: 0,
        cache: Some(cache),
    };
    Model::load_on(to, checkpoint, &pool, ctx, packing, |_, _| ()).unwrap()
}

fn save(cache: &WeightCache, model: &Model) -> Saved {
    model
        .save_packed(cache, |_, _| ControlFlow::Continue(()))
        .unwrap()
}

/// The bytes of all arrays.
fn arrays(model: &Model) -> Vec<Vec<u8>> {
    let matrices = model.packed().matrices();
    let array = |(_, matrix): &(String, PackedMatrix<'_>)| match matrix {
        PackedMatrix::Ternary(matrix) => matrix.parts().blocks.to_vec(),
        PackedMatrix::Int8(matrix) => matrix.parts().blocks.to_vec(),
    };
    matrices.iter().map(array).collect()
}

#[test]
fn a_saved_model_is_mapped_and_counted() {
    let folder = Folder::new();
    let (cache, checkpoint) = (folder.cache(ALL), folder.checkpoint());
    let packed = load(&cache, &checkpoint, Packing::default());
    assert!(!packed.is_from_cache());
    let (mut last, mut n_calls) = (0, 0);
    let saved = packed.save_packed(&cache, |done, total| {
        assert!(
            last < done && done <= total + (1 << 16),
            "{last}, {done}, {total}"
        );
        (last, n_calls) = (done, n_calls + 1);
        ControlFlow::Continue(())
    });
    assert!(n_calls > 0);
    let Saved::Written { path, n_bytes } = saved.unwrap() else {
        panic!("it is written");
    };
    assert_eq!(path.metadata().unwrap().len(), n_bytes);

    let mapped = load(&cache, &checkpoint, Packing::default());
    assert!(mapped.is_from_cache());
    assert_eq!(arrays(&mapped), arrays(&packed));
    let usage = mapped.pool().usage();
    let in_file = usage.of(Category::MappedFile).current;
    let in_pool = usage.of(Category::Weights).current;
    assert!(in_file >= mapped.n_bytes() / 2, "{in_file}, {in_pool}");
    assert!(in_pool < packed.pool().usage().of(Category::Weights).current - in_file / 2);
    // There is nothing to save of what comes from the cache, or was loaded without one.
    assert_eq!(save(&cache, &mapped), Saved::Nothing);
    assert_eq!(folder.files(), [path]);
}

/// What is not found in a file is packed: slower, and with the same result.
#[test]
fn every_packed_matrix_is_found() {
    let folder = tempfile::tempdir().unwrap();
    let cache = WeightCache::open(folder.path(), ALL).unwrap();
    let data = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data");
    let families = fs::read_dir(data.join("families")).unwrap();
    let mut paths: Vec<_> = families.map(|entry| entry.unwrap().path()).collect();
    paths.retain(|path| path.extension().is_none_or(|end| end == "gguf"));
    paths.push(data.join("tiny-bitnet-i2_s.gguf"));
    paths.push(data.join("../../../../models/storyteller-tiny"));
    let (mut n_ternary, mut n_int8) = (0, 0);
    for path in paths {
        let checkpoint = Checkpoint::open(&path).unwrap();
        save(&cache, &load(&cache, &checkpoint, Packing::default()));
        let mapped = load(&cache, &checkpoint, Packing::default());
        for (name, matrix) in mapped.packed().matrices() {
            let shared = match matrix {
                PackedMatrix::Ternary(matrix) => {
                    n_ternary += 1;
                    matrix.n_shared_bytes()
                }
                PackedMatrix::Int8(matrix) => {
                    n_int8 += 1;
                    matrix.n_shared_bytes()
                }
            };
            assert_eq!(shared, matrix.n_bytes(), "{}: {name}", path.display());
        }
    }
    assert!(n_ternary > 80 && n_int8 > 5, "{n_ternary}, {n_int8}");
}

#[test]
fn a_file_is_of_one_way_of_packing_alone() {
    let folder = Folder::new();
    let (cache, mut checkpoint) = (folder.cache(ALL), folder.checkpoint());
    let saved = load(&cache, &checkpoint, Packing::default());
    save(&cache, &saved);
    let is_found =
        |checkpoint: &Checkpoint, packing| load(&cache, checkpoint, packing).is_from_cache();
    assert!(is_found(&checkpoint, Packing::default()));
    // It has the copy that bounds the products of an exact head.
    assert!(is_found(&checkpoint, HeadPrecision::ExactTopK.into()));
    assert!(!is_found(&checkpoint, HeadPrecision::Exact.into()));
    let base3 = Packing {
        layout: Some(TernaryLayout::Base3),
        ..Packing::default()
    };
    assert!(!is_found(&checkpoint, base3));
    let read_all = Packing {
        read_all: true,
        ..Packing::default()
    };
    assert_eq!(is_found(&checkpoint, read_all), !Isa::best().has_sparse());
    checkpoint.set_i2s_layout(I2SLayout::Neon).unwrap();
    assert!(!is_found(&checkpoint, Packing::default()));
    // Kernels share files, except that some skip what is multiplied by zero.
    for isa in Isa::available() {
        let model = load_by(isa, &cache, &folder.checkpoint(), Packing::default());
        assert_eq!(
            model.is_from_cache(),
            isa.has_sparse() == Isa::best().has_sparse(),
            "{isa}"
        );
    }
}

#[test]
fn weights_of_a_file_that_was_changed_are_packed_again() {
    let folder = Folder::new();
    let cache = folder.cache(ALL);
    let first = load(&cache, &folder.checkpoint(), Packing::default());
    save(&cache, &first);
    let before = arrays(&first);
    // Windows does not write to a file that is mapped.
    drop(first);
    // Other trits, at the same time of modification, and the same length.
    let modified = folder.model().metadata().unwrap().modified().unwrap();
    let mut bytes = fs::read(folder.model()).unwrap();
    let checkpoint = folder.checkpoint();
    let range = checkpoint.tensor("blk.0.attn_q.weight").place().1;
    drop(checkpoint);
    bytes[range][..64].reverse();
    fs::write(folder.model(), &bytes).unwrap();
    let file = fs::File::options()
        .append(true)
        .open(folder.model())
        .unwrap();
    if cfg!(unix) {
        file.set_modified(modified).unwrap();
    }
    assert!(!cache.entries().unwrap()[0].is_current);
    let second = load(&cache, &folder.checkpoint(), Packing::default());
    assert!(!second.is_from_cache());
    assert_ne!(arrays(&second), before);
    save(&cache, &second);
    let entries = cache.entries().unwrap();
    let current: Vec<_> = entries.iter().map(|entry| entry.is_current).collect();
    assert_eq!(current, [true, false]);
    assert!(
        entries
            .iter()
            .all(|entry| entry.model == Some(folder.model()))
    );
    for entry in &entries {
        cache.remove(entry).unwrap();
        cache.remove(entry).unwrap();
    }
    assert!(folder.files().is_empty());
}

type Damage = Box<dyn Fn(&mut Vec<u8>)>;

#[test]
fn damaged_files_are_noted_packed_again_and_written_again() {
    let folder = Folder::new();
    let (cache, checkpoint) = (folder.cache(ALL), folder.checkpoint());
    let packed = load(&cache, &checkpoint, Packing::default());
    let Saved::Written { path, n_bytes } = save(&cache, &packed) else {
        panic!("it is written");
    };
    let whole = fs::read(&path).unwrap();
    let len = n_bytes as usize;
    let flip = |at: usize| -> Damage { Box::new(move |bytes| bytes[at] ^= 4) };
    let cut = |len: usize| -> Damage { Box::new(move |bytes| bytes.truncate(len)) };
    let cases = [
        (flip(0), "the checksum of bytes 0 to "),
        (flip(len / 2), "the checksum of bytes 0 to "),
        (flip(len - 40), "its index is damaged"),
        (flip(len - 32), "its index is damaged"),
        (
            flip(len - 1),
            "it is no file of packed weights, or was cut off",
        ),
        (
            flip(len - 9),
            "it is no file of packed weights, or was cut off",
        ),
        (
            cut(len - 1),
            "it is no file of packed weights, or was cut off",
        ),
        (cut(31), "it is no file of packed weights, or was cut off"),
    ];
    for (damage, expected) in cases {
        let mut bytes = whole.clone();
        damage(&mut bytes);
        fs::write(&path, &bytes).unwrap();
        let again = load(&cache, &checkpoint, Packing::default());
        assert!(!again.is_from_cache(), "{expected}");
        let notes: Vec<_> = again.notes().iter().map(ToString::to_string).collect();
        let note = notes
            .iter()
            .find(|note| note.starts_with("packed weights not used: "));
        assert!(note.unwrap().contains(expected), "{notes:?}");
        assert_eq!(arrays(&again), arrays(&packed));
        save(&cache, &again);
        assert_eq!(fs::read(&path).unwrap(), whole, "{expected}");
    }
    fs::write(&path, []).unwrap();
    let entries = cache.entries().unwrap();
    assert_eq!(
        (entries[0].model.clone(), entries[0].is_current),
        (None, false)
    );
    assert!(!load(&cache, &checkpoint, Packing::default()).is_from_cache());
}

#[test]
fn sizes_have_limits() {
    let folder = Folder::new();
    let checkpoint = folder.checkpoint();
    let n_bytes =
        |cache: &WeightCache, packing| match save(cache, &load(cache, &checkpoint, packing)) {
            Saved::Written { n_bytes, .. } => n_bytes,
            saved => panic!("{saved:?}"),
        };
    let large = WeightCacheLimits {
        min_model_bytes: 1 << 30,
        ..ALL
    };
    let cache = folder.cache(large);
    let model = load(&cache, &checkpoint, Packing::default());
    assert_eq!(save(&cache, &model), Saved::Nothing);
    let cache = folder.cache(WeightCacheLimits {
        max_bytes: 1000,
        ..ALL
    });
    assert_eq!(save(&cache, &model), Saved::Nothing);
    assert!(folder.files().is_empty());

    // Room for two: the one not used for longest is removed.
    let cache = folder.cache(ALL);
    let one = n_bytes(&cache, Packing::default());
    assert!(one > 32 << 10, "{one}");
    let cache = folder.cache(WeightCacheLimits {
        max_bytes: 2 * one + (90 << 10),
        ..ALL
    });
    let read_all = Packing {
        layout: Some(TernaryLayout::TwoBits),
        read_all: true,
        ..Packing::default()
    };
    n_bytes(&cache, read_all);
    assert!(load(&cache, &checkpoint, Packing::default()).is_from_cache());
    let base3 = Packing {
        layout: Some(TernaryLayout::Base3),
        ..read_all
    };
    n_bytes(&cache, base3);
    assert_eq!(folder.files().len(), 2);
    assert!(load(&cache, &checkpoint, Packing::default()).is_from_cache());
    assert!(!load(&cache, &checkpoint, read_all).is_from_cache());
    // The file of a model that is in use may be removed.
    let mapped = load(&cache, &checkpoint, Packing::default());
    let before = arrays(&mapped);
    if cfg!(unix) {
        for entry in cache.entries().unwrap() {
            cache.remove(&entry).unwrap();
        }
        assert_eq!(arrays(&mapped), before);
    }
}

#[test]
fn a_cancelled_file_is_gone() {
    let folder = Folder::new();
    let (cache, checkpoint) = (folder.cache(ALL), folder.checkpoint());
    let model = load(&cache, &checkpoint, Packing::default());
    let saved = model.save_packed(&cache, |_, _| ControlFlow::Break(()));
    assert_eq!(saved.unwrap(), Saved::Cancelled);
    assert!(folder.files().is_empty());
}

#[test]
fn models_without_files_are_not_saved() {
    let folder = Folder::new();
    let cache = folder.cache(ALL);
    let bytes = fs::read(folder.model()).unwrap();
    let checkpoint = Checkpoint::from_gguf_bytes(bytes).unwrap();
    let model = load(&cache, &checkpoint, Packing::default());
    assert_eq!(save(&cache, &model), Saved::Nothing);
}

/// If this fails because weights are packed in another way, raise `key::VERSION`: otherwise
/// files of older programs would be read as something else.
#[test]
fn packed_bytes_are_those_of_this_version() {
    let cache = Folder::new().cache(ALL);
    let model = concat!(env!("CARGO_MANIFEST_DIR"), "/../../models/storyteller-tiny");
    let checkpoint = Checkpoint::open(Path::new(model)).unwrap();
    let mut digests = Vec::new();
    for layout in [TernaryLayout::TwoBits, TernaryLayout::Base3] {
        for read_all in [true, false] {
            let packing = Packing {
                layout: Some(layout),
                read_all,
                head: HeadPrecision::Int8,
            };
            let sparse = Isa::available().find(|isa| isa.has_sparse());
            let isa = sparse.expect("every processor has a kernel that skips");
            let model = load_by(isa, &cache, &checkpoint, packing);
            let arrays = arrays(&model).concat();
            digests.push(twox_hash::XxHash3_64::oneshot(&arrays));
        }
    }
    assert_eq!(key::VERSION, 1);
    assert_eq!(
        digests,
        [
            9_145_052_410_482_822_789,
            12_231_749_337_480_775_550,
            7_358_772_064_378_272_204,
            14_882_757_971_599_594_011
        ]
    );
}
