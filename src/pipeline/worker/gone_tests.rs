//! Partitions that stand, sentence by sentence; the desk is that of `worker_tests`.

use super::*;
use crate::record::gap::{self, PartitionLog};

fn gap(output: Output, partition: i32, next: i64, oldest: i64) -> Gap {
    let log = PartitionLog { topic_id: None, oldest: Offset(oldest), end: Offset(1000) };
    let (partition, next) = (Partition(partition), Offset(next));
    Gap { output, partition, reason: gap::Reason::Retention, next, topic_id: None, log }
}

fn stands(desk: &mut Desk, lane: Lane, ticket: Ticket, gaps: &[Gap]) -> Vec<String> {
    let (marks, advances) = (Vec::new(), Vec::new());
    desk.hear(Input::Taken { lane, ticket, marks, gaps: gaps.to_vec(), advances })
}

#[test]
fn a_partition_that_stands_is_not_read_and_is_taken_again_until_it_goes_on() {
    let mut desk = desk(TABLES);
    desk.assigned(&[0]);
    let gone = [gap(Output::DeadLetters, 0, 5, 9)];
    assert_eq!(stands(&mut desk, Lane::Tables, 1, &gone), ["stand 0"]);
    assert_eq!(desk.worker.gaps(), gone);
    assert!(!desk.worker.wants_records());
    assert_eq!(desk.wait(4_999), nothing());
    assert_eq!(desk.wait(1), ["take tables #2: 0"]);
    assert_eq!(desk.worker.gaps(), gone, "known until it is known better");
    assert_eq!(stands(&mut desk, Lane::Tables, 2, &gone), ["stand 0"]);
    assert_eq!(desk.wait(5_000), ["take tables #3: 0"]);
    let follows = ["adopt tables: dead_letters 0@9", "seek 0@9"];
    assert_eq!(desk.taken(Lane::Tables, 3, &[own(Lane::Tables, 0, 9)]), follows);
    assert_eq!(desk.worker.gaps(), []);
}

#[test]
fn a_partition_that_stands_holds_up_neither_the_other_lane_nor_other_partitions() {
    let mut desk = desk(BOTH);
    desk.assigned(&[0, 1]);
    let marks = vec![own(Lane::Lake, 1, 3)];
    let gaps = vec![gap(Output::Lake, 0, 5, 9)];
    desk.taken(Lane::Tables, 1, &[own(Lane::Tables, 0, 20), own(Lane::Tables, 1, 3)]);
    let follows = ["adopt lake: lake 1@3"];
    let taken = Input::Taken { lane: Lane::Lake, ticket: 2, marks, gaps, advances: Vec::new() };
    assert_eq!(desk.hear(taken), follows);
    let follows = ["open tables 1 number 0: 0@20 e1", "admit tables: 0@20"];
    assert_eq!(desk.arrived(0, 25, 5), follows);
    let follows = ["admit tables: 1@3", "open lake 2 number 1: 1@3 e1", "admit lake: 1@3"];
    assert_eq!(desk.arrived(1, 6, 3), follows);
    // Caught up is all that can be had.
    let ends = [(Partition(0), Offset(25)), (Partition(1), Offset(6))];
    desk.hear(Input::Targets(ends.into()));
    desk.committed(Lane::Tables, 1);
    desk.committed(Lane::Lake, 2);
    assert!(desk.worker.is_caught_up());
}

#[test]
fn what_was_read_before_the_offsets_were_gone_is_committed_first() {
    let mut desk = reading(TABLES);
    desk.arrived(0, 5, 5);
    let follows = ["seal tables 1 out_of_reach: dead_letters 0@0..5 e1"];
    assert_eq!(desk.hear(Input::OutOfReach(Partition(0))), follows);
    assert_eq!(desk.arrived(0, 9, 4), nothing(), "left over from before");
    assert_eq!(desk.committed(Lane::Tables, 1), ["acknowledge 0@5", "take tables #2: 0"]);
    let gone = [gap(Output::DeadLetters, 0, 5, 9)];
    assert_eq!(stands(&mut desk, Lane::Tables, 2, &gone), ["stand 0"]);
    assert_eq!(desk.revoked(&[0]), ["release 0"]);
    assert_eq!(desk.worker.gaps(), [], "somebody else's now");
}
