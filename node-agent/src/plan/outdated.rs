//! Which pods still see a driver that the node no longer has.
//! Never names a pod because the driver is away: what comes instead must be known first.

use std::collections::BTreeSet;

use crds::domain::node::DriverState;

use crate::snapshot::status::PublishedVolume;

/// Pods, as `namespace/name`, sorted, whose volume shows another driver than `driver`.
pub fn outdated(volumes: &[PublishedVolume], driver: &DriverState) -> Vec<String> {
    let DriverState::Ready { version, .. } = driver else {
        return Vec::new();
    };
    let old = volumes.iter().filter(|volume| {
        let shown = volume.bridge.as_ref();
        shown.is_some_and(|bridge| bridge.driver() != version.as_str())
    });
    let pods: BTreeSet<_> = old
        .filter_map(|volume| volume.pod.as_ref())
        .map(|pod| format!("{}/{}", pod.namespace, pod.name))
        .collect();
    pods.into_iter().collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::snapshot::happening::Pod;

    #[test]
    fn pods_with_another_drivers_files_are_named_once_another_driver_is_ready() {
        let volume = |pod: &str, bridge: Option<&str>| PublishedVolume {
            pod: Some(Pod {
                namespace: "a".to_owned(),
                name: pod.to_owned(),
                uid: pod.to_owned(),
            }),
            bridge: bridge.map(|name| name.parse().unwrap()),
            environment: None,
            packages: Vec::new(),
        };
        let volumes = [
            volume("old", Some("535.274.02-07be29b82ca00122")),
            volume("old", Some("535.274.02-07be29b82ca00122")),
            volume("compat", Some("535.274.02-compat-570.86.15-07be29b82ca00122")),
            volume("new", Some("550.54.14-07be29b82ca00122")),
            volume("none", None),
        ];
        let ready = |version: &str| DriverState::Ready {
            version: version.parse().unwrap(),
            cuda: "12.4".parse().unwrap(),
        };
        assert_eq!(outdated(&volumes, &ready("550.54.14")), ["a/compat", "a/old"]);
        assert_eq!(outdated(&volumes, &ready("535.274.02")), ["a/new"]);
        assert_eq!(outdated(&volumes, &DriverState::Missing), Vec::<String>::new());
    }
}
