//! The worker's rules, one sentence each. Effects are compared as they are spoken:
//! `seal tables 1 interval: dead_letters 0@0..5 e1`.

use super::*;
use crate::record::{Epoch, EventTime};

const BOTH: &[Lane] = &[Lane::Tables, Lane::Lake];
const TABLES: &[Lane] = &[Lane::Tables];
const LAKE: &[Lane] = &[Lane::Lake];

struct Desk {
    worker: Worker,
    now: u64,
}

fn desk(lanes: &[Lane]) -> Desk {
    Desk { worker: Worker::new(Settings::default(), lanes), now: 0 }
}

/// A desk that holds partition 0 from offset 0 in each of its lanes.
fn reading(lanes: &[Lane]) -> Desk {
    let mut desk = desk(lanes);
    desk.assigned(&[0]);
    for (index, lane) in lanes.iter().enumerate() {
        desk.taken(*lane, index as u64 + 1, &[own(*lane, 0, 0)]);
    }
    desk
}

fn mark(next: i64, epoch: i64, sequence: i64) -> Mark {
    Mark { next: Offset(next), epoch: Epoch(epoch), sequence, ..Mark::BEGINNING }
}

/// The lane's one mark of a partition, at epoch 1.
fn own(lane: Lane, partition: i32, next: i64) -> (Output, Partition, Mark) {
    let output = match lane {
        Lane::Tables => Output::DeadLetters,
        Lane::Lake => Output::Lake,
    };
    (output, Partition(partition), mark(next, 1, 0))
}

fn lake(partition: i32, next: i64, sequence: i64) -> (Output, Partition, Mark) {
    (Output::Lake, Partition(partition), mark(next, 1, sequence))
}

fn many(partitions: &[i32]) -> Vec<Partition> {
    partitions.iter().map(|p| Partition(*p)).collect()
}

fn said(effect: &Effect) -> String {
    let list = |partitions: &[Partition]| {
        partitions.iter().map(|p| p.0.to_string()).collect::<Vec<_>>().join(" ")
    };
    let places = |places: &[(Partition, Offset)]| {
        let place = |(p, o): &(Partition, Offset)| format!("{}@{}", p.0, o.0);
        places.iter().map(place).collect::<Vec<_>>().join(" ")
    };
    match effect {
        Effect::Take { lane, ticket, partitions } => {
            format!("take {} #{ticket}: {}", lane.as_str(), list(partitions))
        }
        Effect::Adopt { lane, marks, .. } => {
            let mark = |(o, p, m): &(Output, Partition, Mark)| format!("{o} {}@{}", p.0, m.next.0);
            let marks: Vec<_> = marks.iter().map(mark).collect();
            format!("adopt {}: {}", lane.as_str(), marks.join(", "))
        }
        Effect::Stand { partition } => format!("stand {}", partition.0),
        Effect::Seek { partition, to } => format!("seek {}@{}", partition.0, to.0),
        Effect::Open { lane, cut, sequence, partition, from, epoch } => {
            let lane = lane.as_str();
            format!("open {lane} {cut} number {sequence}: {}@{} e{}", partition.0, from.0, epoch.0)
        }
        Effect::Admit { lane, from } => format!("admit {}: {}", lane.as_str(), places(from)),
        Effect::Hold { from } => format!("hold: {}", places(from)),
        Effect::Follow { to } => format!("follow: {}", places(to)),
        Effect::Seal { lane, cut, reason, moves } => {
            let moved = |m: &Move| {
                format!(
                    "{} {}@{}..{} e{}",
                    m.output, m.partition.0, m.span.from.0, m.span.to.0, m.epoch.0
                )
            };
            let moves: Vec<_> = moves.iter().map(moved).collect();
            format!("seal {} {cut} {}: {}", lane.as_str(), reason.as_str(), moves.join(", "))
        }
        Effect::AskEnds { partitions } => format!("ask for the ends: {}", list(partitions)),
        Effect::Advance(a) => {
            format!("advance {}@{} to {}", a.partition.0, a.before.0, a.event_time.0)
        }
        Effect::Abandon { lane } => format!("abandon {}", lane.as_str()),
        Effect::Release { partitions } => format!("release {}", list(partitions)),
        Effect::Acknowledge { offsets } => format!("acknowledge {}", places(offsets)),
        Effect::Stop { why } => format!("stop {why}"),
    }
}

impl Desk {
    /// What follows from an input.
    fn hear(&mut self, input: Input) -> Vec<String> {
        self.worker.handle(input);
        std::iter::from_fn(|| self.worker.next_effect()).map(|e| said(&e)).collect()
    }

    fn assigned(&mut self, partitions: &[i32]) -> Vec<String> {
        self.hear(Input::Assigned(many(partitions)))
    }

    fn revoked(&mut self, partitions: &[i32]) -> Vec<String> {
        self.hear(Input::Revoked(many(partitions)))
    }

    fn lost(&mut self, partitions: &[i32]) -> Vec<String> {
        self.hear(Input::Lost(many(partitions)))
    }

    fn taken(
        &mut self,
        lane: Lane,
        ticket: Ticket,
        marks: &[(Output, Partition, Mark)],
    ) -> Vec<String> {
        let (gaps, advances) = (Vec::new(), Vec::new());
        self.hear(Input::Taken { lane, ticket, marks: marks.to_vec(), gaps, advances })
    }

    fn take_failed(&mut self, lane: Lane, ticket: Ticket, kind: Kind) -> Vec<String> {
        self.hear(Input::TakeFailed { lane, ticket, kind, why: "away".to_owned() })
    }

    /// One partition's records, then the log's end.
    fn arrived(&mut self, partition: i32, next: i64, records: u64) -> Vec<String> {
        let arrival = Arrival { partition: Partition(partition), next: Offset(next), records };
        self.hear(Input::Arrived { arrivals: vec![arrival], more: false })
    }

