//! Memory limits of Linux control groups, as set by containers, `systemd-run -p MemoryMax=`
//! and batch systems. The kernel kills a process that exceeds them.
//!
//! ```text
//! /proc/self/cgroup     groups of this process        0::/user.slice/x
//! /proc/self/mountinfo  mount points of hierarchies   … /user.slice /sys/fs/cgroup … cgroup2
//! GROUP/memory.max, memory.high, or memory.limit_in_bytes    limit of the group and its
//!                                                            descendants, at every level
//! GROUP/memory.stat                                          memory usage of the group
//! ```

use std::fs;
use std::path::{Component, Path, PathBuf};

/// Version 1 reports this or a little less if there is no limit.
const NO_LIMIT: u64 = 1 << 62;

/// The limit of a group that contains this process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct GroupLimit {
    /// The group's folder.
    pub(crate) folder: PathBuf,
    /// The limit of all processes of the group together, in bytes.
    pub(crate) limit: u64,
    /// The bytes in use, without file-backed pages.
    pub(crate) in_use: u64,
}

impl GroupLimit {
    /// Returns the bytes that are left.
    pub(crate) fn left(&self) -> u64 {
        self.limit.saturating_sub(self.in_use)
    }
}

/// Returns the limit with the least memory left, of all visible groups that contain this
/// process; `None` if no group is limited. `root` is `/` except in tests.
pub(crate) fn tightest(root: &Path) -> Option<GroupLimit> {
    let text = |path: &str| fs::read_to_string(root.join(path)).ok();
    let (groups, mounts) = (text("proc/self/cgroup")?, text("proc/self/mountinfo")?);
    let mut limits = Vec::new();
    for mount in mounts.lines().filter_map(Mount::parse) {
        let Some(group) = groups.lines().find_map(|line| mount.group(line)) else {
            continue;
        };
        let top = root.join(mount.point.strip_prefix("/").unwrap_or(&mount.point));
        for level in group.ancestors() {
            let folder = top.join(level);
            if let Some(limit) = mount.version.limit(&folder) {
                limits.push(GroupLimit {
                    limit,
                    in_use: mount.version.in_use(&folder),
                    folder,
                });
            }
        }
    }
    limits.into_iter().min_by_key(GroupLimit::left)
}

/// The versions of cgroup hierarchies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Version {
    V1,
    V2,
}

impl Version {
    /// Returns the limit of a group, if it has one.
    fn limit(self, folder: &Path) -> Option<u64> {
        let files: &[&str] = match self {
            Self::V1 => &["memory.limit_in_bytes"],
            // Beyond `high`, processes are throttled until they barely run.
            Self::V2 => &["memory.max", "memory.high"],
        };
        let limits = files.iter().filter_map(|file| {
            let text = fs::read_to_string(folder.join(file)).ok()?;
            // The value may be `max`.
            text.trim().parse().ok()
        });
        // Version 1 also reports the limits of parent groups outside of the mount.
        let around = match self {
            Self::V1 => stat(folder, "hierarchical_memory_limit"),
            Self::V2 => None,
        };
        limits.chain(around).min().filter(|limit| *limit < NO_LIMIT)
    }

    /// Returns the bytes without backing files that the processes of a group and its
    /// descendants hold.
    fn in_use(self, folder: &Path) -> u64 {
        let keys = match self {
            Self::V1 => ["total_rss", "total_shmem"],
            Self::V2 => ["anon", "shmem"],
        };
        keys.into_iter().filter_map(|key| stat(folder, key)).sum()
    }
}

/// Returns a value of a group's `memory.stat`.
fn stat(folder: &Path, key: &str) -> Option<u64> {
    let stat = fs::read_to_string(folder.join("memory.stat")).ok()?;
    let value = stat
        .lines()
        .find_map(|line| line.strip_prefix(key)?.strip_prefix(' '));
    value?.trim().parse().ok()
}

/// A mounted cgroup hierarchy or a part of one.
#[derive(Debug, PartialEq, Eq)]
struct Mount {
    version: Version,
    /// The group at the mount point.
    outermost: PathBuf,
    point: PathBuf,
}

