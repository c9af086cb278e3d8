//! A short run of every target: first its corpus, then seeded mutations of it. Also runs bad targets, to
//! check that each kind of failure is detected.
//!
//! `MILLRACE_SEED=n` replays one mutation, `MILLRACE_SEEDS=n` sets the number of mutations.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::path::PathBuf;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::Duration;

use hostile::mutate::{below, mutate};
use hostile::{TARGETS, Target};
use libtest_mimic::{Arguments, Failed, Trial};
use seeded::Random;

/// The number of mutations of each target, unless it is set.
const SEEDS: u64 = 400;
/// Seeds beyond those that found a failure once and are run each time.
const FOUND: [u64; 2] = [2319, 3942];
/// An input that takes longer than this hangs, even on a busy machine.
const HANGS: Duration = Duration::from_secs(60);

thread_local! {
    // Negative if a thread freed memory that other threads allocated.
    static IN_USE: Cell<isize> = const { Cell::new(0) };
    static PEAK: Cell<isize> = const { Cell::new(0) };
}

/// Counts the memory that each thread has in use. Entry points start no threads.
struct Counting;

#[global_allocator]
static COUNTING: Counting = Counting;

// SAFETY: everything is left to the system's allocator; the counters are plain thread-local numbers.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size() as isize);
        // SAFETY: the caller keeps the contract of `GlobalAlloc`.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        count(layout.size() as isize);
        // SAFETY: the caller keeps the contract of `GlobalAlloc`.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        count(-(layout.size() as isize));
        // SAFETY: the caller keeps the contract of `GlobalAlloc`.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count(size as isize - layout.size() as isize);
        // SAFETY: the caller keeps the contract of `GlobalAlloc`.
        unsafe { System.realloc(pointer, layout, size) }
    }
}

fn count(bytes: isize) {
    // Nothing is counted while a thread ends.
    let _ = IN_USE.try_with(|in_use| {
        in_use.set(in_use.get() + bytes);
        let _ = PEAK.try_with(|peak| peak.set(peak.get().max(in_use.get())));
    });
}

/// Runs a target with one input. Fails if it used more memory than allowed.
fn run(target: &Target, input: &[u8]) -> Result<(), String> {
    let before = IN_USE.get();
    PEAK.set(before);
    (target.run)(input);
    let (peak, allowed) = ((PEAK.get() - before).unsigned_abs(), (target.memory)(input.len()));
    if peak > allowed {
        return Err(format!("{peak} bytes in use for an input of {}, {allowed} allowed", input.len()));
    }
    Ok(())
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

/// Runs a target with one input on a thread of its own. The error says what the target did wrong.
fn judge(target: &'static Target, input: &[u8], patience: Duration) -> Result<(), String> {
    let (done, ended) = mpsc::channel();
    let copy = input.to_vec();
    let thread = std::thread::spawn(move || {
        let outcome = run(target, &copy);
        let _ = done.send(());
        outcome
    });
    match ended.recv_timeout(patience) {
        Err(RecvTimeoutError::Timeout) => Err("it hangs".to_owned()),
        _ => thread.join().unwrap_or_else(|_| Err("it panicked".to_owned())),
    }
}

fn trial(target: &'static Target) -> Result<(), Failed> {
    let corpus = (target.corpus)();
    let (seeds, found) = match number("MILLRACE_SEED") {
        Some(seed) => (seed..seed + 1, &[][..]),
        None => (0..number("MILLRACE_SEEDS").unwrap_or(SEEDS), &FOUND[..]),
    };
    let mutations = seeds.chain(found.iter().copied()).map(|seed| {
        let mut random = Random::new(seed);
        let mut input = corpus[below(&mut random, corpus.len() as u64) as usize].clone();
        mutate(&mut input, &mut random);
        (format!("MILLRACE_SEED={seed}"), input)
    });
    let sound = corpus.iter().cloned().enumerate().map(|(n, input)| (format!("corpus {n}"), input));
    for (name, input) in sound.chain(mutations) {
        let outcome = judge(target, &input, HANGS);
        outcome.map_err(|what| format!("{name}: {what}; the input is {}", keep(target, &input)))?;
    }
    Ok(())
}

/// A test target that runs `run`.
const fn bad(name: &'static str, run: fn(&[u8])) -> Target {
    Target { name, run, corpus: Vec::new, memory: |len| len + 4096 }
}

static SOUND: Target = bad("a sound target passes", |input| drop(std::hint::black_box(input.to_vec())));

/// Bad targets, and a part of the error that each must cause.
static BAD: [(Target, &str); 3] = [
    (bad("a panic is noticed", |input| panic!("{} bytes", input.len())), "it panicked"),
    (
        bad("a hang is noticed", |_| {
            loop {
                std::thread::park();
            }
        }),
        "it hangs",
    ),
    (
        bad("memory is noticed", |input| drop(std::hint::black_box(vec![1_u8; 3 * input.len()]))),
        "bytes in use for an input of 8192",
    ),
];

fn judged(target: &'static Target, says: &str) -> Result<(), Failed> {
    // Only the target that never ends waits for this time-out.
    let patience = if says == "it hangs" { Duration::from_millis(200) } else { HANGS };
    match judge(target, &[0; 8192], patience) {
        Err(what) if what.contains(says) => Ok(()),
        other => Err(format!("{other:?} instead of '{says}'").into()),
    }
}

/// Writes an input to a file for `replay` or a fuzzer. Returns its path.
fn keep(target: &Target, input: &[u8]) -> String {
    let path = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("hostile-{}", target.name));
    match std::fs::write(&path, input) {
        Ok(()) => path.display().to_string(),
        Err(e) => format!("lost: {e}"),
    }
}

fn main() {
    let arguments = Arguments::from_args();
    let doors = TARGETS.iter().map(|target| Trial::test(target.name, move || trial(target)));
    let bad = BAD.iter().map(|(target, says)| Trial::test(target.name, move || judged(target, says)));
    let sound = Trial::test(SOUND.name, || Ok(judge(&SOUND, &[0; 8192], HANGS)?));
    libtest_mimic::run(&arguments, doors.chain(bad).chain([sound]).collect()).exit();
}
