//! Real guests on our machine: a stock Debian kernel, with its disks on `block`, controlled through QMP.
//!
//! If this host's KVM cannot run a guest, the program starts again in the emulated host, once for each
//! group. Every trial is independent. Trials that leave their guest in good order pass it on to the next
//! one (`stage`), because a boot takes the longest.

mod cdrom;
mod chaos;
mod crash;
mod debian;
mod devices;
mod ends;
mod errors;
mod kernels;
mod live;
mod mirror;
mod reset;
mod screen;
mod stage;
mod switch;
mod typist;

use std::process::ExitCode;
use std::time::Duration;

use emulated_host::Invocation;
use harness::Failure;
use harness::programs::Programs;
use libtest_mimic::{Arguments, Failed, Trial};
use typist::Typist;

const MIB: u64 = 1 << 20;

/// Set in the environment of a program in the emulated host: the number of the group of trials to run.
const GROUP_VARIABLE: &str = "MILLRACE_TRIALS";

/// The trial that needs a Debian system.
const LOGIN: &str = "a_debian_system_boots_to_a_login_on_a_terminal";

fn main() -> ExitCode {
    let mut arguments = Arguments::from_args();
    if !arguments.list && !emulated_host::is_inside() {
        match on_emulated_host(&arguments) {
            Ok(None) => {}
            Ok(Some(code)) => return code,
            Err(error) => {
                eprintln!("{error}");
                return ExitCode::FAILURE;
            }
        }
    }
    // Each trial has the emulated machine to itself: two at once would only be slower.
    arguments.test_threads = Some(1);
    let group: Option<usize> = std::env::var(GROUP_VARIABLE).ok().and_then(|group| group.parse().ok());
    let groups =
        groups().into_iter().enumerate().filter(|(index, _)| group.is_none_or(|wanted| wanted == *index));
    let conclusion = libtest_mimic::run(&arguments, groups.flat_map(|(_, trials)| trials).collect());
    stage::end();
    conclusion.exit_code()
}

/// If this host cannot run a guest itself, runs each group of trials in an emulated host of its own.
///
/// An emulated machine that ends or hangs affects only one group, which is then run once more.
fn on_emulated_host(arguments: &Arguments) -> Result<Option<ExitCode>, Failure> {
    let programs = Programs::ready()?;
    if kvm_probe::kvm().is_usable() {
        return Ok(None);
    }
    eprintln!("{}", emulated_host::where_guests_run());
    let mut code = ExitCode::SUCCESS;
    for (index, trials) in groups().into_iter().enumerate() {
        let is_wanted = |trial: &Trial| match &arguments.filter {
            Some(filter) if arguments.exact => trial.name() == filter,
            Some(filter) => trial.name().contains(filter.as_str()),
            None => true,
        };
        if !trials.iter().any(is_wanted) {
            continue;
        }
        let mut command = Invocation::this_process()?;
        programs.equip(&mut command);
        command.env.push((GROUP_VARIABLE.into(), index.to_string().into()));
        // Each trial takes some 20 s on an idle host.
        let time = Duration::from_secs(120 + 45 * trials.len() as u64);
        command.timeout = time + chaos::time();
        let typist = match trials.iter().any(|trial| trial.name() == LOGIN) {
            true => Some(debian::equip(&mut command)?),
            false => None,
        };
        if trials.iter().any(|trial| trial.name().starts_with(KERNELS)) {
            kernels::equip(&mut command)?;
        }
        let status = emulated_host::run_again_if_lost(&command).unwrap_or_else(|error| {
            // The other groups still have results.
            eprintln!("{error}");
            1
        });
        let typed = typist.map_or(Ok(()), Typist::ended);
        if let Err(error) = &typed {
            eprintln!("the user at the screen of {LOGIN}: {error}");
        }
        if status != 0 || typed.is_err() {
            code = ExitCode::FAILURE;
        }
    }
    Ok(Some(code))
}

/// Tap interfaces need root, which every program is in the emulated host.
fn may_make_interfaces() -> bool {
    rustix::process::geteuid().is_root() || !kvm_probe::kvm().is_usable()
}

/// The prefix of the names of trials that boot other kernels.
const KERNELS: &str = "a_kernel_of_";

