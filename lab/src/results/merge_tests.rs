use super::*;
use crate::results::tests::{made_up, same};

fn parts(of: usize) -> Vec<(PathBuf, Results)> {
    (1..=of)
        .map(|number| (PathBuf::from(format!("part{number}")), made_up(Shard { number, of }, "one")))
        .collect()
}

fn refused(parts: Vec<(PathBuf, Results)>, words: &[&str]) {
    let text = merge(parts).unwrap_err().to_string();
    assert!(words.iter().all(|word| text.contains(word)), "{text}");
}

#[test]
fn shards_in_any_order_give_what_one_machine_gives() {
    let mut whole = made_up(Shard::ALL, "one");
    whole.info.host.clear();
    for of in [1, 2, 5, 12, 20] {
        for turn in 0..of {
            let mut parts = parts(of);
            parts.rotate_left(turn);
            let mut merged = merge(parts).unwrap();
            assert_eq!(merged.info.host.len(), of);
            merged.info.host.clear();
            assert!(same(&merged, &whole), "{of} shards from {turn}");
        }
    }
}

#[test]
fn a_missing_shard_is_named() {
    let mut some = parts(5);
    some.remove(3);
    some.remove(0);
    refused(some, &["2 of 5 shards are missing: 1/5, 4/5"]);
    refused(Vec::new(), &["no shards"]);
    let mut few = parts(60);
    few.truncate(1);
    refused(few, &["59 of 60", "and 39 more"]);
}

#[test]
fn a_shard_that_is_given_twice_is_named() {
    let mut some = parts(3);
    some.push((PathBuf::from("copy"), made_up(Shard { number: 2, of: 3 }, "one")));
    refused(some, &["2/3", "twice", "part2", "copy"]);
}

#[test]
fn shards_of_different_experiments_or_divisions_are_refused() {
    let mut some = parts(2);
    some[1].1 = made_up(Shard { number: 2, of: 2 }, "two");
    refused(some, &["part1", "part2", "the experiment's file differs"]);
    let mut some = parts(2);
    some.remove(1);
    some.push((PathBuf::from("third"), made_up(Shard { number: 2, of: 3 }, "one")));
    refused(some, &["part1", "third", "one division"]);
}
