//! highwater: Kafka to partitioned Parquet and PostgreSQL tables, exactly once, provably.
//!
//! This page is the map. What users do with it is in `README.md`.
//!
//! ```text
//! topics/*.toml  sql/models/*.sql
//!       └──────┬──────┘ catalog: what the user declared, checked
//!              ▼
//! Kafka ─► source ─► decode ─► event_time ─► compute ─► cut ─┬► lake       Parquet on an object store
//!         poll,seek  bytes to   watermark,    models to      └► warehouse  PostgreSQL: deltas, rows,
//!                    rows       lateness      deltas                       dead letters, marks
//! ```
//!
//! # The one idea
//! Every output (the lake of a topic, a model, the dead letters) has its own mark per partition: the
//! next offset it has not taken, in a row of `highwater.marks`. A cut is a span of offsets per
//! partition and what it yields. Committing it is one PostgreSQL transaction: apply the yield, and
//! move each mark from the span's beginning to its end where our epoch still holds. If one does not
//! move, nothing happened. Whatever fails, the partitions are taken anew and read again from the marks.
//!
//! # Folders, in order of the data
//! | folder | does |
//! | --- | --- |
//! | `main` | parse, run, exit code |
//! | [`error`] | one error; its kind says what the caller does next |
//! | [`record`] | offsets, spans, event time, marks, fates: the nouns of all stages |
//! | [`config`] ⇄ | every setting, read once: flags, environment, file, secrets |
//! | [`catalog`] | topic files and models, checked as a whole |
//! | [`source`] ⇄ | Kafka in: the group, records from where the marks say, schemas they refer to |
//! | [`decode`] | bytes to rows, or a reject with its reason |
//! | [`event_time`] | watermark, lateness, windows; no clock |
//! | [`compute`] | a model over a cut: rows in, deltas out |
//! | [`cut`] | the shape of what is committed at once |
//! | [`lake`] ⇄ | rows to Parquet files that appear when committed |
//! | [`warehouse`] ⇄ | deltas, rows, marks and the list of files in PostgreSQL |
//! | [`pipeline`] ⇄ | `worker` decides and does nothing; `driver` does and decides nothing |
//! | [`ops`] ⇄ | beside the flow: a file per command, metrics, HTTP |
//!
//! ⇄ holds an *edge*: the one place that names an outside system (or clocks and threads). Everything
//! else is pure: it takes inputs, time among them, and gives results.
//!
//! A folder imports only from folders further left, siblings never import each other, and edges stay
//! where they are; `tests/it/tidy.rs` holds this:
//!
//! ```text
//! error < record < config, catalog < source, decode, event_time < compute < cut
//!       < lake, warehouse < pipeline < ops < main
//! ```
//!
//! # From `main` to the inner loop in five hops
//! 1. `main.rs`, `dispatch`: settings are resolved, the command chosen.
//! 2. [`ops::run::run`]: catalog, database and store are made ready; waits for a signal.
//! 3. `ops/service.rs`, `Service::start`: one consumer, and a thread per topic.
//! 4. [`pipeline::driver::Driver::run`]: the loop: hear, let the worker decide, fetch. Beside it read
//!    [`pipeline::worker::Worker::handle`], which decides.
//! 5. [`decode::Decoder::decode`] and then [`compute::Tables::admit`]: where records are rows and rows
//!    are groups. `lake::writer` is the same for files.
//!
//! Then [`warehouse::postgres::Warehouse::commit`], in `warehouse/commit.rs`: where exactly-once is kept.
//!
//! # Words
//! | word | means |
//! | --- | --- |
//! | offset | of a partition of Kafka's; always the next one to read |
//! | span | offsets from (included) to (not included): `taps/3@120..180` |
//! | output | what keeps marks of its own: `lake`, `dead_letters`, `model:NAME` |
//! | lane | outputs that are cut together: the tables (models and dead letters), and the lake |
//! | mark | an output's next offset in a partition, with epoch, highest event time, totals of fates |
//! | epoch | the number of a mark's owner: taking a partition adds one, which fences the owner before |
//! | fate | what became of an offset in an output: accepted, filtered, late, dead, absent, duplicate, lost |
//! | gap | offsets of a mark that Kafka has no more: its partition stands until a person accepts them as lost |
//! | generation | of a partition: another one each time that its offsets begin again (the topic was made again) |
//! | addition | a column that the source got, or that got wider there, recorded with the offsets from which on it counts |
//! | cut | the atomic unit of work: spans, what they yield, the marks to move |
//! | delta | a cut's part of an aggregate, per key: count +3, least 5; merges with what is stored |
//! | part | of an aggregate: count, sum, the row that is last, …, which merge. Of an upload: a piece of a file |
//! | window | a span of event time, start included: tumbling windows follow each other, from 1970-01-01 UTC on or by the clock of a zone; those of hop overlap; a session is as long as its events follow each other |
//! | session | events of a key with at most the gap between one and the next; ends a gap after the last |
//! | pane | what windows of hop are put together from when a cut ends: events are aggregated once per pane |
//! | watermark | a partition's highest event time minus the topic's `max_disorder`; of an output the least of its partitions' |
//! | idle advance | how far event time had come before an offset, by the clock: nothing was left to read |
//! | lateness | how far behind the watermark a window's end is; beyond the allowed, the window is final |
//! | judge | of a topic with `unique`: says which records are duplicates, once, in the lane of tables |
//! | reject | a record, or a row of one model, that is not taken, with the reason |
//! | dead letter | a reject as it is stored, with the whole record |
//! | change | an operation on a row of a source's table, as a connector tells it |
//! | image | the row as a change tells it: whole, or without what did not change |
//! | snapshot | of a source: all rows of a table as a connector reads them, at one position |
//! | load | of a source: all rows of a table as Replicate sends them, between a person's `begin` and `end` |
//! | swap | the transaction that folds a snapshot that waited, and takes the rows that it does not hold |
//! | surrogate key | a number made of the values that name a thing, by which facts find their dimensions |
//! | orphan | an update that brings no whole image of a row that is not there |
//! | refusal | that an output counts a record as dead; its letter holds the record |
//! | rebuild | an output made anew, or for the first time, beside what is live, under the name `_rebuild_NAME`, until its swap |
//! | leader | of a rebuild: the output up to whose marks it reads: the live one; of a new output the dead letters |
//! | rewrite | files of a lake made anew beside those that readers read, until their swap |
//! | retry | dead letters decoded again and taken by the outputs that had refused them |
//!
//! # Invariants
//! Each is checked in two places far apart where it can be: in code, and by a `WHERE` or a `CHECK` in
//! `sql/`. Numbers on the front page of a single file (in `decode/convert.rs`, `decode/fields.rs`,
//! `lake/store.rs`, `lake/writer.rs`, `warehouse/embedded.rs`) belong to that file alone.
//!
//! | number | holds | checked in code | checked in SQL |
//! | --- | --- | --- | --- |
//! | I-1 | an offset is always the next one to read | [`record::Offset::after`], the only `+ 1` | `insert_marks.sql` begins at the oldest offset |
//! | I-2 | a span is half open; spans of an output and partition follow each other without gap | [`record::Span::new`] | `move_marks.sql`: `WHERE next_offset = from_offset` |
//! | I-3 | each offset of a span has exactly one fate | `warehouse/commit.rs`, before anything is sent | `0001_marks.sql`: `CHECK each_offset_has_one_fate`; `insert_refusals.sql`: primary key; `change_fates.sql`; `proof.sql` |
//! | D-1 | each record is one row (of a `batched` topic: one or several), or one reject, or says nothing about a row; in order | `decode/rows.rs`; its oracle in `decode/tests`; `tests/it/fuzz.rs`, any bytes | |
//! | D-2 | no number is wrapped or rounded in silence, no code loses its zeros | `decode/number.rs`; the oracle | |
//! | D-3 | the same records and topic decode to the same | no clock and no randomness below `decode` | |
//! | D-4 | the rows of a record stand or fall together, in decode and in each model | `decode/batched.rs`, `compute/model.rs`; property tests of both; `tests/it/batched.rs` | |
//! | A-1 | what is remembered of objects that look alike changes nothing that is read | `decode/alike.rs`; `whatever_came_before_a_text_is_read_as_by_a_scan_of_every_byte`, `a_message_says_the_same_whatever_came_before_it` | |
//! | E-1 | a record is judged by those before it in its partition, never by a clock or other partitions | property test in `event_time/lateness.rs` | |
//! | E-2 | where batches end makes no difference | the same test | |
//! | E-3 | a final window stays final | property test there | `move_marks.sql`: `greatest(event_time_max, …)` |
//! | E-4 | event time moves without a record only where the log ended after the clock was read, before any output judged what follows, and as it stands recorded | `pipeline/worker/idle.rs`; the oracle of `compute/tests`; `tests/it/simulation` | `record_advances.sql`: no mark behind it |
//! | E-5 | a partition that is added reopens no window: it begins where the slowest of the others stands | `warehouse/commit.rs`, `know_partitions`; `tests/it/time.rs` | `begin_added_partitions.sql`; `0018_watermarks.sql`: partitions without a watermark hold all back |
//! | M-1 | a row's fate in a model depends on the records before it in its partition, and on the judge's verdict where there is one | `compute/model.rs`, `judge`; the oracle of `compute/tests` | |
//! | M-2 | merged deltas of any split of the records give the table of all | the oracle of `compute/tests`; `tests/it/oyster.rs`, against results made elsewhere | merging against an oracle in `warehouse/tests/merging.rs` and `warehouse/tests/sessions.rs`; `warehouse/sessions.rs`, under the lock of W-8 |
//! | M-3 | an expression that fails on a row costs that row in that model, no more | `compute/plan.rs`; `compute/tests/expressions.rs` | |
//! | M-4 | a surrogate key is of its values alone, in every model and for good; no two lists of values are written alike | `catalog/surrogate_key.rs`; `compute/tests/expressions.rs` | `tests/it/star.rs`: PostgreSQL makes the same |
//! | F-1 | a change counts only if it is later than what is stored of its row; what is deleted is remembered | `compute/changes/fold.rs`, `is_old`; the reference of `compute/tests/changes.rs` | `warehouse/following.rs`; `tests/it/mirrored.rs`, where a connector that was killed sends again |
//! | F-2 | folding the changes of any cuts gives what folding them one by one gives | `cuts_of_any_size_fold_to_what_one_by_one_gives` | `warehouse/tests/following.rs`; `lock_models.sql`: what is read is what is written over |
//! | F-3 | a value that an image does not hold is never overwritten | the same tests | the same |
//! | N-1 | a snapshot of the source is known by its position; it and what comes after it waits until it is whole, and is swapped in by one transaction | `warehouse/swap.rs`, `pipeline/snapshots.rs`; `tests/it/snapshots.rs`, killed in the middle | `warehouse/tests/following.rs`, against the reference; `lock_models.sql` |
//! | N-2 | a change behind a snapshot's rows in its partition is later than the snapshot | `compute/changes/snapshots.rs`, `lifted`; the reference of `compute/tests/changes.rs` | `tests/it/mirrored.rs`, transactions open meanwhile |
//! | N-3 | a snapshot that would delete too much, or of which rows were refused, waits for a person | `warehouse/swap.rs`, `are_held`; `tests/it/snapshots.rs` | `refused_since.sql`; counted in the transaction that is rolled back |
//! | N-4 | a cut that would leave too few rows is not committed without a person's leave | `warehouse/swap.rs`, `guard`; `tests/it/snapshots.rs` | `use_accepted_deletes.sql` |
//! | N-5 | which records are of a load that a person brackets is decided by their offsets, and recorded before anybody commits one of them | `compute/changes/loads.rs`, `bracketed`; `warehouse/tests/loads.rs`, `tests/it/loads.rs`, killed in the middle | `lock_all_marks.sql`; `begin_load_spans.sql`; `0043_loads.sql`: `loads_open` |
//! | C-1 | `span.from` of a cut equals the mark it moves; a retry moves none | `pipeline/worker.rs` makes spans from marks; `tests/it/simulation` | `move_marks.sql`: `WHERE next_offset = from_offset` |
//! | C-2 | the fates of a cut add up to its spans | `pipeline/counting.rs`: two counts of the same records | as I-3 |
//! | C-3 | a cut yields what its spans hold and nothing else | `tests/it/simulation`; `tests/it/oyster.rs` and `tests/it/outages`, killed at random | |
//! | L-1 | one file per hive path and cut, several open at once | `lake/writer_tests.rs` | `0002_lake_files.sql`: primary key `path` |
//! | L-2 | files of a path, by name, hold a partition's offsets in order; those of retries stand beside, `-retry` by name | `pipeline/worker.rs`, `taken`; `lake/layout_tests.rs` | `0008_refusals.sql`: `lake_files.origin` |
//! | L-3 | an upload is whole before its cut is committed, and gets its name only afterwards | `pipeline/encoder.rs`, `pipeline/owed.rs`: the order of steps; `lake/store_tests.rs` | `unfinished.sql` lists what is committed and not completed |
//! | L-4 | memory does not grow with the size of files | `lake/writer_tests.rs` | |
//! | L-5 | nothing is removed that a cut, committed or under way, refers to | `lake/leftovers.rs`: the order of a sweep, `whatever_comes_between_its_steps_a_sweep_removes_nothing_that_is_or_will_be_committed`; `tests/it/simulation` | `named_uploads.sql`, one snapshot of notes and files |
//! | W-1 | a commit moves each of its marks at our epoch, or changes nothing | `warehouse/commit.rs` counts what moved | `move_marks.sql`: `WHERE epoch = …`; `bump_epochs.sql` |
//! | W-2 | keys and marks are written in sorted order: no deadlock | `compute` sorts deltas; `warehouse/tests/merging.rs` | `lock_marks.sql`, `lock_lane.sql`, `insert_marks.sql`: `ORDER BY` |
//! | W-3 | a lost reply to COMMIT is `Unknown`: take anew, which waits for the old transaction, and believe the marks | `warehouse/sqlstate.rs`; `warehouse/tests/protocol.rs` kills connections; `tests/it/outages/database.rs` loses answers | `lock_lane.sql`: `FOR UPDATE` |
//! | W-4 | a file is committed only by removing its upload's note, at the note's epoch | `warehouse/commit.rs` counts the notes | `claim_uploads.sql`, `abandoned_uploads.sql` |
//! | W-5 | a table's key is what `ON CONFLICT` infers, NULL equal to NULL | `warehouse/tables.rs`, `differences` | `read_keys.sql`; `UNIQUE NULLS NOT DISTINCT` |
//! | W-6 | text compares by bytes, in PostgreSQL as in the process | `warehouse/tables.rs`, `differences` | `COLLATE "C"` of every table |
//! | W-7 | a value is counted by `count(DISTINCT …)` in the transaction that first stores it | `warehouse/merge.rs`; `warehouse/tests/aggregates.rs`, three processes at once | `UNIQUE NULLS NOT DISTINCT` of each set; `ON CONFLICT DO NOTHING RETURNING` |
//! | W-8 | a difference of `delta(…)` is to the last value of the window before, as both are at COMMIT; cuts of models with those, with sketches or of sessions take turns | `warehouse/differences.rs`; `warehouse/tests/aggregates.rs`, three processes at once | `lock_models.sql` |
//! | U-1 | a key is taken once until it is forgotten; within a partition by its own records alone, between partitions by who commits first; a retried record is judged as of its retry | `compute/unique.rs`, `compute/unique/retried.rs`; its oracle in `compute/tests/unique.rs`; `tests/it/simulation/judge.rs` | `insert_unique_keys.sql`: primary key of `0020_unique_keys.sql`; `warehouse/tests/unique.rs`, eight at once |
//! | U-2 | a verdict is given once, recorded with the mark of the dead letters, and believed below it | `compute/unique.rs`, `Judge` | `0019_duplicates.sql`: primary key |
//! | U-3 | what the lake leaves out are the verdicts recorded | `pipeline/held.rs`, `follow` | `unproved_duplicates.sql` |
//! | J-1 | the lake of a judged topic ends its cuts at or below the dead letters' mark | `pipeline/worker/follow.rs`; `tests/it/simulation` | `unproved_duplicates.sql` |
//! | P-1 | at most one commit in flight per lane | `pipeline/worker.rs`, `due`; `tests/it/simulation` | a second one finds the mark moved: `move_marks.sql` |
//! | P-2 | a lane admits each offset once, in order, from its mark | `pipeline/worker.rs` | `move_marks.sql`: `WHERE next_offset = from_offset` |
//! | P-3 | a reader never stands above a lane that is open on its partition | `pipeline/worker.rs`, `position_reader` | |
//! | P-4 | after any failure a lane's partitions are taken anew and read from the marks | `pipeline/worker.rs`, `recover`; `tests/it/simulation` | `bump_epochs.sql` fences what is still under way |
//! | P-5 | a revoked partition is released when nothing of it is open or in flight | `pipeline/worker.rs`, `release_what_is_free`; `tests/it/simulation` | |
//! | G-1 | a mark is gone when Kafka's topic is another one, begins above it, or ends below it, and nobody reads on from there | `record/gap.rs`, `judge`; `pipeline/requests.rs`: the order of asking | `lock_lane.sql` reads what is judged under its lock |
//! | G-2 | only a person has a mark pass offsets unread; they are `lost`, and written down | `warehouse/gaps.rs`; `tests/it/simulation` | `0031_gaps.sql`; `0030_generations.sql`: `CHECK each_offset_has_one_fate`; `proof.sql` |
//! | G-3 | a mark moves only while the topic is the one that the mark is of | `pipeline/requests.rs`, `commit`: the id is asked after the last record; `tests/it/gaps.rs` | `move_marks.sql`: `topic_id = …` |
//! | G-4 | what stands is read by nobody, keeps nobody else from going on, and is taken again while it stands | `pipeline/worker/gone.rs`; `tests/it/simulation` | |
//! | R-1 | a dead letter is applied only by removing it, in the transaction that changes the fates | `warehouse/retry.rs` counts the letters and the refusals; `tests/it/dead_letters.rs`, killed at random | `claim_letters.sql`, `settle_refusals.sql` |
//! | R-2 | a retried record is judged by what was taken before its place, and raises no watermark | `compute/tests/retried.rs`; `ops/verify/deep.rs` judges it again | `refusals.event_time_max` |
//! | R-3 | a retry gives a record to those that refused it, and only when no output is still to read it | `pipeline/retry.rs`, `waits_for`; `tests/it/dead_letters.rs` | `settle_refusals.sql`: `retried_at IS NULL` |
//! | R-4 | a committed letter is sent on until Kafka has confirmed it, in order per partition | `pipeline/forward.rs`; `tests/it/dead_letters.rs` | `letters_to_forward.sql` |
//! | X-1 | the first record of a table of the source that is not known is admitted by nobody before the table is recorded, with what follows from it | `pipeline/drift.rs`, `look`; `tests/it/drift.rs` | `0035_upstream_versions.sql` |
//! | X-2 | a table is compared with the one before it in its partition, across restarts | `catalog/drift.rs`, `compare`; `catalog/tests/drift.rs` | `0036_upstream_places.sql` |
//! | X-3 | a record is decoded by the additions recorded before its offset, whoever reads it and when; none of them begins below a mark of when it was recorded | `catalog/widened.rs`, `decode/layers.rs`; `tests/it/drift.rs` | `start_addition.sql`, under `lock_all_marks.sql` |
//! | X-4 | who does not know of an addition commits nothing behind where it begins | `pipeline/driver.rs`: what a take tells | `fence_topic.sql`, `bump_epochs.sql` |
//! | B-1 | a rebuild begins where the live output began, and goes on from marks of its own, whoever is killed | `pipeline/rebuild.rs`; `tests/it/replay.rs` | `insert_rebuild_marks.sql`; `bump_rebuild_epochs.sql`; primary key of `0038_rebuilds.sql` |
//! | B-2 | the live output's tables, marks and owner are untouched until the swap, and the other way round | `pipeline/rebuild.rs` reads outside of the group; `tests/it/replay.rs`: given up it leaves no trace | `lock_lane.sql`, `bump_epochs.sql`: `NOT LIKE 'model:\_%'` |
//! | B-3 | a swap is one transaction, where both marks stand at the same offset of the same generation everywhere; an owner that holds anything else than what stands there then is fenced, and one of another definition takes nothing | `warehouse/rebuild.rs`; `tests/it/replay.rs`, a reader that polls | `unequal_marks.sql`; `swap_marks.sql`; `read_definitions.sql` |
//! | B-4 | a rebuild follows what is recorded: verdicts, advances, versions, retries; and reads nothing above the live marks | `pipeline/rebuild.rs`, `bounds`; `tests/it/replay.rs`, `assert_made_anew` in the tests of each | `read_rebuilds.sql` counts retries |
//! | B-5 | a rebuild of some windows reads every record of theirs, changes no other row and no total, and is swapped in only where decode took the same records | `warehouse/rebuild/windows.rs`, the argument; `tests/it/replay.rs`, `of_a_windowed_model_those_windows_are_made_anew_that_begin_at_a_time_or_later`; `tests/it/filling.rs`, behind offsets and up to a time | `rebuild_starts.sql`; `event_time_before.sql`; `decode_refusals_differ.sql` |
//! | B-6 | read from the lake, each offset has the fate that it had | `pipeline/rebuild/lake.rs`; `tests/it/replay.rs`, `what_kafka_has_no_more_is_read_from_the_lake_with_the_same_results_and_marks` | `left_out_of_lake.sql`; `unequal_marks.sql` |
//! | B-7 | a new output is made beside the others of its topic, up to the dead letters' marks; its swap is one transaction that makes its marks where nobody has made them, and whoever takes the partitions next goes on there | `warehouse/rebuild/fresh.rs`, the argument; `warehouse/tests/rebuild.rs`; `tests/it/filling.rs`, killed beside two services, and from the lake | `share_topic.sql`, `lock_topic.sql`; `swap_in_new_marks.sql`; `unequal_marks.sql` |
//! | B-8 | a drop is one transaction; who still runs the model is fenced, and does not make its marks again | `warehouse/dropped.rs`, the argument; `warehouse/tests/rebuild.rs`; `tests/it/filling.rs` | `lock_output_marks.sql`; `read_definitions.sql`, in every take |
//! | B-9 | a table that gets columns stays the one that indexes, views and grants of others are of, and holds what a table made of the new definition holds | `warehouse/rebuild/contents.rs`, `widen`; `catalog/definition.rs` decides only which way; `tests/it/filling.rs`, against such a table | whole rows are compared by EXCEPT (`warehouse/exchange.rs`) |
//! | Z-1 | a rewrite of a lake's files goes on from what it has written, whoever is killed; its uploads are noted until they are in the manifest or given up | `pipeline/rewrite.rs`; `tests/it/replay_lake.rs` | `take_rewrite.sql`, `lock_rewrite.sql`, `move_rewrite.sql`; foreign keys of `0044_lake_rewrites.sql` |
//! | Z-2 | a swap of files is one transaction, of whole files and as many rows per partition as go; marks and fates stay; a reader by the view gets the files of before until all that replace them are there | `pipeline/rewrite/reach.rs`, against an oracle; `tests/it/replay_lake.rs`, a reader that polls | `rewrite_differs.sql`; `0044_lake_rewrites.sql`, `lake_current_files` |
//! | Z-3 | files that were replaced are removed when their grace is over and what replaces them is there | `ops/sweep.rs`; `tests/it/replay_lake.rs` | `retired_files.sql` |
//! | Q-1 | a mistake in any file that is taken up while running changes nothing; a topic that fails goes on as before | `ops/reload.rs`, `reload`; `tests/it/reload.rs` | |
//! | Q-2 | a topic none of whose files has changed is not touched | `catalog/mod.rs`, `files_of`; `tests/it/reload.rs` | |
//! | Q-3 | what is made anew is swapped in, and gone on with, while the topic's pipeline stands with everything committed | `pipeline/drift.rs`, `change`; `ops/reload.rs`, `take_up`; `tests/it/reload.rs`, killed at random | `read_definitions.sql` fences who goes on by the old definition |
//! | S-1 | records come only of partitions seeked since they were assigned, from the offset seeked to | `source/kafka/reader.rs`, `poll` | |
//! | S-2 | the group's offsets are written and never read | `source/kafka/mod.rs`: `auto.offset.reset=error`, seeks only | |
//! | S-3 | not fetching is the whole of backpressure; the group is served all the time | `pipeline/worker.rs`, `wants_records`; a thread of its own in `ops/service.rs` | |
//! | S-4 | a record comes out when the registry has told, or denied, the schemas that it refers to; an outage of it refuses nothing | `source/registry.rs`; `tests/it/schemas.rs` | |
//!
//! What each step of a cut leaves behind when the process dies after it, and why that is neither a loss
//! nor a double, is the crash table on the front page of [`cut`].
//!
//! `highwater verify` checks from outside, against lake, tables and Kafka, what all of these are for; its
//! promises V-1 to V-7 are on the front page of [`ops::verify`].

pub mod catalog;
pub mod compute;
pub mod config;
pub mod cut;
pub mod decode;
pub mod error;
pub mod event_time;
pub mod lake;
pub mod ops;
pub mod pipeline;
pub mod record;
pub mod source;
pub mod warehouse;
