//! The consumer group's coordinator: who is a member, who owns which partition, one rebalance at a
//! time. It moves on when every member has answered, or is expelled.

use super::servers::Life;
use std::collections::{BTreeMap, BTreeSet};

/// What the coordinator has its members do.
#[derive(Debug)]
pub enum Order {
    Revoke { life: Life, round: u64, partitions: Vec<i32> },
    Assign { life: Life, partitions: Vec<i32> },
}

#[derive(Debug)]
pub struct Group {
    pub eager: bool,
    partitions: i32,
    /// Turns the assignment, so that a rebalance moves something.
    pub turn: usize,
    members: BTreeSet<Life>,
    owners: BTreeMap<i32, Life>,
    round: u64,
    /// Members that were told to give partitions up and have not answered.
    awaited: BTreeMap<Life, Vec<i32>>,
    /// Something changed since the assignment was worked out.
    pub stale: bool,
}

impl Group {
    pub fn new(eager: bool, partitions: i32) -> Self {
        Self {
            eager,
            partitions,
            turn: 0,
            members: BTreeSet::new(),
            owners: BTreeMap::new(),
            round: 0,
            awaited: BTreeMap::new(),
            stale: false,
        }
    }

    pub fn join(&mut self, life: Life) {
        self.members.insert(life);
        self.stale = true;
    }

    pub fn is_member(&self, life: Life) -> bool {
        self.members.contains(&life)
    }

    /// Left, or not heard of for too long.
    pub fn remove(&mut self, life: Life) -> Vec<Order> {
        if !self.members.remove(&life) {
            return Vec::new();
        }
        self.owners.retain(|_, owner| *owner != life);
        self.stale = true;
        match self.awaited.remove(&life) {
            Some(_) if self.awaited.is_empty() => self.assign(),
            Some(_) | None => Vec::new(),
        }
    }

    fn wanted(&self) -> BTreeMap<i32, Life> {
        let members: Vec<_> = self.members.iter().copied().collect();
        let member =
            |p: i32| Some((p, *members.get((p as usize + self.turn) % members.len().max(1))?));
        (0..self.partitions).filter_map(member).collect()
    }

    /// Begins a rebalance unless one is under way; then it follows.
    pub fn rebalance(&mut self) -> Vec<Order> {
        if !self.awaited.is_empty() || !self.stale {
            return Vec::new();
        }
        self.round += 1;
        let wanted = self.wanted();
        let mut orders = Vec::new();
        for (&partition, &owner) in &self.owners {
            if self.eager || wanted.get(&partition) != Some(&owner) {
                self.awaited.entry(owner).or_default().push(partition);
            }
        }
        for (&life, partitions) in &self.awaited {
            orders.push(Order::Revoke { life, round: self.round, partitions: partitions.clone() });
        }
        if orders.is_empty() { self.assign() } else { orders }
    }

    pub fn answered(&mut self, life: Life, round: u64) -> Vec<Order> {
        if round != self.round {
            return Vec::new();
        }
        let Some(given_up) = self.awaited.remove(&life) else { return Vec::new() };
        for partition in given_up {
            self.owners.remove(&partition);
        }
        if self.awaited.is_empty() { self.assign() } else { Vec::new() }
    }

    /// What nobody owns any more goes to whom the present members' assignment names.
    fn assign(&mut self) -> Vec<Order> {
        let wanted = self.wanted();
        self.stale = false;
        let mut orders = BTreeMap::<Life, Vec<i32>>::new();
        for (&partition, &life) in &wanted {
            match self.owners.get(&partition) {
                // Members came or went meanwhile: a further rebalance will move it.
                Some(owner) => self.stale |= *owner != life,
                None => {
                    self.owners.insert(partition, life);
                    orders.entry(life).or_default().push(partition);
                }
            }
        }
        orders.into_iter().map(|(life, partitions)| Order::Assign { life, partitions }).collect()
    }
}
