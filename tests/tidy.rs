//! The house rules as a test: what may import what, which words must not appear on the packet path, where `unsafe` may stand,
//! how long a file may be, and that dependencies, modules and the top of the repository explain themselves.
//!
//! The checkers are plain functions over text that return their complaints. Each is fed a bad sample below, so that a rule which
//! has stopped seeing anything fails too. Every exception is a line in a list here, with its reason.

use std::fmt;
use std::fs;
use std::ops::Range;
use std::path::{Path, PathBuf};

/// A module's place in the tree: the first name of its path under `src/`.
type Module<'a> = &'a str;

/// What each module may import, besides itself and [`BASE`]. `"*"` is everything.
const IMPORTS: &[(Module, &[&str])] = &[
    ("main", &["*"]),
    ("lib", &["*"]),
    ("cli", &["*"]),
    // A command that asks a running server knows nothing of this one.
    ("client", &[]),
    ("doctor", &["*"]),
    // Services: downwards only, and not each other.
    ("signal", BELOW_SERVICES),
    ("record", BELOW_SERVICES),
    ("gateway", BELOW_SERVICES),
    ("mix", BELOW_SERVICES),
    ("cluster", BELOW_SERVICES),
    ("admin", BELOW_SERVICES),
    ("topology", &["worker", "peer", "room", "io", "secure", "rtp", "wire", "mem"]),
    ("worker", &["peer", "room", "io", "secure", "rtp", "wire", "mem"]),
    ("peer", &["secure", "rtp", "wire", "mem"]),
    ("room", &["rtp", "wire", "mem"]),
    ("io", &["wire", "mem"]),
    ("secure", &["wire", "mem"]),
    ("rtp", &["wire", "mem"]),
    ("wire", &[]),
    ("mem", &[]),
    ("config", &[]),
    ("metrics", &[]),
    ("limits", &[]),
    ("units", &[]),
];

const BELOW_SERVICES: &[&str] = &["topology", "worker", "peer", "room", "io", "secure", "rtp", "wire", "mem"];

/// What everything may import.
const BASE: &[&str] = &["units", "limits", "metrics", "config"];

/// Imports against the direction: from, to (a path prefix), why.
const IMPORT_EXCEPTIONS: &[(Module, &str, &str)] = &[
    ("admin", "record", "what the files of recordings are called, which it lists and gives out"),
    ("admin", "signal::api", "the types in which HTTP asks the director; they have no behaviour of their own"),
    ("admin", "signal::auth", "the room list wants the same tokens as WHIP and WHEP"),
    ("admin", "signal::http", "one router and one listener serve both"),
    ("config", "rtp::config", "the names of the codecs, which an operator lists"),
    ("signal", "record", "what the files of recordings are called, and what became of them, which Egress tells"),
    ("topology", "gateway", "names every thread of the server, the relay's for ICE over TCP among them"),
    ("topology", "record", "names every thread of the server, the recorder's among them"),
    ("topology", "signal", "names every thread of the server, the director's and the handshakes' among them"),
];

/// Folders and files of the packet path.
const DATA_PLANE: &[&str] = &[
    "wire",
    "mem",
    "io",
    "rtp",
    "peer",
    "room",
    "worker",
    "worker.rs",
    "secure/srtp",
    "secure/srtp.rs",
    "secure/ice",
    "secure/ice.rs",
];

/// Words that must not appear there, and why.
const FORBIDDEN: &[(&str, &str)] = &[
    ("Mutex", "a worker never waits for a lock"),
    ("RwLock", "a worker never waits for a lock"),
    ("Instant::now", "time is an argument"),
    ("SystemTime::now", "time is an argument"),
    ("tokio", "no async runtime near a worker"),
    ("async ", "no async near a worker"),
    ("Box<dyn", "no dynamic dispatch per packet"),
    (".to_vec()", "copies and allocates"),
];

/// Forbidden words that stand all the same: path prefix, word, why.
const FORBIDDEN_EXCEPTIONS: &[(&str, &str, &str)] = &[("io", "Instant::now", "the I/O layer is where a turn gets its time from")];

