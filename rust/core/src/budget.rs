//! How much memory this process may use.

use std::path::Path;

use crate::address_space;

/// Returns the bytes that are free to use: what the machine has available, what the control group that
/// this process is in still allows, or what its address space does, whichever is least. `None` if the
/// system does not say.
pub fn available_memory() -> Option<u64> {
    let machine = std::fs::read_to_string("/proc/meminfo").ok().and_then(|text| {
        let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
        line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok().map(|kib| kib * 1024)
    });
    let group = std::fs::read_to_string("/proc/self/cgroup").ok();
    let group = group.and_then(|text| left_in_group(Path::new("/sys/fs/cgroup"), &text));
    [machine, group, address_space::left()].into_iter().flatten().min()
}

/// Returns what the tightest of the groups around a process still allows.
///
/// `membership` is `/proc/self/cgroup`: a line `0::<path>` in version 2, `<n>:memory:<path>` in 1.
fn left_in_group(root: &Path, membership: &str) -> Option<u64> {
    let mut least = None;
    for line in membership.lines() {
        let mut parts = line.splitn(3, ':');
        let (_, controllers, path) = (parts.next()?, parts.next()?, parts.next()?);
        let (top, limit, usage, stat) = match controllers {
            "" => (root.to_path_buf(), "memory.max", "memory.current", "inactive_file "),
            other if other.split(',').any(|name| name == "memory") => (
                root.join("memory"),
                "memory.limit_in_bytes",
                "memory.usage_in_bytes",
                "total_inactive_file ",
            ),
            _ => continue,
        };
        let mut folder = top.join(path.trim_start_matches('/'));
        while folder.starts_with(&top) {
            let number = |name: &str| -> Option<u64> {
                std::fs::read_to_string(folder.join(name)).ok()?.trim().parse().ok()
            };
            if let (Some(limit), Some(usage)) = (number(limit), number(usage)) {
                // Files in the page cache count as used, and are given up when memory is wanted.
                let stat_text = std::fs::read_to_string(folder.join("memory.stat")).ok();
                let reclaimable = stat_text
                    .and_then(|text| text.lines().find_map(|l| l.strip_prefix(stat)?.parse().ok()))
                    .unwrap_or(0);
                let left = limit.saturating_sub(usage.saturating_sub(reclaimable));
                least = Some(least.map_or(left, |least: u64| least.min(left)));
            }
            if !folder.pop() {
                break;
            }
        }
    }
    least
}

#[cfg(test)]
mod tests {
    use super::*;

    fn group(root: &Path, path: &str, files: &[(&str, &str)]) {
        let folder = root.join(path);
        std::fs::create_dir_all(&folder).unwrap();
        for (name, text) in files {
            std::fs::write(folder.join(name), text).unwrap();
        }
    }

    #[test]
    fn the_tightest_group_counts_and_page_cache_does_not() {
        let root = tempfile::tempdir().unwrap();
        group(root.path(), "a", &[("memory.max", "1000\n"), ("memory.current", "300\n")]);
        let stat = "anon 1\ninactive_file 150\n";
        group(
            root.path(),
            "a/b",
            &[("memory.max", "600\n"), ("memory.current", "250\n"), ("memory.stat", stat)],
        );
        assert_eq!(left_in_group(root.path(), "0::/a/b\n"), Some(500));
        group(root.path(), "a/b/c", &[("memory.max", "max\n"), ("memory.current", "9\n")]);
        assert_eq!(left_in_group(root.path(), "0::/a/b/c\n"), Some(500));
        assert_eq!(left_in_group(root.path(), "0::/\n"), None);
    }

    #[test]
    fn groups_of_the_first_version_are_read_too() {
        let root = tempfile::tempdir().unwrap();
        let files = [("memory.limit_in_bytes", "800"), ("memory.usage_in_bytes", "900")];
        group(root.path(), "memory/x", &files);
        assert_eq!(left_in_group(root.path(), "3:cpu:/y\n5:memory:/x\n"), Some(0));
    }

    #[test]
    fn this_machine_says_something() {
        assert!(available_memory().is_some_and(|bytes| bytes > 1 << 20));
    }
}
