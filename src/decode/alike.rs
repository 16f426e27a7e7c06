//! Objects that look alike from record to record: a change's envelope, what it says of its source.
//!
//! Owns: what stood at each place of such an object before. Does not own: the grammar (`scan`).
//!
//! A-1  What is read is what a scan of every byte reads, with the same refusals: a value that is not scanned
//!      has the bytes of one that was, at the same depth, and ends where it may.

use super::scan::{Broken, Scanner, begins};

/// Members of an object that are remembered; those beyond are looked up.
const MEMBERS_MAX: usize = 64;
/// A longer value is scanned each time. Debezium's schema of a wide table has tens of KiB.
const VALUE_BYTES_MAX: usize = 1 << 18;

/// The objects at one place of records. Keys have a meaning, of which the reader makes what it needs.
pub struct Alike<M> {
    known: Vec<Known<M>>,
    meaning: fn(&str) -> M,
    /// At which all of it was scanned.
    depth: u32,
}

/// What stood at a place.
struct Known<M> {
    /// With its quotes.
    key: String,
    meaning: M,
    value: String,
    /// How often in turn another value came than this.
    missed: u32,
}

/// One of the objects, while it is read.
pub struct Members<'k, M> {
    alike: &'k mut Alike<M>,
    /// The members that were begun.
    begun: usize,
}

impl<M: Copy> Alike<M> {
    /// A key comes as it is written, without its quotes.
    pub fn new(meaning: fn(&str) -> M) -> Self {
        Self { known: Vec::new(), meaning, depth: 0 }
    }

    /// Begins to read the object on which the scanner stands.
    pub fn open(&mut self, scan: &mut Scanner<'_>) -> Result<Members<'_, M>, Broken> {
        if scan.peek() != Some(b'{') {
            return scan.broken("not an object");
        }
        scan.open()?;
        scan.skip_space();
        if self.depth != scan.depth() {
            self.known.clear();
            self.depth = scan.depth();
        }
        Ok(Members { alike: self, begun: 0 })
    }

    /// Calls back for each member of a text that is nothing but such an object.
    pub fn each<'a>(
        &mut self,
        text: &'a str,
        mut each: impl FnMut(M, &'a str),
    ) -> Result<(), Broken> {
        let mut scan = Scanner::new(text);
        scan.skip_space();
        let mut members = self.open(&mut scan)?;
        while let Some(meaning) = members.next(&mut scan)? {
            each(meaning, members.value(&mut scan)?);
        }
        scan.finish()
    }
}

impl<M: Copy> Members<'_, M> {
    /// Steps over the next key; its value is to be read before the next one. None: the object has ended.
    #[inline]
    pub fn next(&mut self, scan: &mut Scanner<'_>) -> Result<Option<M>, Broken> {
        if self.begun == 0 {
            if scan.peek() == Some(b'}') {
                scan.close();
                return Ok(None);
            }
        } else if !scan.comma(b'}', "a comma or } is wanted here")? {
            return Ok(None);
        }
        self.begun += 1;
        let rest = &scan.text.as_bytes()[scan.at..];
        let meaning = match self.alike.known.get(self.begun - 1) {
            Some(known) if begins(rest, known.key.as_bytes()) => {
                scan.at += known.key.len();
                known.meaning
            }
            _ => self.another(scan)?,
        };
        scan.colon()?;
        Ok(Some(meaning))
    }

    /// A key that was not there before.
    #[cold]
    fn another(&mut self, scan: &mut Scanner<'_>) -> Result<M, Broken> {
        if scan.peek() != Some(b'"') {
            return scan.broken("a key in quotes is wanted here");
        }
        let start = scan.at;
        scan.string()?;
        let key = &scan.text[start..scan.at];
        let meaning = (self.alike.meaning)(&key[1..key.len() - 1]);
        let fresh = Known { key: key.to_owned(), meaning, value: String::new(), missed: 0 };
        match self.alike.known.get_mut(self.begun - 1) {
            Some(known) => *known = fresh,
            None if self.begun <= MEMBERS_MAX => self.alike.known.push(fresh),
            None => {}
        }
        Ok(meaning)
    }

