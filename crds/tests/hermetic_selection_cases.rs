//! Nodes and variants that went wrong for somebody, one test a lesson.
//! Never checks a sentence in full: numbers and names in it are checked, its wording may change.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on must fail")]

use std::collections::BTreeMap;

use crds::{
    domain::{
        environment::{DriverRange, Package, Variant},
        node::{DriverState, NodeFacts},
        store_path::System,
    },
    selection::{
        CompatLibrary, CompatNote, Contents, FileCode, KnownContents, Mode, Reason, Selected, Selection, select,
    },
};
use nodes::{code, environment, node, nothing, on, path, undeclared, variant, verdict, with_compat};

#[path = "support/nodes.rs"]
mod nodes;

#[track_caller]
fn fits(node: &NodeFacts, variant: &Variant, mode: Mode) -> Selected {
    let selected = verdict(node, variant, &nothing()).unwrap();
    assert_eq!(selected.mode, mode);
    selected
}

#[track_caller]
fn rejects(node: &NodeFacts, variant: &Variant, reason: Reason, says: &[&str]) {
    let (found, detail) = verdict(node, variant, &nothing()).unwrap_err();
    assert_eq!(found, reason, "{detail}");
    for word in says {
        assert!(detail.contains(word), "`{word}` is not in: {detail}");
    }
}

#[test]
fn a_mixed_node_needs_code_for_every_gpu() {
    let mixed = node("550.163.01", "8.0 9.0");
    rejects(
        &mixed,
        &variant("12.4", "8.0"),
        Reason::NoCodeForGpu,
        &["9.0", "(8.0, 9.0)", "sm_90"],
    );
    fits(&mixed, &variant("12.4", "8.0 9.0"), Mode::Native);
    let newer = variant("12.6", "8.0 +8.0@8.5");
    rejects(
        &mixed,
        &newer,
        Reason::PtxTooNew,
        &["9.0", "8.5", "8.4", "550.163.01", "12.5"],
    );
}

#[test]
fn code_for_one_gpu_alone_does_not_run_on_its_neighbours() {
    rejects(
        &node("550.163.01", "8.9"),
        &variant("12.4", "9.0a"),
        Reason::NoCodeForGpu,
        &["8.9", "SASS 9.0a", "209"],
    );
    fits(&node("550.163.01", "9.0"), &variant("12.4", "9.0a"), Mode::Native);
    rejects(
        &node("580.95.05", "8.7"),
        &variant("12.8", "8.6"),
        Reason::NoCodeForGpu,
        &["sm_87"],
    );
    fits(&node("580.95.05", "8.7"), &variant("12.8", "8.7"), Mode::Native);
}

#[test]
fn ptx_is_compared_by_its_own_version_not_by_cuda() {
    let selected = fits(
        &node("555.58.02", "9.0"),
        &variant("12.6", "+9.0@8.5"),
        Mode::MinorVersionCompat,
    );
    assert!(selected.warnings[0].contains("no SASS for compute capability 9.0"));
    rejects(
        &node("550.163.01", "9.0"),
        &variant("12.6", "+9.0@8.5"),
        Reason::PtxTooNew,
        &["222"],
    );
}

#[test]
fn newer_toolkits_start_on_older_drivers_of_their_major() {
    fits(
        &node("535.274.02", "9.0"),
        &variant("12.8", "9.0"),
        Mode::MinorVersionCompat,
    );
    rejects(
        &node("535.274.02", "9.0"),
        &variant("13.0", "9.0"),
        Reason::DriverTooOld,
        &["13.0", "12.2", "580.65.06"],
    );
    rejects(
        &node("418.226.00", "7.5"),
        &variant("10.2", "7.5"),
        Reason::DriverTooOld,
        &["440.33"],
    );
}

#[test]
fn the_documented_floor_counts_where_the_runtime_would_start() {
    let below = |driver: &str| NodeFacts {
        driver: DriverState::Ready {
            version: driver.parse().unwrap(),
            cuda: "11.0".parse().unwrap(),
        },
        ..node("450.248.02", "8.0")
    };
    rejects(
        &below("450.51.06"),
        &variant("11.4", "8.0"),
        Reason::DriverTooOld,
        &["450.51.06", "450.80.02"],
    );
    fits(&below("450.80.02"), &variant("11.4", "8.0"), Mode::MinorVersionCompat);
    fits(&below("450.51.06"), &variant("11.0", "8.0"), Mode::Native);
}

