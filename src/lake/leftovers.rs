//! What of a listing nobody can need any more: the decision of `highwater sweep`, and its argument.
//!
//! Owns: which of the listed objects may go. Does not own: listing and removing (`store`), what the
//! warehouse names (`warehouse::manifest`), when to sweep (`ops::sweep`).
//!
//! SUBTLE, the order: **list the store first, then read what the warehouse names, then remove** what
//! was listed, is not named, and is older than the limit by the store's own clock. Why a removed
//! object is never needed:
//! - *Staged.* Nothing of an upload can be listed before its note is in the warehouse: the note is
//!   written before the first part, and `begin` leaves nothing behind that a listing shows. A note is
//!   written once and ends in two ways. Its cut is committed: then, in the same transaction, a file
//!   that is not completed names the upload, until it is completed, which is after the file has its
//!   name. Or it is forgotten, as abandoned or by the retry that gave it up: then nothing can ever
//!   commit it (W-4). So of what was
//!   listed, the later reading finds each upload that is or may be committed named, by its note or by
//!   its file, in one snapshot, whether the commit came before, between or after; what it does not
//!   name was completed meanwhile (its file has its name; the staged copy is one too many) or can
//!   never be committed. Were the warehouse read first, an upload noted and staged between the two
//!   would be listed and not named: that is why the order is this one.
//! - *A very slow upload*, older than any limit, keeps its note for as long as it may be committed.
//! - *A zombie* that wakes holds notes of an old epoch: named until somebody forgets them, and never
//!   committed. What it stages after that is a leftover of the next sweep.
//! - *Visible files* get their names only after their rows are in the manifest, and no row goes away
//!   while a file stays: one that is replaced goes from the manifest to the list of replaced files, which
//!   is read as well. What was listed and is not named afterwards was put there by somebody else,
//!   or its commit was lost with the database that knew it.
//!
//! The limit on age is therefore no part of the argument: it leaves time to look at what is odd, and
//! to those who copy files into the lake by hand to tell somebody.
//!
//! Staged names begin with the id of the warehouse that they belong to: who shares a bucket with
//! another warehouse must not sweep what the other one knows and it does not.

use crate::error::Result;
use std::{collections::BTreeSet, time::Duration};

/// One object as a store lists it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    /// Of a staged one its name, as in [`staged_name`]; of a visible one its path.
    pub name: String,
    pub bytes: u64,
    /// By the store's clock: microseconds since 1970.
    pub modified: i64,
}

/// The staged object's name within an upload's id.
pub fn staged_name(upload: &str) -> &str {
    upload.split_once('/').map_or(upload, |(name, _)| name)
}

/// What may go, with the store's time. Futures do nothing until they are awaited, so the order of
/// the three is settled here and nowhere else.
pub async fn find(
    list: impl Future<Output = Result<Vec<Listed>>>,
    now: impl Future<Output = Result<i64>>,
    named: impl Future<Output = Result<BTreeSet<String>>>,
    older_than: Duration,
) -> Result<(Vec<Listed>, i64)> {
    let listed = list.await?;
    if listed.is_empty() {
        return Ok((listed, 0));
    }
    let now = now.await?;
    let named = named.await?;
    Ok((removable(listed, &named, now, older_than), now))
}

