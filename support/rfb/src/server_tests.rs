use std::net::{Ipv4Addr, TcpListener};
use std::time::Instant;

use super::*;
use crate::testing::{self, Client, Fake, PATIENCE, Rig};
use crate::{Lamps, Pointer, Size};

fn with_password(text: &str) -> (Config, Password) {
    let password = Password::new();
    if !text.is_empty() {
        password.set(text).unwrap();
    }
    (Config { name: "guest".into(), password: Some(password.clone()), credentials: None }, password)
}

/// Waits for a condition of the server's thread or of the system, which notify nobody.
fn await_that(condition: impl Fn() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < end, "it does not happen");
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn each_version_logs_in_in_its_own_way_and_sees_the_screen() {
    let fake = Fake::new(100, 50);
    let rig = Rig::new(fake.clone(), Config { name: "guest".into(), ..Config::default() });
    for version in ["RFB 003.003\n", "RFB 003.007\n", "RFB 003.008\n"] {
        let mut client = rig.connect();
        client.version(version);
        match version {
            "RFB 003.003\n" => client.expect(&[0, 0, 0, 1]),
            _ => {
                client.expect(&[1, 1]);
                client.send(&[1]);
            }
        }
        if version == "RFB 003.008\n" {
            client.expect(&[0; 4]);
        }
        assert_eq!(client.init(), "guest");
        assert_eq!(client.size, Size { width: 100, height: 50 });
        assert_eq!(client.picture(), fake.state().pixels);
    }
}

#[test]
fn the_password_is_the_one_that_is_set_when_the_client_logs_in() {
    let (config, password) = with_password("");
    let rig = Rig::new(Fake::new(16, 16), config);
    let unset = Some("no password is set, or it has expired".to_owned());
    let wrong = Some("wrong password".to_owned());
    assert_eq!(rig.connect().log_in(""), unset);
    password.set("foobar1").unwrap();
    assert_eq!(rig.connect().log_in("foobar2"), wrong);
    let mut first = rig.connect();
    assert_eq!(first.log_in("foobar1"), None);
    first.init();
    password.set("other").unwrap();
    assert_eq!(rig.connect().log_in("foobar1"), wrong);
    assert_eq!(rig.connect().log_in("other"), None);
    // An open session stays.
    assert_eq!(first.picture().len(), 256);
    password.expire(Some(std::time::SystemTime::UNIX_EPOCH));
    assert_eq!(rig.connect().log_in("other"), unset);
}

#[test]
fn older_versions_are_refused_without_a_reason() {
    let (config, _) = with_password("foobar1");
    let rig = Rig::new(Fake::new(16, 16), config);
    let mut client = rig.connect();
    client.version("RFB 003.003\n");
    client.expect(&[0, 0, 0, 2]);
    client.answer("wrong");
    client.end(&[0, 0, 0, 1]);
    let mut client = rig.connect();
    client.version("RFB 003.007\n");
    client.expect(&[1, 2]);
    client.send(&[2]);
    client.answer("foobar1");
    client.expect(&[0; 4]);
    client.init();
}

#[test]
fn a_client_cannot_choose_what_was_not_offered() {
    let (config, _) = with_password("foobar1");
    let rig = Rig::new(Fake::new(16, 16), config);
    for choice in [1, 0, 19] {
        let mut client = rig.connect();
        client.version("RFB 003.008\n");
        client.expect(&[1, 2]);
        client.send(&[choice, 0, 0, 0, 0]);
        client.end(&[]);
    }
    let mut client = rig.connect();
    client.version("GET / HTTP/1");
    client.end(&[]);
}

#[test]
fn failures_slow_down_their_peer_and_nobody_else() {
    let (config, _) = with_password("foobar1");
    let rig = Rig::tcp(Fake::new(16, 16), config);
    // Many at once gain nothing: they are judged one after the other.
    let mut guesses: Vec<_> = (0..8).map(|_| rig.connect_from("127.0.0.2")).collect();
    for guess in &mut guesses {
        guess.version("RFB 003.008\n");
        guess.expect(&[1, 2]);
        guess.send(&[2]);
        guess.answer("guess");
    }
    let began = Instant::now();
    let mut other = rig.connect_from("127.0.0.3");
    assert_eq!(other.log_in("foobar1"), None);
    other.init();
    // The pauses of the guesses are 0.5, 1, 2 and 4 s before the fifth.
    let refused: Vec<_> = guesses.iter_mut().take(3).map(|guess| guess.u32()).collect();
    assert_eq!(refused, [1, 1, 1]);
    assert!(began.elapsed() >= Duration::from_millis(1400), "{:?}", began.elapsed());
}