#[test]
fn volta_is_left_out_by_toolkits_and_later_by_drivers() {
    rejects(
        &node("580.95.05", "7.0"),
        &variant("13.0", "7.5 8.0 +12.0@9.0"),
        Reason::NoCodeForGpu,
        &["7.0", "sm_70"],
    );
    fits(&node("580.95.05", "7.0"), &variant("12.8", "7.0 7.5"), Mode::Native);
    rejects(
        &node("595.58.03", "6.0"),
        &variant("12.8", "6.0"),
        Reason::NoCodeForGpu,
        &["595.58.03", "580"],
    );
    let both = fits(&node("595.58.03", "6.0 9.0"), &variant("12.8", "9.0"), Mode::Native);
    assert!(both.warnings[0].contains("no longer drives"), "{:?}", both.warnings);
}

#[test]
fn a_gpu_newer_than_the_driver_is_warned_of() {
    let selected = fits(&node("570.124.06", "10.3"), &variant("12.8", "10.0"), Mode::Native);
    assert!(selected.warnings[0].contains("580"), "{:?}", selected.warnings);
    assert_eq!(
        fits(&node("580.95.05", "10.3"), &variant("12.8", "10.0"), Mode::Native).warnings,
        [""; 0]
    );
}

#[test]
fn a_driver_that_cannot_be_used_selects_nothing_and_says_why() {
    let state = |driver| NodeFacts {
        driver,
        ..node("550.163.01", "9.0")
    };
    let twin = variant("12.4", "9.0");
    fits(&node("550.163.01", "9.0"), &twin, Mode::Native);
    rejects(
        &state(DriverState::Missing),
        &twin,
        Reason::DriverMissing,
        &["no NVIDIA driver"],
    );
    let stub = "libcuda.so.1 is a stub".to_owned();
    rejects(
        &state(DriverState::NotReady { why: stub }),
        &twin,
        Reason::DriverMissing,
        &["is a stub"],
    );
    let mismatch = DriverState::Mismatch {
        kernel: "550.163.01".parse().unwrap(),
        library: "550.54.15".parse().unwrap(),
    };
    rejects(
        &state(mismatch),
        &twin,
        Reason::DriverMismatch,
        &["550.163.01", "550.54.15", "803"],
    );
}

#[test]
fn systems_and_declared_ranges_narrow() {
    let arm = NodeFacts {
        system: System::Aarch64Linux,
        ..node("550.163.01", "9.0")
    };
    rejects(
        &arm,
        &variant("12.4", "9.0"),
        Reason::NoVariantForSystem,
        &["x86_64-linux", "aarch64-linux"],
    );
    let range = |min: &str, max: &str| Variant {
        driver: DriverRange {
            min: min.parse().ok(),
            max: max.parse().ok(),
        },
        ..variant("12.4", "9.0")
    };
    let here = node("550.163.01", "9.0");
    fits(&here, &range("550.54.14", "550.163.01"), Mode::Native);
    rejects(
        &here,
        &range("570.26", ""),
        Reason::OutsideDeclaredRange,
        &["570.26 or newer", "550.163.01"],
    );
    rejects(
        &here,
        &range("", "550.163"),
        Reason::OutsideDeclaredRange,
        &["550.163 or older"],
    );
}

/// A real note: 580.178.04.
fn library_580() -> CompatLibrary {
    CompatLibrary {
        version: "580.178.04".parse().ok(),
        note: Some(CompatNote {
            cuda: "13.0".parse().unwrap(),
            base_branches: Some([535, 550, 565, 570, 575, 580].into()),
            brands: Some([1, 2, 7, 8, 9, 10, 11, 12, 13, 14].into()),
        }),
    }
}

fn knows(library: Option<CompatLibrary>) -> KnownContents {
    let contents = Contents {
        compat: library,
        ..Contents::default()
    };
    [(path("compat"), contents)].into()
}