    fn measured(&mut self, lane: Lane, size: Size) -> Vec<String> {
        self.hear(Input::Measured { lane, size })
    }

    fn committed(&mut self, lane: Lane, cut: u64) -> Vec<String> {
        self.hear(Input::Committed { lane, cut })
    }

    fn failed(&mut self, lane: Lane, cut: u64, kind: Kind) -> Vec<String> {
        self.hear(Input::Failed { lane, cut, kind, why: "no".to_owned() })
    }

    fn wait(&mut self, millis: u64) -> Vec<String> {
        self.now += millis;
        self.hear(Input::Tick(Moment::from_millis(self.now)))
    }
}

fn nothing() -> Vec<String> {
    Vec::new()
}

#[test]
fn what_is_assigned_is_taken_in_each_lane_and_read_from_its_marks() {
    let mut desk = desk(BOTH);
    assert!(!desk.worker.wants_records());
    assert_eq!(desk.assigned(&[0, 1]), ["take tables #1: 0 1", "take lake #2: 0 1"]);
    assert!(!desk.worker.wants_records(), "nothing is known of where to read");
    let marks = [own(Lane::Tables, 0, 10), own(Lane::Tables, 1, 7)];
    let follows = ["adopt tables: dead_letters 0@10, dead_letters 1@7", "seek 0@10", "seek 1@7"];
    assert_eq!(desk.taken(Lane::Tables, 1, &marks), follows);
    assert!(!desk.worker.wants_records(), "the lake is about to read from the beginning");
    let positions = desk.worker.positions(Lane::Tables);
    assert_eq!(positions[0], (Partition(0), Offset(10), Offset(10)));
    assert_eq!(desk.worker.positions(Lane::Lake), []);
    assert_eq!(desk.worker.held(), 2);
    desk.take_failed(Lane::Lake, 2, Kind::Retry);
    assert!(desk.worker.wants_records(), "one lane is enough where the other is away");
}

#[test]
fn a_lane_behind_makes_the_reader_go_back_and_the_other_skips() {
    let mut desk = desk(BOTH);
    desk.assigned(&[0]);
    desk.taken(Lane::Tables, 1, &[own(Lane::Tables, 0, 10)]);
    desk.arrived(0, 20, 10);
    // P-3.
    let follows = ["adopt lake: lake 0@4", "seek 0@4"];
    assert_eq!(desk.taken(Lane::Lake, 2, &[lake(0, 4, 0)]), follows);
    assert_eq!(desk.arrived(0, 12, 8), ["open lake 2 number 1: 0@4 e1", "admit lake: 0@4"]);
    assert_eq!(desk.arrived(0, 25, 13), ["admit tables: 0@20", "admit lake: 0@12"]);
}

#[test]
fn a_reader_below_a_lane_stays_where_it_is() {
    let mut desk = desk(BOTH);
    desk.assigned(&[0]);
    desk.taken(Lane::Tables, 1, &[own(Lane::Tables, 0, 4)]);
    assert_eq!(desk.taken(Lane::Lake, 2, &[lake(0, 10, 0)]), ["adopt lake: lake 0@10"]);
    assert_eq!(desk.arrived(0, 8, 4), ["open tables 1 number 0: 0@4 e1", "admit tables: 0@4"]);
}

#[test]
fn each_offset_is_admitted_once_however_often_it_comes() {
    let mut desk = reading(TABLES);
    assert_eq!(desk.arrived(0, 5, 5), ["open tables 1 number 0: 0@0 e1", "admit tables: 0@0"]);
    assert_eq!(desk.arrived(0, 5, 5), nothing(), "all of it is known");
    assert_eq!(desk.arrived(0, 3, 3), nothing(), "and part of it");
    assert_eq!(desk.arrived(0, 9, 9), ["admit tables: 0@5"], "what is new counts");
    assert_eq!(desk.wait(1_000), ["seal tables 1 interval: dead_letters 0@0..9 e1"]);
}

#[test]
fn offsets_without_a_record_move_the_mark() {
    let mut desk = reading(TABLES);
    assert_eq!(desk.arrived(0, 5, 0), ["open tables 1 number 0: 0@0 e1"]);
    assert_eq!(desk.wait(1_000), ["seal tables 1 interval: dead_letters 0@0..5 e1"]);
    assert_eq!(desk.committed(Lane::Tables, 1), ["acknowledge 0@5"]);
}

#[test]
fn what_comes_of_partitions_not_positioned_is_left_over() {
    let mut desk = reading(TABLES);
    assert_eq!(desk.arrived(1, 5, 5), nothing(), "never assigned");
    desk.assigned(&[1]);
    assert_eq!(desk.arrived(1, 5, 5), nothing(), "its marks are not known");
    desk.arrived(0, 5, 5);
    desk.wait(1_000);
    desk.revoked(&[0]);
    assert_eq!(desk.arrived(0, 9, 4), nothing(), "leaving");
}

#[test]
fn a_cut_ends_for_a_reason() {
    let s = Settings::default();
    let size = Size::default();
    let tables = |memory| Size { memory, ..size };
    let cases: [(Lane, Size, bool, u64, &str); 8] = [
        (Lane::Tables, size, false, 249, ""),
        (Lane::Tables, size, false, 250, "interval"),
        (Lane::Tables, tables(s.tables_memory), false, 0, "memory"),
        (Lane::Lake, size, false, 59_999, ""),
        (Lane::Lake, size, false, 60_000, "age"),
        (Lane::Lake, Size { largest_file: s.lake_file_bytes, ..size }, false, 0, "bytes"),
        (Lane::Lake, Size { memory: s.lake_memory, ..size }, false, 0, "memory"),
        (Lane::Lake, Size { files: s.lake_files, ..size }, false, 0, "files"),
    ];
    for (lane, size, more, millis, reason) in cases {
        let mut desk = reading(&[lane]);
        let arrival = Arrival { partition: Partition(0), next: Offset(5), records: 5 };
        desk.hear(Input::Arrived { arrivals: vec![arrival], more });
        let mut effects = desk.measured(lane, size);
        effects.extend(desk.wait(millis));
        let sealed = effects.iter().any(|e| e.starts_with("seal"));
        assert_eq!(sealed, !reason.is_empty(), "{lane:?} {size:?} {more} {millis}: {effects:?}");
        if sealed {
            assert!(effects[0].contains(&format!(" 1 {reason}: ")), "{reason}: {effects:?}");
        }
    }
}

