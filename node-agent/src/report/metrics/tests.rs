//! That every metric is documented, and that what happens is counted under words that cannot multiply.
//! Never needs a server.

use std::time::Duration;

use crds::{
    catalogue::EnvironmentKey,
    domain::{node::NodeFacts, store_path::System},
};

use super::*;
use crate::snapshot::{status::EnvironmentReport, view::ViewKind};

fn happening(what: What) -> Happening {
    Happening {
        pod: None,
        environment: None,
        what,
    }
}

fn failed(reason: Reason) -> Happening {
    happening(What::Failed {
        reason,
        message: "no".to_owned(),
    })
}

fn report(names: &[&str]) -> NodeReport {
    let environments = names.iter().map(|name| EnvironmentReport {
        key: EnvironmentKey {
            namespace: Some("a".to_owned()),
            name: (*name).to_owned(),
        },
        generation: 1,
        packages: vec![("pytorch".to_owned(), "cu128".to_owned())],
        standing: Standing::Ready,
        pods: 1,
    });
    NodeReport {
        facts: NodeFacts {
            driver: DriverState::Ready {
                version: "550.54.14".parse().unwrap(),
                cuda: "12.4".parse().unwrap(),
            },
            gpus: vec!["9.0:tesla".parse().unwrap(), "8.9".parse().unwrap()],
            system: System::X86_64Linux,
        },
        driver_place: None,
        store: Ok(crate::snapshot::status::StoreNumbers::default()),
        self_test: SelfTest::Passed,
        registered: Some(true),
        environments: environments.collect(),
        undeclared: std::collections::BTreeSet::new(),
        contents: std::collections::BTreeMap::new(),
        outdated_pods: Vec::new(),
        drain: false,
    }
}

#[test]
fn what_happens_is_counted() {
    let metrics = Metrics::register().unwrap();
    metrics.happened(&happening(What::Published {
        view: "0123456789abcdef0123456789abcdef".parse().unwrap(),
        kind: ViewKind::Overlay,
        took: Duration::from_millis(3),
    }));
    for reason in [Reason::DriverTooOld, Reason::DriverTooOld, Reason::SignatureUntrusted] {
        metrics.happened(&failed(reason));
    }
    metrics.node(&report(&["x", "y"]));
    metrics.node(&report(&["y"]));
    metrics.event_told(Ended::Dropped);
    let text = metrics.text().unwrap();
    for line in [
        r#"cudaenv_publish_total{reason="",result="ok"} 1"#,
        r#"cudaenv_publish_total{reason="DriverTooOld",result="failed"} 2"#,
        r#"cudaenv_incompatible_total{reason="DriverTooOld"} 2"#,
        "cudaenv_signature_failures_total 1",
        r#"cudaenv_publish_duration_seconds_bucket{le="0.005"} 1"#,
        r#"cudaenv_node_info{arch="x86_64-linux",cuda="12.4",driver="550.54.14",sm="8.9,9.0"} 1"#,
        r#"cudaenv_variant_selected{environment="y",namespace="a",package="pytorch",variant="cu128"} 1"#,
        r#"cudaenv_environments{phase="Ready"} 1"#,
        r#"cudaenv_events_total{result="dropped"} 1"#,
    ] {
        assert!(text.lines().any(|found| found == line), "no {line} in\n{text}");
    }
    assert!(
        !text.contains("environment=\"x\""),
        "what is gone is not told of any more"
    );
}

#[test]
fn every_metric_stands_in_the_reference_with_its_help() {
    let metrics = Metrics::register().unwrap();
    for reason in [Reason::DriverTooOld, Reason::SignatureUntrusted] {
        metrics.happened(&failed(reason));
    }
    metrics.node(&report(&["x"]));
    metrics.followed(false, &["cudaenvironments"]);
    metrics.happened(&Happening {
        pod: None,
        environment: None,
        what: What::Collected {
            freed_bytes: 1,
            at: std::time::SystemTime::UNIX_EPOCH,
        },
    });
    let reference = include_str!("../../../../docs/reference/agent-metrics.md");
    let families = metrics.registry.gather();
    let rows: Vec<_> = families
        .iter()
        .map(|family| {
            let labels = family.get_metric().first().map(|metric| {
                let names = metric.get_label().iter().map(|label| format!("`{}`", label.name()));
                names.collect::<Vec<_>>().join(", ")
            });
            format!(
                "| `{}` | {} | {} |",
                family.name(),
                labels.unwrap_or_default(),
                family.help()
            )
        })
        .collect();
    let missing: Vec<_> = rows.iter().filter(|row| !reference.contains(row.as_str())).collect();
    assert!(
        missing.is_empty(),
        "docs/reference/agent-metrics.md lacks\n{missing:#?}"
    );
    let told = reference.lines().filter(|line| line.starts_with("| `")).count();
    assert_eq!(
        told,
        rows.len(),
        "docs/reference/agent-metrics.md tells of metrics that are none"
    );
}
