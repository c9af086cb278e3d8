//! Real guests on our machine: a stock Debian kernel, its disks on `block`, driven over QMP.
//!
//! Where this host's KVM cannot run one, the whole program starts again in the lab. Every trial stands alone;
//! those that leave their guest well hand it on to the next (`stage`), since a boot takes the longest.

mod crash;
mod live;
mod reset;
mod stage;
mod switch;

use std::process::ExitCode;
use std::time::Duration;

use libtest_mimic::{Arguments, Failed, Trial};
use tests::Failure;
use tests::programs::enter_lab;

const MIB: u64 = 1 << 20;

fn main() -> ExitCode {
    let mut arguments = Arguments::from_args();
    if !arguments.list
        && let Err(error) = enter_lab(|command| command.timeout = Duration::from_secs(900))
    {
        eprintln!("{error}");
        return ExitCode::FAILURE;
    }
    // Each has a machine under emulation to itself: two at once would only be slower.
    arguments.test_threads = Some(1);
    let conclusion = libtest_mimic::run(&arguments, trials());
    stage::end();
    conclusion.exit_code()
}

fn trials() -> Vec<Trial> {
    let trial = |name: &str, test: fn() -> Result<(), Failure>| {
        Trial::test(name, move || test().map_err(|error| Failed::from(error.to_string())))
    };
    vec![
        // These share a guest.
        trial("live_copy_of_an_idle_disk", live::of_an_idle_disk),
        trial("live_copy_under_random_writes", live::under_random_writes),
        trial("live_copy_under_a_file_system", live::under_a_file_system),
        trial("live_copy_stopped_in_the_middle_and_resumed", live::stopped_and_resumed),
        trial("live_copy_cluster_by_cluster", live::cluster_by_cluster),
        trial("live_copy_of_a_chain_switched_twice", live::switched_twice),
        trial("live_copy_with_the_machine_stopped_and_continued", live::machine_stopped_and_continued),
        trial("a_bad_target_leaves_the_guest_running", switch::bad_targets),
        trial("the_guest_is_told_if_notify_says_so", switch::notify),
        trial("reboot_in_the_middle_of_a_stream", reset::reboot),
        trial("system_reset_in_the_middle_of_a_stream", reset::system_reset),
        // These end theirs.
        trial("two_disks_and_two_cpus_at_once", live::two_disks),
        trial("power_off_in_the_middle_of_a_stream", reset::power_off),
        trial("sigterm_in_the_middle_of_a_stream", crash::sigterm),
        trial("sigkill_in_the_middle_of_a_stream", crash::sigkill),
        trial("sigkill_after_the_base_was_deleted", crash::sigkill_after_the_end),
    ]
}
