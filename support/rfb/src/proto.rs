//! Numbers of the wire (RFC 6143, and rfbproto, the community's specification of extensions).

/// The version of the protocol that a client chose (RFC 6143, section 7.1.1).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) enum Version {
    V3,
    V7,
    V8,
}

impl Version {
    /// The message with which either side names its version.
    pub(crate) const LEN: usize = 12;
    pub(crate) const OURS: &[u8; Self::LEN] = b"RFB 003.008\n";

    /// Parses a client's version. Versions that were never published count as 3.3, and later ones as 3.8,
    /// which is what clients with such versions expect. `None` for something else.
    pub(crate) fn parse(bytes: &[u8; Self::LEN]) -> Option<Self> {
        let number = |digits: &[u8]| std::str::from_utf8(digits).ok()?.parse::<u16>().ok();
        let digits = |part: &[u8]| part.iter().all(u8::is_ascii_digit);
        let [b'R', b'F', b'B', b' ', version @ .., b'\n'] = bytes else { return None };
        let (major, minor) = (&version[..3], &version[4..]);
        if version[3] != b'.' || !digits(major) || !digits(minor) {
            return None;
        }
        match (number(major)?, number(minor)?) {
            (3, 7) => Some(Version::V7),
            (3, 8..) | (4.., _) => Some(Version::V8),
            (3, _) => Some(Version::V3),
            _ => None,
        }
    }
}

/// Security types (RFC 6143, section 7.1.2; VeNCrypt is rfbproto's).
pub(crate) mod security {
    pub(crate) const INVALID: u8 = 0;
    pub(crate) const NONE: u8 = 1;
    pub(crate) const VNC: u8 = 2;
    pub(crate) const VENCRYPT: u8 = 19;
    /// Types within VeNCrypt: TLS with a certificate, without a login and with VncAuth.
    pub(crate) const X509_NONE: u32 = 260;
    pub(crate) const X509_VNC: u32 = 261;
}

/// Messages of a client (RFC 6143, section 7.5).
pub(crate) mod client {
    pub(crate) const SET_PIXEL_FORMAT: u8 = 0;
    pub(crate) const SET_ENCODINGS: u8 = 2;
    pub(crate) const UPDATE_REQUEST: u8 = 3;
    pub(crate) const KEY: u8 = 4;
    pub(crate) const POINTER: u8 = 5;
    pub(crate) const CUT_TEXT: u8 = 6;
    /// QEMU's, with a number of its own in the next byte.
    pub(crate) const QEMU: u8 = 255;
    pub(crate) const QEMU_KEY: u8 = 0;
}

/// Messages of a server (RFC 6143, section 7.6).
pub(crate) mod server {
    pub(crate) const UPDATE: u8 = 0;
    pub(crate) const COLOUR_MAP: u8 = 1;
}

/// Encodings (RFC 6143, section 7.7; the last two are rfbproto's).
pub(crate) mod encoding {
    pub(crate) const RAW: i32 = 0;
    pub(crate) const ZRLE: i32 = 16;
    pub(crate) const DESKTOP_SIZE: i32 = -223;
    pub(crate) const QEMU_KEYS: i32 = -258;
    pub(crate) const LAMPS: i32 = -261;
}

#[cfg(test)]
#[path = "proto_tests.rs"]
mod tests;
