//! Which NUMA node each core belongs to, as sysfs tells: for the start's summary and `doctor`. The workers' memory finds its node
//! by itself, because it is first touched on the worker's core.

use std::fs;
use std::path::Path;

/// The nodes that have cores, and which.
pub struct Nodes(Vec<(usize, Vec<usize>)>);

impl Nodes {
    pub fn of_host() -> Nodes {
        Nodes::read(Path::new("/sys/devices/system/node"))
    }

    /// A kernel without NUMA has no such folder: no nodes.
    fn read(folder: &Path) -> Nodes {
        let entries = fs::read_dir(folder).into_iter().flatten().flatten();
        let mut nodes: Vec<_> = entries
            .filter_map(|entry| {
                let node = entry.file_name().to_str()?.strip_prefix("node")?.parse().ok()?;
                let cores = cores(fs::read_to_string(entry.path().join("cpulist")).ok()?.trim())?;
                (!cores.is_empty()).then_some((node, cores))
            })
            .collect();
        nodes.sort();
        Nodes(nodes)
    }

    /// Nodes with cores: more than one where it matters whose memory is used.
    pub fn count(&self) -> usize {
        self.0.len()
    }

    pub fn of(&self, core: usize) -> Option<usize> {
        self.0.iter().find(|(_, cores)| cores.contains(&core)).map(|(node, _)| *node)
    }

    /// The nodes of some cores, each once, in order.
    pub fn of_all(&self, cores: &[usize]) -> Vec<usize> {
        let mut nodes: Vec<usize> = cores.iter().filter_map(|core| self.of(*core)).collect();
        nodes.sort();
        nodes.dedup();
        nodes
    }
}

/// A list like `0-3,8`; none if it is not one.
fn cores(list: &str) -> Option<Vec<usize>> {
    let mut cores = Vec::new();
    for part in list.split(',').filter(|part| !part.is_empty()) {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        cores.extend(first.parse::<usize>().ok()?..=last.parse().ok()?);
    }
    Some(cores)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_sockets_and_a_node_of_memory_alone() {
        let folder = std::env::temp_dir().join(format!("distributary-numa-{}", std::process::id()));
        for (name, list) in [("node0", "0-3,8-9\n"), ("node1", "4-7\n"), ("node2", "\n"), ("node3", "?\n"), ("has_cpu", "0\n")] {
            fs::create_dir_all(folder.join(name)).unwrap();
            fs::write(folder.join(name).join("cpulist"), list).unwrap();
        }
        let nodes = Nodes::read(&folder);
        fs::remove_dir_all(&folder).unwrap();
        assert_eq!(nodes.count(), 2);
        assert_eq!([0, 3, 9, 4, 10].map(|core| nodes.of(core)), [Some(0), Some(0), Some(0), Some(1), None]);
        assert_eq!(nodes.of_all(&[7, 4, 0]), [0, 1]);
    }

    #[test]
    fn a_host_without_numa_has_no_nodes() {
        let nodes = Nodes::read(Path::new("/nonexistent"));
        assert_eq!((nodes.count(), nodes.of(0)), (0, None));
        assert!(Nodes::of_host().count() <= 1024);
    }

    #[test]
    fn lists_of_cores() {
        assert_eq!(cores("0-2,5"), Some(vec![0, 1, 2, 5]));
        assert_eq!(cores(""), Some(vec![]));
        for broken in ["a", "1-", "-1", "1-2-3"] {
            assert_eq!(cores(broken), None, "{broken}");
        }
    }
}