/// Where `unsafe` may stand.
const UNSAFE_HOMES: &[&str] = &["mem", "io"];

const LINES_MAX: usize = 800;

const TOP_LEVEL: &[&str] = &[
    ".ci",
    ".git",
    ".gitignore",
    "Cargo.lock",
    "Cargo.toml",
    "LICENSE",
    "README.md",
    "bench",
    "rustfmt.toml",
    "src",
    "tests",
    "tuning",
    "xdp",
    "target", // ignored by git
];

/// A rule that was broken, and where.
#[derive(Debug, PartialEq, Eq)]
struct Complaint {
    file: String,
    /// From 1; 0 for the file as a whole.
    line: usize,
    text: String,
}

impl fmt::Display for Complaint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: {}", self.file, self.line, self.text)
    }
}

/// A source file: its path under `src/`, its text, and the text with all but code blanked out.
struct Source {
    path: String,
    text: String,
    /// Comments, strings and test items are spaces; lines are where they were.
    code: String,
}

impl Source {
    fn new(path: &str, text: &str) -> Self {
        Source { path: path.to_owned(), text: text.to_owned(), code: without_tests(&code_only(text)) }
    }

    /// A file that holds nothing but tests: it is declared under `#[cfg(test)]` by its parent.
    fn is_test(&self) -> bool {
        self.path.split('/').any(|part| matches!(part, "tests.rs" | "tests" | "vectors.rs"))
    }

    /// `worker/turn.rs` → `["worker", "turn"]`.
    fn module(&self) -> Vec<&str> {
        let mut parts: Vec<&str> = self.path.trim_end_matches(".rs").split('/').collect();
        if parts.len() > 1 && parts.last() == Some(&"mod") {
            parts.pop();
        }
        parts
    }

    fn complain(&self, line: usize, text: impl Into<String>) -> Complaint {
        Complaint { file: format!("src/{}", self.path), line, text: text.into() }
    }
}

