//! One image: created by QEMU and used by us, and created by us and read by QEMU.

use std::rc::Rc;

use block::image::{self, Create, Preallocation};
use block::storage::HostOpener;
use block::{ErrorKind, Kind};

use crate::oracle;
use crate::rows::{self, Layout};
use crate::support::{Folder, MODES, Random, exercise, open, qemu_img, real, tool, try_tool, verify};

/// Size of a leaf in bytes: a multiple of nothing but the sector.
const SIZE: usize = (2 << 20) + (300 << 10) + 512 * 37;

pub fn run(layout: &Layout, seed: u64) {
    let number = number(&layout.name(), seed);
    theirs(layout, Random::new(number));
    ours(layout, Random::new(number + 1));
}

/// Returns the seed of an image's random choices.
pub fn number(name: &str, seed: u64) -> u64 {
    name.bytes().fold(seed, |seed, byte| Random::new(seed ^ u64::from(byte)).next_u64())
}

/// Returns the layers from the bottom to the leaf, with their sizes in bytes.
fn layers(layout: &Layout, random: &mut Random) -> Vec<(Layout, usize)> {
    let mut layers = vec![(layout.clone(), SIZE)];
    let below = layout.below();
    for (n, format) in below.iter().enumerate() {
        let change = 512 * (1 + random.below(2000) as usize);
        let size = match layout.sizes() {
            "shorter" => SIZE - change,
            "longer" => SIZE + change,
            _ => SIZE,
        };
        layers.push((rows::any(format, n + 1 < below.len(), random), size));
    }
    layers.reverse();
    layers
}

fn kind(layout: &Layout) -> Kind {
    layout.format.parse().expect("rows know formats that we know")
}

/// Checks that there is no corruption, and no leak but in QED, where a write leaks the clusters that it
/// replaces.
fn check(image: &str, format: &str) {
    let check = try_tool("qemu-img", &["check", "-f", format, image]);
    let fine = check.status.success() || format == "qed" && check.status.code() == Some(3);
    assert!(format == "raw" || fine, "{check:?}");
}

fn to_raw(folder: &Folder, image: &str, format: &str) -> Vec<u8> {
    let raw = folder.file("converted");
    qemu_img(&["convert", "-f", format, "-O", "raw", image, &raw]);
    std::fs::read(raw).unwrap()
}

fn compare(folder: &Folder, image: &str, format: &str, model: &[u8]) {
    same(&to_raw(folder, image, format), model, "QEMU", image);
}

fn same(found: &[u8], model: &[u8], reader: &str, image: &str) {
    assert_eq!(found.len(), model.len(), "size of {image} as {reader} reads it");
    let wrong = found.chunks(512).zip(model.chunks(512)).position(|(a, b)| a != b);
    assert_eq!(wrong, None, "first wrong sector of {image} as {reader} reads it");
}

/// Like `compare`, for a chain that imago supports.
fn compare_with_imago(layers: &[(Layout, usize)], leaf: &str, model: &[u8]) {
    match oracle::read(layers.iter().map(|(layout, _)| layout), leaf) {
        Some(found) => same(&found, model, "imago", leaf),
        None => println!("imago does not know this chain"),
    }
}

/// Returns content with holes, noise, and compressible parts.
fn content(random: &mut Random, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    for piece in bytes.chunks_mut(24_000) {
        match random.below(3) {
            0 => {}
            1 => piece.copy_from_slice(&random.bytes(piece.len())),
            _ => piece.fill(random.next_u64() as u8),
        }
    }
    bytes
}

/// Writes here and there with qemu-io.
fn scribble(image: &str, format: &str, size: usize, random: &mut Random) {
    let mut arguments = vec!["-f".to_owned(), format.to_owned()];
    for _ in 0..8 {
        let start = random.below(size as u64 / 512);
        let len = (1 + random.below(300)).min(size as u64 / 512 - start);
        let (start, len) = (start * 512, len * 512);
        let command = match random.below(6) {
            0 => format!("write -z {start} {len}"),
            1 => format!("write -z -u {start} {len}"),
            2 => format!("discard {start} {len}"),
            _ => format!("write -P {} {start} {len}", 1 + random.below(255)),
        };
        arguments.extend(["-c".to_owned(), command]);
    }
    arguments.push(image.to_owned());
    tool("qemu-io", &arguments.iter().map(String::as_str).collect::<Vec<_>>());
}

/// Tests an image created by QEMU's tools: we read it as they do, then we write it and they check it.
fn theirs(layout: &Layout, mut random: Random) {
    let folder = Folder::new();
    let mut below: Option<(String, &str)> = None;
    let layers = layers(layout, &mut random);
    for (n, (layer, size)) in layers.iter().enumerate() {
        let image = folder.file(&format!("layer{n}"));
        // Raw files may have any length.
        let odd = if layer.format == "raw" { random.below(2) as usize * 100 } else { 0 };
        let raw = content(&mut random, size - odd);
        if layer.format == "raw" {
            std::fs::write(&image, raw).unwrap();
        } else {
            let over = below.as_ref().map(|(name, format)| (name.as_str(), *format));
            make(&folder, layer, &image, over, *size, &raw);
            scribble(&image, layer.format, *size, &mut random);
        }
        below = Some((image, layer.format));
    }
    let (leaf, format) = below.expect("a leaf at least");
    check(&leaf, format);
    let model = to_raw(&folder, &leaf, format);
    compare_with_imago(&layers, &leaf, &model);
    let untouched = files_below(&folder, layout);
    let model = use_it(layout, &leaf, model, &folder, random);
    compare_with_imago(&layers, &leaf, &model);
    assert!(files_below(&folder, layout) == untouched, "a backing file was changed");
}

