//! Descriptors at every cluster size, and data that is not what it says.

use super::*;

#[test]
fn descriptors_split_where_the_cluster_size_says() {
    for bits in 9..=21 {
        let x = 62 - (bits - 8);
        let word = 3 << x | 0x1234;
        let packed = Compressed::parse(word & ((1 << 62) - 1), bits);
        let sectors = 3 & ((1 << (bits - 8)) - 1);
        assert_eq!(packed, Compressed { offset: 0x1234, len: (sectors + 1) * 512 - 0x34 });
        // The largest is two clusters.
        assert!(Compressed::parse((1 << 62) - 1, bits).len <= 2 << bits);
    }
}

fn deflated(bytes: &[u8]) -> Vec<u8> {
    let mut out = vec![0; bytes.len() * 2 + 64];
    let mut state = flate2::Compress::new(flate2::Compression::fast(), false);
    state.compress(bytes, &mut out, flate2::FlushCompress::Finish).unwrap();
    out.truncate(state.total_out() as usize);
    out
}

#[test]
fn only_a_whole_cluster_is_an_answer() {
    let plain: Vec<u8> = (0..65536u32).map(|n| (n / 7) as u8).collect();
    let zstd = ruzstd::encoding::compress_to_vec(&plain[..], ruzstd::encoding::CompressionLevel::Fastest);
    type Unpack = fn(&[u8], usize) -> Option<Vec<u8>>;
    for (packed, unpack) in [(deflated(&plain), inflate as Unpack), (zstd, unzstd)] {
        assert_eq!(unpack(&packed, plain.len()).as_ref(), Some(&plain));
        // The rest of the last sector is whatever was there.
        let padded = [&packed[..], &[0xa5; 300]].concat();
        assert_eq!(unpack(&padded, plain.len()).as_ref(), Some(&plain));
        assert_eq!(unpack(&packed[..packed.len() / 2], plain.len()), None);
        assert_eq!(unpack(&packed, plain.len() + 512), None);
        assert_eq!(unpack(&[], 512), None);
        // Damaged data is decompressed or refused, and does nothing else.
        let mut seed = 1u64;
        for _ in 0..3000 {
            let mut damaged = packed.clone();
            for _ in 0..3 {
                seed = seed.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
                let at = (seed >> 33) as usize % damaged.len();
                damaged[at] = (seed >> 20) as u8;
            }
            unpack(&damaged, 4096);
        }
    }
}

#[test]
fn a_frame_that_asks_for_much_memory_is_refused() {
    // Magic, no single segment, a window of 2^41 bytes.
    let frame = [0x28, 0xb5, 0x2f, 0xfd, 0, 31 << 3, 0, 0, 0];
    assert_eq!(zstd_window(&frame), Some(1 << 41));
    assert_eq!(unzstd(&frame, 512), None);
}
