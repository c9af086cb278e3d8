use std::fs::File;
use std::io::{ErrorKind, Read, Write};
use std::net::TcpListener;

use super::*;

mod confined;
mod network;
mod program;

/// Makes a system call with up to six arguments. Returns the error number, or 0 on success.
fn errno(call: libc::c_long, arguments: &[usize]) -> i32 {
    let argument = |n: usize| arguments.get(n).copied().unwrap_or(0);
    // SAFETY: the callers pass no memory, or memory that they own and that outlives the call.
    let done = unsafe {
        let (a, b, c) = (argument(0), argument(1), argument(2));
        libc::syscall(call, a, b, c, argument(3), argument(4), argument(5))
    };
    if done < 0 { std::io::Error::last_os_error().raw_os_error().unwrap() } else { 0 }
}

/// The landlock ABI version of this kernel; 0 if it has no landlock.
fn landlock() -> i64 {
    const CREATE_RULESET_VERSION: usize = 1;
    // SAFETY: this call only queries a number; it takes no memory.
    unsafe { libc::syscall(libc::SYS_landlock_create_ruleset, 0, 0, CREATE_RULESET_VERSION) }.max(0)
}

/// Runs the test `test` of this program in a process of its own, with the variable `name` set to `value`
/// in its environment. Returns the exit status and everything it printed.
fn in_process(test: &str, name: &str, value: &str) -> (std::process::ExitStatus, String) {
    let mut child = std::process::Command::new(std::env::current_exe().unwrap());
    let child = child.args(["--exact", test, "--nocapture", "--test-threads=1"]).env(name, value);
    let output = child.output().unwrap();
    let said = [output.stdout, output.stderr].map(|text| String::from_utf8_lossy(&text).into_owned());
    (output.status, said.concat())
}

/// Runs `work` on a thread that is confined first.
fn confined<T: Send + 'static>(role: Role, mode: Mode, work: impl FnOnce() -> T + Send + 'static) -> T {
    std::thread::spawn(move || {
        let lacks = confine(role, mode);
        assert!(lacks.is_nothing(), "this kernel has {lacks}");
        work()
    })
    .join()
    .unwrap()
}

#[test]
fn a_confined_thread_works_on_what_is_open_and_opens_nothing() {
    for role in [Role::Disk, Role::Vcpu, Role::Device] {
        let mut file = tempfile::tempfile().unwrap();
        let (opened, connected) = confined(role, Mode::On, move || {
            file.write_all(b"abc").unwrap();
            (File::open("/etc/passwd").map(drop), TcpListener::bind("127.0.0.1:0").map(drop))
        });
        assert_eq!(opened.unwrap_err().kind(), ErrorKind::PermissionDenied, "{role:?}");
        assert_eq!(connected.unwrap_err().kind(), ErrorKind::PermissionDenied, "{role:?}");
    }
}

#[test]
fn a_disks_workers_are_confined_alike() {
    let opened = confined(Role::Disk, Mode::On, || {
        std::thread::spawn(|| File::open("/etc/passwd").map(drop)).join().unwrap()
    });
    assert_eq!(opened.unwrap_err().kind(), ErrorKind::PermissionDenied);
}

#[test]
fn a_vcpu_and_a_device_make_no_threads() {
    for role in [Role::Vcpu, Role::Device] {
        let made = confined(role, Mode::On, || std::thread::Builder::new().spawn(|| ()).map(drop));
        assert_eq!(made.unwrap_err().kind(), ErrorKind::PermissionDenied, "{role:?}");
    }
}

#[test]
fn without_a_sandbox_everything_goes_on() {
    let read = confined(Role::Vcpu, Mode::Off, || File::open("/etc/passwd")?.read(&mut [0; 1]));
    assert_eq!(read.unwrap(), 1);
}

#[test]
fn files_outside_of_the_allowed_folders_stay_closed() {
    let folder = tempfile::tempdir().unwrap();
    let inside = folder.path().join("image");
    let allowed = folder.path().to_owned();
    let (made, outside) = std::thread::spawn(move || {
        allow_only(&[allowed]).unwrap();
        (File::create(inside).map(drop), File::open("/etc/passwd").map(drop))
    })
    .join()
    .unwrap();
    made.unwrap();
    assert_eq!(outside.unwrap_err().kind(), ErrorKind::PermissionDenied);
    assert!(allow_only(&["/nowhere".into()]).is_err());
}

#[test]
fn what_is_lacking_is_one_line() {
    let lacks = Lacks { seccomp: Some("a".into()), landlock: Some("b".into()) };
    assert_eq!(lacks.to_string(), "no seccomp (a), no landlock (b)");
    assert_eq!(Lacks { seccomp: None, ..lacks }.to_string(), "no landlock (b)");
}