/// Whether `path` is `prefix`, or inside it.
fn is_under(path: &str, prefix: &str) -> bool {
    path.strip_prefix(prefix).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

fn line_of(text: &str, offset: usize) -> usize {
    text[..offset].matches('\n').count() + 1
}

// ---- Rust, roughly --------------------------------------------------------------------------------------------------------

/// The text with comments, strings and character literals blanked.
fn code_only(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut code = bytes.to_vec();
    let mut at = 0;
    while at < bytes.len() {
        let end = literal_or_comment(bytes, at);
        match end {
            Some(end) => {
                blank(&mut code, at..end);
                at = end;
            }
            None => at += 1,
        }
    }
    String::from_utf8(code).expect("whole tokens were blanked")
}

fn blank(code: &mut [u8], range: Range<usize>) {
    for byte in &mut code[range] {
        if *byte != b'\n' {
            *byte = b' ';
        }
    }
}

/// Where the comment or literal that starts at `at` ends, if one does.
fn literal_or_comment(bytes: &[u8], at: usize) -> Option<usize> {
    let rest = &bytes[at..];
    let in_word = at > 0 && (bytes[at - 1].is_ascii_alphanumeric() || bytes[at - 1] == b'_');
    if rest.starts_with(b"//") {
        return Some(at + rest.iter().position(|&b| b == b'\n').unwrap_or(rest.len()));
    }
    if rest.starts_with(b"/*") {
        return Some(at + block_comment(rest));
    }
    let raw = rest.strip_prefix(b"r").or_else(|| rest.strip_prefix(b"br")).filter(|_| !in_word);
    if let Some(raw) = raw {
        let hashes = raw.iter().take_while(|&&b| b == b'#').count();
        if raw.get(hashes) == Some(&b'"') {
            let close: Vec<u8> = std::iter::once(b'"').chain(std::iter::repeat_n(b'#', hashes)).collect();
            let body = bytes.len() - raw.len() + hashes + 1;
            let length = bytes[body..].windows(close.len()).position(|w| w == close).unwrap_or(bytes.len() - body - close.len());
            return Some(body + length + close.len());
        }
    }
    match rest[0] {
        b'"' => Some(at + quoted(rest, b'"')),
        b'\'' => character(rest).map(|length| at + length),
        _ => None,
    }
}

fn block_comment(rest: &[u8]) -> usize {
    let (mut depth, mut at) = (0, 0);
    while at < rest.len() {
        if rest[at..].starts_with(b"/*") {
            (depth, at) = (depth + 1, at + 2);
        } else if rest[at..].starts_with(b"*/") {
            (depth, at) = (depth - 1, at + 2);
            if depth == 0 {
                return at;
            }
        } else {
            at += 1;
        }
    }
    rest.len()
}

fn quoted(rest: &[u8], quote: u8) -> usize {
    let mut at = 1;
    while at < rest.len() {
        match rest[at] {
            b'\\' => at += 2,
            b if b == quote => return at + 1,
            _ => at += 1,
        }
    }
    rest.len()
}

/// The length of a character literal; `None` for a lifetime.
fn character(rest: &[u8]) -> Option<usize> {
    match rest.get(1)? {
        b'\\' => Some(quoted(rest, b'\'')),
        _ => {
            let text = std::str::from_utf8(&rest[1..rest.len().min(6)])
                .or_else(|e| std::str::from_utf8(&rest[1..1 + e.valid_up_to()]))
                .ok()?;
            let width = text.chars().next()?.len_utf8();
            (rest.get(1 + width) == Some(&b'\'')).then_some(width + 2)
        }
    }
}

/// Code (from [`code_only`]) with every item under `#[cfg(test)]` blanked.
fn without_tests(code: &str) -> String {
    let mut bytes = code.as_bytes().to_vec();
    let mut from = 0;
    while let Some(found) = ["#[cfg(test)]", "#[cfg(all(test"].iter().filter_map(|a| code[from..].find(a)).min() {
        let start = from + found;
        let end = start + item_length(&code[start..]);
        blank(&mut bytes, start..end);
        from = end;
    }
    String::from_utf8(bytes).expect("blanked by whole items")
}

/// The length of the item that starts with an attribute: up to its closing brace, or its semicolon.
fn item_length(code: &str) -> usize {
    let (mut round, mut curly) = (0_i32, 0_i32);
    for (at, byte) in code.bytes().enumerate() {
        match byte {
            b'(' | b'[' => round += 1,
            b')' | b']' => round -= 1,
            b'{' => curly += 1,
            b'}' => {
                curly -= 1;
                if curly == 0 && round == 0 {
                    return at + 1;
                }
            }
            b';' if round == 0 && curly == 0 => return at + 1,
            _ => {}
        }
    }
    code.len()
}

fn identifier(text: &str) -> &str {
    let end = text.find(|c: char| !(c.is_alphanumeric() || c == '_')).unwrap_or(text.len());
    &text[..end]
}

/// The paths that begin at `text`: `a::b`, or those of a group, `{a, b::c}`, to two names each.
fn paths(text: &str) -> Vec<String> {
    let text = text.trim_start();
    if let Some(group) = text.strip_prefix('{') {
        let mut found = Vec::new();
        let (mut depth, mut start) = (0, 0);
        for (at, c) in group.char_indices() {
            match c {
                '{' => depth += 1,
                '}' | ',' if depth == 0 => {
                    found.extend(paths(&group[start..at]));
                    start = at + 1;
                    if c == '}' {
                        break;
                    }
                }
                '}' => depth -= 1,
                _ => {}
            }
        }
        return found;
    }
    let first = identifier(text);
    if first.is_empty() {
        return Vec::new();
    }
    let Some(rest) = text[first.len()..].strip_prefix("::") else { return vec![first.to_owned()] };
    if rest.trim_start().starts_with('{') {
        return paths(rest).iter().map(|p| format!("{first}::{}", identifier(p))).collect();
    }
    vec![format!("{first}::{}", identifier(rest)).trim_end_matches(':').to_owned()]
}

/// Every path from the crate's root that the code names, with its line. `super::` is followed up to the root.
fn imports(source: &Source) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    let module = source.module();
    for (at, _) in source.code.match_indices("crate::") {
        let before = source.code[..at].chars().next_back();
        if before.is_some_and(|c| c.is_alphanumeric() || c == '_' || c == '$') {
            continue;
        }
        let line = line_of(&source.code, at);
        found.extend(paths(&source.code[at + "crate::".len()..]).into_iter().map(|path| (line, path)));
    }
    let up = "super::".repeat(module.len());
    for (at, _) in source.code.match_indices(&up) {
        let line = line_of(&source.code, at);
        found.extend(paths(&source.code[at + up.len()..]).into_iter().map(|path| (line, path)));
    }
    found
}