#[test]
fn of_many_partitions_a_cut_holds_less() {
    for lane in [Lane::Tables, Lane::Lake] {
        let share = Settings::default().lake_memory;
        for (partitions, room) in
            [(1, share - 8_192), (1_000, share - 8_192_000), (99_999, share / 4)]
        {
            for (memory, ends) in [(room - 1, false), (room, true)] {
                let mut desk = desk(&[lane]);
                let all: Vec<i32> = (0..partitions).collect();
                desk.assigned(&all);
                let taken: Vec<_> = all.iter().map(|p| own(lane, *p, 0)).collect();
                desk.taken(lane, 1, &taken);
                desk.arrived(0, 5, 5);
                let sealed = desk.measured(lane, Size { memory, ..Size::default() });
                assert_eq!(!sealed.is_empty(), ends, "{lane:?} {partitions} {memory}: {sealed:?}");
            }
        }
    }
}

#[test]
fn the_first_cut_since_partitions_were_taken_is_a_small_one() {
    let mut desk = reading(TABLES);
    let read = |desk: &mut Desk, next: i64, more: bool| {
        let arrival = Arrival { partition: Partition(0), next: Offset(next), records: 5 };
        desk.hear(Input::Arrived { arrivals: vec![arrival], more });
    };
    read(&mut desk, 5, true);
    assert_eq!(desk.wait(249), nothing());
    assert_eq!(desk.wait(1), ["seal tables 1 interval: dead_letters 0@0..5 e1"]);
    desk.committed(Lane::Tables, 1);
    read(&mut desk, 10, true);
    assert_eq!(desk.wait(4_999), nothing(), "far behind");
    assert_eq!(desk.wait(1), ["seal tables 2 interval: dead_letters 0@5..10 e1"]);
    desk.committed(Lane::Tables, 2);
    read(&mut desk, 15, false);
    assert_eq!(desk.wait(999), nothing(), "following");
    assert_eq!(desk.wait(1), ["seal tables 3 interval: dead_letters 0@10..15 e1"]);
    desk.committed(Lane::Tables, 3);
    desk.assigned(&[1]);
    desk.taken(Lane::Tables, 2, &[own(Lane::Tables, 1, 0)]);
    read(&mut desk, 20, true);
    assert_eq!(desk.wait(250), ["seal tables 4 interval: dead_letters 0@15..20 e1"]);
}

#[test]
fn a_second_cut_waits_until_the_first_is_committed() {
    let mut desk = reading(TABLES);
    desk.arrived(0, 5, 5);
    desk.wait(1_000);
    // P-1.
    assert_eq!(desk.arrived(0, 9, 4), ["open tables 2 number 0: 0@5 e1", "admit tables: 0@5"]);
    assert_eq!(desk.wait(60_000), nothing());
    let follows = ["acknowledge 0@5", "seal tables 2 interval: dead_letters 0@5..9 e1"];
    assert_eq!(desk.committed(Lane::Tables, 1), follows);
}

#[test]
fn reading_stops_only_when_a_full_cut_waits_for_a_commit() {
    let mut desk = reading(LAKE);
    desk.arrived(0, 5, 5);
    let full = Size { memory: Settings::default().lake_memory, ..Size::default() };
    assert_eq!(desk.measured(Lane::Lake, full), ["seal lake 1 memory: lake 0@0..5 e1"]);
    desk.arrived(0, 9, 4);
    assert!(desk.worker.wants_records());
    desk.measured(Lane::Lake, full);
    assert!(!desk.worker.wants_records());
    desk.committed(Lane::Lake, 1);
    assert!(desk.worker.wants_records());
}

#[test]
fn an_output_ahead_of_its_lane_moves_only_by_what_it_has_not_seen() {
    let mut desk = desk(TABLES);
    desk.assigned(&[0]);
    let model = |name: &str| Output::Model(name.into());
    let marks =
        [(model("new"), Partition(0), mark(0, 1, 0)), (model("old"), Partition(0), mark(10, 4, 0))];
    desk.taken(Lane::Tables, 1, &marks);
    desk.arrived(0, 8, 8);
    assert_eq!(desk.wait(1_000), ["seal tables 1 interval: model:new 0@0..8 e1"]);
    desk.arrived(0, 15, 7);
    let follows = ["acknowledge 0@8"];
    assert_eq!(desk.committed(Lane::Tables, 1), follows);
    let follows = ["seal tables 2 interval: model:new 0@8..15 e1, model:old 0@10..15 e4"];
    assert_eq!(desk.wait(1_000), follows);
}

#[test]
fn only_what_every_lane_has_committed_is_acknowledged() {
    let mut desk = reading(BOTH);
    desk.arrived(0, 5, 5);
    desk.wait(1_000);
    assert_eq!(desk.committed(Lane::Tables, 1), ["acknowledge 0@0"]);
    desk.wait(60_000);
    assert_eq!(desk.committed(Lane::Lake, 2), ["acknowledge 0@5"]);
}

