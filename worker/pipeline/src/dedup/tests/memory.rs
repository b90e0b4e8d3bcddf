//! What stays in memory, what is forgotten and what is learnt: nobody loses a key by it.

use super::*;

/// Across processes none of these events is kept: their keys are committed.
async fn knows_all(lake: &Lake, events: &[Event]) {
    let kept = lake.attempt_apart(2, &[vec![batch(events)]]).await.kept;
    assert!(kept.is_empty(), "{} keys were forgotten", kept.len());
}

#[tokio::test]
async fn forgotten_hours_come_back_from_their_files() {
    let hours = 20;
    let mut lake = Lake::new(100_000);
    let hour = |hour: i64| -> Vec<Event> { (0..1_000).map(|n| event(n, hour * HOUR)).collect() };
    for round in 0..3 {
        for n in 0..hours {
            let outcome = lake.run(&[vec![batch(&hour(n))]]).await;
            assert_eq!(outcome.kept.len(), if round == 0 { 1_000 } else { 0 });
            assert!(lake.index.bytes() <= 100_000, "{} bytes", lake.index.bytes());
        }
    }
}

/// Five hours have late events in every batch, and memory is there for three: none of them is read again and again, and the one
/// that most events are of is in memory.
#[tokio::test]
async fn hours_that_do_not_fit_together_do_not_push_out_each_other() {
    let mut lake = Lake::new(PLENTY);
    let hour = |hour: i64, count: u64| (0..count).map(move |n| event(n, hour * HOUR));
    let all: Vec<Event> = (0..5).flat_map(|n| hour(n, 1_000)).collect();
    let mut outcome = lake.attempt_apart(1, &[vec![batch(&all)]]).await;
    lake.files = lake.write_keys(&mut outcome).await;
    let each = lake.files.iter().map(|file| file.hour).collect::<HashSet<_>>();
    assert_eq!((each.len(), outcome.kept.len()), (5, 5_000));
    lake.memory_bytes = 100_000;
    lake.reopen();
    let mut residents = Vec::new();
    for round in 0..8 {
        lake.batch += 1;
        // In another order every time: the current hour comes at another place.
        let mut hours: Vec<i64> = (0..5).collect();
        hours.rotate_left(round % 5);
        let events: Vec<Event> = hours
            .into_iter()
            .flat_map(|n| hour(n, if n == 4 { 500 } else { 10 }))
            .collect();
        let tasks = vec![vec![batch(&events)]; 2];
        assert_eq!(lake.attempt_apart(1, &tasks).await.kept.len(), 0);
        assert!(lake.index.bytes() <= lake.memory_bytes);
        residents.push(lake.index.residents());
    }
    for (round, (before, after)) in residents.iter().zip(&residents[1..]).enumerate() {
        assert!(
            after.len() == 3 && after.contains_key(&4),
            "{:?} after round {round}",
            after.keys()
        );
        let stayed = before
            .iter()
            .all(|(hour, keys)| after.get(hour).is_some_and(|now| Arc::ptr_eq(keys, now)));
        assert!(
            stayed,
            "{:?} and {:?} after round {round}",
            before.keys(),
            after.keys()
        );
    }
}

/// Its files are replaced by one and deleted while another process has the hour in memory, and half of a later one.
#[tokio::test]
async fn an_hour_whose_files_were_compacted_still_knows_every_key() {
    let mut lake = Lake::new(PLENTY);
    let events: Vec<Event> = (0..3_000).map(|n| event(n, n as i64 % 2 * HOUR)).collect();
    for part in events.chunks(1_000) {
        let mut outcome = lake.attempt_apart(2, &[vec![batch(part)]]).await;
        let files = lake.write_keys(&mut outcome).await;
        lake.files.extend(files);
        lake.batch += 1;
    }
    let stale = lake.files.clone();
    knows_all(&lake, &events).await;
    let (old, kept): (Vec<_>, Vec<_>) = lake.files.drain(..).partition(|file| file.hour == 0);
    let mut keys = Vec::new();
    for file in &old {
        let path = Path::from(format!("lake/{}", file.object.key));
        keys.extend(read_keys(lake.store.get(&path).await.unwrap().bytes().await.unwrap()).unwrap());
        lake.store.delete(&path).await.unwrap();
    }
    let mut merged = Outcome {
        keys: vec![BTreeMap::from([(0, keys)])],
        ..Outcome::default()
    };
    lake.files = vec![kept[0].clone(); 90]; // so that no name comes twice
    let compacted = lake.write_keys(&mut merged).await;
    lake.files = [kept, compacted].concat();
    lake.batch += 1;
    knows_all(&lake, &events).await;
    // A task that was dealt out before the compaction comes late: nothing is taken away for it.
    let newer = std::mem::replace(&mut lake.files, stale);
    lake.batch -= 1;
    knows_all(&lake, &events[..10]).await;
    lake.files = newer;
    lake.batch += 1;
    knows_all(&lake, &events).await;
}