#[test]
fn forward_compatibility_goes_by_the_librarys_own_lists() {
    let wants = with_compat(variant("13.0", "8.0 9.0"), None);
    let known = knows(Some(library_580()));
    let on = |driver: &str, on: &str| verdict(&node(driver, on), &wants, &known);
    let selected = on("550.163.01", "9.0:tesla 8.0:nvidia-rtx").unwrap();
    assert_eq!(
        (selected.mode, selected.forward_compat),
        (Mode::ForwardCompat, Some(path("compat")))
    );
    assert_eq!((selected.unknown, selected.warnings), (vec![], vec![]));
    for (driver, gpus, says) in [
        ("545.29.06", "9.0:tesla", "not 545"),
        ("555.58.02", "9.0:tesla", "not 555"),
        ("535.274.02", "8.9:geforce-rtx", "geforce-rtx (error 804)"),
        ("535.274.02", "9.0:tesla 8.9:geforce", "geforce (error 804)"),
        ("535.274.02", "9.0", "9.0:tesla"),
        ("535.274.02", "", "GPUs are not known"),
    ] {
        let (reason, detail) = on(driver, gpus).unwrap_err();
        assert_eq!(reason, Reason::DriverTooOld);
        assert!(
            detail.contains(says) && detail.contains("580.65.06"),
            "{driver} {gpus}: {detail}"
        );
    }
}

#[test]
fn without_a_note_nvidias_table_decides_and_only_data_centre_gpus_may() {
    let wants = with_compat(variant("12.4", "8.0"), None);
    let without = |version: &str| {
        knows(Some(CompatLibrary {
            version: version.parse().ok(),
            note: None,
        }))
    };
    let on = |host: &str, gpus: &str, library: &str| verdict(&node(host, gpus), &wants, &without(library));
    let old = node("470.256.02", "8.0:tesla");
    assert!(
        verdict(&old, &wants, &without("550.163.01"))
            .unwrap_err()
            .1
            .contains("table does not list")
    );
    let newer = with_compat(variant("11.1", "7.5"), None);
    assert!(verdict(&node("440.64", "7.5:tesla"), &newer, &without("455.32.00")).is_ok());
    assert!(
        verdict(&node("440.64", "7.5:quadro-rtx"), &newer, &without("455.32.00"))
            .unwrap_err()
            .1
            .contains("804")
    );
    assert!(
        on("470.256.02", "8.0:tesla", "")
            .unwrap_err()
            .1
            .contains("neither a version nor a note")
    );
}

#[test]
fn an_unread_compat_library_is_assumed_to_fit_and_named() {
    let host = node("535.274.02", "9.0:tesla");
    for declared in [None, Some("580.95.05")] {
        let selected = fits(
            &host,
            &with_compat(variant("13.0", "9.0"), declared),
            Mode::ForwardCompat,
        );
        assert_eq!(selected.unknown, [path("compat")]);
        assert!(selected.warnings[0].contains("was not read yet"));
    }
    let too_new = with_compat(variant("13.0", "9.0"), Some("615.71.09"));
    rejects(
        &node("525.147.05", "9.0:tesla"),
        &too_new,
        Reason::DriverTooOld,
        &["525", "615"],
    );
    let not_newer = with_compat(variant("13.0", "9.0"), Some("535.104.05"));
    rejects(&host, &not_newer, Reason::DriverTooOld, &["535.104.05", "not newer"]);
    let other_than_declared = with_compat(variant("13.0", "9.0"), Some("580.95.05"));
    let selected = verdict(&host, &other_than_declared, &knows(Some(library_580()))).unwrap();
    assert!(selected.warnings[0].contains("580.178.04") && selected.warnings[0].contains("580.95.05"));
    let (_, detail) = verdict(&host, &other_than_declared, &knows(None)).unwrap_err();
    assert!(detail.contains("holds no single libcuda"), "{detail}");
}

