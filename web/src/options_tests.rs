use clap::Parser;

use super::{Control, Listen, Options};

fn parse(more: &[&str]) -> Result<Options, String> {
    let all = ["millrace-web", "socket"].iter().chain(more);
    Options::try_parse_from(all).map_err(|e| e.to_string())
}

#[test]
fn only_loopback_addresses_and_unix_sockets_are_served() {
    let listen = |text| parse(&["--listen", text]).map(|options| options.listen);
    assert_eq!(listen("127.0.0.1:8006"), Ok(Listen::Tcp("127.0.0.1:8006".parse().unwrap())));
    assert_eq!(listen("[::1]:0"), Ok(Listen::Tcp("[::1]:0".parse().unwrap())));
    assert_eq!(listen("unix:/run/page"), Ok(Listen::Unix("/run/page".into())));
    for wrong in ["0.0.0.0:80", "192.168.0.1:80", "[::]:80"] {
        assert!(listen(wrong).unwrap_err().contains("not a loopback address"), "{wrong}");
    }
    for wrong in ["unix:", "80", "localhost:80", ""] {
        assert!(listen(wrong).is_err(), "{wrong}");
    }
}

#[test]
fn the_page_controls_jobs_unless_more_is_asked_for() {
    assert_eq!(parse(&[]).unwrap().control, Control::Jobs);
    assert_eq!(parse(&["--control", "full"]).unwrap().control, Control::Full);
    assert!(parse(&["--control", "all"]).is_err());
    assert!(Options::try_parse_from(["millrace-web"]).is_err());
}
