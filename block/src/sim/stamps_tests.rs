use std::collections::BTreeMap;

use workload::Random;

use super::*;

fn stamp(block: u32, version: u32) -> Content {
    Content::Stamp(Stamp { block, version })
}

/// Compares with a plain map of all blocks, under random changes of all kinds.
#[test]
fn blocks_hold_what_was_written_last() {
    for seed in 0..40 {
        let mut random = Random::of(seed, "stamps");
        let blocks = 2 * CELL * CHUNK as u32 + 40;
        let mut stamps = Stamps::new(u64::from(blocks / 2) * BLOCK);
        if seed % 2 == 0 {
            stamps.keep_undo();
        }
        let mut model: BTreeMap<u32, Content> = BTreeMap::new();
        let mut settled = model.clone();
        let at_first =
            |block: u32| if block / CELL < blocks / 2 / CELL { stamp(block, 0) } else { Content::Zero };
        for step in 1..400_u32 {
            let count = [1, 2, CELL, 3 * CELL, 5][random.below(5) as usize];
            let first = random.below(u64::from(blocks - count)) as u32;
            let first = if random.below(2) == 0 { first / CELL * CELL } else { first };
            let buf = Buf::new(count as usize * BLOCK as usize);
            match random.below(6) {
                0 => {
                    stamps.clear(first, count);
                    (first..first + count).for_each(|block| drop(model.insert(block, Content::Zero)));
                    continue;
                }
                1 => {
                    buf.write_at(0, b"a table");
                    buf.write_at(buf.len() - 1, &[step as u8 | 1]);
                }
                // From elsewhere, as clusters of an image lie anywhere.
                2 => (0..count).for_each(|i| {
                    Stamp { block: 7 + step + i, version: 0 }.put(&buf, i as usize * BLOCK as usize);
                }),
                3 => (0..count).for_each(|i| {
                    Stamp { block: first + i, version: 0 }.put(&buf, i as usize * BLOCK as usize);
                }),
                4 => (0..count).for_each(|i| {
                    Stamp { block: first + i, version: step }.put(&buf, i as usize * BLOCK as usize);
                }),
                _ if seed % 4 == 0 => {
                    stamps.settle();
                    settled.clone_from(&model);
                    continue;
                }
                _ if seed % 2 == 0 => {
                    stamps.undo();
                    model.clone_from(&settled);
                    continue;
                }
                _ => continue,
            }
            stamps.write(first, &buf);
            for i in 0..count {
                model.insert(first + i, content(&buf, i as usize * BLOCK as usize));
            }
        }
        let zeros = |block| stamps.get(block) == Content::Zero;
        for block in 0..blocks - CELL {
            let expected = model.get(&block).cloned().unwrap_or_else(|| at_first(block));
            assert_eq!(stamps.get(block), expected, "seed {seed}, block {block}");
            let back = Buf::from_bytes(&[9; BLOCK as usize]);
            stamps.read(block, &back);
            assert_eq!(content(&back, 0), expected, "seed {seed}, block {block}");
            assert_eq!(stamps.differences(block, &back), 0, "seed {seed}, block {block}");
            back.write_at(14, &[77]);
            assert_eq!(stamps.differences(block, &back), 1, "seed {seed}, block {block}");
            let (len, data) = stamps.map(block, blocks - block);
            assert!(len > 0 && (data || (block..block + len).all(zeros)), "seed {seed}, block {block}");
        }
        // What is not needed any more takes no space.
        assert!(stamps.odd.len() <= model.len(), "seed {seed}");
        assert!(stamps.bytes.len() <= stamps.odd.len(), "seed {seed}");
    }
}

#[test]
fn a_terabyte_that_is_copied_takes_little_memory() {
    let mut stamps = Stamps::new(0);
    let buf = Buf::new(1 << 20);
    for piece in 0..1 << 20 {
        if piece % 512 == 0 {
            let first = piece * 256;
            (0..256)
                .for_each(|i| Stamp { block: first + i, version: 0 }.put(&buf, i as usize * BLOCK as usize));
            stamps.write(first, &buf);
        }
    }
    let cells = stamps.chunks.iter().flatten().count() * CHUNK;
    assert!(stamps.odd.is_empty() && cells <= (1 << 20) / 512 * CHUNK, "{cells}");
}