#[test]
fn forward_compatibility_lifts_the_ptx_limit_but_comes_last() {
    let host = node("575.57.08", "9.0:tesla");
    let ptx = with_compat(variant("13.0", "+9.0@9.0"), Some("580.95.05"));
    assert_eq!(fits(&host, &ptx, Mode::ForwardCompat).warnings.len(), 2);
    let within = with_compat(variant("12.9", "+9.0@8.8"), Some("580.95.05"));
    fits(&node("570.124.06", "9.0:tesla"), &within, Mode::ForwardCompat);
    fits(&node("575.57.08", "9.0:tesla"), &within, Mode::Native);
    let volta = with_compat(variant("13.2", "+7.0@9.2"), Some("595.58.03"));
    rejects(
        &node("580.95.05", "7.0:tesla"),
        &volta,
        Reason::PtxTooNew,
        &["595.58.03", "7.0"],
    );
    let older = with_compat(variant("13.0", "9.0"), Some("570.124.06"));
    rejects(
        &node("535.274.02", "9.0:tesla"),
        &older,
        Reason::DriverTooOld,
        &["CUDA 12.8", "13.0"],
    );
}

#[test]
fn the_best_mode_then_sass_then_cuda_then_the_authors_order_wins() {
    let host = node("550.163.01", "9.0:tesla");
    let forward = with_compat(variant("13.0", "9.0"), Some("580.95.05"));
    let minor = variant("12.8", "9.0");
    let jit = variant("12.4", "+9.0@8.4");
    let sass = variant("12.1", "9.0");
    let older = variant("11.8", "9.0");
    let all = [forward, minor, jit, older, sass];
    let selection = on(&host, &all, &nothing());
    assert_eq!(selection.selected["p"].variant, "cu12.1");
    let order: Vec<&str> = selection
        .alternatives
        .iter()
        .map(|other| other.variant.as_str())
        .collect();
    assert_eq!(order, ["cu11.8", "cu12.4", "cu12.8", "cu13.0"]);
    let twins = ["b", "a"].map(|name| Variant {
        name: name.to_owned(),
        ..variant("12.4", "9.0")
    });
    assert_eq!(on(&host, &twins, &nothing()).selected["p"].variant, "b");
}

#[test]
fn undeclared_code_is_assumed_to_fit_until_it_was_read() {
    let host = node("550.163.01", "9.0");
    let (newer, older) = (undeclared("12.4"), variant("12.1", "9.0"));
    let choose = |known: &KnownContents| on(&host, &[newer.clone(), older.clone()], known);
    let first = choose(&nothing());
    assert_eq!(
        (first.selected["p"].variant.as_str(), &first.selected["p"].unknown[..]),
        ("cu12.4", &[path("12.4")][..])
    );
    let read = |text: &str| -> KnownContents {
        let contents = Contents {
            code: code(text),
            ..Contents::default()
        };
        [(path("12.4"), contents)].into()
    };
    let second = choose(&read("8.0"));
    assert_eq!(
        (second.selected["p"].variant.as_str(), second.rejected[0].reason),
        ("cu12.1", Reason::NoCodeForGpu)
    );
    for enough in ["9.0", ""] {
        let chosen = &choose(&read(enough)).selected["p"];
        assert_eq!(
            (chosen.variant.as_str(), chosen.unknown.len(), chosen.warnings.len()),
            ("cu12.4", 0, 0)
        );
    }
    let declared = verdict(&host, &variant("12.4", "9.0"), &read("8.0")).unwrap();
    assert_eq!(declared.unknown, []);
}

#[test]
fn what_could_not_be_read_is_named_where_the_rest_decided() {
    let broken = |count: usize| (0..count).map(|number| format!("/x/lib{number}.so")).collect();
    let read = |text: &str, unreadable: Vec<String>| -> KnownContents {
        let contents = Contents {
            code: code(text),
            unreadable,
            ..Contents::default()
        };
        [(path("12.4"), contents)].into()
    };
    let host = node("550.163.01", "9.0");
    let refused = |text: &str, files| verdict(&host, &undeclared("12.4"), &read(text, files)).unwrap_err().1;
    for text in ["8.0", "+9.0@8.7"] {
        let (with, without) = (refused(text, broken(1)), refused(text, broken(0)));
        assert!(
            with.starts_with(&without) && with.contains("/x/lib0.so, which could not be read"),
            "{with}"
        );
        assert!(
            with.contains("declare `code`") && !without.contains("declare"),
            "{with}; {without}"
        );
    }
    assert!(refused("8.0", broken(1000)).contains("/x/lib7.so and 992 more files"));
    // What fits by what was read, or carries nothing that was read, may still fail in the file that was not.
    for text in ["9.0", ""] {
        let selected = verdict(&host, &undeclared("12.4"), &read(text, broken(1))).unwrap();
        assert!(
            selected.warnings[0].contains("/x/lib0.so could not be read"),
            "{:?}",
            selected.warnings
        );
        assert_eq!(selected.warnings.len(), 1);
    }
    // The author's word is not judged by files.
    let declared = verdict(&host, &variant("12.4", "8.0"), &read("8.0", broken(1))).unwrap_err();
    assert!(!declared.1.contains("could not be read"), "{}", declared.1);
}