impl Mount {
    /// Parses a line of `mountinfo`; returns `None` unless it is of a hierarchy that can
    /// limit memory: `ID PARENT MAJOR:MINOR ROOT POINT OPTIONS … - TYPE SOURCE OPTIONS`.
    fn parse(line: &str) -> Option<Self> {
        let (before, after) = line.split_once(" - ")?;
        let mut before = before.split(' ').skip(3);
        let (outermost, point) = (before.next()?, before.next()?);
        let mut after = after.split(' ');
        let version = match (after.next()?, after.nth(1)) {
            ("cgroup2", _) => Version::V2,
            ("cgroup", Some(options)) if has(options, "memory") => Version::V1,
            _ => return None,
        };
        Some(Self {
            version,
            outermost: unescaped(outermost),
            point: unescaped(point),
        })
    }

    /// Parses a line of `/proc/self/cgroup`, `ID:CONTROLLERS:PATH`, and returns the path of
    /// the group below the mount point; `None` if the line is of another hierarchy.
    fn group(&self, line: &str) -> Option<PathBuf> {
        let mut fields = line.splitn(3, ':');
        let (_, controllers, path) = (fields.next()?, fields.next()?, fields.next()?);
        let is_this = match self.version {
            Version::V1 => has(controllers, "memory"),
            Version::V2 => controllers.is_empty(),
        };
        // A group outside of the mount has another path or contains `..`: use the mount
        // point.
        let below = Path::new(path).strip_prefix(&self.outermost);
        let below = below.unwrap_or("".as_ref());
        let is_inside = (below.components()).all(|part| matches!(part, Component::Normal(_)));
        is_this.then(|| {
            if is_inside {
                below.into()
            } else {
                PathBuf::new()
            }
        })
    }
}

/// Returns whether a comma-separated list contains a word.
fn has(list: &str, word: &str) -> bool {
    list.split(',').any(|item| item == word)
}

