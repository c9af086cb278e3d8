//! The options `--drive` and `--cdrom`.

use block::{Kind, OnError};

use super::values::{id, pairs, switch};

/// One `--drive` or `--cdrom`.
#[derive(Clone, Debug)]
pub(crate) struct Drive {
    pub id: String,
    pub file: String,
    pub format: Kind,
    pub read_only: bool,
    pub copy_on_read: bool,
    pub direct: bool,
    pub threads: bool,
    /// True if space that the guest discards is freed.
    pub unmap: bool,
    pub serial: String,
    pub queues: u16,
    /// The reaction to an error of a request that is not a read.
    pub on_write_error: OnError,
    /// The reaction to an error of a read; never [`OnError::Enospc`].
    pub on_read_error: OnError,
    /// True for a removable drive, which is empty if `file` is empty.
    pub cdrom: bool,
}

impl Drive {
    pub(crate) fn new() -> Self {
        Drive {
            id: String::new(),
            file: String::new(),
            format: Kind::Raw,
            read_only: false,
            copy_on_read: false,
            direct: false,
            threads: false,
            unmap: true,
            serial: String::new(),
            queues: 1,
            on_write_error: OnError::Enospc,
            on_read_error: OnError::Report,
            cdrom: false,
        }
    }

    /// Returns true if an error may stop the machine. As in QEMU, `query-block` then has an `io-status`.
    pub(crate) fn has_io_status(&self) -> bool {
        let stops = |policy| matches!(policy, OnError::Stop | OnError::Enospc);
        stops(self.on_write_error) || stops(self.on_read_error)
    }
}

/// Parses `werror` or `rerror`. A read cannot lack space, so `rerror` has no `enospc`.
fn on_error(key: &str, value: &str) -> Result<OnError, String> {
    match value {
        "report" => Ok(OnError::Report),
        "ignore" => Ok(OnError::Ignore),
        "stop" => Ok(OnError::Stop),
        "enospc" if key == "werror" => Ok(OnError::Enospc),
        _ if key == "werror" => Err(format!("{key}={value}: give report, stop, ignore or enospc")),
        _ => Err(format!("{key}={value}: give report, stop or ignore")),
    }
}

pub(super) fn cdrom(text: &str) -> Result<Drive, String> {
    let mut drive = Drive { read_only: true, cdrom: true, ..Drive::new() };
    for (key, value) in pairs(text)? {
        match key.as_str() {
            "id" => drive.id = value,
            "file" => drive.file = value,
            _ => return Err(format!("unknown --cdrom key '{key}'")),
        }
    }
    drive.id = id(drive.id)?;
    Ok(drive)
}

pub(super) fn drive(text: &str) -> Result<Drive, String> {
    let (mut id, mut file, mut format) = (None, None, None);
    let mut drive = Drive::new();
    for (key, value) in pairs(text)? {
        let choice = |choices: [&str; 2]| {
            let at = choices.iter().position(|choice| *choice == value);
            at.ok_or_else(|| format!("{key}={value}: give {} or {}", choices[0], choices[1]))
        };
        match key.as_str() {
            "id" => id = Some(value),
            "file" => file = Some(value),
            "format" => format = Some(value.parse::<Kind>().map_err(|e| e.to_string())?),
            "readonly" => drive.read_only = switch(&key, &value)?,
            "copy-on-read" => drive.copy_on_read = switch(&key, &value)?,
            "cache" => drive.direct = choice(["writeback", "none"])? == 1,
            "aio" => drive.threads = choice(["io_uring", "threads"])? == 1,
            "discard" => drive.unmap = choice(["ignore", "unmap"])? == 1,
            "serial" => drive.serial = value,
            "werror" => drive.on_write_error = on_error(&key, &value)?,
            "rerror" => drive.on_read_error = on_error(&key, &value)?,
            "queues" => {
                let queues = value.parse().ok().filter(|n| (1..=16).contains(n));
                drive.queues = queues.ok_or_else(|| format!("queues={value}: give 1 to 16"))?;
            }
            _ => return Err(format!("unknown --drive key '{key}'")),
        }
    }
    drive.id = self::id(id.unwrap_or_default())?;
    drive.file = file.filter(|file| !file.is_empty()).ok_or("file=PATH is missing")?;
    drive.format = format.ok_or("format=raw|qcow2|qed is missing: formats are never guessed")?;
    if drive.copy_on_read && drive.read_only {
        return Err("copy-on-read=on: a read-only disk takes no copies".into());
    }
    Ok(drive)
}
