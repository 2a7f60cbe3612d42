//! `config --print-default`: the table of options as a commented TOML file.

use std::fmt::Write;

use super::options::{OPTIONS, Settings};

/// A config file with every option, its help, its range and its default. It parses, and changes nothing.
pub fn print_default() -> String {
    let defaults = Settings::default();
    let mut text = String::from(
        "# Distributary's configuration: every option with its default.\n\
         # The environment goes over this file, flags over both.\n",
    );
    let mut section_before = "";
    for option in OPTIONS {
        let (section, key) = option.section_and_key();
        // A table of free keys is a section of its own.
        let free_keys = option.example.starts_with('{');
        if section != section_before && !free_keys {
            let _ = write!(text, "\n[{section}]\n");
            section_before = section;
        }
        text.push('\n');
        for line in wrap(option.help) {
            let _ = writeln!(text, "# {line}");
        }
        for line in wrap(&format!("Must be {}.", (option.wanted)())) {
            let _ = writeln!(text, "# {line}");
        }
        let flag = option.flag.map(|flag| format!("--{flag} or ")).unwrap_or_default();
        let _ = writeln!(text, "# Also: {flag}{}", option.variable());
        match (option.write)(&defaults) {
            _ if free_keys => {
                let pair = option.example.trim_matches(['{', '}', ' ']);
                let _ = write!(text, "[{key}]\n# {pair}\n");
            }
            Some(value) if value != "[]" => {
                let _ = writeln!(text, "{key} = {value}");
            }
            Some(value) => {
                let _ = write!(text, "# {key} = {}\n{key} = {value}\n", option.example);
            }
            None => {
                let _ = writeln!(text, "# {key} = {}", option.example);
            }
        }
    }
    text
}

/// Lines of at most 100 characters.
fn wrap(text: &str) -> Vec<String> {
    let mut lines = vec![String::new()];
    for word in text.split_whitespace() {
        if let Some(line) = lines.last_mut()
            && line.len() + word.len() < 100
        {
            if !line.is_empty() {
                line.push(' ');
            }
            line.push_str(word);
        } else {
            lines.push(word.to_owned());
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;
    use crate::config::Sources;

    #[test]
    fn the_printed_default_parses_and_changes_nothing() {
        let text = print_default();
        let file: PathBuf = std::env::temp_dir().join(format!("distributary-default-{}.toml", std::process::id()));
        std::fs::write(&file, &text).unwrap();
        let settings = Sources { file: Some(file.clone()), ..Sources::default() }.settings();
        std::fs::remove_file(file).unwrap();
        assert_eq!(settings.unwrap(), Settings::default(), "{text}");
        for option in OPTIONS {
            assert!(
                text.contains(&format!("{} = ", option.section_and_key().1)) || option.path == "keys",
                "{} is missing",
                option.path
            );
        }
    }

    #[test]
    fn every_example_is_a_value_that_is_accepted() {
        for option in OPTIONS {
            let table: toml::Table = format!("value = {}", option.example).parse().unwrap();
            let accepted = (option.set)(&mut Settings::default(), &table["value"]);
            assert!(accepted || option.path == "keys", "{} = {}", option.path, option.example);
        }
    }
}
