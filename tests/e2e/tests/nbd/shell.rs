//! Every detail of the protocol, flag by flag, with libnbd's shell.

use std::process::{Command, Stdio};

use harness::{Failure, check};

use crate::rig::{MIB, Model, Rig, run};

const SCRIPT: &str = r#"
import errno
def fails(number, call, *arguments, **more):
    try:
        call(*arguments, **more)
    except nbd.Error as e:
        assert e.errnum == number, (e.errnum, e.string)
    else:
        assert False, "succeeded"

h.add_meta_context("base:allocation")
h.add_meta_context("qemu:allocation-depth")
h.connect_uri(uri)
MIB = 1 << 20
assert h.get_size() == 64 * MIB
assert h.get_structured_replies_negotiated() and h.get_protocol() == "newstyle-fixed"
assert h.can_df() and h.can_fua() and h.can_flush() and h.can_trim() and h.can_zero()
assert h.can_fast_zero() and h.can_multi_conn() and h.can_cache() and not h.is_read_only()
assert h.get_block_size(nbd.SIZE_MINIMUM) == 1
assert h.get_block_size(nbd.SIZE_MAXIMUM) == 32 * MIB
h.set_strict_mode(0)

h.pwrite(b"a" * 70000, 1000, nbd.CMD_FLAG_FUA)
assert h.pread(70000, 1000) == b"a" * 70000
h.zero(4 * MIB, MIB)
h.zero(4 * MIB, 5 * MIB, nbd.CMD_FLAG_NO_HOLE | nbd.CMD_FLAG_FUA)
fails(errno.ENOTSUP, h.zero, 4 * MIB, MIB, nbd.CMD_FLAG_FAST_ZERO)
h.trim(MIB, 32 * MIB, nbd.CMD_FLAG_FUA)
h.cache(MIB, 0)
h.flush()
fails(errno.EINVAL, h.cache, MIB, 64 * MIB)
fails(errno.EINVAL, h.pread, 512, 64 * MIB)
fails(errno.ENOSPC, h.pwrite, b"x", 64 * MIB)
fails(errno.ENOSPC, h.zero, 2, 64 * MIB - 1)
fails(errno.EINVAL, h.trim, 2, 64 * MIB - 1)

# Structured reads: holes are separate, unless the client wants one piece.
def kinds(flags):
    seen = []
    h.pread_structured(8 * MIB, 30 * MIB, lambda data, offset, kind, error: seen.append(kind), flags)
    return seen
assert nbd.READ_HOLE in kinds(0)
assert kinds(nbd.CMD_FLAG_DF) == [nbd.READ_DATA]

# Block status: one extent, if only one is requested.
def status(count, offset, flags=0):
    seen = {}
    def extents(context, at, entries, error):
        assert at == offset
        seen[context] = list(zip(entries[::2], entries[1::2]))
    h.block_status(count, offset, extents, flags)
    return seen
whole = status(64 * MIB, 0)
assert set(whole) == {"base:allocation", "qemu:allocation-depth"}
assert all(sum(length for length, _ in runs) == 64 * MIB for runs in whole.values()), whole
one = status(64 * MIB, 0, nbd.CMD_FLAG_REQ_ONE)
assert all(len(runs) == 1 for runs in one.values()), one

# Many at once, with replies in any order.
cookies = []
bufs = []
for at in range(300):
    buf = nbd.Buffer(4096)
    bufs.append(buf)
    cookies.append(h.aio_pread(buf, 1000 + at))
while h.aio_in_flight() > 0:
    h.poll(-1)
assert all(bytes(buf.to_bytearray()) == b"a" * 4096 for buf in bufs)

# A write on one connection can be read and flushed on another.
other = nbd.NBD()
other.connect_uri(uri)
h.pwrite(b"z" * 512, 63 * MIB)
assert other.pread(512, 63 * MIB) == b"z" * 512
other.flush()
other.shutdown()
h.shutdown()
"#;

fn nbdsh(script: &str) -> Command {
    let mut command = Command::new("nbdsh");
    // Only the distribution's python3 has the module, even if another one comes first in PATH.
    command.args(["-c", script]).env("PATH", "/usr/bin:/bin");
    command
}

#[test]
fn every_flag_means_what_the_protocol_says() -> Result<(), Failure> {
    for (file, format) in [("raw.img", "raw"), ("cow.qcow2", "qcow2")] {
        let rig = Rig::new()?;
        run("qemu-img", &["create", "-f", format, &rig.text(file), "64M"])?;
        let mut vm = rig.start(&[("d0", file, format)])?;
        let uri = rig.export(&mut vm, "d0", true)?;
        let script = format!("uri = {uri:?}\n{SCRIPT}");
        let output = nbdsh(&script).output()?;
        check(output.status.success(), format!("{format}: {}", String::from_utf8_lossy(&output.stderr)))?;
        let mut model = Model::new(64 * MIB);
        model.write(1000, 70_000, b'a');
        model.write(63 * MIB, 512, b'z');
        rig.holds("raw", &uri, &model)?;
        vm.quit()?;
        rig.holds(format, &rig.text(file), &model)?;
    }
    Ok(())
}

#[test]
fn a_new_size_is_told_to_whoever_asks_again() -> Result<(), Failure> {
    let rig = Rig::new()?;
    run("qemu-img", &["create", "-f", "qcow2", &rig.text("a.qcow2"), "8M"])?;
    let mut vm = rig.start(&[("d0", "a.qcow2", "qcow2")])?;
    let uri = rig.export(&mut vm, "d0", true)?;
    let script = r#"
import sys
h.connect_uri(uri)
h.set_strict_mode(0)
assert h.get_size() == 8 << 20
print("connected", flush=True)
sys.stdin.readline()
# The old connection keeps the old size, but the new range is served.
h.pwrite(b"n" * 512, 12 << 20)
new = nbd.NBD()
new.connect_uri(uri)
assert new.get_size() == 16 << 20
assert new.pread(512, 12 << 20) == b"n" * 512
"#;
    let mut command = nbdsh(&format!("uri = {uri:?}\n{script}"));
    command.stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = command.spawn()?;
    let (mut stdin, stdout) =
        (child.stdin.take().ok_or("no input")?, child.stdout.take().ok_or("no output")?);
    let mut line = String::new();
    std::io::BufRead::read_line(&mut std::io::BufReader::new(stdout), &mut line)?;
    vm.qmp.execute_json("block_resize", serde_json::json!({"device": "d0", "size": 16 << 20}))?;
    std::io::Write::write_all(&mut stdin, b"\n")?;
    drop(stdin);
    check(child.wait()?.success(), "the client succeeds; its output shows the reason")?;
    vm.quit()
}