#[test]
fn unknown_gpus_are_a_warning() {
    let selected = fits(&node("550.163.01", ""), &undeclared("12.4"), Mode::Native);
    assert_eq!((selected.unknown.len(), selected.warnings.len()), (0, 1));
    assert!(selected.warnings[0].contains("GPUs are not known"));
}

#[test]
fn files_without_code_for_the_node_and_a_libcuda_in_the_closure_are_warned_of() {
    let file = |name: &str, has: &str| FileCode {
        path: format!("{}/lib/{name}", path("12.4")),
        code: code(has),
        needed: Vec::new(),
    };
    let contents = Contents {
        code: code("8.0 9.0"),
        files: vec![
            file("libgood.so", "9.0"),
            file("libbad.so", "8.0"),
            file("libptx.so", "+9.0@8.7"),
        ],
        compat: Some(library_580()),
        unreadable: Vec::new(),
    };
    let known: KnownContents = [(path("12.4"), contents)].into();
    let selected = verdict(&node("550.163.01", "9.0"), &undeclared("12.4"), &known).unwrap();
    let [own, bad, ptx] = &selected.warnings[..] else {
        panic!("{:?}", selected.warnings)
    };
    assert!(own.contains("libcuda 580.178.04 of its own"), "{own}");
    assert!(bad.contains("libbad.so") && bad.contains("SASS 8.0"), "{bad}");
    assert!(ptx.contains("libptx.so") && ptx.contains("version 8.7"), "{ptx}");
}

#[test]
fn many_bad_files_are_counted_not_listed() {
    let bad = |index: usize| FileCode {
        path: format!("lib{index}.so"),
        code: code("8.0"),
        needed: Vec::new(),
    };
    let contents = Contents {
        code: code("9.0"),
        files: (0..1_000).map(bad).collect(),
        ..Contents::default()
    };
    let known: KnownContents = [(path("12.4"), contents)].into();
    let selected = verdict(&node("550.163.01", "9.0"), &undeclared("12.4"), &known).unwrap();
    assert_eq!(selected.warnings.len(), 9);
    assert!(selected.warnings[8].starts_with("992 more files"));
}

#[test]
fn packages_are_chosen_apart_and_may_conflict() {
    let mut both = environment(&[variant("12.4", "9.0")]);
    both.packages.push(Package {
        name: "old".to_owned(),
        variants: vec![variant("11.8", "9.0"), variant("13.0", "9.0")],
    });
    let selection = select(&both, &node("550.163.01", "9.0"), &nothing());
    let chosen: BTreeMap<&str, &str> = selection
        .selected
        .iter()
        .map(|(name, chosen)| (name.as_str(), chosen.variant.as_str()))
        .collect();
    assert_eq!(chosen, [("p", "cu12.4"), ("old", "cu11.8")].into());
    assert!(selection.covers(&both) && selection.rejected[0].package == "old");
    let selection = select(&both, &node("450.248.02", "8.0"), &nothing());
    assert!(!selection.covers(&both));
}

#[test]
fn the_answer_survives_being_written_and_read() {
    let selection = on(
        &node("535.274.02", "9.0:tesla"),
        &[
            with_compat(variant("13.0", "9.0"), None),
            undeclared("12.8"),
            variant("12.1", "8.0"),
        ],
        &nothing(),
    );
    let text = serde_json::to_string(&selection).unwrap();
    assert_eq!(serde_json::from_str::<Selection>(&text).unwrap(), selection);
    for word in [
        "\"minor-version-compat\"",
        "\"no-code-for-gpu\"",
        "\"storePath\":",
        "\"unknown\":[\"/nix/store/",
    ] {
        assert!(text.contains(word), "{word} is not in {text}");
    }
}
