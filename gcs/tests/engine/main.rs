//! The container engine against a real kernel, as root, in mount namespaces of our own:
//! once with cgroup v1, once with v2, as far as this machine has them. Its own `main`,
//! because a process that forks tasks has one thread.

#![allow(clippy::disallowed_methods, clippy::zombie_processes)] // a test may block, and `rig::reap` is its reaper

mod bundle;
mod cases;
mod escapes_paths;
mod escapes_process;
mod escapes_procfs;
mod execs;
mod failures;
mod mounts;
mod outside;
mod restrictions;
mod rig;
mod seccomp;
mod settings;
mod sys;
mod task;

use std::process::{Command, ExitCode};

use nix::mount::{mount, MsFlags};
use nix::sched::{unshare, CloneFlags};
use rig::Rig;

type Case = (&'static str, fn(&Rig));

macro_rules! cases {
    ($($module:ident::$name:ident),* $(,)?) => { &[$((stringify!($name), $module::$name)),*] };
}

const CASES: &[Case] = cases![
    cases::a_container_runs_and_leaves_nothing,
    cases::nothing_runs_before_start,
    cases::only_the_standard_streams_are_open,
    cases::a_waiting_init_holds_nothing_of_the_helper,
    cases::signals_are_as_in_a_fresh_process,
    cases::the_oom_score_is_neutral_unless_given,
    cases::a_plain_user_can_reopen_its_streams,
    cases::capabilities_are_those_of_the_spec,
    cases::the_environment_is_exactly_as_given,
    failures::a_missing_program_fails_the_create_by_name,
    failures::a_program_that_cannot_be_executed_fails_the_start,
    failures::a_failed_create_leaves_nothing_and_says_why,
    failures::an_id_in_use_is_refused_and_the_container_lives,
    execs::exec_runs_as_given_before_and_after_start,
    execs::a_failing_exec_says_why_and_harms_nothing,
    cases::terminals_work_for_init_and_exec,
    execs::an_exec_gets_its_own_terminal,
    cases::namespaces_can_be_joined_by_path,
    cases::signals_reach_every_process,
    cases::device_rules_hold,
    cases::the_root_of_the_machine_is_out_of_reach,
    execs::parallel_execs_work,
    cases::limits_change_while_it_runs,
    restrictions::what_a_spec_forbids_is_refused,
    restrictions::no_new_privileges_holds_against_setuid_programs,
    restrictions::limits_and_settings_are_those_of_the_spec,
    restrictions::a_root_with_devices_of_its_own_needs_no_mount,
    seccomp::every_action_does_what_it_says,
    seccomp::arguments_are_looked_at,
    seccomp::a_filter_changes_nothing_else,
    seccomp::the_filter_is_the_last_step_before_the_program,
    seccomp::a_profile_like_that_of_engines_works,
    mounts::propagation_is_that_of_the_options,
    mounts::options_are_those_of_the_specification,
    mounts::a_tmpfs_has_the_mode_of_what_it_covers,
    mounts::mount_points_are_made_where_links_lead,
    mounts::a_read_only_path_keeps_the_other_flags,
    mounts::a_device_directory_may_be_read_only,
    mounts::nothing_is_mounted_into_procfs,
    mounts::a_refused_option_is_named,
    mounts::what_a_tmpfs_covers_can_be_copied_into_it,
    settings::the_environment_is_that_of_runc,
    settings::a_session_and_a_keyring_are_its_own,
    settings::settings_of_the_scheduler_are_applied,
    settings::clocks_may_be_set_off,
    settings::limits_that_are_not_set_hold_nothing,
    settings::hooks_run_before_the_root_is_entered,
    settings::large_input_is_carried_out_or_refused,
    settings::a_failure_leaves_no_descriptor_and_no_process,
    escapes_paths::links_of_an_image_lead_to_its_own_root,
    escapes_paths::an_exchange_while_mounts_are_made_changes_nothing_outside,
    escapes_paths::a_console_is_never_bound_where_a_link_says,
    escapes_paths::nothing_in_an_image_configures_the_engine,
    escapes_procfs::procfs_is_where_it_has_to_be_or_there_is_no_container,
    escapes_procfs::masks_are_not_made_of_what_an_image_has,
    escapes_procfs::settings_are_written_to_procfs_or_not_at_all,
    escapes_process::a_working_directory_is_in_the_root,
    escapes_process::a_process_that_joins_cannot_be_looked_into,
    escapes_process::no_capability_is_inherited_that_was_not_given,
    escapes_process::control_groups_cannot_be_written,
    escapes_process::a_long_text_is_nothing_but_a_text,
];

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args()
        .skip(1)
        .filter(|arg| !arg.starts_with("--"))
        .collect();
    match args.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["in-v1", ref filter @ ..] => suite(false, filter),
        ["in-v2", ref filter @ ..] => suite(true, filter),
        ref filter => {
            if !nix::unistd::geteuid().is_root() {
                println!("SKIPPED: container engine tests: they need root");
                return ExitCode::SUCCESS;
            }
            if !std::path::Path::new("/bin/busybox").exists() {
                println!(
                    "SKIPPED: container engine tests: no /bin/busybox (package busybox-static)"
                );
                return ExitCode::SUCCESS;
            }
            let mut code = ExitCode::SUCCESS;
            for version in ["in-v1", "in-v2"] {
                let me = Command::new("/proc/self/exe")
                    .arg(version)
                    .args(filter)
                    .status();
                if !me.is_ok_and(|status| status.success()) {
                    code = ExitCode::FAILURE;
                }
            }
            code
        }
    }
}

fn suite(v2: bool, filter: &[&str]) -> ExitCode {
    unshare(CloneFlags::CLONE_NEWNS).unwrap();
    mount(
        None::<&str>,
        "/",
        None::<&str>,
        MsFlags::MS_REC | MsFlags::MS_PRIVATE,
        None::<&str>,
    )
    .unwrap();
    let now_v2 = std::path::Path::new("/sys/fs/cgroup/cgroup.controllers").exists();
    if v2 && !now_v2 {
        let done = mount(
            Some("none"),
            "/sys/fs/cgroup",
            Some("cgroup2"),
            MsFlags::empty(),
            None::<&str>,
        );
        if let Err(e) = done {
            println!("SKIPPED: cgroup v2: {e}");
            return ExitCode::SUCCESS;
        }
    } else if !v2 && (now_v2 || !std::path::Path::new("/sys/fs/cgroup/devices").exists()) {
        println!("SKIPPED: cgroup v1: this machine has no hierarchy of it mounted");
        return ExitCode::SUCCESS;
    }
    sys::subreaper();
    let mut failed = 0;
    for (name, case) in CASES
        .iter()
        .filter(|(name, _)| filter.iter().all(|f| name.contains(f)))
    {
        let rig = Rig::new(v2);
        let ok = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| case(&rig))).is_ok();
        println!(
            "cgroup {} {name} ... {}",
            if v2 { "v2" } else { "v1" },
            if ok { "ok" } else { "FAILED" }
        );
        failed += u32::from(!ok);
    }
    if failed > 0 {
        ExitCode::FAILURE
    } else {
        ExitCode::SUCCESS
    }
}
