//! `millrace image` against `qemu-img`: the same output, refusals that leave the target alone, block
//! devices.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use harness::{Failure, check, qemu_img};
use serde_json::Value;

use crate::{MIB, Stage};

fn tool(stage: &Stage, program: &str, arguments: &[&str]) -> Result<Output, Failure> {
    let output = Command::new(program).args(arguments).current_dir(stage.folder.path()).output();
    Ok(output.map_err(|e| format!("{program}: {e}; install qemu-utils and util-linux"))?)
}

fn works(output: &Output) -> Result<(), Failure> {
    let said = format!("{output:?}");
    check(output.status.success(), said)
}

/// Fails unless `ours` contains everything in `theirs`, with the same values.
fn covers(ours: &Value, theirs: &Value, place: &str) -> Result<(), Failure> {
    match (ours, theirs) {
        (Value::Object(ours), Value::Object(theirs)) => theirs.iter().try_for_each(|(key, theirs)| {
            let ours = ours.get(key).ok_or_else(|| format!("{place}.{key} is missing: {theirs}"))?;
            covers(ours, theirs, &format!("{place}.{key}"))
        }),
        (Value::Array(ours), Value::Array(theirs)) if ours.len() == theirs.len() => {
            let mut pairs = ours.iter().zip(theirs).enumerate();
            pairs.try_for_each(|(n, (ours, theirs))| covers(ours, theirs, &format!("{place}[{n}]")))
        }
        _ => check(ours == theirs, format!("{place}: ours {ours}, QEMU's {theirs}")),
    }
}

/// Compares the output of both programs for the same subcommand on an image. The exit status must be the
/// same too.
fn same_answer(stage: &Stage, question: &str, format: &str, image: &str) -> Result<(), Failure> {
    let ours = stage.images.image(&[question, "--json", "-f", format, image])?;
    let theirs = tool(stage, "qemu-img", &[question, "--output=json", "-f", format, image])?;
    let what = format!("{question} {image}");
    let codes = (ours.status.code(), theirs.status.code());
    check(codes.0 == codes.1, format!("{what}: exit status {codes:?}: {ours:?}"))?;
    if theirs.stdout.is_empty() {
        return check(ours.stdout.is_empty(), format!("{what}: {ours:?}"));
    }
    covers(&serde_json::from_slice(&ours.stdout)?, &serde_json::from_slice(&theirs.stdout)?, &what)
}

/// Images of all kinds, by format and name. QEMU makes them; the later ones are over the earlier ones.
fn gallery(stage: &Stage) -> Result<Vec<(&'static str, &'static str)>, Failure> {
    let qemu =
        |arguments: &str| works(&tool(stage, "qemu-img", &arguments.split_whitespace().collect::<Vec<_>>())?);
    let io = |format: &str, image: &str, commands: &[&str]| {
        let commands: Vec<_> = commands.iter().flat_map(|command| ["-c", command]).collect();
        works(&tool(stage, "qemu-io", &[&["-f", format], &commands[..], &[image]].concat())?)
    };
    stage.images.raw("base.raw", 3 * MIB, &[(0, MIB), (2 * MIB, 64 << 10)])?;
    std::fs::create_dir(stage.path("sub"))?;
    qemu("create -q -f qcow2 -o compat=0.10 -b base.raw -F raw v2 4M")?;
    io("qcow2", "v2", &["write -P 1 64k 100k", "write 3M 64k"])?;
    qemu("create -q -f qcow2 -o extended_l2=on,lazy_refcounts=on -b v2 -F qcow2 subclusters 5M")?;
    io("qcow2", "subclusters", &["write -P 1 0 100k", "write -z 1M 70k", "write -P 3 3M 2k"])?;
    qemu("snapshot -c one subclusters")?;
    qemu("snapshot -c two subclusters")?;
    io("qcow2", "subclusters", &["write -P 4 32k 100k"])?;
    qemu("bitmap --add subclusters bits")?;
    qemu("bitmap --add --disable -g 32k subclusters more")?;
    qemu("convert -c -f raw -O qcow2 -o compression_type=zstd base.raw packed")?;
    qemu("create -q -f qed -b base.raw -F raw qed 4M")?;
    io("qed", "qed", &["write -P 5 0 70k", "write -z 512k 128k", "write 3M 64k"])?;
    qemu("create -q -f qed -o cluster_size=4k,table_size=8 -b qed -F qed qed2 6M")?;
    io("qed", "qed2", &["write -P 6 100k 70k", "write -z 3M 128k", "write 5M 64k"])?;
    qemu("create -q -f qcow2 -b ../qed2 -F qed sub/mixed 7M")?;
    qemu("create -q -f qcow2 -o cluster_size=512,refcount_bits=1 small 3M")?;
    io("qcow2", "sub/mixed", &["write -P 7 200k 70k", "write -z 5M 128k"])?;
    Ok(vec![
        ("raw", "base.raw"),
        ("qcow2", "v2"),
        ("qcow2", "subclusters"),
        ("qcow2", "packed"),
        ("qed", "qed"),
        ("qed", "qed2"),
        ("qcow2", "sub/mixed"),
        ("qcow2", "small"),
    ])
}

