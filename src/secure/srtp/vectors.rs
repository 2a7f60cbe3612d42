//! The published test vectors, read from `tests/vectors/srtp.txt`.

/// The octets of the vector called `name`.
pub(super) fn vector(name: &str) -> Vec<u8> {
    let text = include_str!("../../../tests/vectors/srtp.txt");
    let value = text.lines().find_map(|line| line.split_once(" = ").filter(|(key, _)| *key == name));
    let (_, hex) = value.unwrap_or_else(|| panic!("no vector {name}"));
    let digits: Vec<u8> = hex.chars().map(|digit| digit.to_digit(16).expect("a hexadecimal digit") as u8).collect();
    digits.chunks(2).map(|pair| pair[0] << 4 | pair[1]).collect()
}
