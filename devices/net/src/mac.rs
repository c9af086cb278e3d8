//! Addresses of network interfaces.

use std::fmt;
use std::str::FromStr;

/// The address of one interface: neither zero nor a group's address.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Mac([u8; 6]);

impl Mac {
    /// Returns the address as bytes, in the order in which they are sent.
    pub fn bytes(self) -> [u8; 6] {
        self.0
    }

    /// Returns an address for `name`: always the same one, and most likely different ones for two names. It
    /// is in the range that virtual machines use, 52:54:00.
    pub fn of_name(name: &str) -> Self {
        // FNV-1a (Fowler, Noll and Vo), since the result must be the same in every build.
        let hash = name.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
        });
        let [a, b, c, d, e, f, ..] = hash.to_le_bytes();
        Mac([0x52, 0x54, 0, a ^ d, b ^ e, c ^ f])
    }
}

impl FromStr for Mac {
    type Err = String;

    /// Parses six bytes in hexadecimal, separated by colons.
    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("'{text}' is not an interface's address: give one like 52:54:00:12:34:56");
        let mut bytes = [0; 6];
        let mut parts = text.split(':');
        for byte in &mut bytes {
            let part = parts.next().filter(|part| part.len() == 2 && !part.starts_with('+'));
            *byte = part.and_then(|part| u8::from_str_radix(part, 16).ok()).ok_or_else(wrong)?;
        }
        // The lowest bit of the first byte marks a group's address.
        if parts.next().is_some() || bytes == [0; 6] || bytes[0] & 1 != 0 {
            return Err(wrong());
        }
        Ok(Mac(bytes))
    }
}

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

#[cfg(test)]
mod tests {
    use super::Mac;

    #[test]
    fn addresses_are_parsed_and_printed() {
        for text in ["52:54:00:12:34:56", "02:00:00:00:00:00"] {
            assert_eq!(text.parse::<Mac>().unwrap().to_string(), text);
        }
        assert_eq!("AE:0B:00:00:00:FF".parse::<Mac>().unwrap().to_string(), "ae:0b:00:00:00:ff");
        let wrong = [
            "",
            "52:54:00:12:34",
            "52:54:00:12:34:56:78",
            "5:54:00:12:34:56",
            "+2:54:00:12:34:56",
            "52-54-00-12-34-56",
            "00:00:00:00:00:00",
            "01:00:5e:00:00:01",
            "ff:ff:ff:ff:ff:ff",
        ];
        for text in wrong {
            assert!(text.parse::<Mac>().is_err(), "{text}");
        }
    }

    #[test]
    fn each_name_has_an_address_of_its_own() {
        let names = ["tap0", "tap1", "tap2", "tap10", "/run/passt_1.socket", "/run/passt_2.socket"];
        let macs: Vec<_> = names.map(|name| Mac::of_name(name).to_string()).into();
        for (at, mac) in macs.iter().enumerate() {
            assert!(mac.starts_with("52:54:00:"), "{mac}");
            assert!(!macs[..at].contains(mac), "{macs:?}");
            assert_eq!(*mac, Mac::of_name(names[at]).to_string());
        }
    }
}
