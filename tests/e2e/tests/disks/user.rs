//! A program that root starts and that continues as another user.

use std::fs::{self, Permissions};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::process::CommandExt;
use std::process::Command;

use harness::programs::Programs;
use harness::{Failure, Options, Vm, check};
use serde_json::json;

use crate::{MIB, Stage, disk, millrace};

/// A line of `status` in /proc, for each thread.
fn of_all_threads(vm: &Vm, key: &str) -> Result<Vec<String>, Failure> {
    let mut lines = Vec::new();
    for task in fs::read_dir(format!("/proc/{}/task", vm.id()))? {
        let status = fs::read_to_string(task?.path().join("status"))?;
        let line = status.lines().find_map(|line| line.strip_prefix(key));
        lines.push(
            line.ok_or(format!("no {key} in {status}"))?.split_whitespace().collect::<Vec<_>>().join(" "),
        );
    }
    Ok(lines)
}

#[test]
#[ignore = "needs root"]
fn root_becomes_another_user_whose_files_alone_are_opened() -> Result<(), Failure> {
    let stage = Stage::new()?;
    let (base, other) = (stage.images.raw("base.img", MIB, &[])?, stage.images.raw("other.img", MIB, &[])?);
    let only_root = Permissions::from_mode(0o600);
    fs::set_permissions(&base, only_root.clone())?;
    fs::set_permissions(&other, only_root)?;
    fs::set_permissions(stage.path("."), Permissions::from_mode(0o755))?;
    let monitor = format!("unix:{}", stage.path("hmp").display());
    let more = ["--user", "nobody", "--monitor", &monitor].map(str::to_owned).to_vec();
    let options = Options { guest: false, more, ..Options::new(&disk(&base, "raw")) };
    let programs = Programs::without_guest(millrace()?);
    let mut vm = Vm::start(&programs, stage.folder.path(), &options)?;
    // The reply comes once everything is set up.
    let size = json!({"device": "virtio0", "size": 2 * MIB});

    // The image that root opened is written to.
    vm.qmp.execute_json("block_resize", size)?;
    check(fs::metadata(&base)?.len() == 2 * MIB, "the open image is written to")?;
    let threads = of_all_threads(&vm, "CapEff:")?.len();
    check(threads >= 2, format!("{threads} threads"))?;
    for (key, expected) in [
        ("Uid:", "65534 65534 65534 65534"),
        ("Gid:", "65534 65534 65534 65534"),
        ("Groups:", "65534"),
        ("CapPrm:", "0000000000000000"),
        ("CapEff:", "0000000000000000"),
        // None of these privileges can come back.
        ("CapBnd:", "0000000000000000"),
        ("NoNewPrivs:", "1"),
    ] {
        let found = of_all_threads(&vm, key)?;
        check(found.iter().all(|line| line == expected), format!("{key} of all threads: {found:?}"))?;
    }

    // The sockets belong to that user and are accessible to nobody else.
    for name in ["qmp", "hmp"] {
        let found = fs::metadata(stage.path(name))?;
        let rights = (found.uid(), found.gid(), found.mode() & 0o777);
        check(rights == (65534, 65534, 0o600), format!("{name}: {rights:?}"))?;
    }
    // A client of that user. It is copied, because the user may have no access to the program's own
    // folder.
    let client = stage.path("client");
    fs::copy(millrace()?, &client)?;
    let mut asked = Command::new(client);
    asked.arg("qmp").arg(stage.path("qmp")).arg("query-status").uid(65534).gid(65534);
    let answer = asked.output()?;
    check(answer.status.success(), format!("{answer:?}"))?;

    let change = json!({"device": "virtio0", "target": other, "format": "raw", "notify": false});
    let refused = vm.qmp.execute_json("change", change.clone());
    let error = refused.err().ok_or("root's file was opened")?.to_string();
    check(error.contains("other.img") && error.contains("ermission"), &error)?;
    fs::set_permissions(&other, Permissions::from_mode(0o666))?;
    fs::File::options().write(true).open(&other)?.set_len(2 * MIB)?;
    vm.qmp.execute_json("change", change)?;
    vm.quit()?;

    // That user cannot remove its sockets from root's folder. They stay behind, and are replaced at the
    // next start.
    check(
        stage.path("qmp").exists() && stage.path("hmp").exists(),
        "that user cannot remove files in root's folder",
    )?;
    Vm::start(&programs, stage.folder.path(), &options)?.quit()
}