/// Groups of trials. The trials of a group run one after the other in one emulated host.
fn groups() -> Vec<Vec<Trial>> {
    let trial = |name: &str, test: fn() -> Result<(), Failure>| {
        Trial::test(name, move || {
            // Printed at once, because the list at the end is lost if the emulated host ends before.
            test().map_err(|error| Failed::from(error.to_string())).inspect_err(|failed| {
                eprintln!("\n{}", failed.message().unwrap_or_default());
            })
        })
    };
    // These trials share a guest.
    let mut groups = vec![vec![
        trial("live_copy_of_an_idle_disk", live::of_an_idle_disk),
        trial("live_copy_under_random_writes", live::under_random_writes),
        trial("live_copy_under_a_file_system", live::under_a_file_system),
        trial("live_copy_stopped_in_the_middle_and_resumed", live::stopped_and_resumed),
        trial("live_copy_cluster_by_cluster", live::cluster_by_cluster),
        trial("live_copy_of_a_chain_switched_twice", live::switched_twice),
        trial("live_copy_with_the_machine_stopped_and_continued", live::machine_stopped_and_continued),
        trial("a_viewer_sees_what_the_guest_draws_and_its_keys_arrive", screen::draws_and_types),
        trial("a_viewer_stays_through_stops_switches_and_resets", screen::stays),
        trial("a_viewer_that_types_faster_than_the_guest_reads_leaves_no_key_down", screen::flood),
        trial("a_bad_target_leaves_the_guest_running", switch::bad_targets),
        trial("the_guest_is_told_if_notify_says_so", switch::notify),
        trial("a_disk_moves_to_its_mirror_through_resets", mirror::through_resets),
        trial("a_disk_moves_to_its_mirror_under_a_file_system", mirror::under_a_file_system),
        trial("reboot_in_the_middle_of_a_stream", reset::reboot),
        trial("system_reset_in_the_middle_of_a_stream", reset::system_reset),
        trial("sysrq_b_in_the_middle_of_a_stream", reset::restarted_at_once),
        trial("the_driver_lets_go_in_the_middle_of_a_stream", reset::driver_unbound),
        // After the resets, because the device must survive them too.
        trial("random_numbers_come_from_the_host", devices::random_numbers),
    ]];
    // These trials end their guests.
    let last = [
        trial("removable_media_are_mounted_and_changed", cdrom::media),
        trial("a_tray_is_locked_opened_and_reset", cdrom::tray),
        trial("chaos", chaos::run),
        trial("a_full_server_stops_the_machine_until_cont", errors::full),
        trial("a_console_carries_bytes_both_ways", devices::console),
        trial("a_network_carries_a_conversation", devices::network).with_ignored_flag(!may_make_interfaces()),
        trial("two_disks_and_two_cpus_at_once", live::two_disks),
        trial("power_off_in_the_middle_of_a_stream", reset::power_off),
        trial("the_power_button_in_the_middle_of_a_stream", reset::power_button),
        trial("sigterm_in_the_middle_of_a_stream", crash::sigterm),
        trial("sigkill_in_the_middle_of_a_stream", crash::sigkill),
        trial("sigkill_after_the_base_was_deleted", crash::sigkill_after_the_end),
    ];
    groups.extend(last.map(|trial| vec![trial]));
    groups.push(vec![
        trial("a_kernel_panic_is_shown_and_exits_1", ends::panic),
        trial("a_kernel_panic_without_an_init_is_shown_and_exits_1", ends::panic_without_init),
        trial("a_triple_fault_is_told_and_exits_1", ends::triple_fault),
    ]);
    groups.push(vec![
        trial("a_kernel_of_debian_12_compressed_by_xz", kernels::bookworm_xz),
        trial("a_kernel_of_debian_12_as_elf", kernels::bookworm_elf),
        trial("a_kernel_of_debian_13_compressed_by_zstd", kernels::trixie_zstd),
        trial("a_kernel_of_debian_13_as_elf", kernels::trixie_elf),
        trial("a_kernel_of_debian_sid", kernels::sid),
    ]);
    groups.push(vec![trial(LOGIN, debian::login_and_power_off)]);
    groups
}