/// What may be removed of a listing that was taken **before** `named` was read. `now` is of the
/// clock that dated the listing.
fn removable(
    listed: Vec<Listed>,
    named: &BTreeSet<String>,
    now: i64,
    older_than: Duration,
) -> Vec<Listed> {
    let limit = i64::try_from(older_than.as_micros()).unwrap_or(i64::MAX);
    let old = |one: &Listed| now.saturating_sub(one.modified) > limit;
    listed.into_iter().filter(|one| old(one) && !named.contains(&one.name)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[derive(Debug, Clone, Copy)]
    enum Step {
        Note(usize),
        Stage(usize),
        Commit(usize),
        Publish(usize),
        Unstage(usize),
        Complete(usize),
        Forget(usize),
        /// The epoch moves on: what is noted can be committed no more.
        Fence,
        List,
        Read,
        Remove,
    }

    #[derive(Debug, Default, Clone)]
    struct Upload {
        noted: bool,
        was_noted: bool,
        fenced: bool,
        staged: bool,
        committed: bool,
        visible: bool,
        completed: bool,
    }

    /// One world of a few uploads, and one sweeper whose three steps may stand anywhere.
    #[derive(Default)]
    struct World {
        uploads: [Upload; 4],
        listed: Vec<Listed>,
        doomed: Vec<Listed>,
    }

    impl World {
        fn named(&self) -> BTreeSet<String> {
            let named = |u: &&Upload| u.noted || u.committed && !u.completed;
            let all = self.uploads.iter().enumerate();
            all.filter(|(_, u)| named(u)).map(|(i, _)| i.to_string()).collect()
        }

        fn take(&mut self, step: Step) {
            match step {
                Step::Fence => {
                    for u in self.uploads.iter_mut().filter(|u| u.noted) {
                        u.fenced = true;
                    }
                }
                Step::List => {
                    let staged = self.uploads.iter().enumerate().filter(|(_, u)| u.staged);
                    let listed = |(i, _): (usize, &Upload)| Listed {
                        name: i.to_string(),
                        bytes: 1,
                        modified: 0,
                    };
                    self.listed = staged.map(listed).collect();
                    self.doomed.clear();
                }
                Step::Read => {
                    let listed = std::mem::take(&mut self.listed);
                    self.doomed = removable(listed, &self.named(), 1, Duration::ZERO);
                }
                Step::Remove => {
                    for one in std::mem::take(&mut self.doomed) {
                        let i: usize = one.name.parse().expect("a number");
                        self.uploads[i].staged = false;
                    }
                }
                Step::Note(i) => {
                    let u = &mut self.uploads[i];
                    u.noted |= !u.was_noted;
                    u.was_noted = true;
                }
                // A zombie stages what was forgotten long ago, too.
                Step::Stage(i) => {
                    self.uploads[i].staged |=
                        self.uploads[i].was_noted && !self.uploads[i].committed
                }
                Step::Commit(i) => {
                    let u = &mut self.uploads[i];
                    if u.noted && !u.fenced && u.staged {
                        (u.noted, u.committed) = (false, true);
                    }
                }
                Step::Publish(i) => {
                    let u = &mut self.uploads[i];
                    u.visible |= u.committed && u.staged;
                }
                Step::Unstage(i) => {
                    let u = &mut self.uploads[i];
                    u.staged &= !u.visible;
                }
                Step::Complete(i) => self.uploads[i].completed |= self.uploads[i].visible,
                Step::Forget(i) => {
                    let u = &mut self.uploads[i];
                    u.noted &= !u.fenced;
                }
            }
        }
    }

    fn step() -> impl Strategy<Value = Step> {
        let upload = 0..4usize;
        prop_oneof![
            3 => upload.clone().prop_map(Step::Note),
            4 => upload.clone().prop_map(Step::Stage),
            4 => upload.clone().prop_map(Step::Commit),
            3 => upload.clone().prop_map(Step::Publish),
            2 => upload.clone().prop_map(Step::Unstage),
            2 => upload.clone().prop_map(Step::Complete),
            1 => upload.prop_map(Step::Forget),
            1 => Just(Step::Fence),
            3 => Just(Step::List),
            3 => Just(Step::Read),
            3 => Just(Step::Remove),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(20_000))]
        #[test]
        fn whatever_comes_between_its_steps_a_sweep_removes_nothing_that_is_or_will_be_committed(
            steps in prop::collection::vec(step(), 1..60),
        ) {
            let mut world = World::default();
            for step in &steps {
                world.take(*step);
                for (i, u) in world.uploads.iter().enumerate() {
                    prop_assert!(!u.committed || u.visible || u.staged, "{i} is lost: {u:?}");
                }
            }
        }
    }

    #[tokio::test]
    async fn the_store_is_listed_before_the_warehouse_is_read() {
        let steps = std::sync::Mutex::new(Vec::new());
        let did = |step: &'static str| steps.lock().expect("steps").push(step);
        let one = Listed { name: "a".into(), bytes: 1, modified: 0 };
        let list = async {
            did("listed");
            Ok(vec![one.clone()])
        };
        let now = async {
            did("dated");
            Ok(7)
        };
        let named = async {
            did("read");
            Ok(BTreeSet::new())
        };
        // Given in another order, they are done in this one.
        let found = find(list, now, named, Duration::ZERO).await.expect("found");
        assert_eq!(found, (vec![one.clone()], 7));
        assert_eq!(*steps.lock().expect("steps"), ["listed", "dated", "read"]);
    }

    #[test]
    fn what_is_named_or_young_stays_and_what_a_dead_owner_left_goes() {
        let one = |name: &str, modified| Listed { name: name.into(), bytes: 1, modified };
        let listed = vec![one("named", 0), one("old", 0), one("young", 50), one("ahead", 500)];
        let named = BTreeSet::from(["named".to_owned()]);
        let gone = removable(listed, &named, 100, Duration::from_micros(60));
        assert_eq!(gone, [one("old", 0)]);
        assert_eq!(staged_name("a.b/upload/id"), "a.b");
        assert_eq!(staged_name("a.b"), "a.b");
    }
}
