//! The checksum of SCTP packets that are made here: CRC32c (RFC 9260 appendix A), a byte at a time, since they are few.

const POLYNOMIAL_REVERSED: u32 = 0x82f6_3b78;

const TABLE: [u32; 256] = {
    let mut table = [0; 256];
    let mut byte = 0;
    while byte < 256 {
        let (mut value, mut bit) = (byte as u32, 0);
        while bit < 8 {
            value = (value >> 1) ^ (if value & 1 != 0 { POLYNOMIAL_REVERSED } else { 0 });
            bit += 1;
        }
        table[byte] = value;
        byte += 1;
    }
    table
};

pub fn crc32c(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0, |crc, byte| (crc >> 8) ^ TABLE[((crc ^ u32::from(*byte)) & 0xff) as usize])
}

#[cfg(test)]
mod tests {
    /// RFC 3720 appendix B.4.
    #[test]
    fn the_published_examples() {
        assert_eq!(super::crc32c(&[0; 32]), 0x8a91_36aa);
        assert_eq!(super::crc32c(&[0xff; 32]), 0x62a8_ab43);
        assert_eq!(super::crc32c(b"123456789"), 0xe306_9283);
    }
}