#[test]
fn after_a_failure_all_is_dropped_and_taken_anew() {
    let mut desk = reading(BOTH);
    desk.arrived(0, 5, 5);
    desk.wait(1_000);
    desk.arrived(0, 9, 4);
    // P-4, and the other lane goes on.
    assert_eq!(desk.failed(Lane::Tables, 1, Kind::Unknown), ["abandon tables"]);
    assert!(desk.worker.is_recovering());
    assert_eq!(desk.arrived(0, 12, 3), ["admit lake: 0@9"]);
    assert_eq!(desk.wait(199), nothing());
    assert_eq!(desk.wait(1), ["take tables #3: 0"]);
    assert!(!desk.worker.is_recovering());
    // It was committed after all.
    let follows = ["adopt tables: dead_letters 0@5", "seek 0@5"];
    assert_eq!(desk.taken(Lane::Tables, 3, &[own(Lane::Tables, 0, 5)]), follows);
    assert_eq!(desk.arrived(0, 12, 7), ["open tables 4 number 0: 0@5 e1", "admit tables: 0@5"]);
}

#[test]
fn a_lane_that_fails_does_not_hold_the_reader_at_its_marks() {
    let mut desk = desk(BOTH);
    desk.assigned(&[0]);
    desk.taken(Lane::Tables, 1, &[own(Lane::Tables, 0, 10)]);
    desk.taken(Lane::Lake, 2, &[lake(0, 4, 0)]);
    assert_eq!(desk.arrived(0, 6, 2), ["open lake 1 number 1: 0@4 e1", "admit lake: 0@4"]);
    assert_eq!(desk.failed(Lane::Lake, 1, Kind::Retry), ["abandon lake", "seek 0@10"]);
    assert_eq!(desk.arrived(0, 9, 3), nothing(), "left over from before");
    assert_eq!(desk.arrived(0, 12, 2), ["open tables 2 number 0: 0@10 e1", "admit tables: 0@10"]);
}

#[test]
fn a_cut_that_fails_while_it_is_open_is_dropped_as_well() {
    let mut desk = reading(LAKE);
    desk.arrived(0, 5, 5);
    assert_eq!(desk.failed(Lane::Lake, 1, Kind::Retry), ["abandon lake"]);
    assert_eq!(desk.wait(200), ["take lake #2: 0"]);
}

#[test]
fn waits_double_until_a_cut_is_committed() {
    let mut desk = reading(TABLES);
    let mut ticket = 1;
    let mut fail = |desk: &mut Desk, wait: u64| {
        desk.arrived(0, 5, 5);
        desk.wait(1_000);
        let cut = desk.worker.next_cut - 1;
        assert_eq!(desk.failed(Lane::Tables, cut, Kind::Retry), ["abandon tables"]);
        assert_eq!(desk.wait(wait - 1), nothing(), "not yet after {wait}");
        ticket += 1;
        assert_eq!(desk.wait(1), [format!("take tables #{ticket}: 0")], "after {wait}");
        // Taking goes well each time.
        desk.taken(Lane::Tables, ticket, &[own(Lane::Tables, 0, 0)]);
    };
    for wait in [200, 400, 800, 1_600, 3_200, 6_400, 12_800, 15_000, 15_000] {
        fail(&mut desk, wait);
    }
    desk.arrived(0, 5, 5);
    desk.wait(1_000);
    let cut = desk.worker.next_cut - 1;
    assert_eq!(desk.committed(Lane::Tables, cut), ["acknowledge 0@5"]);
    desk.arrived(0, 9, 4);
    desk.wait(1_000);
    assert_eq!(desk.failed(Lane::Tables, cut + 1, Kind::Retry), ["abandon tables"]);
    assert_eq!(desk.wait(200), ["take tables #11: 0"]);
}

#[test]
fn a_claim_that_fails_is_made_again_after_a_wait() {
    let mut desk = desk(TABLES);
    desk.assigned(&[0]);
    assert_eq!(desk.take_failed(Lane::Tables, 1, Kind::Retry), ["abandon tables"]);
    assert_eq!(desk.assigned(&[1]), nothing(), "the wait is for all of the lane");
    assert_eq!(desk.wait(200), ["take tables #2: 0 1"]);
    assert_eq!(desk.take_failed(Lane::Tables, 2, Kind::Retry), ["abandon tables"]);
    assert_eq!(desk.wait(399), nothing());
    assert_eq!(desk.wait(1), ["take tables #3: 0 1"]);
}

#[test]
fn who_is_fenced_waits_for_the_groups_news() {
    let mut desk = reading(TABLES);
    desk.arrived(0, 5, 5);
    desk.wait(1_000);
    assert_eq!(desk.failed(Lane::Tables, 1, Kind::Fenced), ["abandon tables"]);
    assert_eq!(desk.wait(4_999), nothing());
    assert_eq!(desk.lost(&[0]), nothing());
    assert_eq!(desk.wait(1), nothing(), "it is somebody else's, so it is not taken back");
    assert_eq!(desk.worker.held(), 0);
}

#[test]
fn who_is_fenced_without_news_takes_again() {
    let mut desk = reading(TABLES);
    desk.arrived(0, 5, 5);
    desk.wait(1_000);
    desk.failed(Lane::Tables, 1, Kind::Fenced);
    assert_eq!(desk.wait(5_000), ["take tables #2: 0"]);
}

#[test]
fn an_error_for_a_person_stops_and_releases() {
    for kind in [Kind::Halt, Kind::Config] {
        let mut desk = reading(BOTH);
        desk.arrived(0, 5, 5);
        desk.wait(1_000);
        desk.revoked(&[0]);
        let follows = ["abandon tables", "abandon lake", "release 0", "stop no"];
        assert_eq!(desk.failed(Lane::Tables, 1, kind), follows);
        assert!(desk.worker.is_stopped() && desk.worker.is_drained());
        assert!(!desk.worker.wants_records());
        assert_eq!(desk.assigned(&[1]), nothing());
        assert_eq!(desk.wait(60_000), nothing());
        assert_eq!(desk.committed(Lane::Tables, 1), nothing());
        assert_eq!(desk.revoked(&[1]), ["release 1"], "it still gives up what it is asked for");
    }
    let mut desk = reading(TABLES);
    let follows = ["abandon tables", "release ", "stop breaker"];
    assert_eq!(desk.hear(Input::Halt { why: "breaker".to_owned() }), follows);
}

