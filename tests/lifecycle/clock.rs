//! The clock of the host is set, really: only where nobody minds, in a guest that is thrown away.

use rustix::time::{ClockId, Timespec, clock_gettime, clock_settime};

use crate::support::{LONG, World, wait_until};

const YEAR: i64 = 365 * 86_400;

fn real() -> i64 {
    clock_gettime(ClockId::Realtime).tv_sec
}

fn set(to: i64) {
    clock_settime(ClockId::Realtime, Timespec { tv_sec: to, tv_nsec: 0 }).expect("root of a guest may");
}

/// The guest's clock goes a year forward and back. What is stated: a timer whose moment was jumped over starts its service
/// once; back in the right year nothing starts it again at that moment; the next moment starts it; intervals do not care.
pub fn a_year_forward_and_back_starts_nothing_twice_and_loses_nothing(world: &mut World) {
    let (begin, mono) = (real(), clock_gettime(ClockId::Monotonic).tv_sec);
    // A moment of every year, some days from now, whichever day it is.
    let moment = begin / 86_400 * 86_400 + 40 * 86_400 + 12 * 3600;
    let date = jiff_date(moment);
    let once = "network.mode = \"none\"\nservice.type = \"oneshot\"";
    let yearly = format!("{once}\ntimer.calendar = \"*-{date} 12:00 UTC\"");
    world.write_service("yearly", &world.probe_toml(&["print", "ran"], &yearly));
    world.write_service(
        "second",
        &world.probe_toml(&["print", "ran"], &format!("{once}\ntimer.every = \"1s\"")),
    );
    world.start();
    wait_until("the seconds count", LONG, || world.run_id("second") >= 2);
    assert_eq!(world.run_id("yearly"), 0);
    // The supervisor lives, and has seen the clock, when an interval has come twice.
    let settle = |world: &World| {
        let before = world.run_id("second");
        wait_until("the seconds go on", LONG, || world.run_id("second") >= before + 2);
    };
    set(begin + YEAR);
    wait_until("it is made up for", LONG, || world.run_id("yearly") == 1);
    settle(world);
    assert_eq!(world.run_id("yearly"), 1);
    set(begin);
    settle(world);
    assert_eq!(world.run_id("yearly"), 1, "the clock was wrong");
    set(moment - 2);
    wait_until("the moment comes", LONG, || real() > moment + 1);
    settle(world);
    assert_eq!(world.run_id("yearly"), 1, "it has had its start");
    world.kill_supervisor();
    world.start();
    let next = (360..370).map(|days| moment + days * 86_400).find(|next| jiff_date(*next) == date);
    set(next.expect("every year has this day") - 2);
    wait_until("the next one comes", LONG, || world.run_id("yearly") == 2);
    settle(world);
    assert_eq!(world.run_id("yearly"), 2);
    set(begin + clock_gettime(ClockId::Monotonic).tv_sec - mono);
}

/// `MONTH-DAY`; a leap day is not one of every year.
fn jiff_date(second: i64) -> String {
    let time = jiff::Timestamp::from_second(second).expect("a year with four digits").to_string();
    time[5..10].replace("02-29", "03-01")
}
