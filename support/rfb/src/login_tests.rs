use super::*;

#[test]
fn the_answer_to_a_challenge_is_des_with_the_bits_of_the_key_reversed() {
    // FIPS 81's example: key 0123456789abcdef, "Now is the time for all ". The password is that key with the
    // bits of each byte reversed.
    let password = [0x01, 0x23, 0x45, 0x67, 0x89, 0xab, 0xcd, 0xef].map(u8::reverse_bits);
    let answer = encrypted(password, *b"Now is the time ");
    let expected =
        [0x3f, 0xa4, 0x0e, 0x8a, 0x98, 0x4d, 0x48, 0x15, 0x6a, 0x27, 0x17, 0x87, 0xab, 0x88, 0x83, 0xf9];
    assert_eq!(answer, expected);
}