#[test]
fn info_map_and_check_say_what_qemu_img_says() -> Result<(), Failure> {
    let stage = Stage::new()?;
    for (format, image) in gallery(&stage)? {
        for question in ["info", "map", "check"] {
            same_answer(&stage, question, format, image)?;
            works(&stage.images.image(&["info", "-f", format, image])?)?;
        }
    }
    // Three damaged images: not closed, marked corrupt, leaking.
    for (image, format, at, byte) in
        [("qed2", "qed", 16, 3), ("v2", "qcow2", 3, 0xfb), ("packed", "qcow2", 79, 2)]
    {
        let mut bytes = std::fs::read(stage.path(image))?;
        bytes[at] |= byte;
        bytes.resize(bytes.len().next_multiple_of(4096) + 8192, 0);
        std::fs::write(stage.path(image), bytes)?;
        same_answer(&stage, "check", format, image)?;
        // QEMU does not report that a QED image was not closed.
        match format {
            "qed" => {
                let info = stage.images.image(&["info", "--json", "-f", format, image])?;
                check(serde_json::from_slice::<Value>(&info.stdout)?["dirty-flag"] == true, "not closed")?;
            }
            _ => same_answer(&stage, "info", format, image)?,
        }
    }
    for (format, image) in [("qed", "base.raw"), ("qcow2", "qed"), ("qcow2", "missing")] {
        for question in ["info", "map", "check"] {
            same_answer(&stage, question, format, image)?;
        }
    }
    Ok(())
}

/// A qemu-io that keeps an image open.
struct Holder(Child);

impl Holder {
    fn open(stage: &Stage, arguments: &[&str]) -> Result<Self, Failure> {
        let mut command = Command::new("qemu-io");
        command.args(arguments).current_dir(stage.folder.path());
        let mut holder = Holder(command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?);
        // Its output comes after it opened the image.
        writeln!(holder.0.stdin.as_mut().ok_or("no input")?, "read 0 512")?;
        let output = BufReader::new(holder.0.stdout.take().ok_or("no output")?);
        for line in output.lines() {
            if line?.contains("read 512/512") {
                return Ok(holder);
            }
        }
        Err("qemu-io did not open the image".into())
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        drop(self.0.stdin.take());
        let _ = self.0.wait();
    }
}

#[test]
fn images_in_use_are_looked_at_as_qemu_img_does() -> Result<(), Failure> {
    let stage = Stage::new()?;
    gallery(&stage)?;
    for holder in [
        &["-f", "raw", "base.raw"][..],
        &["-r", "-f", "raw", "base.raw"],
        &["-f", "qcow2", "v2"],
        &["-r", "-f", "qcow2", "v2"],
        &["-f", "qed", "qed"],
        &["-r", "-f", "qed", "qed"],
        &["-f", "qed", "qed2"],
    ] {
        let _held = Holder::open(&stage, holder)?;
        for (format, image) in
            [("raw", "base.raw"), ("qcow2", "v2"), ("qcow2", "subclusters"), ("qed", "qed"), ("qed", "qed2")]
        {
            for question in ["info", "map", "check"] {
                for share in [&[][..], &["-U"]] {
                    let arguments = [&[question], share, &["-f", format, image]].concat();
                    // Unlike QEMU's, our check does not open the backing files: it does not check them.
                    if question == "check" && !holder.contains(&image) {
                        continue;
                    }
                    let theirs = tool(&stage, "qemu-img", &arguments)?.status.code();
                    let ours = stage.images.image(&arguments)?;
                    let what = format!("{holder:?}: {arguments:?}: {theirs:?}, ours {ours:?}");
                    check(ours.status.code() == theirs, what)?;
                }
            }
        }
    }
    Ok(())
}

