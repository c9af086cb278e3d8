//! Config space as a driver reads it (virtio 1.2, 5.2.4). The offsets are written by hand, from the
//! standard.

use virtio::has;

use super::*;

fn config(read_only: bool, queues: u16) -> Config {
    Config::new(Options {
        size: (5 << 40) + 700,
        read_only,
        serial: "s".into(),
        queues,
        errors: ErrorPolicy::report(),
    })
}

fn field<const N: usize>(config: &Config, offset: u64) -> [u8; N] {
    let offset = offset as usize;
    config.space().as_bytes()[offset..offset + N].try_into().unwrap()
}

#[test]
fn fields() {
    let config = config(false, 4);
    assert_eq!(u64::from_le_bytes(field(&config, 0)), (5 << 31) + 1);
    assert_eq!(u32::from_le_bytes(field(&config, 12)), 254); // seg_max
    assert_eq!(u32::from_le_bytes(field(&config, 20)), 512); // blk_size
    assert_eq!(field(&config, 32), [1]); // writeback
    assert_eq!(u16::from_le_bytes(field(&config, 34)), 4); // num_queues
    assert_eq!(u32::from_le_bytes(field(&config, 36)), 262_144); // max_discard_sectors
    assert_eq!(u32::from_le_bytes(field(&config, 40)), 16); // max_discard_seg
    assert_eq!(u32::from_le_bytes(field(&config, 44)), 8); // discard_sector_alignment
    assert_eq!(u32::from_le_bytes(field(&config, 48)), 262_144); // max_write_zeroes_sectors
    assert_eq!(u32::from_le_bytes(field(&config, 52)), 16); // max_write_zeroes_seg
    assert_eq!(field(&config, 56), [1]); // write_zeroes_may_unmap
}

#[test]
fn features_follow_options() {
    for (read_only, queues) in [(false, 1), (true, 1), (false, 2), (false, 0)] {
        let config = config(read_only, queues);
        let features = config.features();
        assert_eq!(has(features, VIRTIO_BLK_F_RO), read_only);
        assert_eq!(has(features, VIRTIO_BLK_F_DISCARD), !read_only);
        assert_eq!(has(features, VIRTIO_BLK_F_WRITE_ZEROES), !read_only);
        assert_eq!(has(features, VIRTIO_BLK_F_MQ), queues > 1);
        assert_eq!(config.queues(), queues.max(1));
        assert!(has(features, VIRTIO_BLK_F_FLUSH));
    }
}
