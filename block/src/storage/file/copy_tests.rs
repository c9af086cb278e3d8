//! Copies through the page cache: the data, and what is left out.

use std::io::Write;

use proptest::prelude::*;

use super::*;

fn copy(source: File, from: u64, target: &Rc<File>, to: u64, len: u64, unit: u64) -> Vec<Range<u64>> {
    let (source, target) = (Rc::new(source), target.clone());
    let task = async move { through_cache(&source, from, &target, to, len, unit).await };
    let (zero, failed) = executor::Executor::simulated(1).block_on(task);
    assert!(failed.is_none());
    zero
}

/// Copies `content` from offset 512 to offset 1024, where the target is full of something.
fn copied(content: &[u8], unit: u64) -> (Vec<u8>, Vec<Range<u64>>) {
    let mut source = tempfile::tempfile().unwrap();
    source.write_all(&[[1; 512].as_slice(), content].concat()).unwrap();
    let mut target = tempfile::tempfile().unwrap();
    target.write_all(&vec![0xee; 1024 + content.len() + 512]).unwrap();
    let target = Rc::new(target);
    let zero = copy(source, 512, &target, 1024, content.len() as u64, unit);
    let mut after = vec![0; 1024 + content.len() + 512];
    target.read_exact_at(&mut after, 0).unwrap();
    assert!(after[..1024].iter().chain(&after[1024 + content.len()..]).all(|byte| *byte == 0xee));
    (after[1024..1024 + content.len()].to_vec(), zero)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]
    #[test]
    fn units_of_zeros_are_left_out_and_no_others(
        bits in 9u32..19,
        pattern in prop::collection::vec(any::<u8>(), 1..40),
    ) {
        let (unit, piece) = (1u64 << bits, 16 << 10);
        let mut content: Vec<u8> = pattern.iter().flat_map(|n| vec![if *n < 160 { 0 } else { *n }; piece]).collect();
        content.resize(content.len().next_multiple_of(unit as usize), 0);
        let (after, zero) = copied(&content, unit);
        for (start, expected) in (0..).step_by(unit as usize).zip(content.chunks(unit as usize)) {
            let left_out = zero.iter().any(|zero| zero.start <= start && start + unit <= zero.end);
            prop_assert_eq!(left_out, expected.iter().all(|byte| *byte == 0));
            prop_assert!(left_out || after[start as usize..][..unit as usize] == *expected);
        }
        prop_assert!(zero.windows(2).all(|pair| pair[0].end < pair[1].start));
        prop_assert!(zero.iter().all(|zero| zero.start % unit == 0 && zero.end % unit == 0));
    }
}

#[test]
fn a_source_that_ends_early_reads_as_zeros() {
    let source = tempfile::tempfile().unwrap();
    source.set_len(100).unwrap();
    source.write_all_at(&[7; 100], 0).unwrap();
    let target = Rc::new(tempfile::tempfile().unwrap());
    let zero = copy(source, 0, &target, 0, 1 << 20, 4096);
    assert_eq!(zero, [Range { start: 4096, end: 1 << 20 }]);
    assert_eq!(target.metadata().unwrap().len(), 4096);
}

/// With clusters smaller than the file system's blocks, every attempt would take clusters and give them
/// back.
#[test]
fn a_file_system_that_fits_no_range_is_not_asked_for_ever() {
    let known = Known::default();
    let misfit = io::Error::from_raw_os_error(libc::EINVAL);
    for _ in 0..MISFITS - 1 {
        known.refuse(&misfit);
        assert!(known.may_work(), "one that does not fit says nothing of the next");
    }
    known.refuse(&misfit);
    assert!(!known.may_work());
    let known = Known::default();
    known.refuse(&io::Error::from_raw_os_error(libc::EOPNOTSUPP));
    assert!(!known.may_work());
}

/// Reads the memory of this process as a file, in which a mapping is longer than its file: the part past
/// the end cannot be read.
#[test]
fn what_was_copied_before_a_read_that_fails_is_told() {
    let (good, len) = (192 << 10, 1 << 20);
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(&vec![7; good as usize]).unwrap();
    // SAFETY: a new mapping, at an address that the kernel chooses.
    let at = unsafe {
        libc::mmap(std::ptr::null_mut(), len as usize, libc::PROT_READ, libc::MAP_SHARED, file.as_raw_fd(), 0)
    };
    assert_ne!(at, libc::MAP_FAILED);
    let (source, target) = (File::open("/proc/self/mem").unwrap(), Rc::new(tempfile::tempfile().unwrap()));
    let (source, copied) = (Rc::new(source), target.clone());
    let task = async move { through_cache(&source, at as u64, &copied, 0, len, 4096).await };
    let (zero, failed) = executor::Executor::simulated(1).block_on(task);
    // SAFETY: what was mapped above, which nobody refers to.
    unsafe { libc::munmap(at, len as usize) };
    assert!(zero.is_empty());
    let Some((done, Failed::Read(place, e))) = failed else { panic!("the read did not fail") };
    assert_eq!((done, place, e.raw_os_error()), (good, at as u64 + good, Some(libc::EIO)));
    assert_eq!(target.metadata().unwrap().len(), good);
}