#[test]
fn a_refused_image_create_leaves_the_target_as_it_was() -> Result<(), Failure> {
    let stage = Stage::new()?;
    let target = stage.images.raw("target", MIB, &[(0, MIB)])?;
    stage.images.raw("base.raw", MIB, &[(0, MIB)])?;
    let before = std::fs::read(&target)?;
    for (format, options, says) in [
        ("raw", "colour=red", "preallocation, size"),
        ("raw", "preallocation=metadata", "preallocation"),
        ("raw", "cluster_size=4k", "cluster_size"),
        ("qcow2", "colour=red", "backing_file, backing_fmt, cluster_size"),
        ("qcow2", "table_size=4", "table_size"),
        ("qcow2", "cluster_size=700", "power of two from 512 to 2M"),
        ("qcow2", "cluster_size=4M", "power of two from 512 to 2M"),
        ("qcow2", "cluster_size=x", "'x' is not a size"),
        ("qcow2", "compat=9", "0.10, v2, 1.1, v3"),
        ("qcow2", "compression_type=lz4", "zlib, zstd"),
        ("qcow2", "compat=0.10,compression_type=zstd", "compat=0.10"),
        ("qcow2", "compat=v2,extended_l2=on", "compat=0.10"),
        ("qcow2", "extended_l2=perhaps", "on, off"),
        ("qcow2", "extended_l2=on,cluster_size=8k", "at least 16K"),
        ("qcow2", "lazy_refcounts=1", "on, off"),
        ("qcow2", "refcount_bits=7", "1, 2, 4, 8, 16, 32, 64"),
        ("qcow2", "preallocation=some", "off, metadata, falloc, full"),
        ("qcow2", "size=9E", "size"),
        ("qcow2", "cluster_size=512,size=200G", "larger cluster_size"),
        ("qcow2", "backing_file=base.raw", "backing_fmt"),
        ("qcow2", "backing_fmt=raw", "backing_file"),
        ("qcow2", "backing_file=base.raw,backing_fmt=vmdk", "raw, qcow2, qed"),
        ("qcow2", "backing_file=base.raw,backing_fmt=qcow2", "not a qcow2 image"),
        ("qcow2", "backing_file=missing,backing_fmt=raw", "missing"),
        ("qcow2", "backing_file=target,backing_fmt=raw", "own backing file"),
        ("qcow2", "backing_file=json:{},backing_fmt=raw", "json"),
        (
            "qcow2",
            "backing_file=base.raw,backing_fmt=raw,extended_l2=off,preallocation=full",
            "extended_l2=on",
        ),
        ("qed", "refcount_bits=16", "cluster_size, preallocation, size, table_size"),
        ("qed", "table_size=3", "1, 2, 4, 8, 16"),
        ("qed", "cluster_size=2k", "power of two from 4K to 64M"),
        ("qed", "preallocation=full", "preallocation"),
        ("qed", "table_size=1,cluster_size=4k,size=2G", "1073741824 bytes"),
        ("qed", "backing_file=base.raw,backing_fmt=qed", "not a QED image"),
    ] {
        let mut arguments = vec!["create", "-f", format, "-o", options, "target"];
        if !options.contains("size=") || options.contains("cluster_size=") && !options.contains(",size=") {
            arguments.push("1M");
        }
        let output = stage.images.image(&arguments)?;
        let said = String::from_utf8_lossy(&output.stderr);
        let what = format!("{arguments:?}: {said}");
        check(output.status.code() == Some(1) && said.trim_end().lines().count() == 1, what.clone())?;
        check(said.contains(says), what.clone())?;
        check(std::fs::read(&target)? == before, format!("the target is unchanged: {what}"))?;
    }
    Ok(())
}

