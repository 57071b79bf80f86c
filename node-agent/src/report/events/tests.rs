//! What is told of what happens, how often, and what is not.
//! Never needs an API server: what that takes is tested in e2e.

use crds::failure::Reason;

use super::*;
use crate::snapshot::view::ViewKind;

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(1_800_000_000 + second).unwrap()
}

fn happening(pod: &str, what: What) -> Happening {
    Happening {
        pod: Some(Pod {
            namespace: "team".to_owned(),
            name: pod.to_owned(),
            uid: format!("uid-{pod}"),
        }),
        environment: Some(EnvironmentKey {
            namespace: Some("team".to_owned()),
            name: "pytorch".to_owned(),
        }),
        what,
    }
}

fn fetch(done: u64) -> What {
    What::Fetching {
        status: FetchStatus {
            bytes_done: done << 20,
            bytes_total: 200 << 20,
            paths_done: 30,
            paths_total: 40,
            source: Some("flox".to_owned()),
            ..FetchStatus::default()
        },
        bytes_per_second: 10 << 20,
    }
}

fn failed(message: &str) -> What {
    What::Failed {
        reason: Reason::CacheUnreachable,
        message: message.to_owned(),
    }
}

fn created(telling: Option<Telling>) -> Event {
    match telling {
        Some(Telling::Create(event)) => *event,
        other => panic!("{other:?}"),
    }
}

fn updated(telling: Option<Telling>) -> (String, i32) {
    match telling {
        Some(Telling::Update(event)) => (event.note.unwrap(), event.series.unwrap().count),
        other => panic!("{other:?}"),
    }
}

#[test]
fn an_event_says_whose_it_is_and_what_happened() {
    let mut log = EventLog::new("node1");
    let variants = vec![
        ("jax".to_owned(), "cu128".to_owned()),
        ("vllm".to_owned(), "cu126".to_owned()),
    ];
    let event = created(log.tell(&happening("p", What::Selected { variants }), at(0)));
    assert_eq!(
        event.note.as_deref(),
        Some("CUDAEnvironment team/pytorch: selected jax: cu128, vllm: cu126")
    );
    let regarding = event.regarding.unwrap();
    assert_eq!(
        (regarding.kind.as_deref(), regarding.uid.as_deref()),
        (Some("Pod"), Some("uid-p"))
    );
    assert_eq!(event.related.unwrap().kind.as_deref(), Some("CUDAEnvironment"));
    assert_eq!(event.type_.as_deref(), Some("Normal"));
    let event = created(log.tell(&happening("p", fetch(50)), at(1)));
    assert_eq!(
        event.note.as_deref(),
        Some(
            "CUDAEnvironment team/pytorch: fetched 50.00 MiB of 200.00 MiB (25 %), 10.00 MiB/s from flox, \
             10 of 40 paths missing"
        )
    );
    let mounted = What::Published {
        view: "0123456789abcdef0123456789abcdef".parse().unwrap(),
        kind: ViewKind::Overlay,
        took: Duration::from_millis(1234),
    };
    let event = created(log.tell(&happening("p", mounted), at(2)));
    assert_eq!(event.reason.as_deref(), Some("Mounted"));
    let event = created(log.tell(&happening("p", failed("no")), at(3)));
    assert_eq!(
        (event.type_.as_deref(), event.reason.as_deref(), event.note.as_deref()),
        (Some("Warning"), Some("CacheUnreachable"), Some("no"))
    );
}

#[test]
fn a_long_fetch_is_one_event_that_is_brought_up_to_date_now_and_then() {
    let mut log = EventLog::new("node1");
    let mut tell = |done, second| log.tell(&happening("p", fetch(done)), at(second));
    let first = created(tell(1, 0));
    assert_eq!(first.series, None);
    assert_eq!(tell(2, 5), None);
    let (note, count) = updated(tell(100, 16));
    assert!(note.contains("(50 %)"), "{note}");
    assert_eq!(count, 2);
    // It stands still: that is told again, but less often.
    assert_eq!(tell(100, 60), None);
    assert_eq!(updated(tell(100, 140)).1, 3);
    // Another pod's fetch is another event.
    created(log.tell(&happening("q", fetch(100)), at(141)));
}

#[test]
fn what_kubelet_tries_again_and_again_is_counted_and_forgotten_with_the_volume() {
    let mut log = EventLog::new("node1");
    let mut writes = 0;
    for second in 0..600 {
        writes += i32::from(log.tell(&happening("p", failed("no answer")), at(second)).is_some());
    }
    assert_eq!(writes, 5, "one in two minutes");
    for (gone, second) in [
        (What::Unpublished { took: Duration::ZERO }, 600),
        (What::Forgotten, 602),
    ] {
        assert_eq!(log.tell(&happening("p", gone), at(second)), None);
        assert!(log.lines.is_empty());
        created(log.tell(&happening("p", failed("no answer")), at(second + 1)));
    }
    let mut nobody = happening("p", failed("no answer"));
    nobody.pod = None;
    assert_eq!(log.tell(&nobody, at(700)), None);
}

#[test]
fn nothing_grows_without_bound() {
    let mut log = EventLog::new("node1");
    let long = "é".repeat(2000);
    for number in 0..3000 {
        let event = created(log.tell(&happening(&format!("p{number}"), failed(&long)), at(number)));
        assert!(event.note.unwrap().len() <= LONGEST_NOTE);
    }
    assert_eq!(log.lines.len(), MOST_LINES);
    assert!(log.lines.keys().any(|(uid, _)| uid == "uid-p2999"));
    let event = created(log.tell(&happening(&"p".repeat(253), fetch(1)), at(9000)));
    assert!(event.metadata.name.unwrap().len() <= 253);
}
