//! Sizes, rates and times as people write them: `64K`, `10Gbit`, `400M/s`, `0.2ms`, `6h`, `50%`.

/// Returns the bytes of a size: a number with K, M, G, T or nothing, 1024-based.
pub fn size(text: &str) -> Option<u64> {
    let bytes = scaled(text, &[("K", 1 << 10), ("M", 1 << 20), ("G", 1 << 30), ("T", 1 << 40), ("", 1)])?;
    (bytes < 9e18).then_some(bytes as u64)
}

/// Returns the bytes per second of a rate: a size and `/s`, or a number with Kbit, Mbit or Gbit, 1000-based.
pub fn rate(text: &str) -> Option<f64> {
    if let Some(bits) = text.strip_suffix("bit") {
        return Some(scaled(bits, &[("K", 1000), ("M", 1_000_000), ("G", 1_000_000_000), ("", 1)])? / 8.0);
    }
    size(text.strip_suffix("/s")?).map(|bytes| bytes as f64)
}

/// Returns the seconds of a time: a number with `ns`, `us`, `ms`, `s`, `min` or `h`.
pub fn time(text: &str) -> Option<f64> {
    let divided = [("ns", 1e9), ("us", 1e6), ("ms", 1e3)];
    for (unit, parts) in divided {
        if let Some(text) = text.strip_suffix(unit) {
            return number(text).map(|number| number / parts);
        }
    }
    scaled(text, &[("min", 60), ("h", 3600), ("s", 1)])
}

/// Returns the share of a text such as `40%`.
pub fn percent(text: &str) -> Option<f64> {
    number(text.strip_suffix('%')?).map(|number| number / 100.0)
}

fn number(text: &str) -> Option<f64> {
    let text = text.trim();
    let plain = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.');
    if plain { text.parse().ok().filter(|number: &f64| number.is_finite()) } else { None }
}

fn scaled(text: &str, units: &[(&str, u64)]) -> Option<f64> {
    let (unit, factor) = units.iter().find(|(unit, _)| text.ends_with(unit))?;
    number(&text[..text.len() - unit.len()]).map(|number| number * *factor as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_with_units() {
        assert_eq!((size("64K"), size("1.5G"), size("512")), (Some(65536), Some(3 << 29), Some(512)));
        assert_eq!((size("-1"), size("1e3"), size(""), size("K")), (None, None, None, None));
        assert_eq!((rate("10Gbit"), rate("400M/s"), rate("400M")), (Some(1.25e9), Some(419_430_400.0), None));
        assert_eq!(
            (time("0.2ms"), time("6h"), time("50us"), time("90s")),
            (Some(2e-4), Some(21600.0), Some(5e-5), Some(90.0))
        );
        assert_eq!((time("2min"), time("5"), percent("40%")), (Some(120.0), None, Some(0.4)));
    }
}