// ---- the rules ------------------------------------------------------------------------------------------------------------

fn check_imports(source: &Source) -> Vec<Complaint> {
    let from = source.module()[0];
    if source.path == "build.rs" || source.is_test() {
        return Vec::new();
    }
    let Some((_, allowed)) = IMPORTS.iter().find(|(module, _)| *module == from) else {
        return vec![source.complain(0, format!("module {from} has no place in the import order: give it one in tests/tidy.rs"))];
    };
    let known = |name: &str| IMPORTS.iter().any(|(module, _)| *module == name);
    let complaints = imports(source).into_iter().filter(|(_, path)| {
        let to = identifier(path);
        let excepted = IMPORT_EXCEPTIONS
            .iter()
            .any(|(f, prefix, _)| *f == from && is_under(&path.replace("::", "/"), &prefix.replace("::", "/")));
        known(to) && to != from && !BASE.contains(&to) && !allowed.contains(&"*") && !allowed.contains(&to) && !excepted
    });
    complaints.map(|(line, path)| source.complain(line, format!("{from} may not import {path}"))).collect()
}

fn check_words(source: &Source) -> Vec<Complaint> {
    if source.is_test() || !DATA_PLANE.iter().any(|place| is_under(&source.path, place)) {
        return Vec::new();
    }
    let mut complaints = Vec::new();
    for (number, line) in source.code.lines().enumerate() {
        for (word, why) in FORBIDDEN {
            let excepted = FORBIDDEN_EXCEPTIONS.iter().any(|(place, w, _)| w == word && is_under(&source.path, place));
            if line.contains(word) && !excepted {
                complaints.push(source.complain(number + 1, format!("`{}` on the packet path: {why}", word.trim())));
            }
        }
    }
    complaints
}

fn check_unsafe(source: &Source) -> Vec<Complaint> {
    // Tests too have to justify theirs, so this looks at the code with them.
    let code = code_only(&source.text);
    let at_home = UNSAFE_HOMES.iter().any(|home| is_under(&source.path, home));
    let lines: Vec<&str> = source.text.lines().collect();
    let mut complaints = Vec::new();
    for (number, line) in code.lines().enumerate() {
        if !line.split(|c: char| !(c.is_alphanumeric() || c == '_')).any(|word| word == "unsafe") {
            continue;
        }
        if !at_home {
            complaints.push(source.complain(number + 1, "`unsafe` outside src/mem and src/io"));
        }
        let needs_reason = line.contains("unsafe {") || line.contains("unsafe impl") || line.trim_end().ends_with("unsafe");
        if needs_reason && !has_safety_comment(&lines, number) {
            complaints.push(source.complain(number + 1, "`unsafe` without a `// SAFETY:` line above it"));
        }
    }
    complaints
}

/// A `// SAFETY:` within the three lines above, or at the head of the comment that ends there.
fn has_safety_comment(lines: &[&str], number: usize) -> bool {
    let near = lines[number.saturating_sub(3)..=number].iter().any(|line| line.contains("// SAFETY:"));
    let comment = lines[..number].iter().rev().take_while(|line| line.trim_start().starts_with("//"));
    near || comment.into_iter().any(|line| line.contains("// SAFETY:"))
}