/// Decodes the octal escapes (white space, backslash) of a path of `mountinfo`.
fn unescaped(path: &str) -> PathBuf {
    let mut path = path.to_owned();
    for (escaped, plain) in [
        ("\\040", " "),
        ("\\011", "\t"),
        ("\\012", "\n"),
        ("\\134", "\\"),
    ] {
        path = path.replace(escaped, plain);
    }
    path.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    /// A simulated system of files.
    struct System(tempfile::TempDir);

    impl System {
        fn new(cgroup: &str, mountinfo: &str, files: &[(&str, &str)]) -> Self {
            let system = Self(tempfile::tempdir().unwrap());
            let own = [
                ("proc/self/cgroup", cgroup),
                ("proc/self/mountinfo", mountinfo),
            ];
            for (path, text) in own.iter().chain(files) {
                let path = system.0.path().join(path);
                fs::create_dir_all(path.parent().unwrap()).unwrap();
                fs::write(path, text).unwrap();
            }
            system
        }

        /// Returns the folder, limit and bytes in use of the tightest limit.
        fn tightest(&self) -> Option<(String, u64, u64)> {
            let GroupLimit {
                folder,
                limit,
                in_use,
            } = tightest(self.0.path())?;
            let folder = folder.strip_prefix(self.0.path()).unwrap();
            Some((folder.display().to_string(), limit, in_use))
        }
    }

    const V2: &str = "24 1 0:22 / /proc rw - proc proc rw\n\
        30 1 0:26 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate\n";
    const V1: &str = "30 1 0:25 / /sys/fs/cgroup ro - tmpfs tmpfs ro\n\
        31 30 0:26 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu\n\
        32 30 0:27 / /sys/fs/cgroup/memory rw shared:9 - cgroup cgroup rw,memory\n";

    #[expect(clippy::unnecessary_wraps, reason = "what `tightest` returns")]
    fn limit(folder: &str, limit: u64, in_use: u64) -> Option<(String, u64, u64)> {
        Some((folder.trim_end_matches('/').to_owned(), limit, in_use))
    }

    #[test]
    fn the_tightest_level_of_version_2_counts() {
        let own = "sys/fs/cgroup/user.slice/job/memory.max";
        let outer = "sys/fs/cgroup/user.slice/memory.max";
        let stat = "sys/fs/cgroup/user.slice/memory.stat";
        let with =
            |files: &[(&str, &str)]| System::new("0::/user.slice/job\n", V2, files).tightest();
        assert_eq!(with(&[(own, "max\n"), (outer, "max\n")]), None);
        assert_eq!(with(&[]), None);
        let found = limit("sys/fs/cgroup/user.slice/job", 512 * MIB, 0);
        assert_eq!(with(&[(own, "536870912\n"), (outer, "max\n")]), found);
        let found = limit("sys/fs/cgroup/user.slice", 256 * MIB, 0);
        assert_eq!(with(&[(own, "536870912\n"), (outer, "268435456\n")]), found);
        // Memory of other processes of the group counts as in use.
        let in_use = "anon 314572800\nfile 999999999\nshmem 1048576\nanon_thp 5\n";
        let files = [(own, "536870912\n"), (outer, "805306368\n"), (stat, in_use)];
        let found = limit("sys/fs/cgroup/user.slice", 768 * MIB, 301 * MIB);
        assert_eq!(with(&files), found);
        let high = "sys/fs/cgroup/user.slice/job/memory.high";
        let found = limit("sys/fs/cgroup/user.slice/job", 64 * MIB, 0);
        assert_eq!(with(&[(own, "536870912\n"), (high, "67108864\n")]), found);
        assert_eq!(with(&[(own, "max\n"), (high, "67108864\n")]), found);
    }

    #[test]
    fn version_1_and_both_at_once() {
        let own = "sys/fs/cgroup/memory/docker/ab/memory.limit_in_bytes";
        let outer = "sys/fs/cgroup/memory/memory.limit_in_bytes";
        let stat = "sys/fs/cgroup/memory/docker/ab/memory.stat";
        let groups = "5:cpu,cpuacct:/other\n4:memory:/docker/ab\n0::/\n";
        let none = ("9223372036854771712\n", "sys/fs/cgroup/memory/docker/ab");
        let with = |files: &[(&str, &str)]| System::new(groups, V1, files).tightest();
        assert_eq!(with(&[(own, none.0), (outer, none.0)]), None);
        let in_use = "rss 1\ntotal_rss 1048576\ntotal_shmem 1048576\ntotal_cache 77\n";
        let files = [(own, "104857600\n"), (outer, none.0), (stat, in_use)];
        assert_eq!(with(&files), limit(none.1, 100 * MIB, 2 * MIB));
        let around = [(own, none.0), (stat, "hierarchical_memory_limit 1048576\n")];
        assert_eq!(with(&around), limit(none.1, MIB, 0));
        // A version 2 hierarchy beside it without a memory controller.
        let both = format!("{V1}33 30 0:28 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n");
        let system = System::new(groups, &both, &files);
        assert_eq!(system.tightest(), limit(none.1, 100 * MIB, 2 * MIB));
    }

    #[test]
    fn a_container_sees_its_own_group_as_the_outermost() {
        let file = [("sys/fs/cgroup/memory.max", "33554432\n")];
        let found = limit("sys/fs/cgroup", 32 * MIB, 0);
        // With a cgroup namespace.
        assert_eq!(System::new("0::/\n", V2, &file).tightest(), found);
        // Without one, with only its part mounted.
        let part = V2.replace("0:26 / ", "0:26 /docker/ab ");
        assert_eq!(
            System::new("0::/docker/ab\n", &part, &file).tightest(),
            found
        );
        let inner = [("sys/fs/cgroup/x/memory.max", "33554432\n")];
        let found_inner = limit("sys/fs/cgroup/x", 32 * MIB, 0);
        assert_eq!(
            System::new("0::/docker/ab/x\n", &part, &inner).tightest(),
            found_inner
        );
        // In a group outside of the mount.
        assert_eq!(System::new("0::/../cd\n", V2, &file).tightest(), found);
        assert_eq!(System::new("0::/else\n", &part, &file).tightest(), found);
    }

    #[test]
    fn whatever_the_files_say_is_survived() {
        let strange = [
            ("", ""),
            ("0::", "a b c"),
            ("::\n0\n0:/\n", " - cgroup2\n1 2 3 / - cgroup2 x y\n"),
            ("0::/a:b\n", "1 2 3 / /m\\040n rw - cgroup2 x y\n"),
        ];
        for (cgroup, mountinfo) in strange {
            assert_eq!(System::new(cgroup, mountinfo, &[]).tightest(), None);
        }
        let file = [("m n/a:b/memory.max", "12\n")];
        let system = System::new(strange[3].0, strange[3].1, &file);
        assert_eq!(system.tightest(), limit("m n/a:b", 12, 0));
        for text in ["", "-1", "max", "99999999999999999999999", "1 2"] {
            let file = [("sys/fs/cgroup/memory.max", text)];
            assert_eq!(System::new("0::/\n", V2, &file).tightest(), None);
        }
    }
}
