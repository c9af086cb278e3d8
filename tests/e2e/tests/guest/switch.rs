//! The switch itself: the targets that it refuses, and the notification of the guest.

use harness::{Failure, STEP, check, wait_for};
use serde_json::json;

use crate::MIB;
use crate::stage::shared;

/// An invalid target is refused with one line that names it, and the guest notices nothing.
pub fn bad_targets() -> Result<(), Failure> {
    shared(|guest| {
        let images = &guest.images;
        images.raw("unrelated.img", 64 * MIB, &[])?;
        images.raw("larger.img", 65 * MIB, &[])?;
        images.leaf("unrelated.qcow2", ("unrelated.img", "raw"))?;
        std::fs::write(images.path("text"), "this is no image")?;
        let running =
            guest.leaf().file_name().ok_or("an image without a name")?.to_string_lossy().into_owned();
        let running_format = guest.disks[0].image.1;
        let job = guest.load()?;
        for (name, format, notify) in [
            ("missing.qcow2", Some("qcow2"), true),
            ("larger.img", Some("raw"), false),
            ("unrelated.qcow2", None, true),
            ("unrelated.img", None, true),
            ("text", Some("qcow2"), true),
            (&running, Some(running_format), true),
        ] {
            let target = guest.images.path(name).display().to_string();
            let mut arguments = json!({"device": "virtio0", "target": target, "notify": notify});
            if let Some(format) = format {
                arguments["format"] = format.into();
            }
            let Err(refusal) = guest.vm.qmp.execute_json("change", arguments) else {
                return Err(format!("{name}: not refused").into());
            };
            let error = refusal.command_error().ok_or_else(|| refusal.to_string())?;
            check(error.class == qmp::ErrorClass::GenericError, format!("{name}: {error:?}"))?;
            let desc = &error.desc;
            check(desc.contains(name) && !desc.contains('\n'), format!("{name}: named in one line: {desc}"))?;
            guest.goes_on(job)?;
        }
        guest.agent()?.stop(job)?;
        Ok(())
    })
}

/// With `notify`, each switch raises one config change interrupt, and the guest sees the new size of a
/// larger disk. Without it, a switch raises none.
pub fn notify() -> Result<(), Failure> {
    shared(|guest| {
        let before = guest.agent()?.capacity_changes()?;
        let size = guest.agent()?.size("/dev/vdb")?;
        let name =
            |image: &std::path::Path| image.file_name().map(|name| name.to_string_lossy().into_owned());
        guest.switch(1)?;
        // No interrupt so far. Now a larger image, with notification.
        let (image, format) = guest.disks[1].image.clone();
        let backing = name(&image).ok_or("an image without a name")?;
        let larger = guest.images.path("larger.qcow2");
        let bytes = (size + 32 * MIB).to_string();
        let arguments = ["create", "-f", "qcow2", "-b", &backing, "-F", format, "larger.qcow2", &bytes];
        check(guest.images.image(&arguments)?.status.success(), "millrace image create")?;
        guest.vm.change("virtio1", &larger, Some("qcow2"), true)?;
        guest.disks[1].image = (larger, "qcow2");
        wait_for("the guest to see a larger disk", STEP, || {
            Ok(guest.agent()?.size("/dev/vdb")? == size + 32 * MIB)
        })?;
        let hash = guest.agent()?.read_hash("/dev/vdb", size, 32 * MIB)?;
        const ZEROS: &str = "83ee47245398adee79bd9c0a8bc57b821e92aba10f5f9ade8a5d1fae4d8c4302";
        check(hash == ZEROS, "the new part of the disk reads zeros")?;
        // With notification, although the size is the same.
        let leaf = guest.new_leaf(1)?;
        guest.vm.change("virtio1", &leaf, Some("qcow2"), true)?;
        guest.disks[1].image = (leaf, "qcow2");
        wait_for("the second interrupt", STEP, || Ok(guest.agent()?.capacity_changes()? >= before + 2))?;
        // Without notification again.
        guest.switch(1)?;
        guest.vm.stream("virtio1")?;
        guest.vm.stream_completed(STEP)?;
        guest.agent()?.fsync("/dev/vdb")?;
        let changes = guest.agent()?.capacity_changes()? - before;
        check(changes == 2, format!("two of four switches notify the guest, which saw {changes}"))
    })
}
