//! `--vnc` and `--display`: the guest's screen.

use qmp::Address;
use vmm::screen::Size;

/// The first port of VNC, that of display 0.
const PORT: u32 = 5900;

/// One `--vnc`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Vnc {
    /// The address that the server listens on.
    pub address: Address,
    /// True if clients need a password.
    pub password: bool,
    /// The id of the TLS credentials.
    pub tls_creds: Option<String>,
}

/// Parses `unix:PATH` or `HOST:DISPLAY`, and the options behind it.
pub(super) fn parse(text: &str) -> Result<Vnc, String> {
    let text = text.replace(",,", "\0");
    let mut parts = text.split(',');
    let address = parts.next().unwrap_or_default().replace('\0', ",");
    let mut vnc = Vnc { address: self::address(&address)?, password: false, tls_creds: None };
    for part in parts {
        let part = part.replace('\0', ",");
        match part.split_once('=') {
            Some(("password", value)) => vnc.password = super::switch("password", value)?,
            None if part == "password" => vnc.password = true,
            Some(("tls-creds", id)) if !id.is_empty() => vnc.tls_creds = Some(id.to_owned()),
            _ => return Err(format!("unknown --vnc key '{part}': give password=on or tls-creds=ID")),
        }
    }
    Ok(vnc)
}

fn address(text: &str) -> Result<Address, String> {
    let wrong = || format!("'{text}' is no address for a screen: give unix:PATH or HOST:DISPLAY");
    if let Some(path) = text.strip_prefix("unix:") {
        return if path.is_empty() { Err(wrong()) } else { Ok(Address::Unix(path.into())) };
    }
    let (host, display) = text.rsplit_once(':').ok_or_else(wrong)?;
    if host.is_empty() {
        return Err(format!(
            "'{text}' names no host: give 127.0.0.1{text}, or 0.0.0.0{text} for all addresses"
        ));
    }
    let display: u32 = display.parse().map_err(|_| wrong())?;
    let port = u16::try_from(display.saturating_add(PORT));
    let port = port.map_err(|_| format!("display {display}: give 0 to {}", u32::from(u16::MAX) - PORT))?;
    Ok(Address::Tcp(format!("{host}:{port}")))
}

/// Parses `WIDTHxHEIGHT`.
pub(super) fn size(text: &str) -> Result<Size, String> {
    let wrong = || format!("'{text}' is not a size: give WIDTHxHEIGHT in pixels, such as 1024x768");
    let (width, height) = text.split_once('x').ok_or_else(wrong)?;
    let number = |digits: &str| digits.parse().map_err(|_| wrong());
    Size::new(number(width)?, number(height)?).map_err(|e| e.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn screens() {
        let local = parse("127.0.0.1:1,password=on").unwrap();
        assert_eq!(local.address, Address::Tcp("127.0.0.1:5901".into()));
        assert!(local.password && parse("unix:/a,password").unwrap().password);
        let socket = parse("unix:/run/a,,b,tls-creds=t,password=off").unwrap();
        let expected =
            Vnc { address: Address::Unix("/run/a,b".into()), password: false, tls_creds: Some("t".into()) };
        assert_eq!(socket, expected);
        assert_eq!(parse("[::1]:0").unwrap().address, Address::Tcp("[::1]:5900".into()));
        for (wrong, says) in [
            ("", "unix:PATH or HOST:DISPLAY"),
            ("unix:", "unix:PATH"),
            ("stdio", "HOST:DISPLAY"),
            (":0", "give 127.0.0.1:0"),
            ("localhost:x", "HOST:DISPLAY"),
            ("localhost:59636", "display 59636: give 0 to 59635"),
            ("unix:/a,password=maybe", "give on or off"),
            ("unix:/a,tls-creds=", "unknown --vnc key"),
            ("unix:/a,to=9", "unknown --vnc key 'to=9'"),
        ] {
            let error = parse(wrong).unwrap_err();
            assert!(error.contains(says) && !error.contains('\n'), "{wrong}: {error}");
        }
    }

    #[test]
    fn sizes() {
        assert_eq!(size("640x480").unwrap().width(), 640);
        for (wrong, says) in
            [("640", "WIDTHxHEIGHT"), ("ax b", "WIDTHxHEIGHT"), ("100x100", "640x480 to 2560x1600")]
        {
            assert!(size(wrong).unwrap_err().contains(says), "{wrong}");
        }
    }
}
