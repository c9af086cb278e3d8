//! Lines of the text monitor: how they are split, what they run and what is printed.

use std::cell::RefCell;
use std::rc::Rc;

use executor::Executor;

use super::*;
use crate::Result;
use crate::command::*;
use crate::output::Events;
use crate::types::*;

/// Records the commands that it gets, and reports a disk and an empty drive.
#[derive(Default)]
struct Fake {
    commands: RefCell<Vec<Command>>,
}

impl Fake {
    fn keep(&self, command: impl Into<Command>) -> Result<Empty> {
        self.commands.borrow_mut().push(command.into());
        Ok(Empty {})
    }
}

impl DiskCommands for Fake {
    async fn change(&self, arguments: Change) -> Result<Empty> {
        self.keep(arguments)
    }
    async fn query_block(&self, _: QueryBlock) -> Result<Vec<BlockInfo>> {
        let image = ImageInfo {
            cluster_size: Some(65536),
            backing_filename: Some("base.img".into()),
            ..ImageInfo::new("top.qcow2".into(), "qcow2".into(), 1 << 20)
        };
        let inserted = BlockDeviceInfo {
            backing_file: Some("base.img".into()),
            backing_file_depth: 1,
            ..BlockDeviceInfo::new("top.qcow2".into(), image, false)
        };
        let drive = |device: &str, inserted: Option<BlockDeviceInfo>| BlockInfo {
            device: device.into(),
            qdev: None,
            kind: "unknown".into(),
            removable: inserted.is_none(),
            locked: false,
            tray_open: inserted.is_none().then_some(true),
            inserted,
            io_status: None,
        };
        Ok(vec![drive("virtio0", Some(inserted)), drive("cd0", None)])
    }
}

impl TrayCommands for Fake {}

impl SnapshotCommands for Fake {}

impl JobCommands for Fake {
    async fn block_stream(&self, arguments: BlockStream) -> Result<BlockStreamReply> {
        self.keep(arguments).map(BlockStreamReply::Background)
    }
    async fn drive_mirror(&self, arguments: DriveMirror) -> Result<Empty> {
        self.keep(arguments)
    }
    async fn block_job_cancel(&self, arguments: BlockJobCancel) -> Result<Empty> {
        self.keep(arguments)
    }
    async fn block_job_pause(&self, arguments: BlockJobPause) -> Result<Empty> {
        self.keep(arguments)
    }
    async fn block_job_resume(&self, arguments: BlockJobResume) -> Result<Empty> {
        self.keep(arguments)
    }
    async fn block_job_complete(&self, arguments: BlockJobComplete) -> Result<Empty> {
        self.keep(arguments)
    }
    async fn query_block_stream(&self, _: QueryBlockStream) -> Result<Vec<BlockStreamInfo>> {
        Ok(Vec::new())
    }
    async fn query_block_jobs(&self, _: QueryBlockJobs) -> Result<Vec<BlockJobInfo>> {
        Ok(vec![BlockJobInfo {
            kind: JobType::Stream,
            device: "job0".into(),
            len: 10,
            offset: 5,
            busy: true,
            paused: false,
            speed: 7,
            io_status: IoStatus::Ok,
            ready: false,
            status: JobStatus::Running,
            auto_finalize: true,
            auto_dismiss: true,
            error: None,
            actively_synced: None,
            detail: None,
            copy_mode: None,
            queued: None,
        }])
    }
}

impl NodeCommands for Fake {}

impl CopyCommands for Fake {
    async fn drive_backup(&self, arguments: DriveBackup) -> Result<Empty> {
        self.keep(arguments)
    }
}

impl WatchCommands for Fake {}

impl ExportCommands for Fake {}

impl ScreenCommands for Fake {
    async fn query_vnc(&self, _: QueryVnc) -> Result<VncInfo> {
        let client = |service: &str| VncClientInfo {
            host: "::1".into(),
            service: service.into(),
            family: NetworkAddressFamily::Ipv6,
            websocket: false,
        };
        Ok(VncInfo {
            enabled: true,
            host: Some("::1".into()),
            family: Some(NetworkAddressFamily::Ipv6),
            service: Some("5900".into()),
            auth: Some("vnc".into()),
            clients: Some(vec![client("1000"), client("1001")]),
        })
    }
    async fn screendump(&self, arguments: Screendump) -> Result<Empty> {
        self.keep(arguments)
    }
    async fn send_key(&self, arguments: SendKey) -> Result<Empty> {
        self.keep(arguments)
    }
}