#[test]
fn a_revoked_partition_is_committed_by_every_lane_before_it_is_released() {
    let mut desk = reading(BOTH);
    desk.arrived(0, 5, 5);
    let follows =
        ["seal tables 1 revoke: dead_letters 0@0..5 e1", "seal lake 2 revoke: lake 0@0..5 e1"];
    assert_eq!(desk.revoked(&[0]), follows);
    assert_eq!(desk.committed(Lane::Tables, 1), ["acknowledge 0@0"]);
    // P-5.
    assert_eq!(desk.committed(Lane::Lake, 2), ["acknowledge 0@5", "release 0"]);
    assert_eq!(desk.worker.held(), 0);
}

#[test]
fn a_revoked_partition_waits_for_the_commit_before_its_cut() {
    let mut desk = reading(TABLES);
    desk.arrived(0, 5, 5);
    desk.wait(1_000);
    desk.arrived(0, 9, 4);
    assert_eq!(desk.revoked(&[0]), nothing());
    let follows = ["acknowledge 0@5", "seal tables 2 revoke: dead_letters 0@5..9 e1"];
    assert_eq!(desk.committed(Lane::Tables, 1), follows);
    assert_eq!(desk.committed(Lane::Tables, 2), ["acknowledge 0@9", "release 0"]);
}

#[test]
fn a_revoked_partition_without_work_is_released_at_once() {
    let mut desk = reading(TABLES);
    desk.assigned(&[1]);
    desk.arrived(0, 5, 5);
    assert_eq!(desk.revoked(&[1]), ["seek 0@5", "release 1"], "its claim is not waited for");
    assert_eq!(desk.taken(Lane::Tables, 2, &[own(Lane::Tables, 1, 3)]), nothing());
    assert_eq!(desk.revoked(&[7]), ["seek 0@5", "release 7"], "nor what was never held");
}

#[test]
fn what_fails_holds_a_revoked_partition_no_longer() {
    let mut desk = reading(TABLES);
    desk.arrived(0, 5, 5);
    desk.revoked(&[0]);
    assert_eq!(desk.failed(Lane::Tables, 1, Kind::Retry), ["abandon tables", "release 0"]);
    assert_eq!(desk.wait(200), nothing(), "it is not taken back");
}

#[test]
fn a_leaving_partition_is_not_opened_by_a_late_claim() {
    let mut desk = desk(BOTH);
    desk.assigned(&[0]);
    desk.taken(Lane::Tables, 1, &[own(Lane::Tables, 0, 0)]);
    desk.arrived(0, 5, 5);
    assert_eq!(desk.revoked(&[0]), ["seal tables 1 revoke: dead_letters 0@0..5 e1"]);
    assert_eq!(desk.taken(Lane::Lake, 2, &[lake(0, 0, 0)]), nothing());
    assert_eq!(desk.committed(Lane::Tables, 1), ["release 0"]);
}

#[test]
fn a_leaving_partition_is_not_taken_after_a_wait() {
    let mut desk = reading(BOTH);
    desk.arrived(0, 5, 5);
    desk.failed(Lane::Lake, 2, Kind::Retry);
    assert_eq!(desk.revoked(&[0]), ["seal tables 1 revoke: dead_letters 0@0..5 e1"]);
    assert_eq!(desk.wait(200), nothing());
    assert_eq!(desk.committed(Lane::Tables, 1), ["release 0"]);
}

#[test]
fn a_lost_partition_takes_the_cut_that_has_it_along() {
    let mut desk = desk(BOTH);
    desk.assigned(&[0, 1]);
    desk.taken(Lane::Tables, 1, &[own(Lane::Tables, 0, 0), own(Lane::Tables, 1, 0)]);
    desk.taken(Lane::Lake, 2, &[lake(0, 5, 0), lake(1, 0, 0)]);
    desk.arrived(0, 5, 5);
    desk.arrived(1, 3, 3);
    // The lake has nothing of partition 0: it goes on.
    assert_eq!(desk.lost(&[0]), ["abandon tables"]);
    assert_eq!(desk.wait(0), ["take tables #3: 1"], "no wait: nothing went wrong");
    assert_eq!(desk.taken(Lane::Tables, 3, &[own(Lane::Tables, 1, 0)])[1], "seek 1@0");
    assert_eq!(desk.arrived(0, 9, 9), nothing());
    let follows = ["open tables 3 number 0: 1@0 e1", "admit tables: 1@0", "admit lake: 1@3"];
    assert_eq!(desk.arrived(1, 6, 6), follows);
}

#[test]
fn a_lost_partition_that_was_leaving_is_not_released() {
    let mut desk = reading(TABLES);
    desk.arrived(0, 5, 5);
    desk.revoked(&[0]);
    assert_eq!(desk.lost(&[0]), ["abandon tables"]);
    assert_eq!(desk.committed(Lane::Tables, 1), nothing());
    assert_eq!(desk.wait(0), nothing());
}

#[test]
fn a_lake_cut_with_a_lower_number_ends_before_marks_are_adopted() {
    let mut desk = reading(LAKE);
    assert_eq!(desk.arrived(0, 5, 5)[0], "open lake 1 number 1: 0@0 e1");
    desk.assigned(&[1]);
    // L-2: a file 1 of partition 1 would sort before its file 7.
    assert_eq!(
        desk.taken(Lane::Lake, 2, &[lake(1, 40, 7)]),
        ["seal lake 1 assignment: lake 0@0..5 e1", "adopt lake: lake 1@40", "seek 1@40"]
    );
    let follows = ["open lake 2 number 8: 1@40 e1", "admit lake: 1@40"];
    assert_eq!(desk.arrived(1, 45, 5), follows);
}

