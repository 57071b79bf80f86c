//! What a second variant and a second try ask the caches for: what is missing, and nothing twice.
//! Each test works in namespaces of its own, which take every mount with them.

use std::{collections::BTreeMap, fs, thread::sleep, time::Duration};

use e2e::{csi, made_up::Closure, server::Server};

/// How often each path that begins so was asked for, since the log had `from` entries.
fn asked(server: &Server, begin: &str, from: usize) -> BTreeMap<String, usize> {
    let mut times = BTreeMap::new();
    for access in server.log().split_off(from) {
        if access.path.starts_with(begin) {
            *times.entry(access.path).or_default() += 1;
        }
    }
    times
}

fn narinfos(server: &Server, from: usize) -> BTreeMap<String, usize> {
    let mut all = asked(server, "/", from);
    all.retain(|path, _| path.ends_with(".narinfo"));
    all
}

#[test]
fn a_variant_that_shares_most_of_its_paths_fetches_the_rest_alone() {
    csi::on_a_machine("two variants that share most", |machine| {
        let first = Closure::new("first", 20, 20_000).unwrap();
        let second = Closure::above("second", (4, 20_000), &first, 4).unwrap();
        assert_eq!(
            second
                .paths()
                .filter(|path| first.paths().any(|one| one == *path))
                .count(),
            16
        );
        let server = machine.offer(&[("first", &first), ("second", &second)], None).unwrap();
        let agent = machine.start().unwrap();
        let client = agent.client().unwrap();
        let volume = machine.volume("one").unwrap();
        client.publish(volume.publish("first")).unwrap();
        let before = server.log().len();
        let (infos, archives) = (narinfos(&server, 0), asked(&server, "/nar/", 0));
        assert_eq!((infos.len(), archives.len()), (20, 20));
        let other = machine.volume("other").unwrap();
        client.publish(other.publish("second")).unwrap();
        let (infos, archives) = (narinfos(&server, before), asked(&server, "/nar/", before));
        let new: Vec<_> = second
            .paths()
            .take(4)
            .map(|path| format!("/{}.narinfo", path.hash()))
            .collect();
        assert!(
            infos.len() == 4 && new.iter().all(|path| infos.contains_key(path)),
            "{infos:?}"
        );
        assert_eq!(archives.len(), 4, "{archives:?}");
        // Equal files of two paths are one archive of the cache.
        let all = asked(&server, "/nar/", 0);
        assert_eq!(all.values().sum::<usize>(), 24, "{all:?}");
    })
    .unwrap();
}

#[test]
fn a_fetch_that_is_tried_again_asks_for_no_narinfo_that_it_has() {
    csi::on_a_machine("a fetch that is tried again", |machine| {
        let closure = Closure::new("tools", 20, 20_000).unwrap();
        let server = machine.offer(&[("tools", &closure)], None).unwrap();
        // One archive is not there when it is first asked for.
        let root = machine.path("cache").join(format!("{}.narinfo", closure.root().hash()));
        let narinfo = fs::read_to_string(&root).unwrap();
        let archive = narinfo.lines().find_map(|line| line.strip_prefix("URL: ")).unwrap();
        let archive = machine.path("cache").join(archive);
        let aside = archive.with_extension("aside");
        fs::rename(&archive, &aside).unwrap();
        let agent = machine.start().unwrap();
        let client = agent.client().unwrap();
        let volume = machine.volume("patient").unwrap();
        client.publish(volume.publish("tools")).unwrap_err();
        fs::rename(&aside, &archive).unwrap();
        while client.publish(volume.publish("tools")).is_err() {
            // As kubelet does.
            sleep(Duration::from_millis(500));
        }
        let mut infos = narinfos(&server, 0);
        let of_the_root = infos.remove(&format!("/{}.narinfo", closure.root().hash()));
        assert!(
            infos.len() == 19 && infos.values().all(|times| *times == 1),
            "{infos:?}"
        );
        assert!(of_the_root > Some(1), "what it said was wrong: it is asked for anew");
    })
    .unwrap();
}
