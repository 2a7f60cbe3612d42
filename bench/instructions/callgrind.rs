//! Runs a program under callgrind and adds up the instructions of its own code: not those of libraries (a `memcpy` is chosen by the
//! processor), nor of ciphers (they are too, and callgrind's processor is not the real one).

use std::collections::HashMap;
use std::path::Path;
use std::process::Command;

/// Functions with these in their names are ciphers and hashes, as is what the compiler took from these crates' files into others.
const CIPHERS: &[&str] = &["ring_core_", "_aesni_", "ring::", "aes::", "ctr::", "cipher::", "hmac::", "sha1::", "digest::"];
const CIPHER_CRATES: &[&str] = &["/ring-", "/aes-", "/ctr-", "/cipher-", "/hmac-", "/sha1-", "/digest-"];

/// Instructions that `program` executes in its own code.
pub fn instructions(program: &Path, arguments: &[&str], record: &Path) -> Result<u64, String> {
    let output = Command::new("valgrind")
        .args(["--tool=callgrind", &format!("--callgrind-out-file={}", record.display())])
        .arg(program)
        .args(arguments)
        .output()
        .map_err(|error| format!("cannot start valgrind: {error}; install it (apt install valgrind)"))?;
    if !output.status.success() {
        return Err(format!("valgrind {}: {}", output.status, String::from_utf8_lossy(&output.stderr)));
    }
    let text = std::fs::read_to_string(record).map_err(|error| format!("{}: {error}", record.display()))?;
    let _ = std::fs::remove_file(record);
    let own = program.file_name().and_then(|name| name.to_str()).ok_or("a program without a name")?;
    let count = own_instructions(&text, own);
    if count == 0 { Err(format!("callgrind saw no instruction of {own}")) } else { Ok(count) }
}

/// The sum over all functions of the object `own`, from callgrind's profile format: `ob=`, `fn=` and `fl=` (or `fi=`, `fe=` for
/// what was inlined) say whose the cost lines are that follow; the line after `calls=` is the callee's cost, which is listed
/// elsewhere. Names are given once, with a number.
fn own_instructions(profile: &str, own: &str) -> u64 {
    let (mut objects, mut functions, mut files) = (HashMap::new(), HashMap::new(), HashMap::new());
    let (mut counts, mut of_callee) = ([false; 3], false);
    let is_own = |name: &str| name.rsplit('/').next() == Some(own);
    let mut sum = 0;
    for line in profile.lines() {
        if let Some((key, value)) = line.split_once('=') {
            match key {
                "ob" => counts[0] = named(&mut objects, value, is_own),
                "cob" => _ = named(&mut objects, value, is_own),
                "fn" => counts[1] = named(&mut functions, value, |name| has_none_of(CIPHERS, name)),
                "cfn" => _ = named(&mut functions, value, |name| has_none_of(CIPHERS, name)),
                "fl" | "fi" | "fe" => counts[2] = named(&mut files, value, |name| has_none_of(CIPHER_CRATES, name)),
                "cfi" | "cfl" => _ = named(&mut files, value, |name| has_none_of(CIPHER_CRATES, name)),
                "calls" => of_callee = true,
                _ => {}
            }
        } else if line.starts_with(|first: char| first.is_ascii_digit() || "+-*".contains(first)) {
            let cost = line.split_whitespace().nth(1).and_then(|cost| cost.parse::<u64>().ok()).unwrap_or(0);
            if !std::mem::take(&mut of_callee) && counts == [true; 3] {
                sum += cost;
            }
        }
    }
    sum
}

fn has_none_of(words: &[&str], name: &str) -> bool {
    !words.iter().any(|word| name.contains(word))
}

/// What was found of a name, `(7) name` the first time and `(7)` from then on.
fn named(known: &mut HashMap<String, bool>, value: &str, of: impl Fn(&str) -> bool) -> bool {
    let (number, name) = value.split_once(' ').unwrap_or((value, ""));
    *known.entry(number.to_owned()).or_insert_with(|| of(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_programs_own_code_counts_and_once() {
        let profile = "# callgrind format\nevents: Ir\nsummary: 999\n\nob=(1) /usr/lib/libc.so.6\nfl=(1) m.c\nfn=(1) memcpy\n5 100\n\n\
                       ob=(2) /x/target/instructions\nfl=(2) a.rs\nfn=(2) distributary::peer::forward\n10 7\n+2 3\ncob=(1)\ncfn=(1)\n\
                       calls=4 0\n* 400\n-1 5\nfi=(3) b.rs\n20 1\nfi=(4) /x/ring-0.17.14/c.rs\n7 900\nfe=(2)\n\nfn=(3) ring_core_0_17_14__aes_hw_encrypt\n1 50\n\n\
                       ob=(1)\nfn=(4) malloc\n1 60\n\nob=(2)\nfn=(2)\n11 2\ntotals: 999\n";
        assert_eq!(own_instructions(profile, "instructions"), 7 + 3 + 5 + 1 + 2);
        assert_eq!(own_instructions("", "instructions"), 0);
    }
}
