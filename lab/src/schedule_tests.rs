use super::*;

#[test]
fn shards_hold_each_run_once() {
    let all = jobs(3, 4, &[7, 8, 9, 10, 11], Shard::ALL);
    assert_eq!(all.len(), 60);
    assert!(all.is_sorted());
    for of in [1, 2, 7, 60, 61] {
        let mut found: Vec<Job> =
            (1..=of).flat_map(|number| jobs(3, 4, &[7, 8, 9, 10, 11], Shard { number, of })).collect();
        found.sort();
        assert_eq!(found, all, "{of} shards");
    }
}

#[test]
fn shards_are_written_as_k_of_n() {
    assert_eq!("3/8".parse(), Ok(Shard { number: 3, of: 8 }));
    assert_eq!(Shard { number: 3, of: 8 }.to_string(), "3/8");
    for wrong in ["0/8", "9/8", "3", "3/", "/8", "a/b", "1/0", "-1/2", "1/9999999"] {
        assert!(wrong.parse::<Shard>().is_err(), "{wrong}");
    }
}

#[test]
fn every_run_is_done_once_on_any_number_of_threads() {
    let all = jobs(2, 3, &[1, 2, 3, 4], Shard::ALL);
    for threads in [0, 1, 3, 100] {
        let mut found = Vec::new();
        let result = run_all(
            &all,
            threads,
            |job| job.seed * 2,
            |job, value| {
                assert_eq!(value, job.seed * 2);
                found.push(job);
                Ok::<(), ()>(())
            },
        );
        assert_eq!(result, Ok(()));
        found.sort();
        assert_eq!(found, all);
    }
}

#[test]
fn an_error_of_the_disk_ends_all_threads() {
    let all = jobs(100, 10, &[1, 2], Shard::ALL);
    let mut count = 0;
    let result = run_all(
        &all,
        4,
        |job| *job,
        |_, _| {
            count += 1;
            if count == 5 { Err("full") } else { Ok(()) }
        },
    );
    assert_eq!((result, count), (Err("full"), 5));
}
