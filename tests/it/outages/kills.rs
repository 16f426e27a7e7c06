//! Two processes of one group, killed in turn at random moments while input goes on.

use super::{Input, assert_exact, passed, short_or_long};
use crate::{
    faults::{HURRY, hurry},
    support::{Lake, Running, World, eventually},
    taps::{self, OUTPUTS},
};
use rand::{Rng, SeedableRng, rngs::SmallRng};
use std::time::Duration;

const RATE: i64 = 3_000;

fn start(world: &World) -> Running {
    let mut command = world.command(&["run"]);
    command.envs(HURRY).env(
        "HIGHWATER_KAFKA",
        // Whoever is killed is missed soon.
        "session.timeout.ms=2000,heartbeat.interval.ms=300",
    );
    Running::start(command)
}

fn killed_in_rotation(name: &str, lake: Lake, seed: u64) {
    let Some(world) = taps::world(name, 4, lake).map(hurry) else { return };
    let mut random = SmallRng::seed_from_u64(seed);
    let mut pair = [start(&world), start(&world)];
    let input = Input::start(&world, RATE);
    let kills = short_or_long(6, 60);
    for kill in 0..kills {
        let before = passed(&world);
        eventually("commits since the last kill", || passed(&world) > before);
        std::thread::sleep(Duration::from_millis(random.random_range(0..1000)));
        let one = &mut pair[kill % 2];
        assert!(one.is_running(), "{}", one.printed());
        one.signal(libc::SIGKILL);
        *one = start(&world);
    }
    println!("{kills} kills, seed {seed}");
    let records = input.end();
    eventually("all of it", || world.has_passed(OUTPUTS, records));
    for process in pair {
        process.stop();
    }
    assert_exact(&world, records);
}

#[test]
fn two_processes_killed_in_turn_under_load_lose_nothing_on_s3() {
    killed_in_rotation("turns_s3", Lake::S3, 3);
}

#[test]
fn two_processes_killed_in_turn_under_load_lose_nothing_on_a_local_directory() {
    killed_in_rotation("turns_local", Lake::Local, 4);
}