#[test]
fn marks_wait_while_a_lower_lake_cut_waits_for_a_commit() {
    let mut desk = reading(LAKE);
    desk.arrived(0, 5, 5);
    desk.wait(60_000);
    desk.arrived(0, 9, 4);
    desk.assigned(&[1, 2]);
    assert_eq!(desk.taken(Lane::Lake, 2, &[lake(1, 40, 7), lake(2, 50, 0)]), nothing());
    assert_eq!(desk.arrived(1, 45, 5), nothing());
    assert_eq!(desk.revoked(&[2]), ["seek 0@9", "release 2"]);
    let follows = [
        "acknowledge 0@5",
        "seal lake 2 assignment: lake 0@5..9 e1",
        "adopt lake: lake 1@40",
        "seek 1@40",
    ];
    assert_eq!(desk.committed(Lane::Lake, 1), follows);
}

#[test]
fn marks_that_wait_are_taken_anew_after_a_failure() {
    let mut desk = reading(LAKE);
    desk.arrived(0, 5, 5);
    desk.wait(60_000);
    desk.arrived(0, 9, 4);
    desk.assigned(&[1]);
    desk.taken(Lane::Lake, 2, &[lake(1, 40, 7)]);
    assert_eq!(desk.failed(Lane::Lake, 1, Kind::Retry), ["abandon lake"]);
    assert_eq!(desk.wait(200), ["take lake #3: 0 1"]);
}

#[test]
fn numbers_of_lake_cuts_ascend_above_all_marks_and_the_cut_in_flight() {
    let mut desk = desk(LAKE);
    desk.assigned(&[0, 1]);
    desk.taken(Lane::Lake, 1, &[lake(0, 0, 3), lake(1, 0, 9)]);
    assert_eq!(desk.arrived(0, 5, 5)[0], "open lake 1 number 10: 0@0 e1");
    desk.wait(60_000);
    assert_eq!(desk.arrived(0, 9, 4)[0], "open lake 2 number 11: 0@5 e1");
    desk.assigned(&[2]);
    let follows = ["adopt lake: lake 2@0", "seek 2@0"];
    assert_eq!(desk.taken(Lane::Lake, 2, &[lake(2, 0, 10)]), follows, "11 is above 10");
}

#[test]
fn answers_to_other_claims_and_cuts_are_not_listened_to() {
    let mut desk = desk(TABLES);
    desk.assigned(&[0]);
    assert_eq!(desk.taken(Lane::Tables, 9, &[own(Lane::Tables, 0, 0)]), nothing());
    assert_eq!(desk.take_failed(Lane::Tables, 9, Kind::Halt), nothing());
    desk.taken(Lane::Tables, 1, &[own(Lane::Tables, 0, 0)]);
    assert_eq!(desk.taken(Lane::Tables, 1, &[own(Lane::Tables, 0, 50)]), nothing(), "twice");
    desk.arrived(0, 5, 5);
    desk.wait(1_000);
    assert_eq!(desk.committed(Lane::Tables, 9), nothing());
    assert_eq!(desk.failed(Lane::Tables, 9, Kind::Halt), nothing());
    desk.failed(Lane::Tables, 1, Kind::Unknown);
    assert_eq!(desk.committed(Lane::Tables, 1), nothing(), "given up; the marks will tell");
}

#[test]
fn a_lane_makes_one_claim_at_a_time() {
    let mut desk = desk(TABLES);
    assert_eq!(desk.assigned(&[0]), ["take tables #1: 0"]);
    assert_eq!(desk.assigned(&[1]), nothing());
    let follows = ["adopt tables: dead_letters 0@0", "seek 0@0", "take tables #2: 1"];
    assert_eq!(desk.taken(Lane::Tables, 1, &[own(Lane::Tables, 0, 0)]), follows);
}

#[test]
fn a_claim_that_was_given_up_is_heard_out_before_the_next() {
    for fails in [false, true] {
        let mut desk = reading(TABLES);
        desk.arrived(0, 5, 5);
        desk.wait(1_000);
        assert_eq!(desk.assigned(&[1]), ["seek 0@5", "take tables #2: 1"]);
        desk.failed(Lane::Tables, 1, Kind::Retry);
        assert_eq!(desk.wait(10_000), nothing(), "the two could arrive in either order");
        let answer = match fails {
            true => desk.take_failed(Lane::Tables, 2, Kind::Retry),
            false => desk.taken(Lane::Tables, 2, &[own(Lane::Tables, 1, 0)]),
        };
        assert_eq!(answer, ["take tables #3: 0 1"]);
    }
}

#[test]
fn a_partition_assigned_again_while_it_is_claimed_is_claimed_anew() {
    let mut desk = desk(TABLES);
    desk.assigned(&[0, 1]);
    desk.revoked(&[0]);
    assert_eq!(desk.assigned(&[0]), nothing());
    // Somebody else may have moved it in between.
    let marks = [own(Lane::Tables, 0, 5), own(Lane::Tables, 1, 6)];
    let follows = ["adopt tables: dead_letters 1@6", "seek 1@6", "take tables #2: 0"];
    assert_eq!(desk.taken(Lane::Tables, 1, &marks), follows);
    let follows = ["adopt tables: dead_letters 0@8", "seek 0@8"];
    assert_eq!(desk.taken(Lane::Tables, 2, &[own(Lane::Tables, 0, 8)]), follows);
}