/// Sends a password, which is not judged yet.
fn attempt(rig: &Rig, address: &str, password: &str) -> Client {
    let mut client = rig.connect_from(address);
    client.version("RFB 003.008\n");
    client.expect(&[1, 2]);
    client.send(&[2]);
    client.answer(password);
    client
}

#[test]
fn attempts_that_hang_up_are_gone_and_not_judged() {
    let (config, _) = with_password("foobar1");
    let rig = Rig::tcp(Fake::new(16, 16), config);
    for _ in 0..300 {
        drop(attempt(&rig, "127.0.0.2", "guess"));
    }
    await_that(|| rig.on(|server| server.clients.borrow().len()) <= MAX_LOGINS);
    await_that(|| rig.on(|server| server.clients.borrow().is_empty()));
    let mut right = rig.connect_from("127.0.0.2");
    assert_eq!(right.log_in("foobar1"), None);
    right.init();
}

#[test]
fn attempts_that_wait_are_few_and_end_like_others() {
    let (config, _) = with_password("foobar1");
    let rig = Rig::tcp(Fake::new(16, 16), config);
    // A pause that outlives the test.
    let peer = Peer::V4([127, 0, 0, 2]);
    rig.on(move |server| server.failures.failed(peer, executor::now() + Duration::from_secs(3600)));
    let logging_in = || rig.on(|server| server.clients.borrow().len());
    let mut waiting: Vec<_> = (0..4).map(|_| attempt(&rig, "127.0.0.2", "foobar1")).collect();
    attempt(&rig, "127.0.0.2", "foobar1").end(&[]);
    await_that(|| logging_in() == 4);
    // Nobody sends anything before the result.
    waiting[3].send(&[1]);
    waiting.pop().unwrap().end(&[]);
    await_that(|| logging_in() == 3);
    // To make room ends the oldest of them too.
    let flood: Vec<_> = (0..MAX_LOGINS - 2).map(|_| rig.connect_from("127.0.0.2")).collect();
    waiting[0].end(&[]);
    await_that(|| logging_in() == MAX_LOGINS);
    drop((waiting, flood));
    await_that(|| logging_in() == 0);
}

#[test]
fn only_changed_tiles_are_sent_and_nobody_looks_while_nobody_waits() {
    let fake = Fake::new(100, 100);
    let rig = Rig::new(fake.clone(), Config::default());
    assert_eq!(fake.state().looks, 0);
    let mut client = rig.session();
    let mut picture = client.picture();
    let looks = fake.state().looks;
    fake.set(40, 40, 1);
    fake.set(99, 99, 2);
    // Nobody waits; a second client would not change that.
    let _idle = rig.session();
    client.request(true);
    let rects = client.draw(&mut picture);
    assert_eq!(rects, [(32, 32, 16, 16, 0), (96, 96, 4, 4, 0)]);
    assert_eq!(picture, fake.state().pixels);
    assert!(fake.state().looks >= looks + 2);
    // Now it waits, and is sent nothing until something changes.
    client.request(true);
    let waited = fake.state().looks;
    await_that(|| fake.state().looks > waited + 3);
    fake.set(0, 99, 3);
    assert_eq!(client.draw(&mut picture), [(0, 96, 16, 4, 0)]);
    let looks = fake.state().looks;
    // That nothing happens has no event: a client that waits would have six looks taken meanwhile.
    std::thread::sleep(Duration::from_millis(200));
    assert_eq!(fake.state().looks, looks);
}

#[test]
fn a_thread_without_waiting_clients_uses_no_processor_time() {
    let rig = Rig::new(Fake::new(1024, 768), Config::default());
    let mut client = rig.session();
    client.picture();
    let before = rig.processor_time();
    // A second of the thread's own clock: a busy machine adds nothing to it.
    std::thread::sleep(Duration::from_secs(1));
    let used = rig.processor_time() - before;
    assert!(used < Duration::from_millis(5), "{used:?}");
}

