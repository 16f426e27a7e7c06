//! Personal data: what becomes of a value before anything is written.
//!
//! The hash is keyed (HMAC-SHA-256, RFC 2104), since a plain hash of card numbers or names is
//! undone by trying them all. The same secret gives the same hash, so joins and `count(DISTINCT)`
//! still work; a new secret makes new hashes.

use super::Secret;
use hmac::{Hmac, Mac};
use sha2::Sha256;

/// What stands in place of a masked value.
pub const MASK: &str = "***";

/// The hash with its key taken in: cloned per value, which saves half of its work.
#[derive(Clone)]
pub struct Hasher(Hmac<Sha256>);

impl Hasher {
    pub fn new(secret: &Secret) -> Self {
        Self(Hmac::new_from_slice(&secret.0).expect("HMAC takes keys of any length"))
    }

    /// The hash in lower-case hexadecimal, written to `hex`.
    pub fn hash<'a>(&self, value: &str, hex: &'a mut [u8; 64]) -> &'a str {
        let mut mac = self.0.clone();
        mac.update(value.as_bytes());
        let hash = mac.finalize().into_bytes();
        for (pair, byte) in hex.chunks_exact_mut(2).zip(hash) {
            pair[0] = DIGITS[usize::from(byte >> 4)];
            pair[1] = DIGITS[usize::from(byte & 15)];
        }
        std::str::from_utf8(hex).expect("hexadecimal digits")
    }
}

const DIGITS: &[u8; 16] = b"0123456789abcdef";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hash_is_the_one_of_rfc_4231() {
        let (hasher, mut hex) = (Hasher::new(&Secret(b"Jefe"[..].into())), [0; 64]);
        let hex = hasher.hash("what do ya want for nothing?", &mut hex);
        assert_eq!(hex, "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843");
    }
}