#[test]
fn each_rebalance_seeks_the_partitions_that_stay() {
    let mut desk = reading(TABLES);
    desk.arrived(0, 5, 5);
    assert_eq!(desk.assigned(&[1]), ["seek 0@5", "take tables #2: 1"]);
    assert_eq!(desk.revoked(&[1]), ["seek 0@5", "release 1"]);
}

#[test]
fn draining_commits_what_is_held_and_reads_no_more() {
    let mut desk = reading(BOTH);
    desk.arrived(0, 5, 5);
    let follows =
        ["seal tables 1 drain: dead_letters 0@0..5 e1", "seal lake 2 drain: lake 0@0..5 e1"];
    assert_eq!(desk.hear(Input::Drain), follows);
    assert!(!desk.worker.wants_records() && !desk.worker.is_drained());
    desk.committed(Lane::Tables, 1);
    assert!(!desk.worker.is_drained());
    desk.committed(Lane::Lake, 2);
    assert!(desk.worker.is_drained() && !desk.worker.is_stopped());
}

#[test]
fn what_recovers_has_nothing_to_drain() {
    let mut desk = reading(TABLES);
    desk.arrived(0, 5, 5);
    desk.hear(Input::Drain);
    desk.failed(Lane::Tables, 1, Kind::Retry);
    assert!(desk.worker.is_drained());
    let mut idle = reading(BOTH);
    idle.hear(Input::Drain);
    assert!(idle.worker.is_drained());
}

#[test]
fn cuts_end_when_every_lane_is_at_its_targets() {
    let mut desk = desk(BOTH);
    desk.hear(Input::Targets(BTreeMap::from([(Partition(0), Offset(5))])));
    desk.assigned(&[0, 1]);
    assert!(!desk.worker.is_caught_up(), "its marks are not known");
    desk.taken(Lane::Tables, 1, &[own(Lane::Tables, 0, 0), own(Lane::Tables, 1, 0)]);
    desk.arrived(0, 5, 5);
    desk.taken(Lane::Lake, 2, &[lake(0, 3, 0), lake(1, 0, 0)]);
    assert!(desk.worker.wants_records(), "the lake is not there yet");
    let follows = [
        "open lake 2 number 1: 0@3 e1",
        "admit lake: 0@3",
        "seal tables 1 caught_up: dead_letters 0@0..5 e1",
        "seal lake 2 caught_up: lake 0@3..5 e1",
    ];
    assert_eq!(desk.arrived(0, 5, 2), follows);
    assert!(!desk.worker.wants_records() && !desk.worker.is_caught_up());
    desk.committed(Lane::Tables, 1);
    assert!(!desk.worker.is_caught_up());
    desk.committed(Lane::Lake, 2);
    assert!(desk.worker.is_caught_up(), "partition 1 was not part of what was asked for");
}

#[test]
fn waits_differ_between_processes_by_a_quarter_at_most() {
    let wait = |seed| {
        let mut worker =
            Worker::new(Settings { jitter: Some(seed), ..Settings::default() }, TABLES);
        let taken = Input::Assigned(vec![Partition(0)]);
        worker.handle(taken);
        let Some(Effect::Take { ticket, .. }) = worker.next_effect() else { panic!("a claim") };
        let why = "away".to_owned();
        worker.handle(Input::TakeFailed { lane: Lane::Tables, ticket, kind: Kind::Retry, why });
        let claimed = |worker: &mut Worker, at: u64| {
            worker.handle(Input::Tick(Moment::from_millis(at)));
            std::iter::from_fn(|| worker.next_effect()).any(|e| matches!(e, Effect::Take { .. }))
        };
        (0..1000).find(|at| claimed(&mut worker, *at)).expect("it is claimed again")
    };
    let waits: Vec<u64> = (0..50).map(wait).collect();
    assert!(waits.iter().all(|w| (150..=251).contains(w)), "{waits:?}");
    assert!(waits.iter().max() > waits.iter().min(), "{waits:?}");
}

/// A desk of a judged topic, which holds partition 0 from offset 0 in both lanes.
fn judged() -> Desk {
    let settings = Settings { judged: true, ..Settings::default() };
    let mut desk = Desk { worker: Worker::new(settings, BOTH), now: 0 };
    desk.assigned(&[0]);
    desk.taken(Lane::Tables, 1, &[own(Lane::Tables, 0, 0)]);
    desk.taken(Lane::Lake, 2, &[own(Lane::Lake, 0, 0)]);
    desk
}

#[test]
fn the_lake_of_a_judged_topic_takes_what_the_tables_have_committed() {
    let mut desk = judged();
    let follows = ["open tables 1 number 0: 0@0 e1", "admit tables: 0@0", "hold: 0@0"];
    assert_eq!(desk.arrived(0, 5, 5), follows);
    desk.wait(1_000);
    assert_eq!(
        desk.arrived(0, 9, 4),
        ["open tables 2 number 0: 0@5 e1", "admit tables: 0@5", "hold: 0@5"]
    );
    // J-1.
    let follows = ["open lake 3 number 1: 0@0 e1", "follow: 0@5", "acknowledge 0@0"];
    assert_eq!(desk.committed(Lane::Tables, 1)[..3], follows);
    assert_eq!(desk.worker.positions(Lane::Lake), [(Partition(0), Offset(9), Offset(0))]);
}

