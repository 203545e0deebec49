//! Waiters, exits, signals and notifications.

mod exits;
mod notifications;
mod signals;
mod waits;

use super::{process, Area, Scenario};

pub const AREA: Area = Area {
    name: "wait",
    scenarios: SCENARIOS,
    not_run: &[],
};

const SCENARIOS: &[(u16, Scenario)] = &[
    (190, exits::codes_of_exits),
    (191, exits::codes_of_signals),
    (192, waits::several),
    (193, waits::after_the_exit),
    (194, waits::timed_out),
    (195, waits::of_no_time),
    (196, waits::without_end),
    (197, waits::further_process_forgotten),
    (198, waits::init_remembered),
    (199, waits::external_by_its_id),
    (200, signals::unnamed_is_kill),
    (201, signals::one_further_process),
    (202, signals::exited),
    (203, signals::init_alone),
    (204, signals::forced_kills_all),
    (205, signals::graceful_is_term),
    (206, signals::term_ignored),
    (207, notifications::never_started),
    (208, signals::shutdown_of_exited),
    (209, signals::power_off),
    (210, notifications::one_each),
    (211, notifications::types),
    (212, notifications::members),
    (213, exits::leftovers),
    (214, exits::orphans),
    (215, exits::no_status_stolen),
    (216, exits::pid_used_again),
    (217, exits::signals_of_externals),
    (218, exits::refused_start),
];