#[test]
fn a_client_that_does_not_read_gets_the_newest_content_later_and_holds_nobody_up() {
    let fake = Fake::new(640, 480);
    let rig = Rig::new(fake.clone(), Config::default());
    let mut slow = rig.session();
    // Far more than a socket holds.
    for _ in 0..200 {
        slow.request(false);
    }
    let mut quick = rig.session();
    let mut picture = quick.picture();
    for n in 0..20u16 {
        fake.set(n, n, 0x0100_0000 + u32::from(n));
        fake.set(n, n, 0x0001_0000 + u32::from(n));
        quick.request(true);
        quick.draw(&mut picture);
    }
    assert_eq!(picture, fake.state().pixels);
    // Its 200 requests became one or two: the first update, and one that has all changes.
    let mut late = vec![0; picture.len()];
    slow.draw(&mut late);
    if late != picture {
        slow.request(true);
        slow.draw(&mut late);
    }
    assert!(late == picture);
}

#[test]
fn a_new_size_reaches_clients_that_can_follow_and_is_cut_for_others() {
    let fake = Fake::new(64, 64);
    let rig = Rig::new(fake.clone(), Config::default());
    let (mut follower, mut other) = (rig.session(), rig.session());
    follower.encodings(&[-223, 0]);
    follower.picture();
    let mut cut = other.picture();
    follower.request(true);
    other.request(true);
    fake.resize(80, 32);
    assert_eq!((follower.update(), follower.head()), (1, (0, 0, 80, 32, -223)));
    follower.size = Size { width: 80, height: 32 };
    assert_eq!(follower.picture(), fake.state().pixels);
    assert_eq!(other.draw(&mut cut), [(0, 0, 64, 32, 0)]);
    for (line, expected) in cut.chunks(64).zip(fake.state().pixels.chunks(80)) {
        assert_eq!(line, &expected[..64]);
    }
    // A client that comes now gets the new size, though nobody looked meanwhile.
    fake.resize(48, 48);
    assert_eq!(rig.session().size, Size { width: 48, height: 48 });
}

#[test]
fn keys_and_pointers_arrive_and_are_released_at_the_end() {
    let fake = Fake::new(64, 64);
    let rig = Rig::new(fake.clone(), Config::default());
    let mut client = rig.session();
    client.encodings(&[-258]);
    // Sent at once, without a request.
    assert_eq!((client.update(), client.head()), (1, (0, 0, 64, 64, -258)));
    client.send(&[4, 1, 0, 0, 0, 0, 0, b'x']);
    client.send(&[255, 0, 0, 1, 0, 0, 0xff, 0x52, 0, 0, 0, 0xc8]);
    client.send(&[5, 1, 0, 10, 0, 200]);
    drop(client);
    await_that(|| fake.state().keys.len() == 4 && fake.state().pointers.len() == 2);
    let state = fake.state();
    assert_eq!(state.keys, [(45, true), (103, true), (45, false), (103, false)]);
    let pointer = Pointer { x: 10, y: 63, size: state.size, left: true, ..Pointer::default() };
    assert_eq!(state.pointers, [pointer, Pointer { left: false, ..pointer }]);
}

#[test]
fn the_lamps_of_the_lock_keys_reach_clients_that_show_them() {
    let fake = Fake::new(16, 16);
    let rig = Rig::new(fake.clone(), Config::default());
    let (mut other, mut client) = (rig.session(), rig.session());
    client.encodings(&[0, -261]);
    // Nothing comes while the lamps are not known.
    client.picture();
    other.picture();
    let mut shown = |lamps: Lamps, bits: u8| {
        fake.state().lamps = Some(lamps);
        client.request(true);
        client.expect(&[0, 0, 0, 1]);
        assert_eq!(client.head(), (0, 0, 1, 1, -261));
        client.expect(&[bits]);
        // They come once, and the request for pixels stands.
        fake.set(3, 3, u32::from(bits) + 1);
        let mut picture = fake.state().pixels.clone();
        assert_eq!(client.draw(&mut picture)[0].4, 0);
    };
    shown(Lamps { caps_lock: true, ..Lamps::default() }, 4);
    shown(Lamps { num_lock: true, ..Lamps::default() }, 2);
    shown(Lamps { scroll_lock: true, caps_lock: true, ..Lamps::default() }, 5);
    // A client that comes later is sent them at once.
    let mut late = rig.session();
    late.encodings(&[0, -261]);
    late.expect(&[0, 0, 0, 1]);
    assert_eq!(late.head(), (0, 0, 1, 1, -261));
    late.expect(&[5]);
    shown(Lamps::default(), 0);
    // Who asks for encodings again is told nothing that it knows already.
    client.encodings(&[0, -261]);
    client.picture();
    // Another client sees pixels only.
    assert_eq!(other.picture(), fake.state().pixels);
}

