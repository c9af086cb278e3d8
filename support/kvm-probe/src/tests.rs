//! Tests that the result is stable, quick and one line. The result itself depends on the host.

use super::*;

#[test]
fn the_answer_is_one_line() {
    let answer = kvm();
    eprintln!("{answer}");
    assert!(!answer.to_string().contains('\n'));
    assert!(!matches!(answer, Kvm::Broken(_)), "{answer}");
}