/// Three batches of two hours are committed. A task of the next one is dropped wherever it waits for the store, with the
/// hours in memory as the first batch left them or not at all: the next attempt knows every key, and no memory is lost.
#[tokio::test]
async fn a_task_that_is_dropped_while_it_learns_leaves_nothing_half_known() {
    let mut lake = Lake::new(PLENTY);
    let part = |n: u64| {
        batch(
            &(0..100)
                .map(|k| event(n * 100 + k, k as i64 % 2 * HOUR))
                .collect::<Vec<_>>(),
        )
    };
    for n in 0..3 {
        let mut outcome = lake.attempt_apart(1, &[vec![part(n)]]).await;
        let files = lake.write_keys(&mut outcome).await;
        lake.files.extend(files);
        lake.batch += 1;
    }
    let (all, last) = (lake.files.clone(), lake.batch);
    let events = || (0..3).map(part).collect::<Vec<_>>();
    for is_in_memory in [false, true] {
        let mut waits = 0;
        let mut sizes = HashSet::new();
        loop {
            let slow = ThrottleConfig {
                wait_get_per_call: Duration::from_micros(100),
                ..ThrottleConfig::default()
            };
            let store = Arc::new(ThrottledStore::new(lake.store.fork(), slow));
            lake.index = Arc::new(KeyIndex::new(store, Path::from("lake"), Vec::new(), PLENTY));
            if is_in_memory {
                (lake.files, lake.batch) = (all[..2].to_vec(), 2);
                assert_eq!(lake.attempt_apart(1, &[events()]).await.kept.len(), 200);
            }
            (lake.files, lake.batch) = (all.clone(), last);
            let was_dropped = lake.attempt_stopped(waits, events()).await;
            let kept = lake.attempt_apart(1, &[events()]).await.kept;
            assert!(
                kept.is_empty(),
                "{} keys are missing after {waits} waits",
                kept.len()
            );
            sizes.insert(lake.index.bytes());
            if !was_dropped {
                break;
            }
            waits += 1;
        }
        assert!(waits > 3, "it was dropped at {waits} places only");
        // Read in one go from the same files.
        assert!(
            is_in_memory || sizes.len() == 1,
            "memory for the same hours: {sizes:?}"
        );
    }
}

/// Also where the newest key files left, and where all did; what a late task of an older batch brings stays forgotten.
#[tokio::test]
async fn keys_that_expired_are_forgotten_by_whoever_had_them_in_memory() {
    let mut lake = Lake::new(PLENTY);
    let events: Vec<Event> = (0..200).map(|n| event(n, n as i64 % 2 * HOUR)).collect();
    let mut outcome = lake.attempt_apart(2, &[vec![batch(&events)]]).await;
    lake.files = lake.write_keys(&mut outcome).await;
    lake.batch += 1;
    knows_all(&lake, &events).await;
    let stale = lake.files.clone();
    for left in [100, 0] {
        lake.files.truncate(left / 100);
        lake.batch += 2; // an expiry, and a batch after it
        let kept = lake.attempt_apart(2, &[vec![batch(&events)]]).await.kept;
        assert_eq!(kept.len(), events.len() - left);
    }
    lake.files = stale;
    lake.batch -= 1;
    let kept = lake.attempt_apart(2, &[vec![batch(&events)]]).await.kept;
    assert_eq!(kept.len(), events.len());
}
