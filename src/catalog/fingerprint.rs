//! What tells a changed declaration from an unchanged one.
//!
//! Owns: the hash. Does not own: what goes into it (see `Model::declaration` and
//! `Topic::lake_fingerprint`). A fingerprint that differs means that the output must be rebuilt,
//! so nothing goes in that changes no result: comments, layout, order of options.

use sha2::{Digest, Sha256};
use std::fmt::Write;

/// Hexadecimal SHA-256.
pub(super) fn sha256(text: &str) -> String {
    Sha256::digest(text.as_bytes()).iter().fold(String::with_capacity(64), |mut out, byte| {
        let _ = write!(out, "{byte:02x}");
        out
    })
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_hash_is_sha_256_in_hexadecimal() {
        assert_eq!(
            super::sha256("abc"),
            "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
        );
    }
}
