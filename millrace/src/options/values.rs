//! Values that several options have: sizes, names, switches, lists of pairs.

/// Parses a number of bytes. K, M, G and T are powers of 1024; the number before them may have decimals.
pub(crate) fn size(text: &str) -> Result<u64, String> {
    let wrong = || format!("'{text}' is not a size: give a number of bytes, or one with K, M, G or T");
    let (digits, shift) = match text.char_indices().next_back() {
        Some((at, unit)) if unit.is_ascii_alphabetic() => {
            let shift = match unit.to_ascii_uppercase() {
                'K' => 10,
                'M' => 20,
                'G' => 30,
                'T' => 40,
                _ => return Err(wrong()),
            };
            (&text[..at], shift)
        }
        _ => (text, 0),
    };
    let (whole, decimals) = digits.split_once('.').unwrap_or((digits, "0"));
    let is_number = |digits: &str| !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
    // Nine decimals distinguish every byte of a gigabyte. A number without a unit has no decimals.
    let has_decimals = digits.contains('.');
    if !is_number(whole) || !is_number(decimals) || decimals.len() > 9 || (has_decimals && shift == 0) {
        return Err(wrong());
    }
    let scale = 10_u128.pow(decimals.len() as u32);
    let number: u128 = format!("{whole}{decimals}").parse().map_err(|_| wrong())?;
    let bytes = number.checked_mul(1 << shift).ok_or_else(wrong)? / scale;
    u64::try_from(bytes).map_err(|_| wrong())
}

/// Checks the id of a device or of credentials, by QEMU's rules.
pub(super) fn id(value: String) -> Result<String, String> {
    match value.as_str() {
        "" => Err("id=ID is missing".into()),
        // In `change vnc` this name means the screen.
        "vnc" => Err("id=vnc: this name is taken by the screen; choose another id".into()),
        text if qmp::id::is_well_formed(text) => Ok(value),
        text => Err(format!(
            "id={}: an id is a letter, then letters, digits, '-', '.' and '_'",
            text.escape_debug()
        )),
    }
}

pub(super) fn switch(key: &str, value: &str) -> Result<bool, String> {
    match value {
        "on" => Ok(true),
        "off" => Ok(false),
        _ => Err(format!("{key}={value}: give on or off")),
    }
}

/// Splits a `key=value,...` list; each key may occur once. As in QEMU, a doubled comma is a comma of the
/// value.
pub(crate) fn pairs(text: &str) -> Result<Vec<(String, String)>, String> {
    let text = text.replace(",,", "\0");
    let mut pairs: Vec<(String, String)> = Vec::new();
    for part in text.split(',') {
        let (key, value) =
            part.split_once('=').ok_or_else(|| format!("'{}': give KEY=VALUE", part.replace('\0', ",")))?;
        if pairs.iter().any(|(other, _)| other == key) {
            return Err(format!("'{key}' is given twice"));
        }
        pairs.push((key.to_owned(), value.replace('\0', ",")));
    }
    Ok(pairs)
}
