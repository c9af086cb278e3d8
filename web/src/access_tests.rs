use std::os::unix::fs::PermissionsExt;

use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode};

use super::{Access, random, same, token_in};

fn headers(all: &[(&'static str, &str)]) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for (name, value) in all {
        headers.append(HeaderName::from_static(name), HeaderValue::from_str(value).unwrap());
    }
    headers
}

fn access() -> Access {
    Access::new(Some("127.0.0.1:8006".parse().unwrap()), "secret".to_owned())
}

#[test]
fn a_host_that_dns_could_move_is_refused() {
    for host in ["127.0.0.1:8006", "localhost:8006", "LOCALHOST:8006"] {
        assert_eq!(access().host(&headers(&[("host", host)])), Ok(()), "{host}");
    }
    for host in
        ["evil.example:8006", "localhost", "127.0.0.1", "127.0.0.1:80", "localhost.evil.example:8006", ""]
    {
        assert_eq!(
            access().host(&headers(&[("host", host)])),
            Err(StatusCode::MISDIRECTED_REQUEST),
            "{host}"
        );
    }
    assert!(access().host(&headers(&[])).is_err());
    assert!(access().host(&headers(&[("host", "localhost:8006"), ("host", "localhost:8006")])).is_err());
}

#[test]
fn a_page_of_somebody_else_opens_no_socket() {
    let of = |origin| headers(&[("host", "localhost:8006"), ("origin", origin)]);
    assert_eq!(access().origin(&of("http://localhost:8006")), Ok(()));
    for origin in [
        "http://127.0.0.1:8006",
        "https://localhost:8006",
        "http://localhost:8007",
        "null",
        "http://evil.example",
    ] {
        assert_eq!(access().origin(&of(origin)), Err(StatusCode::FORBIDDEN), "{origin}");
    }
    assert!(access().origin(&headers(&[("host", "localhost:8006")])).is_err());
    let site = |site| {
        headers(&[("host", "localhost:8006"), ("origin", "http://localhost:8006"), ("sec-fetch-site", site)])
    };
    assert_eq!(access().origin(&site("same-origin")), Ok(()));
    for foreign in ["cross-site", "same-site"] {
        assert!(access().origin(&site(foreign)).is_err(), "{foreign}");
    }
}

#[test]
fn the_token_is_a_subprotocol() {
    let of = |offers| headers(&[("sec-websocket-protocol", offers)]);
    assert_eq!(access().token_of(&of("millrace.v1, t.secret")), Ok(()));
    for offers in ["millrace.v1", "t.", "t.secre", "t.secretly", "t.Secret", "secret", ""] {
        assert_eq!(access().token_of(&of(offers)), Err(StatusCode::UNAUTHORIZED), "{offers}");
    }
    assert!(access().token_of(&headers(&[])).is_err());
}

#[test]
fn a_token_stays_in_its_file_and_is_for_its_owner_only() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("token");
    let token = token_in(&path).unwrap();
    assert_eq!(token.len(), 22);
    assert_eq!(token_in(&path).unwrap(), token);
    assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o600);
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o640)).unwrap();
    assert!(token_in(&path).unwrap_err().to_string().contains("chmod 600"));
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
    for wrong in ["", "short", "a token of many words, which is none", "AAAAAAAAAAAAAAAAAAAAA,"] {
        std::fs::write(&path, wrong).unwrap();
        assert!(token_in(&path).unwrap_err().to_string().contains("holds no token"), "{wrong}");
    }
    assert!(token_in(&folder.path().join("none/token")).is_err());
}

#[test]
fn tokens_differ_and_are_compared_whole() {
    let (one, other) = (random().unwrap(), random().unwrap());
    assert_eq!(one.len(), 22);
    assert!(same(&one, &one) && !same(&one, &other) && !same(&one, &one[1..]) && !same("", "a"));
}