fn check_length(source: &Source) -> Vec<Complaint> {
    let lines = source.text.lines().position(|line| line.trim() == "#[cfg(test)]").filter(|_| has_test_module_last(&source.text));
    let lines = lines.unwrap_or_else(|| source.text.lines().count());
    if lines < LINES_MAX || source.is_test() {
        return Vec::new();
    }
    vec![source.complain(0, format!("{lines} lines before its tests: fewer than {LINES_MAX} are wanted, so split it"))]
}

/// Whether the first `#[cfg(test)]` opens the tests, not one item in the midst of the file.
fn has_test_module_last(text: &str) -> bool {
    text.split_once("#[cfg(test)]").is_some_and(|(_, rest)| rest.trim_start().starts_with("mod "))
}

fn check_doc(source: &Source) -> Vec<Complaint> {
    let first = source.text.lines().find(|line| !line.trim().is_empty() && !line.starts_with("#!["));
    if first.is_some_and(|line| line.starts_with("//! ")) {
        Vec::new()
    } else {
        vec![source.complain(1, "starts without a `//!` doc")]
    }
}

fn check_unfinished(source: &Source) -> Vec<Complaint> {
    let words =
        [concat!("TO", "DO"), concat!("FIX", "ME"), concat!("XX", "X:"), concat!("to", "do!("), concat!("unimple", "mented!(")];
    let lines = source.text.lines().enumerate();
    lines
        .flat_map(|(number, line)| words.iter().filter(move |word| line.contains(**word)).map(move |word| (number, *word)))
        .map(|(number, word)| source.complain(number + 1, format!("`{word}`: finish it, or say in words what is not done")))
        .collect()
}

/// Every dependency says on its line, or the line above, what it is for.
fn check_dependencies(file: &str, manifest: &str) -> Vec<Complaint> {
    let mut complaints = Vec::new();
    let mut in_dependencies = false;
    let mut previous = "";
    for (number, line) in manifest.lines().enumerate() {
        if line.starts_with('[') {
            in_dependencies = line.contains("dependencies");
        } else if in_dependencies && !line.trim_start().starts_with('#') {
            let names_one = line.split_once('=').is_some_and(|(name, _)| !name.trim().is_empty() && !line.starts_with(' '));
            if names_one && !line.contains(" # ") && !previous.starts_with('#') {
                let text = format!("dependency without a comment that says what for: {line}");
                complaints.push(Complaint { file: file.to_owned(), line: number + 1, text });
            }
        }
        previous = line;
    }
    complaints
}

fn check_top_level<'a>(names: impl Iterator<Item = &'a str>) -> Vec<Complaint> {
    let stray = names.filter(|name| !TOP_LEVEL.contains(name));
    stray
        .map(|name| Complaint { file: name.to_owned(), line: 0, text: "does not belong at the top of the repository".to_owned() })
        .collect()
}

// ---- the repository -------------------------------------------------------------------------------------------------------

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn sources() -> Vec<Source> {
    fn walk(folder: &Path, found: &mut Vec<PathBuf>) {
        for entry in fs::read_dir(folder).expect("src is readable") {
            let path = entry.expect("entry of src").path();
            if path.is_dir() {
                walk(&path, found);
            } else if path.extension().is_some_and(|e| e == "rs") {
                found.push(path);
            }
        }
    }
    let base = root().join("src");
    let mut files = Vec::new();
    walk(&base, &mut files);
    files.sort();
    assert!(files.len() > 20, "the sources were found");
    let name = |path: &Path| path.strip_prefix(&base).expect("under src").to_string_lossy().into_owned();
    files.iter().map(|path| Source::new(&name(path), &fs::read_to_string(path).expect("source is text"))).collect()
}

fn assert_tidy(complaints: Vec<Complaint>) {
    let list: Vec<String> = complaints.iter().map(Complaint::to_string).collect();
    assert!(list.is_empty(), "{} untidy places:\n{}", list.len(), list.join("\n"));
}

