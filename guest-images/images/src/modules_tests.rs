//! Tests of the order, of built-in modules and of errors, on a made-up module directory.

use super::*;

fn kernel(modules: &[(&str, &str)]) -> tempfile::TempDir {
    let root = tempfile::tempdir().expect("a temporary directory");
    fs::create_dir_all(root.path().join("kernel/drivers")).expect("create");
    for (file, depends) in modules {
        let object = format!("\x7fELF\0license=GPL\0depends={depends}\0name=x\0");
        fs::write(root.path().join("kernel/drivers").join(file), object).expect("write");
    }
    fs::write(root.path().join("modules.builtin"), "kernel/fs/ext4/ext4.ko\n").expect("write");
    root
}

fn names(root: &tempfile::TempDir, wanted: &[&str]) -> Result<Vec<String>> {
    Ok(in_order(root.path(), wanted)?.into_iter().map(|module| module.name).collect())
}

#[test]
fn dependencies_come_first_and_once() {
    let root = kernel(&[
        ("virtio_blk.ko", "virtio-ring,virtio"),
        ("virtio_ring.ko", ""),
        ("virtio.ko", "virtio_ring"),
        ("kvm-amd.ko", ""),
    ]);
    let order = names(&root, &["virtio_blk", "kvm-amd", "virtio"]).expect("an order");
    assert_eq!(order, ["virtio_ring", "virtio", "virtio_blk", "kvm_amd"]);
}

#[test]
fn built_in_modules_are_left_out() {
    assert_eq!(names(&kernel(&[]), &["ext4"]).expect("an order"), [""; 0]);
}

#[test]
fn compressed_modules_are_unpacked() {
    let root = kernel(&[("virtio.ko", ""), ("fuse.ko", "virtio")]);
    let file = root.path().join("kernel/drivers/fuse.ko");
    let object = fs::read(&file).expect("read");
    assert!(std::process::Command::new("gzip").arg(&file).status().expect("gzip").success());
    let order = in_order(root.path(), &["fuse"]).expect("an order");
    let names: Vec<_> = order.iter().map(|module| module.name.as_str()).collect();
    assert_eq!(names, ["virtio", "fuse"]);
    assert_eq!(order[1].object, object);
}

#[test]
fn what_is_missing_is_named() {
    let root = kernel(&[("a.ko", "b"), ("b.ko", "a")]);
    let message = |name| names(&root, &[name]).expect_err("refused").to_string();
    assert!(message("overlay").contains("no kernel module overlay"));
    assert!(message("a").contains("no kernel module a"));
}