    /// Steps over the value of the key before.
    #[inline]
    pub fn value<'a>(&mut self, scan: &mut Scanner<'a>) -> Result<&'a str, Broken> {
        let start = scan.at;
        match self.alike.known.get_mut(self.begun - 1) {
            Some(known) if known.stands_in(scan) => {
                scan.at += known.value.len();
                known.missed = 0;
            }
            known => {
                scan.value()?;
                if let Some(known) = known {
                    known.miss(&scan.text[start..scan.at]);
                }
            }
        }
        Ok(&scan.text[start..scan.at])
    }
}

impl<M> Known<M> {
    /// Whether the same value comes here again: what follows must end it.
    #[inline]
    fn stands_in(&self, scan: &Scanner<'_>) -> bool {
        let rest = &scan.text.as_bytes()[scan.at..];
        let ends = || matches!(rest.get(self.value.len()), Some(b',' | b'}'));
        let copied = self.missed == 0 || self.missed.is_power_of_two();
        copied && !self.value.is_empty() && begins(rest, self.value.as_bytes()) && ends()
    }

    /// What changes each time is seldom copied, and compared only then.
    fn miss(&mut self, value: &str) {
        self.missed = self.missed.saturating_add(1);
        if self.missed.is_power_of_two() {
            self.value.clear();
            if value.len() <= VALUE_BYTES_MAX {
                self.value.push_str(value);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::decode::scan::members;
    use proptest::prelude::*;

    fn all(alike: &mut Alike<usize>, text: &str) -> Result<Vec<(usize, String)>, Broken> {
        let mut found = Vec::new();
        alike.each(text, |meaning, raw| found.push((meaning, raw.to_owned())))?;
        Ok(found)
    }

    /// By a scan of every byte; a key's meaning is its length.
    fn plainly(text: &str) -> Result<Vec<(usize, String)>, Broken> {
        let mut found = Vec::new();
        members(text, |key, raw| found.push((key.len(), raw.to_owned())))?;
        Ok(found)
    }

    /// Members as they come in practice: often the same, seldom broken.
    fn text() -> impl Strategy<Value = String> {
        let value = prop_oneof![
            8 => Just("1"), 4 => Just("12"), 2 => Just("\"a\""), 2 => Just("\"a,\""), 2 => Just("null"),
            2 => Just("{\"b\":[1]}"), 1 => Just("1 "), 1 => Just("01"), 1 => Just("\"a"), 1 => Just("1}"),
            1 => Just("{\"b\":[1]"), 1 => Just(""), 1 => Just("\"\\u00e9\""),
        ];
        let key = prop_oneof![6 => Just("\"op\""), 3 => Just("\"lsn\""), 1 => Just("op"), 1 => Just("\"o\\u0070\"")];
        let member = (key, value).prop_map(|(key, value)| format!("{key}:{value}"));
        prop::collection::vec(member, 0..5).prop_map(|members| format!("{{{}}}", members.join(",")))
    }

    proptest! {
        #[test]
        fn whatever_came_before_a_text_is_read_as_by_a_scan_of_every_byte(
            texts in prop::collection::vec(text(), 1..40),
        ) {
            let mut alike = Alike::new(str::len);
            for text in &texts {
                prop_assert_eq!(all(&mut alike, text), plainly(text), "{}", text);
            }
        }
    }

    #[test]
    fn what_was_good_at_one_depth_is_scanned_at_another() {
        // As deep as the first object allows; a level further down it is too deep.
        let deep = |levels: usize| format!("{}{}", "[".repeat(levels), "]".repeat(levels));
        let inner = format!("{{\"a\":{}}}", deep(126));
        let mut alike = Alike::new(str::len);
        for _ in 0..3 {
            assert!(all(&mut alike, &inner).is_ok());
        }
        let outer = format!("[{inner}]");
        let mut scan = Scanner::new(&outer);
        scan.open().expect("an array");
        let mut members = alike.open(&mut scan).expect("an object");
        assert_eq!(members.next(&mut scan), Ok(Some(1)));
        assert!(members.value(&mut scan).is_err());
    }
}