fn assert_all(check: fn(&Source) -> Vec<Complaint>) {
    assert_tidy(sources().iter().flat_map(check).collect());
}

#[test]
fn imports_point_down() {
    assert_all(check_imports);
}

#[test]
fn the_packet_path_has_no_locks_clocks_or_copies() {
    assert_all(check_words);
}

#[test]
fn unsafe_is_at_home_and_justified() {
    assert_all(check_unsafe);
}

#[test]
fn files_are_short() {
    assert_all(check_length);
}

#[test]
fn modules_are_documented() {
    assert_all(check_doc);
}

#[test]
fn nothing_is_left_unfinished() {
    assert_all(check_unfinished);
}

#[test]
fn dependencies_say_what_for() {
    let manifests =
        ["Cargo.toml", "bench/Cargo.toml"].map(|name| (name, fs::read_to_string(root().join(name)).unwrap_or_default()));
    assert_tidy(manifests.iter().flat_map(|(name, text)| check_dependencies(name, text)).collect());
}

#[test]
fn the_top_of_the_repository_is_short() {
    let entries =
        fs::read_dir(root()).expect("root is readable").map(|e| e.expect("entry").file_name().to_string_lossy().into_owned());
    let names: Vec<String> = entries.collect();
    assert_tidy(check_top_level(names.iter().map(String::as_str)));
}

// ---- the rules can fail ---------------------------------------------------------------------------------------------------

fn complaints(check: fn(&Source) -> Vec<Complaint>, path: &str, text: &str) -> Vec<usize> {
    check(&Source::new(path, text)).iter().map(|c| c.line).collect()
}

#[test]
fn code_is_told_from_comments_strings_and_tests() {
    let text = "let a = \"Mutex // \\\" {\"; // Mutex\nlet b = r#\"Mutex \" \"#; /* Mutex /* x */ Mutex */ let c = '\"'; fn f<'a>() {}\nMutex\n";
    let code = code_only(text);
    assert_eq!(code.matches("Mutex").count(), 1, "{code}");
    assert!(code.contains("fn f<'a>() {}") && code.contains("let c ="), "{code}");
    assert_eq!(code.lines().count(), 3);

    let text =
        "fn a() {}\n#[cfg(test)]\nfn b() { c([1; 2]); }\nfn d() {}\n#[cfg(test)]\n#[path = \"x.rs\"]\nmod tests;\nfn e() {}\n";
    let code = without_tests(&code_only(text));
    let kept: Vec<bool> = ["fn a", "fn b", "fn d", "mod tests", "fn e"].iter().map(|word| code.contains(word)).collect();
    assert_eq!(kept, [true, false, true, false, true], "{code}");
}

#[test]
fn paths_are_read_out_of_groups() {
    assert_eq!(paths("a::b::c;"), ["a::b"]);
    assert_eq!(paths("{self, a::b, c::{d, e::f}, g}; more"), ["self", "a::b", "c::d", "c::e", "g"]);
    assert_eq!(paths("Type::new()"), ["Type::new"]);
}

#[test]
fn an_import_upwards_is_seen() {
    assert_eq!(complaints(check_imports, "peer/send.rs", "use crate::rtp::cache;\nuse crate::room::shard;\n"), [2]);
    assert_eq!(complaints(check_imports, "rtp/nack.rs", "fn f() { crate::secure::srtp::open() }\n"), [1]);
    assert_eq!(complaints(check_imports, "wire/rtp.rs", "use crate::{units::Ssrc, mem::Packet};\n"), [1]);
    assert_eq!(complaints(check_imports, "room/mod.rs", "use super::peer::Peer;\n"), [1]);
    assert_eq!(complaints(check_imports, "worker/turn.rs", "use super::mail;\nuse super::super::signal::api;\n"), [2]);
    assert_eq!(complaints(check_imports, "signal/whip.rs", "use crate::admin::api;\nuse crate::worker::mail;\n"), [1]);
    assert_eq!(complaints(check_imports, "admin/api.rs", "use crate::signal::api::Ask;\nuse crate::signal::director;\n"), [2]);
    assert_eq!(complaints(check_imports, "shiny/new.rs", ""), [0]);
    assert!(complaints(check_imports, "io/mod.rs", "// crate::peer\n#[cfg(test)]\nmod tests { use crate::peer; }\n").is_empty());
}