#[test]
fn every_creation_option_is_what_qemu_makes_of_it() -> Result<(), Failure> {
    let stage = Stage::new()?;
    stage.images.raw("base.raw", 3 * MIB, &[(0, MIB)])?;
    for (format, options) in [
        ("raw", "preallocation=off"),
        ("raw", "preallocation=falloc"),
        ("raw", "preallocation=full"),
        ("qcow2", "cluster_size=64k,extended_l2=off,refcount_bits=1,lazy_refcounts=on,compat=v3"),
        ("qcow2", "compat=v2,extended_l2=off"),
        ("qcow2", "compression_type=zstd,extended_l2=on"),
        ("qcow2", "extended_l2=on,preallocation=metadata,backing_file=base.raw,backing_fmt=raw"),
        ("qcow2", "extended_l2=on,preallocation=full,backing_file=base.raw,backing_fmt=raw"),
        ("qcow2", "extended_l2=off,preallocation=falloc"),
        ("qed", "cluster_size=4k,table_size=16,backing_file=base.raw,backing_fmt=raw"),
    ] {
        works(&stage.images.image(&["create", "-f", format, "-o", options, "ours", "3M"])?)?;
        works(&tool(&stage, "qemu-img", &["create", "-q", "-f", format, "-o", options, "theirs", "3M"])?)?;
        same_answer(&stage, "info", format, "ours")?;
        let info = |name: &str| -> Result<Value, Failure> {
            let mut info = qemu_img::info(format, &stage.path(name))?;
            for key in ["filename", "actual-size", "children"] {
                info[key].take();
            }
            Ok(info)
        };
        let (ours, theirs) = (info("ours")?, info("theirs")?);
        check(ours == theirs, format!("{options}: ours {ours:#}, QEMU's {theirs:#}"))?;
        qemu_img::compare((format, &stage.path("ours")), (format, &stage.path("theirs")))?;
        if format != "raw" {
            qemu_img::check(format, &stage.path("ours"), false)?;
        }
    }
    Ok(())
}

/// A loop device over a file.
struct Loop(String);

impl Loop {
    fn over(stage: &Stage, file: &str) -> Result<Self, Failure> {
        let output = tool(stage, "losetup", &["--find", "--show", file])?;
        works(&output)?;
        Ok(Loop(String::from_utf8(output.stdout)?.trim().to_owned()))
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        let _ = Command::new("losetup").args(["-d", &self.0]).status();
    }
}

#[test]
#[ignore = "needs root and loop devices"]
fn images_on_block_devices() -> Result<(), Failure> {
    let stage = Stage::new()?;
    stage.images.raw("base.raw", 3 * MIB, &[(0, MIB)])?;
    stage.images.raw("disk", 16 * MIB, &[(0, 16 * MIB)])?;
    let device = Loop::over(&stage, "disk")?;
    let name = device.0.as_str();
    let path = std::path::Path::new(name);
    for options in ["extended_l2=on", "extended_l2=off", "preallocation=metadata", "preallocation=falloc"] {
        works(&stage.images.image(&["create", "-f", "qcow2", "-o", options, name, "10M"])?)?;
        qemu_img::check("qcow2", path, false)?;
        same_answer(&stage, "info", "qcow2", name)?;
        let empty = stage.images.raw("empty", 10 * MIB, &[])?;
        qemu_img::compare(("qcow2", path), ("raw", &empty))?;
    }
    // The device as a leaf over a backing file, into which the program streams.
    let backing = format!("{}", stage.path("base.raw").display());
    works(&stage.images.image(&["create", "-f", "qcow2", "-b", &backing, "-F", "raw", name])?)?;
    let mut vm = stage.run(&crate::disk(path, "qcow2"))?;
    vm.stream("virtio0")?;
    vm.stream_completed(Duration::from_secs(60))?;
    vm.quit()?;
    qemu_img::check("qcow2", path, true)?;
    qemu_img::compare(("qcow2", path), ("raw", &stage.path("base.raw")))?;

    let before = std::fs::read(name)?;
    for (arguments, says) in [
        (["create", "-f", "raw", name, "17M"], "16777216 bytes"),
        (["create", "-f", "qed", name, "1M"], "block device"),
    ] {
        let output = stage.images.image(&arguments)?;
        let said = String::from_utf8_lossy(&output.stderr);
        check(output.status.code() == Some(1) && said.contains(says), format!("{arguments:?}: {said}"))?;
        check(std::fs::read(name)? == before, format!("{arguments:?}: the device is unchanged"))?;
    }
    works(&stage.images.image(&["create", "-f", "raw", name, "16M"])?)?;
    check(std::fs::read(name)?[..512] == [0; 512], "the old header is gone")
}
