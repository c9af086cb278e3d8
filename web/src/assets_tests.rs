use std::collections::BTreeSet;
use std::path::Path;

use axum::http::{HeaderMap, StatusCode};
use sha2::{Digest, Sha256};

use super::{FILES, serve};

#[test]
fn files_have_their_types_and_nothing_else_is_served() {
    let status = |path| serve(path, &HeaderMap::new()).status();
    let media =
        |path: &str| serve(path, &HeaderMap::new()).headers()["content-type"].to_str().unwrap().to_owned();
    assert_eq!(media("index.html"), "text/html; charset=utf-8");
    assert_eq!(media("vendor/xterm/lib/xterm.mjs"), "text/javascript; charset=utf-8");
    assert_eq!(media("vendor/uplot/dist/uPlot.min.css"), "text/css; charset=utf-8");
    for path in ["", "../Cargo.toml", "assets/index.html", "vendor", "vendor/", "index.html/", "%69ndex.html"]
    {
        assert_eq!(status(path), StatusCode::NOT_FOUND, "{path}");
    }
}

#[test]
fn a_browser_that_has_a_file_gets_no_second_copy() {
    let first = serve("index.html", &HeaderMap::new());
    let mut headers = HeaderMap::new();
    headers.insert("if-none-match", first.headers()["etag"].clone());
    assert_eq!(serve("index.html", &headers).status(), StatusCode::NOT_MODIFIED);
}

#[test]
fn licences_come_with_the_files() {
    for name in
        ["vendor/novnc/LICENSE.txt", "vendor/novnc/AUTHORS", "vendor/xterm/LICENSE", "vendor/uplot/LICENSE"]
    {
        assert!(FILES.iter().any(|(file, _)| *file == name), "{name}");
    }
}

#[test]
fn files_of_other_people_are_as_they_published_them() {
    let digests =
        std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("vendor.sha256")).unwrap();
    let known: BTreeSet<_> = digests.lines().map(|line| line.split_once("  ").unwrap()).collect();
    let hex =
        |bytes: &[u8]| Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    let vendored = FILES.iter().filter(|(name, _)| name.starts_with("vendor/"));
    let own: Vec<_> = vendored.map(|(name, bytes)| (hex(bytes), *name)).collect();
    let own: BTreeSet<_> = own.iter().map(|(digest, name)| (digest.as_str(), *name)).collect();
    assert_eq!(own, known);
}
