//! `--web`: the page of this machine.

/// One `--web`.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct Web {
    /// The arguments of the page's server.
    pub arguments: Vec<String>,
}

/// Parses an address, and the options behind it.
pub(super) fn parse(text: &str) -> Result<Web, String> {
    let text = text.replace(",,", "\0");
    let mut parts = text.split(',').map(|part| part.replace('\0', ","));
    // Checked by the server: the page's addresses are its business.
    let address = parts.next().filter(|address| !address.is_empty());
    let address = address.ok_or("give HOST:PORT, such as 127.0.0.1:8006, or unix:PATH")?;
    let mut arguments = vec![format!("--listen={address}")];
    for part in parts {
        match part.split_once('=') {
            Some(("control", group @ ("jobs" | "copy" | "full"))) => {
                arguments.push(format!("--control={group}"));
            }
            Some(("control", other)) => return Err(format!("control={other}: give jobs, copy or full")),
            Some(("read-only", value)) => {
                if super::switch("read-only", value)? {
                    arguments.push("--read-only".to_owned());
                }
            }
            Some(("token-file", path)) if !path.is_empty() => arguments.push(format!("--token-file={path}")),
            _ => {
                return Err(format!(
                    "unknown --web key '{part}': give control=jobs|copy|full, read-only=on or token-file=PATH"
                ));
            }
        }
    }
    Ok(Web { arguments })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages() {
        let page = parse("127.0.0.1:8006,control=copy,read-only=on,token-file=/a,,b").unwrap();
        assert_eq!(
            page.arguments,
            ["--listen=127.0.0.1:8006", "--control=copy", "--read-only", "--token-file=/a,b"]
        );
        assert_eq!(parse("unix:/run/page,read-only=off").unwrap().arguments, ["--listen=unix:/run/page"]);
        for (wrong, says) in [
            ("", "HOST:PORT"),
            ("127.0.0.1:1,control=all", "jobs, copy or full"),
            ("127.0.0.1:1,read-only=yes", "on or off"),
            ("127.0.0.1:1,password=on", "unknown --web key"),
            ("127.0.0.1:1,token-file=", "unknown --web key"),
        ] {
            let error = parse(wrong).unwrap_err();
            assert!(error.contains(says), "{wrong}: {error}");
        }
    }
}
