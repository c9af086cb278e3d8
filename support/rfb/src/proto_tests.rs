use super::*;

#[test]
fn versions() {
    let of = |text: &str| Version::parse(text.as_bytes().try_into().unwrap());
    for (text, version) in [
        ("RFB 003.003\n", Version::V3),
        // Never published, but clients send it.
        ("RFB 003.005\n", Version::V3),
        ("RFB 003.007\n", Version::V7),
        ("RFB 003.008\n", Version::V8),
        // Apple's, and RealVNC's.
        ("RFB 003.889\n", Version::V8),
        ("RFB 004.001\n", Version::V8),
    ] {
        assert_eq!(of(text), Some(version), "{text}");
    }
    for text in
        ["RFB 003.008 ", "RFB 003 008\n", "RFB 002.008\n", "RFB +03.008\n", "RFB 003.0x8\n", "GET / HTTP/1"]
    {
        assert_eq!(of(text), None, "{text}");
    }
}