#[test]
fn what_the_tables_fail_to_commit_the_lake_goes_on_holding() {
    let mut desk = judged();
    desk.arrived(0, 5, 5);
    desk.wait(1_000);
    assert_eq!(desk.failed(Lane::Tables, 1, Kind::Retry), ["abandon tables"]);
    assert!(!desk.worker.wants_records(), "nobody would judge what comes");
    assert_eq!(desk.wait(200), ["take tables #3: 0"]);
    let follows = ["adopt tables: dead_letters 0@0", "seek 0@0"];
    assert_eq!(desk.taken(Lane::Tables, 3, &[own(Lane::Tables, 0, 0)]), follows);
    // The lake has these already. After a failure a cut is small.
    let follows = [
        "open tables 2 number 0: 0@0 e1",
        "admit tables: 0@0",
        "seal tables 2 interval: dead_letters 0@0..5 e1",
    ];
    assert_eq!(desk.arrived(0, 5, 5), follows);
    let follows = ["open lake 3 number 1: 0@0 e1", "follow: 0@5", "acknowledge 0@0"];
    assert_eq!(desk.committed(Lane::Tables, 2), follows);
}

#[test]
fn a_judged_lake_behind_its_judge_gets_what_it_lacks_at_once() {
    let settings = Settings { judged: true, ..Settings::default() };
    let mut desk = Desk { worker: Worker::new(settings, BOTH), now: 0 };
    desk.assigned(&[0]);
    desk.taken(Lane::Tables, 1, &[own(Lane::Tables, 0, 8)]);
    desk.taken(Lane::Lake, 2, &[own(Lane::Lake, 0, 2)]);
    let follows = ["hold: 0@2", "open lake 1 number 1: 0@2 e1", "follow: 0@6"];
    assert_eq!(desk.arrived(0, 6, 4), follows);
}

#[test]
fn a_judged_topic_drains_the_lake_after_the_tables() {
    let mut desk = judged();
    desk.arrived(0, 5, 5);
    assert_eq!(desk.hear(Input::Drain), ["seal tables 1 drain: dead_letters 0@0..5 e1"]);
    assert!(!desk.worker.is_drained());
    let follows = [
        "open lake 2 number 1: 0@0 e1",
        "follow: 0@5",
        "acknowledge 0@0",
        "seal lake 2 drain: lake 0@0..5 e1",
    ];
    assert_eq!(desk.committed(Lane::Tables, 1), follows);
    assert_eq!(desk.committed(Lane::Lake, 2), ["acknowledge 0@5"]);
    assert!(desk.worker.is_drained());
}

#[test]
fn a_judged_partition_is_revoked_when_the_lake_has_what_was_judged() {
    let mut desk = judged();
    desk.arrived(0, 5, 5);
    assert_eq!(desk.revoked(&[0])[..1], ["seal tables 1 revoke: dead_letters 0@0..5 e1"]);
    let follows = desk.committed(Lane::Tables, 1);
    assert_eq!(follows.last().unwrap(), "seal lake 2 revoke: lake 0@0..5 e1");
    assert_eq!(desk.committed(Lane::Lake, 2), ["acknowledge 0@5", "release 0"]);
}

/// A desk whose partition 0 is read up to 5 and committed, with the clock of idle partitions on.
fn resting() -> Desk {
    let mut desk = reading(TABLES);
    desk.worker.settings.idle_after = Some(Moment::from_secs(30));
    desk.arrived(0, 5, 5);
    desk.wait(1_000);
    desk.committed(Lane::Tables, 1);
    desk
}

fn ends(end: i64) -> Input {
    Input::Ends { at: EventTime(77), ends: vec![(Partition(0), Offset(end))] }
}

#[test]
fn the_clock_moves_event_time_where_the_log_ends_and_with_the_mark() {
    let mut desk = resting();
    assert_eq!(desk.wait(28_000), nothing(), "not silent for long enough");
    assert_eq!(desk.wait(1_000), ["ask for the ends: 0"]);
    assert_eq!(desk.wait(9_000), nothing(), "one question at a time");
    assert_eq!(desk.hear(ends(5)), ["open tables 2 number 0: 0@5 e1", "advance 0@5 to 77"]);
    assert_eq!(desk.wait(1_000), ["seal tables 2 interval: dead_letters 0@5..5 e1"]);
    desk.committed(Lane::Tables, 2);
    assert_eq!(desk.wait(5_000), ["ask for the ends: 0"], "and again while the silence lasts");
}

#[test]
fn what_is_not_read_yet_holds_the_watermark() {
    let mut desk = resting();
    assert_eq!(desk.wait(29_000), ["ask for the ends: 0"]);
    assert_eq!(desk.hear(ends(6)), nothing(), "the log goes on");
    assert_eq!(desk.wait(5_000), ["ask for the ends: 0"]);
    desk.arrived(0, 6, 1);
    assert_eq!(desk.hear(ends(6)), nothing(), "it was not silent");
    let unreachable = Input::Ends { at: EventTime(77), ends: Vec::new() };
    desk.wait(30_000);
    assert_eq!(desk.hear(unreachable), nothing());
}

#[test]
fn records_behind_an_advance_go_into_its_cut() {
    let mut desk = resting();
    desk.wait(29_000);
    desk.hear(ends(5));
    assert_eq!(desk.arrived(0, 8, 3), ["admit tables: 0@5"]);
    assert_eq!(desk.wait(1_000), ["seal tables 2 interval: dead_letters 0@5..8 e1"]);
}

#[test]
fn a_run_to_targets_and_one_that_drains_or_recovers_is_no_clock() {
    let mut desk = resting();
    desk.hear(Input::Targets(BTreeMap::from([(Partition(0), Offset(9))])));
    assert_eq!(desk.wait(60_000), nothing());
    let mut desk = resting();
    desk.wait(29_000);
    desk.hear(Input::Drain);
    assert_eq!(desk.hear(ends(5)), nothing());
    let mut desk = resting();
    desk.arrived(0, 9, 4);
    desk.wait(1_000);
    desk.failed(Lane::Tables, 2, Kind::Retry);
    let asks = |said: Vec<String>| said.iter().any(|s| s.starts_with("ask"));
    assert!(!asks(desk.wait(60_000)), "its marks are not known");
}
#[path = "worker/gone_tests.rs"]
mod gone_tests;