impl MachineCommands for Fake {
    async fn stop(&self, arguments: Stop) -> Result<Empty> {
        self.keep(arguments)
    }
    async fn query_status(&self, _: QueryStatus) -> Result<StatusInfo> {
        Ok(StatusInfo { running: false, status: RunState::IoError })
    }
}

fn run(line: &'static str) -> (String, Vec<Command>) {
    Executor::simulated(1).block_on(async move {
        let fake = Rc::new(Fake::default());
        let text = execute(&Monitor::new(fake.clone(), Events::new()), line).await;
        (text, fake.commands.take())
    })
}

fn printed(line: &'static str) -> String {
    run(line).0
}

fn command(line: &'static str) -> Command {
    let (text, mut commands) = run(line);
    assert_eq!((text.as_str(), commands.len()), ("", 1));
    commands.remove(0)
}

#[test]
fn lines_become_commands() {
    let stream = |all, stop| Command::from(BlockStream { device: "virtio0".into(), all, stop, offset: None });
    assert_eq!(command("block_stream virtio0"), stream(None, None));
    assert_eq!(command(" block_stream\t-a virtio0 "), stream(Some(true), None));
    assert_eq!(command("block_stream -s \"virtio0\""), stream(None, Some(true)));
    let change = |target: &str, arg: Option<&str>, format: Option<&str>, notify| {
        let device = if target == "password" { "vnc" } else { "virtio0" };
        Command::from(Change {
            device: device.into(),
            target: target.into(),
            arg: arg.map(Into::into),
            format: format.map(Into::into),
            notify,
        })
    };
    assert_eq!(command("change virtio0 a.img"), change("a.img", None, None, None));
    assert_eq!(
        command(r#"change -n virtio0 "my \"file\"" qcow2"#),
        change("my \"file\"", None, Some("qcow2"), Some(false))
    );
    assert_eq!(command("change vnc password secret"), change("password", Some("secret"), None, None));
    assert_eq!(command("stop"), Stop {}.into());
}

#[test]
fn copies_and_jobs_have_text_forms() {
    let format = |format: Option<&str>| format.map(str::to_owned);
    let mirror = |of: Option<&str>, sync, mode| {
        Command::from(DriveMirror {
            job_id: None,
            device: "d".into(),
            target: "a b".into(),
            format: format(of),
            node_name: None,
            sync,
            mode: Some(mode),
            speed: None,
            on_source_error: None,
            on_target_error: None,
            copy_mode: None,
            adaptive: None,
            window: None,
            deadline: None,
            max_latency: None,
            granularity: None,
            buf_size: None,
            auto_finalize: None,
            auto_dismiss: None,
            witness: None,
        })
    };
    let backup = |of: Option<&str>, sync, mode| {
        Command::from(DriveBackup {
            job_id: None,
            device: "d".into(),
            target: "a b".into(),
            format: format(of),
            mode: Some(mode),
            sync,
            speed: None,
            on_source_error: None,
            on_target_error: None,
            auto_finalize: None,
            auto_dismiss: None,
            filter_node_name: None,
        })
    };
    let (full, top) = (MirrorSyncMode::Full, MirrorSyncMode::Top);
    let (existing, new) = (NewImageMode::Existing, NewImageMode::AbsolutePaths);
    assert_eq!(command("drive_mirror d \"a b\""), mirror(None, top, new));
    assert_eq!(command("drive_mirror -n -f d \"a b\" raw"), mirror(Some("raw"), full, existing));
    assert_eq!(command("drive_backup -f d \"a b\""), backup(None, full, new));
    assert_eq!(command("drive_backup -nf d \"a b\" qcow2"), backup(Some("qcow2"), full, existing));
    assert!(printed("drive_backup -c d a").contains("unsupported option -c"));
    assert!(printed("drive_mirror d").contains("target expected"));
    let device = || "d".to_owned();
    assert_eq!(command("block_job_complete d"), BlockJobComplete { device: device() }.into());
    assert_eq!(command("block_job_pause d"), BlockJobPause { device: device() }.into());
    assert_eq!(command("block_job_resume d"), BlockJobResume { device: device() }.into());
    let cancel = |force| Command::from(BlockJobCancel { device: device(), force });
    assert_eq!(command("block_job_cancel d"), cancel(None));
    assert_eq!(command("block_job_cancel -f d"), cancel(Some(true)));
}

#[test]
fn a_password_is_asked_for_where_none_is_given() {
    for line in ["change vnc password", " change  vnc passwd ", r#"change "vnc" password"#] {
        assert!(asks_password(line), "{line}");
    }
    for line in
        ["change vnc password a", "change vnc", "change vnc unix:a", "change a password", "change \"", ""]
    {
        assert!(!asks_password(line), "{line}");
    }
}

#[test]
fn the_screen_has_text_forms() {
    let dump =
        |format| Command::from(Screendump { filename: "a b".into(), device: None, head: None, format });
    assert_eq!(command("screendump \"a b\""), dump(None));
    assert_eq!(command("screendump \"a b\" png"), dump(Some(ImageFormat::Png)));
    assert!(printed("screendump a gif").contains("give ppm or png"));
    let (ctrl, less) = (KeyValue::Qcode(QKeyCode::Ctrl), KeyValue::Qcode(QKeyCode::Less));
    let keys = vec![ctrl, less, KeyValue::Number(0x1e)];
    assert_eq!(command("sendkey ctrl-<-0x1e 50"), SendKey { keys, hold_time: Some(50) }.into());
    for (wrong, says) in
        [("sendkey", "keys expected"), ("sendkey a-", "unknown key ''"), ("sendkey a x", "a number")]
    {
        assert!(printed(wrong).contains(says), "{wrong}");
    }
    assert_eq!(
        printed("info vnc"),
        "Server: ::1:5900 (ipv6)\n    Auth: vnc\nClient: ::1:1000 (ipv6)\nClient: ::1:1001 (ipv6)\n"
    );
}

#[test]
fn mistakes_are_explained() {
    assert_eq!(printed("frob"), "unknown command: 'frob'\n");
    assert_eq!(printed("\"\" disk0 other.img"), "unknown command: ''\n");
    assert_eq!(printed("info frob"), "unknown command: 'info frob'\n");
    assert_eq!(
        printed("block_stream -x virtio0"),
        "block_stream: unsupported option -x\nTry \"help block_stream\" for more information\n"
    );
    assert!(printed("block_stream").starts_with("block_stream: device expected\n"));
    assert!(printed("stop now").starts_with("stop: extraneous characters at the end of line\n"));
    assert_eq!(printed("change \"a"), "unterminated string literal\n");
    assert_eq!(printed("cont"), "Error: Command cont has been disabled\n");
    assert_eq!(printed(""), "");
}

#[test]
fn states_are_printed_as_qemu_does() {
    assert_eq!(printed("info block-stream"), "No active stream\n");
    assert_eq!(
        printed("info block-jobs"),
        "Streaming device job0: Completed 5 of 10 bytes, speed limit 7 bytes/s\n"
    );
    assert_eq!(printed("info status"), "VM status: paused (io-error)\n");
    assert!(printed("info version").starts_with("10.0.0 (millrace "));
    let block = "virtio0: top.qcow2 (qcow2)\n    Cache mode:       writeback\n    \
                 Backing file:     base.img (chain depth: 1)\n\n\
                 cd0: [not inserted]\n    Removable device: not locked, tray open\n";
    assert_eq!(printed("info block"), block);
}

#[test]
fn help_tells_all_or_one() {
    assert_eq!(printed("help").lines().count(), names().count());
    assert!(printed("help block_stream").starts_with("block_stream [-a|-s] device -- "));
    assert_eq!(printed("help block_stream").lines().count(), 1);
}