#[test]
fn pixels_come_in_the_format_that_was_asked_for_with_its_colour_map() {
    let fake = Fake::new(16, 16);
    let rig = Rig::new(fake.clone(), Config::default());
    let mut client = rig.session();
    // 16 bits, big-endian, five of each colour.
    client.send(&[0, 0, 0, 0, 16, 15, 1, 1, 0, 31, 0, 31, 0, 31, 10, 5, 0, 0, 0, 0]);
    fake.set(0, 0, 0x00ff_ffff);
    client.request(false);
    assert_eq!((client.update(), client.head()), (1, (0, 0, 16, 16, 0)));
    assert_eq!(client.bytes(512)[..2], [0x7f, 0xff]);
    // With a colour map, which comes before the pixels.
    client.send(&[0, 0, 0, 0, 8, 8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    client.request(false);
    client.expect(&[1, 0, 0, 0, 1, 0]);
    assert_eq!(client.bytes(256 * 6)[255 * 6..], [255; 6]);
    assert_eq!((client.update(), client.head()), (1, (0, 0, 16, 16, 0)));
    assert_eq!(client.bytes(256)[0], 255);
}

#[test]
fn messages_that_no_client_may_send_end_the_session() {
    let rig = Rig::new(Fake::new(16, 16), Config::default());
    let messages: [&[u8]; 5] = [
        // Unknown, also of QEMU's; a text of 4 GiB; pixels of 24 bits; text that is one byte too long.
        &[7],
        &[255, 1],
        &[6, 0, 0, 0, 255, 255, 255, 255],
        &[0, 0, 0, 0, 24, 24, 0, 1, 0, 255, 0, 255, 0, 255, 16, 8, 0, 0, 0, 0],
        &[6, 0, 0, 0, 1, 0, 0, 1],
    ];
    for message in messages {
        let mut client = rig.session();
        client.send(message);
        client.end(&[]);
    }
    // What is odd, but allowed.
    let mut client = rig.session();
    client.encodings(&vec![i32::MIN; 65_535]);
    client.send(&[6, 0, 0, 0, 0, 1, 0, 0]);
    client.send(&vec![b'x'; 65_536]);
    client.send(&[3, 0, 255, 255, 255, 255, 255, 255, 255, 255]);
    client.send(&[3, 1, 0, 0, 0, 0, 0, 0, 0, 0]);
    assert_eq!(client.picture().len(), 256);
}

#[test]
fn events_tell_the_life_of_a_client() {
    let (config, _) = with_password("foobar1");
    let rig = Rig::tcp(Fake::new(16, 16), config);
    let mut client = rig.connect();
    let Event::Connected(info) = rig.event() else { panic!("another event") };
    assert_eq!(info.security.name(), "vnc");
    assert!(matches!(info.peer, Endpoint::Ip(address) if address.ip() == Ipv4Addr::LOCALHOST));
    assert_eq!(info.server, rig.on(|server| server.endpoint()));
    assert_eq!(rig.on(|server| server.clients()), []);
    assert_eq!(client.log_in("foobar1"), None);
    client.init();
    assert_eq!(rig.event(), Event::Initialized(info.clone()));
    assert_eq!(rig.on(|server| server.clients()), std::slice::from_ref(&info));
    drop(client);
    assert_eq!(rig.event(), Event::Disconnected(info.clone()));
    assert_eq!(rig.on(|server| server.clients()), []);
    // One that is refused.
    assert!(rig.connect().log_in("wrong").is_some());
    let Event::Connected(next) = rig.event() else { panic!("another event") };
    assert!(next.id > info.id);
    assert_eq!(rig.event(), Event::Disconnected(next));
}

#[test]
fn as_many_clients_as_promised_get_in_and_a_flood_of_logins_keeps_nobody_out() {
    let rig = Rig::tcp(Fake::new(16, 16), Config::default());
    let mut clients: Vec<_> = (0..MAX_CLIENTS).map(|_| rig.session()).collect();
    let mut refused = rig.connect();
    refused.version("RFB 003.008\n");
    refused.expect(&[1, 1]);
    refused.send(&[1]);
    assert_eq!(refused.u32(), 1);
    let len = refused.u32() as usize;
    refused.end(b"too many clients see this screen already"[..len].as_ref());
    // Those who are inside stay; when one goes, the next one gets in.
    assert_eq!(clients[0].picture().len(), 256);
    clients.pop();
    await_that(|| rig.on(|server| server.clients().len()) < MAX_CLIENTS);
    clients.push(rig.session());
    drop(clients);
    await_that(|| rig.on(|server| server.clients().is_empty()));

    let mut patient = rig.connect_from("127.0.0.2");
    let flood: Vec<_> = (0..3 * MAX_LOGINS).map(|_| rig.connect_from("127.0.0.3")).collect();
    patient.version("RFB 003.008\n");
    patient.expect(&[1, 1]);
    patient.send(&[1]);
    patient.expect(&[0; 4]);
    patient.init();
    assert_eq!(patient.picture().len(), 256);
    await_that(|| rig.on(|server| server.clients.borrow().len()) <= MAX_LOGINS + 1);
    drop(flood);
}

#[test]
fn many_addresses_with_one_silent_connection_each_keep_nobody_out() {
    let rig = Rig::tcp(Fake::new(16, 16), Config::default());
    let mut silent: Vec<_> = (2..66).map(|n| rig.connect_from(&format!("127.0.0.{n}"))).collect();
    silent.iter_mut().for_each(|client| client.expect(b"RFB 003.008\n"));
    let mut client = rig.connect_from("127.0.0.200");
    client.version("RFB 003.008\n");
    client.expect(&[1, 1]);
    client.send(&[1]);
    client.expect(&[0; 4]);
    client.init();
    // The oldest had to go.
    silent[0].end(&[]);
    await_that(|| rig.on(|server| server.clients.borrow().len()) == MAX_LOGINS);
}

#[test]
fn over_tls_a_key_arrives_while_an_update_waits_for_its_reader() {
    let fake = Fake::new(640, 480);
    let (credentials, roots) = testing::credentials(false);
    let config = Config { credentials: Some(credentials), ..Config::default() };
    let rig = Rig::new(fake.clone(), config);
    let mut client = rig.connect().log_in_by_tls(roots);
    client.init();
    client.request(false);
    // The update has begun, and is far more than a socket holds.
    let rects = client.update();
    client.send(&[4, 1, 0, 0, 0, 0, 0, b'x']);
    await_that(|| fake.state().keys == [(45, true)]);
    let mut picture = vec![0; 640 * 480];
    client.rects(rects, &mut picture);
    assert!(picture == fake.state().pixels);
}

#[test]
fn stop_ends_every_session_and_the_socket() {
    let rig = Rig::tcp(Fake::new(16, 16), Config::default());
    let mut client = rig.session();
    client.picture();
    client.request(true);
    let mut connecting = rig.connect();
    connecting.expect(b"RFB 003.008\n");
    rig.on(|server| server.stop());
    client.end(&[]);
    connecting.end(&[]);
    let testing::Place::Tcp(address) = rig.place else { panic!("not TCP") };
    assert!(std::net::TcpStream::connect(address).is_err());
    let ended =
        std::iter::from_fn(|| Some(rig.event())).filter(|event| matches!(event, Event::Disconnected(_)));
    assert_eq!(ended.take(2).count(), 2);
    // Nothing keeps it alive.
    assert!(rig.handle.submit(|_| async {}).wait().is_err());
}

#[test]
fn a_server_without_security_is_for_this_machine_only() {
    let start = |address: &str, config: Config| {
        let listener = TcpListener::bind(address).unwrap();
        executor::Executor::new().unwrap().block_on(async move {
            let fake = Rc::new(Fake::new(16, 16));
            let result = Server::start(listener, config, fake.clone(), fake, |_| {});
            result.map(|server| server.stop()).map_err(|e| e.to_string())
        })
    };
    let refused = start("0.0.0.0:0", Config::default()).unwrap_err();
    let why =
        "can be reached from other machines: it needs a password, or TLS credentials with verify-peer=on";
    assert!(refused.starts_with("0.0.0.0:") && refused.ends_with(why), "{refused}");
    // TLS alone lets everybody in.
    let tls = |verify_peer| {
        let credentials = Some(testing::credentials(verify_peer).0);
        Config { credentials, ..Config::default() }
    };
    let refused = start("0.0.0.0:0", tls(false)).unwrap_err();
    assert!(refused.ends_with(why), "{refused}");
    assert!(start("0.0.0.0:0", tls(true)).is_ok());
    assert!(start("127.0.0.1:0", tls(false)).is_ok());
    assert!(start("0.0.0.0:0", Config { password: with_password("").0.password, ..tls(false) }).is_ok());
    assert!(start("0.0.0.0:0", with_password("").0).is_ok());
    assert!(start("127.0.0.1:0", Config::default()).is_ok());
}