#[test]
fn a_forbidden_word_is_seen() {
    assert_eq!(complaints(check_words, "peer/send.rs", "use std::sync::Mutex;\n// RwLock\nlet v = b.to_vec();\n"), [1, 3]);
    assert_eq!(complaints(check_words, "worker.rs", "let now = Instant::now();\nasync fn f() {}\n"), [1, 2]);
    assert_eq!(complaints(check_words, "secure/srtp/keys.rs", "fn f(x: Box<dyn Cipher>) {}\n"), [1]);
    assert!(complaints(check_words, "io/mod.rs", "let now = Instant::now();\n").is_empty());
    assert!(complaints(check_words, "signal/http.rs", "async fn f() { Mutex::new(()) }\n").is_empty());
    assert!(complaints(check_words, "rtp/nack.rs", "#[cfg(test)]\nmod tests { fn f() { x.to_vec() } }\n").is_empty());
}

#[test]
fn a_stray_or_unexplained_unsafe_is_seen() {
    assert_eq!(complaints(check_unsafe, "peer/send.rs", "// SAFETY: never mind\nunsafe { f() }\n"), [2]);
    assert_eq!(complaints(check_unsafe, "mem/arena.rs", "fn f() {\n\n\n\n    unsafe { g() }\n}\n"), [5]);
    assert_eq!(complaints(check_unsafe, "mem/arena.rs", "unsafe impl Send for A {}\n"), [1]);
    assert!(
        complaints(check_unsafe, "io/uring.rs", "// SAFETY: the kernel has it\n// for long.\nlet x =\n    unsafe { g() };\n")
            .is_empty()
    );
    assert!(complaints(check_unsafe, "room/shard.rs", "// unsafe\nlet unsafe_code = \"unsafe\";\n").is_empty());
}

#[test]
fn a_long_file_is_seen() {
    let long = "x\n".repeat(LINES_MAX);
    assert_eq!(complaints(check_length, "peer/mod.rs", &long), [0]);
    assert_eq!(complaints(check_length, "peer/mod.rs", &format!("#[cfg(test)]\nfn one() {{}}\n{long}")), [0]);
    assert!(complaints(check_length, "peer/mod.rs", &format!("x\n#[cfg(test)]\nmod tests {{\n{long}}}\n")).is_empty());
}

#[test]
fn a_missing_doc_and_unfinished_work_are_seen() {
    assert_eq!(complaints(check_doc, "peer/mod.rs", "use x;\n//! late\n"), [1]);
    assert!(complaints(check_doc, "peer/mod.rs", "#![deny(x)]\n//! What it is.\n").is_empty());
    let text = format!("// {}: later\nfn f() {{ {}) }}\n", concat!("TO", "DO"), concat!("to", "do!("));
    assert_eq!(complaints(check_unfinished, "peer/mod.rs", &text), [1, 2]);
}

#[test]
fn an_unexplained_dependency_and_a_stray_file_are_seen() {
    let manifest = "[package]\nname = \"x\"\n[dependencies]\na = \"1\"\nb = \"1\" # for b\n# for c\nc = \"1\"\n[dev-dependencies]\nd = { version = \"1\" }\n";
    let lines: Vec<usize> = check_dependencies("Cargo.toml", manifest).iter().map(|c| c.line).collect();
    assert_eq!(lines, [4, 9]);
    let stray: Vec<String> = check_top_level(["src", "notes.txt"].into_iter()).into_iter().map(|c| c.file).collect();
    assert_eq!(stray, ["notes.txt"]);
}