/// Returns the bytes of the layers below the leaf.
fn files_below(folder: &Folder, layout: &Layout) -> Vec<Vec<u8>> {
    (0..layout.below().len()).map(|n| std::fs::read(folder.file(&format!("layer{n}"))).unwrap()).collect()
}

/// Runs `qemu-img create`, or `convert -c` for an image with compressed clusters.
fn make(folder: &Folder, layer: &Layout, image: &str, below: Option<(&str, &str)>, size: usize, raw: &[u8]) {
    let (options, size) = (layer.text(), size.to_string());
    if !layer.compressed() {
        let over = below.map_or(vec![], |(name, format)| vec!["-b", name, "-F", format]);
        let create = ["create", "-q", "-f", layer.format, "-o", &options];
        qemu_img(&[&create[..], &over, &[image, &size]].concat());
        return;
    }
    let raw = folder.write("raw", raw);
    let over = below.map_or(vec![], |(name, format)| vec!["-B", name, "-F", format]);
    let convert = ["convert", "-c", "-f", "raw", "-O", layer.format, "-o", &options];
    qemu_img(&[&convert[..], &over, &[&raw, image]].concat());
}

/// Sends random requests through us, with reopening and growing, and compares with the model and QEMU's
/// tools. Returns the content of the disk.
fn use_it(layout: &Layout, leaf: &str, model: Vec<u8>, folder: &Folder, mut random: Random) -> Vec<u8> {
    let (name, kind) = (leaf.to_owned(), kind(layout));
    let mode = MODES[random.below(4) as usize];
    println!("{mode:?}");
    let model = real(mode, move |opener| async move {
        let mut model = model;
        for _ in 0..2 {
            let disk = open(&opener, &name, kind).await;
            verify(&disk, &model).await;
            exercise(&disk, &mut model, &mut random, 8).await;
            if random.below(4) == 0 {
                let size = model.len() + 512 * (1 + random.below(3000) as usize);
                match disk.resize(size as u64).await {
                    Ok(()) => model.resize(size, 0),
                    Err(e) => assert_eq!(e.kind(), ErrorKind::Unsupported, "{e}"),
                }
                exercise(&disk, &mut model, &mut random, 2).await;
            }
            verify(&disk, &model).await;
            disk.close().await.unwrap();
        }
        model
    });
    check(leaf, layout.format);
    compare(folder, leaf, layout.format, &model);
    model
}

/// Tests an image created by us with the same options, and filled through us.
fn ours(layout: &Layout, mut random: Random) {
    let folder = Folder::new();
    let layers = layers(layout, &mut random);
    let mode = MODES[random.below(4) as usize];
    let leaf = layers.len() - 1;
    let other = (leaf > 0).then(|| random.below(leaf as u64) as usize);
    println!("ours, {mode:?}");
    let names: Vec<_> = (0..layers.len()).map(|n| folder.file(&format!("layer{n}"))).collect();
    let (list, paths) = (layers.clone(), names.clone());
    let models = real(mode, move |opener| async move {
        let mut models: Vec<Vec<u8>> = Vec::new();
        for (n, (layer, size)) in list.iter().enumerate() {
            let backing = n.checked_sub(1).map(|n| (format!("layer{n}"), kind(&list[n].0)));
            let mut model = models.last().cloned().unwrap_or_default();
            model.resize(*size, 0);
            create(&opener, &paths[n], layer, *size, backing).await;
            let disk = open(&opener, &paths[n], kind(layer)).await;
            verify(&disk, &model).await;
            exercise(&disk, &mut model, &mut random, 10).await;
            disk.close().await.unwrap_or_else(|e| panic!("{}: {e}", layer.name()));
            models.push(model);
        }
        models
    });
    // The leaf, and one of the layers below it if there are any.
    for n in other.into_iter().chain([leaf]) {
        check(&names[n], layers[n].0.format);
        compare(&folder, &names[n], layers[n].0.format, &models[n]);
    }
    compare_with_imago(&layers, &names[leaf], &models[leaf]);
}

async fn create(
    opener: &Rc<HostOpener>,
    name: &str,
    layer: &Layout,
    size: usize,
    backing: Option<(String, Kind)>,
) {
    let number = |option| layer.get(option).map(size_of);
    let options = Create {
        size: Some(size as u64),
        backing,
        cluster_size: number("cluster_size"),
        extended_l2: layer.get("extended_l2").map(|value| value == "on"),
        refcount_bits: number("refcount_bits")
            .filter(|_| layer.get("compat") != Some("0.10"))
            .map(|n| n as u32),
        version: layer.get("compat").map(|compat| if compat == "0.10" { 2 } else { 3 }),
        lazy_refcounts: layer.get("lazy_refcounts").map(|value| value == "on"),
        preallocation: match layer.get("preallocation") {
            Some("metadata") => Preallocation::Metadata,
            Some("falloc") => Preallocation::Falloc,
            Some("full") => Preallocation::Full,
            _ => Preallocation::Off,
        },
        table_size: number("table_size"),
        zstd: layer
            .get("compression_type")
            .filter(|_| layer.get("compat") != Some("0.10"))
            .map(|value| value == "zstd"),
    };
    let made = image::create(&**opener, name, kind(layer), &options).await;
    made.unwrap_or_else(|e| panic!("{}: {e}", layer.name()));
}

/// Converts `64k` and the like to bytes.
fn size_of(text: &str) -> u64 {
    let (digits, shift) = match text.chars().last() {
        Some('k') => (&text[..text.len() - 1], 10),
        Some('M') => (&text[..text.len() - 1], 20),
        _ => (text, 0),
    };
    digits.parse::<u64>().expect("a number") << shift
}
