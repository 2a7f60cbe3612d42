//! The eBPF program's committed object: compiled from the committed sources, and what a build without clang embeds.

use std::fs;
use std::path::{Path, PathBuf};

use ring::digest::{SHA256, digest};

const SOURCES: [&str; 2] = ["distributary.bpf.c", "distributary.h"];

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("xdp")
}

fn hash(sources: &[u8]) -> String {
    digest(&SHA256, sources).as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}

#[test]
fn the_committed_object_was_compiled_from_these_sources() {
    let mut sources: Vec<u8> = SOURCES.iter().flat_map(|name| fs::read(folder().join(name)).unwrap()).collect();
    let committed = fs::read_to_string(folder().join("distributary.bpf.sha256")).unwrap();
    assert_eq!(hash(&sources), committed.trim(), "the object is stale: run xdp/build.sh and commit what it makes");
    sources.push(b' ');
    assert_ne!(hash(&sources), committed.trim());
}

#[test]
fn the_committed_object_is_ebpf_with_types_and_without_debugging_information() {
    let object = fs::read(folder().join("distributary.bpf.o")).unwrap();
    // ELF, 64 bits, little-endian; machine 247 is EM_BPF.
    assert_eq!(object[..6], *b"\x7fELF\x02\x01");
    assert_eq!(u16::from_le_bytes([object[18], object[19]]), 247);
    let contains = |name: &[u8]| object.windows(name.len()).any(|window| window == name);
    assert!(contains(b".BTF\0") && contains(b".maps\0") && contains(b"distributary\0"));
    assert!(!contains(b".debug_info\0"));
}
