//! Schemas that records refer to by an id, as a schema registry knows them.
//!
//! Owns: the frame that carries the id, what is known of each id so far. Does not own: asking the
//! registry (`source`), what a schema means (`decode`).
//!
//! Source of the frame: Confluent's documentation, "Wire format".

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    sync::{Arc, PoisonError, RwLock},
};

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SchemaId(pub u32);

impl fmt::Display for SchemaId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// A zero, the id in four bytes, the content. None: not in that frame.
pub fn framed(bytes: &[u8]) -> Option<(SchemaId, &[u8])> {
    let (head, content) = bytes.split_first_chunk::<5>()?;
    let [0, id @ ..] = *head else { return None };
    Some((SchemaId(u32::from_be_bytes(id)), content))
}

/// A registry's answer. An id stands for the same schema for good; that there is none may change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Told {
    /// The schema's text, behind those that it refers to.
    Schema(Arc<[String]>),
    /// Why there is none.
    Denied(Arc<str>),
}

/// What has been told; shared by who asks and who decodes.
#[derive(Debug, Default)]
pub struct Schemas(RwLock<BTreeMap<SchemaId, Told>>);

impl Schemas {
    pub fn get(&self, id: SchemaId) -> Option<Told> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).get(&id).cloned()
    }

    pub fn tell(&self, id: SchemaId, told: Told) {
        self.0.write().unwrap_or_else(PoisonError::into_inner).insert(id, told);
    }

    /// Those of which nothing was told.
    pub fn unknown(&self, ids: &BTreeSet<SchemaId>) -> BTreeSet<SchemaId> {
        let told = self.0.read().unwrap_or_else(PoisonError::into_inner);
        ids.iter().copied().filter(|id| !told.contains_key(id)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_is_a_zero_and_four_bytes_of_id() {
        assert_eq!(framed(&[0, 0, 0, 1, 2, 7, 8]), Some((SchemaId(258), &[7, 8][..])));
        assert_eq!(framed(&[0, 255, 255, 255, 255]), Some((SchemaId(u32::MAX), &[][..])));
        for other in [&[][..], &[0, 0, 0, 1], &[1, 0, 0, 0, 1, 2]] {
            assert_eq!(framed(other), None);
        }
    }
}
