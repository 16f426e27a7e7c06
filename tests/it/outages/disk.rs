//! The disk of a local lake, full: between files, and in the middle of one.

use super::{Input, assert_alive, assert_exact, last_error, passed};
use crate::{
    faults::{HURRY, RESIDENT_MIB_MAX, hurry},
    support::{Lake, Running, World, eventually},
    taps::{self, OUTPUTS, taps},
};
use rand::{Rng, SeedableRng, rngs::SmallRng};
use std::{
    path::{Path, PathBuf},
    process::Command,
    time::Instant,
};

/// A small disk, where the lake of a world goes; unmounted with this.
struct Disk(PathBuf);

impl Disk {
    /// None, with a printed line, where mounting is not allowed.
    fn mount(world: &World, mib: u64) -> Option<Self> {
        let place = Path::new(world.lake.trim_start_matches("file://")).to_owned();
        std::fs::create_dir_all(&place).expect("a folder");
        let size = format!("size={mib}m");
        let mut mount = Command::new("mount");
        match mount.args(["-t", "tmpfs", "-o", &size, "tmpfs"]).arg(&place).output() {
            Ok(output) if output.status.success() => Some(Self(place)),
            Ok(output) => {
                let why = String::from_utf8_lossy(&output.stderr).into_owned();
                println!("skipped: no small disk can be mounted: {why}");
                None
            }
            Err(why) => {
                println!("skipped: no small disk can be mounted: {why}");
                None
            }
        }
    }

    fn grow(&self, mib: u64) {
        let size = format!("remount,size={mib}m");
        let done = Command::new("mount").args(["-o", &size]).arg(&self.0).status();
        assert!(done.expect("mount").success(), "remount");
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // Lazily: a process that is being killed may still have a file open.
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

const REMEDY: &str = "the lake's disk is full, free some space";

/// Until it has failed several times, and the tables are all there nevertheless.
fn says_so_and_goes_on(
    world: &World,
    service: &mut Running,
    records: impl Fn() -> i64,
    resident_mib_max: u64,
) {
    let begun = Instant::now();
    let due = records();
    eventually("it says that the disk is full", || {
        assert_alive(service);
        last_error(service).contains(REMEDY)
    });
    let (code, text) = service.get("/readyz");
    assert!(code == 200 && text.contains(REMEDY), "{code} {text}");
    assert!(service.printed().contains(REMEDY), "{}", service.printed());
    eventually("the tables go on", || {
        assert_alive(service);
        world.number("SELECT coalesce(sum(taps), 0) FROM by_stop") >= due
    });
    let tries = service.printed().matches(REMEDY).count();
    eventually("tried again and again", || service.printed().matches(REMEDY).count() >= tries + 2);
    let resident = service.resident_mib();
    println!("full for {:?}, {resident} MiB resident; /readyz: {text}", begun.elapsed());
    assert!(resident < resident_mib_max, "{resident} MiB");
}

#[test]
fn a_lake_whose_disk_is_full_waits_for_space_and_loses_nothing() {
    let Some(world) = taps::world("disk", 3, Lake::Local).map(hurry) else { return };
    let Some(disk) = Disk::mount(&world, 8) else { return };
    let mut service = world.follow(&HURRY);
    let input = Input::start(&world, 3_000);
    eventually("a beginning", || passed(&world) > 0);
    for grows in [false, true] {
        let ballast = disk.0.join(".ballast");
        // As much of it as there is room for.
        let _ = std::fs::write(&ballast, vec![0; 8 << 20]);
        says_so_and_goes_on(&world, &mut service, || input.sent(), RESIDENT_MIB_MAX);
        match grows {
            true => disk.grow(512),
            false => std::fs::remove_file(&ballast).expect("ballast"),
        }
        let sent = input.sent();
        let back = Instant::now();
        eventually("the lake has caught up", || {
            passed(&world) >= sent && last_error(&mut service).is_empty()
        });
        println!("caught up {:?} after", back.elapsed());
    }
    let records = input.end();
    eventually("all of it", || world.has_passed(OUTPUTS, records));
    service.stop();
    assert_exact(&world, records);
}

/// Taps with a text that no compression makes smaller, so that a file has several parts.
fn bulky(numbers: std::ops::Range<i64>) -> impl Iterator<Item = (String, String)> {
    taps(numbers).map(|tap| {
        let mut random = SmallRng::seed_from_u64(tap.0 as u64);
        let note: String = (0..600).map(|_| random.random_range('!'..'~')).collect();
        let (key, _) = tap.record();
        let mut json = tap.json();
        json["note"] = note.into();
        (key, json.to_string())
    })
}

#[test]
fn a_disk_that_fills_in_the_middle_of_a_file_loses_nothing() {
    const TAPS: i64 = 100_000;
    let Some(world) = taps::world("disk_file", 1, Lake::Local) else { return };
    // One file of all, of parts of eight MiB, of which the disk takes one.
    let topic = taps::TOPIC
        .replace("[columns]", "[columns]\nnote = \"text\"")
        .replace("[lake]", "[lake]\nroll = { bytes = \"64MiB\", age = \"10m\" }")
        .replace(", \"hour(event_time)\"", "");
    world.declare("taps", &topic);
    let Some(disk) = Disk::mount(&world, 12) else { return };
    // With less memory the cut would end before its first part.
    let mut service =
        world.follow(&[("HIGHWATER_MEMORY", "512MiB"), ("HIGHWATER_COMMIT_INTERVAL", "40ms")]);
    world.produce(bulky(0..TAPS));
    let staging = disk.0.join(".highwater/staging");
    let mut largest = 0;
    eventually("the first part is on the disk", || {
        for entry in std::fs::read_dir(&staging).into_iter().flatten().flatten() {
            largest = largest.max(entry.metadata().map_or(0, |m| m.len()));
        }
        largest >= 8 << 20
    });
    says_so_and_goes_on(&world, &mut service, || TAPS, 512);
    disk.grow(512);
    service.signal(libc::SIGTERM);
    let (code, text) = service.wait();
    assert_eq!(code, Some(0), "{text}");
    world.run_until_caught_up();
    assert_exact(&world, TAPS);
    let files = world.number("SELECT max(bytes) FROM highwater.lake_files");
    assert!(files > 16 << 20, "{files} bytes: not of several parts");
}
