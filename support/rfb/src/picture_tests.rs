use super::*;

const SIZE: Size = Size { width: 3, height: 2 };
const PIXELS: [u32; 6] = [0xff0000, 0x00ff00, 0x0000ff, 0x12345678, 0, 0xffffff];
const COLOURS: [u8; 18] = [255, 0, 0, 0, 255, 0, 0, 0, 255, 0x34, 0x56, 0x78, 0, 0, 0, 255, 255, 255];

#[test]
fn a_png_has_the_colours_of_its_pixels() {
    let file = png(SIZE, &PIXELS).unwrap();
    let mut reader = png::Decoder::new(io::Cursor::new(file)).read_info().unwrap();
    let mut bytes = vec![0; reader.output_buffer_size().unwrap()];
    let frame = reader.next_frame(&mut bytes).unwrap();
    assert_eq!((frame.width, frame.height, frame.color_type), (3, 2, png::ColorType::Rgb));
    assert_eq!(bytes, COLOURS);
}

#[test]
fn a_ppm_is_a_head_and_the_colours() {
    let file = ppm(SIZE, &PIXELS).unwrap();
    assert_eq!(file, [&b"P6\n3 2\n255\n"[..], &COLOURS].concat());
}

#[test]
fn a_picture_needs_as_many_pixels_as_its_size_says() {
    for pixels in [&PIXELS[..5], &[]] {
        assert_eq!(png(SIZE, pixels).unwrap_err().kind(), io::ErrorKind::InvalidInput);
        assert_eq!(ppm(SIZE, pixels).unwrap_err().kind(), io::ErrorKind::InvalidInput);
    }
    assert!(png(Size { width: 0, height: 9 }, &[]).is_err());
}
