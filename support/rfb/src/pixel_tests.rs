use super::*;

fn format(bits: u8, depth: u8, big_endian: bool, max: [u16; 3], shift: [u8; 3]) -> Format {
    let format = Format { bits, depth, big_endian, true_colour: true, max, shift };
    Format::parse(&format.to_bytes()).expect("a possible format")
}

fn converted(format: Format, pixels: &[u32]) -> Vec<u8> {
    let mut bytes = Vec::new();
    Converter::new(format).append(pixels, &mut bytes);
    bytes
}

fn compressed(format: Format, pixel: u32) -> Vec<u8> {
    let converter = Converter::new(format);
    let mut bytes = Vec::new();
    converter.append_compressed(converter.convert(pixel), &mut bytes);
    assert_eq!(bytes.len(), converter.compressed_len());
    bytes
}

#[test]
fn formats_survive_the_wire() {
    let bytes = Format::OURS.to_bytes();
    assert_eq!(bytes, [32, 24, 0, 1, 0, 255, 0, 255, 0, 255, 16, 8, 0, 0, 0, 0]);
    assert_eq!(Format::parse(&bytes), Some(Format::OURS));
}

#[test]
fn formats_that_no_pixel_can_have_are_refused() {
    let with = |at: usize, value: u8| {
        let mut bytes = Format::OURS.to_bytes();
        bytes[at] = value;
        Format::parse(&bytes)
    };
    // Bits: 0, 24, 64. Red beyond the pixel: by its shift, by both.
    for (at, value) in [(0, 0), (0, 24), (0, 64), (0, 255), (10, 32), (10, 255), (10, 25)] {
        assert_eq!(with(at, value), None, "{at} {value}");
    }
    assert!(with(10, 24).is_some());
    // A colour map has 256 colours at most.
    assert_eq!(with(3, 0), None);
}

#[test]
fn pixels_have_the_requested_order_and_width() {
    let pixel = &[0x00ff_8040];
    assert_eq!(converted(Format::OURS, pixel), [0x40, 0x80, 0xff, 0]);
    assert_eq!(converted(format(32, 24, true, [255; 3], [16, 8, 0]), pixel), [0, 0xff, 0x80, 0x40]);
    // As libvncclient asks by default: red first in memory.
    assert_eq!(converted(format(32, 24, false, [255; 3], [0, 8, 16]), pixel), [0xff, 0x80, 0x40, 0]);
    let rgb565 = [31, 63, 31];
    // 31, 32, 8: rounded, not cut off.
    let value: u16 = 31 << 11 | 32 << 5 | 8;
    assert_eq!(converted(format(16, 16, false, rgb565, [11, 5, 0]), pixel), value.to_le_bytes());
    assert_eq!(converted(format(16, 16, true, rgb565, [11, 5, 0]), pixel), value.to_be_bytes());
    assert_eq!(converted(format(8, 8, false, [7, 7, 3], [0, 3, 6]), pixel), [7 | 4 << 3 | 1 << 6]);
}

#[test]
fn white_is_the_largest_value_of_every_format() {
    for (bits, max, shift) in
        [(8, [7, 7, 3], [5, 2, 0]), (16, [31; 3], [10, 5, 0]), (32, [1023; 3], [20, 10, 0])]
    {
        let value = max.iter().zip(&shift).fold(0u32, |value, (max, shift)| value | u32::from(*max) << shift);
        let bytes = converted(format(bits, bits, false, max, shift), &[0x00ff_ffff]);
        assert_eq!(bytes, value.to_le_bytes()[..usize::from(bits / 8)]);
        assert_eq!(converted(format(bits, bits, false, max, shift), &[0]), vec![0; usize::from(bits / 8)]);
    }
}

#[test]
fn three_bytes_are_enough_for_zrle_if_the_fourth_is_never_used() {
    let pixel = 0x0012_3456;
    assert_eq!(compressed(Format::OURS, pixel), [0x56, 0x34, 0x12]);
    assert_eq!(compressed(format(32, 24, true, [255; 3], [16, 8, 0]), pixel), [0x12, 0x34, 0x56]);
    assert_eq!(compressed(format(32, 24, false, [255; 3], [24, 16, 8]), pixel), [0x56, 0x34, 0x12]);
    assert_eq!(compressed(format(32, 24, true, [255; 3], [24, 16, 8]), pixel), [0x12, 0x34, 0x56]);
    // All four, by depth or by use.
    assert_eq!(compressed(format(32, 32, false, [255; 3], [16, 8, 0]), pixel), [0x56, 0x34, 0x12, 0]);
    assert_eq!(compressed(format(32, 24, false, [255; 3], [24, 8, 0]), pixel).len(), 4);
    assert_eq!(compressed(format(16, 16, false, [31, 63, 31], [11, 5, 0]), pixel).len(), 2);
    assert_eq!(compressed(format(8, 8, false, [7, 7, 3], [0, 3, 6]), pixel).len(), 1);
}

#[test]
fn a_colour_map_has_the_colours_that_pixels_are_converted_to() {
    let mut bytes = Format::OURS.to_bytes();
    (bytes[0], bytes[3]) = (8, 0);
    let mapped = Format::parse(&bytes).unwrap();
    assert!(mapped.is_mapped() && !Format::OURS.is_mapped());
    let map: Vec<[u16; 3]> = colour_map().collect();
    assert_eq!((map.len(), map[0], map[255]), (256, [0; 3], [65_535; 3]));
    let index = converted(mapped, &[0x00ff_0000])[0];
    assert_eq!(map[usize::from(index)], [65_535, 0, 0]);
}
