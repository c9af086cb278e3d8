use super::*;

#[test]
fn nothing_is_left_behind() {
    let folder = tempfile::tempdir().unwrap();
    look(folder.path()).unwrap();
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
    assert!(look(&folder.path().join("none")).is_err());
}
