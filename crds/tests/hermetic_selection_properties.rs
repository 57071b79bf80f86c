//! What holds for every node and every environment.
//! Never depends on luck: a failing case is printed smallest first.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on must fail")]

use std::collections::BTreeSet;

use crds::{
    domain::{
        environment::Variant,
        node::{DriverState, Gpu, NodeFacts},
        store_path::{StorePath, System},
    },
    selection::{Contents, Reason, Selection, releases::last_branch_for},
};
use nodes::{code, gpus, node, nothing, on, path, undeclared, verdict, with_compat};
use proptest::prelude::*;

#[path = "support/nodes.rs"]
mod nodes;

fn any_variant() -> impl Strategy<Value = Variant> {
    let releases = prop::sample::select(vec![
        "10.2", "11.4", "11.8", "12.0", "12.4", "12.8", "13.0", "13.4", "14.0",
    ]);
    let codes = prop::sample::select(vec![
        "",
        "8.0",
        "9.0a",
        "8.0 9.0",
        "+8.0@7.4",
        "+9.0@9.0",
        "10.0f +12.0@8.7",
        "7.0",
    ]);
    (releases, prop::option::of(codes), any::<bool>(), any::<bool>()).prop_map(|(cuda, has, compat, arm)| {
        let mut any = undeclared(cuda);
        any.code = has.map(code);
        if compat {
            any = with_compat(any, Some("580.95.05"));
        }
        if arm {
            any.store_paths = [(System::Aarch64Linux, path("arm"))].into();
        }
        any
    })
}

fn any_node() -> impl Strategy<Value = NodeFacts> {
    let drivers = vec![
        "418.226.00",
        "450.248.02",
        "535.274.02",
        "550.163.01",
        "580.95.05",
        "615.71.09",
    ];
    let gpus = vec![
        "",
        "8.0",
        "9.0:tesla",
        "8.0:tesla 9.0:tesla",
        "8.9:geforce",
        "7.0",
        "10.3",
        "8.7",
    ];
    (prop::sample::select(drivers), prop::sample::select(gpus), 0..4).prop_map(|(driver, gpus, state)| {
        let mut any = node(driver, gpus);
        match state {
            0 => any.driver = DriverState::Missing,
            1 => any.system = System::Aarch64Linux,
            _ => {}
        }
        any
    })
}

/// Variants with names of their own.
fn any_variants() -> impl Strategy<Value = Vec<Variant>> {
    prop::collection::vec(any_variant(), 1..8).prop_map(|mut variants| {
        for (index, variant) in variants.iter_mut().enumerate() {
            variant.name = format!("v{index}");
        }
        variants
    })
}

proptest! {
    #[test]
    fn every_variant_is_selected_outranked_or_rejected(node in any_node(), variants in any_variants()) {
        let selection = on(&node, &variants, &nothing());
        let named = selection.selected.values().map(|chosen| chosen.variant.clone())
            .chain(selection.alternatives.iter().map(|other| other.variant.clone()))
            .chain(selection.rejected.iter().map(|rejected| rejected.variant.clone()));
        let mut named: Vec<String> = named.collect();
        named.sort();
        let all: Vec<String> = variants.iter().map(|variant| variant.name.clone()).collect();
        prop_assert_eq!(named, all);
        let is_sentence = |text: &str| text.len() > 20 && !text.contains('\n');
        let sentences = selection.rejected.iter().all(|rejected| is_sentence(&rejected.detail));
        prop_assert!(sentences, "{:?}", selection.rejected);
    }

    #[test]
    fn the_same_question_has_the_same_answer(node in any_node(), variants in any_variants()) {
        prop_assert_eq!(on(&node, &variants, &nothing()), on(&node, &variants, &nothing()));
    }

    #[test]
    fn the_order_of_variants_only_breaks_ties(node in any_node(), variants in any_variants()) {
        let reversed: Vec<Variant> = variants.iter().rev().cloned().collect();
        let (forth, back) = (on(&node, &variants, &nothing()), on(&node, &reversed, &nothing()));
        let rank = |selection: &Selection| selection.selected.get("p").map(|chosen| (chosen.mode, chosen.cuda));
        prop_assert_eq!(rank(&forth), rank(&back));
        let reasons = |selection: &Selection| -> BTreeSet<(String, Reason)> {
            selection.rejected.iter().map(|rejected| (rejected.variant.clone(), rejected.reason)).collect()
        };
        prop_assert_eq!(reasons(&forth), reasons(&back));
    }

    #[test]
    fn one_more_gpu_never_makes_a_variant_fit(node in any_node(), variant in any_variant()) {
        let mut more = node.clone();
        // GPUs that the driver has dropped do not count, and then the first that does is not one more.
        let driven = |gpu: &Gpu| last_branch_for(gpu.compute_capability).is_none();
        prop_assume!(!node.gpus.is_empty() && node.gpus.iter().all(driven));
        more.gpus.extend(gpus("9.0:tesla"));
        if verdict(&more, &variant, &nothing()).is_ok() {
            prop_assert!(verdict(&node, &variant, &nothing()).is_ok());
        }
    }

    #[test]
    fn asking_until_nothing_is_unknown_ends(node in any_node(), variants in any_variants()) {
        let mut known = nothing();
        for _ in 0..=variants.len() + 2 {
            let selection = on(&node, &variants, &known);
            let unknown: Vec<StorePath> = selection.selected.values().flat_map(|chosen| chosen.unknown.clone()).collect();
            if unknown.is_empty() {
                return Ok(());
            }
            for path in unknown {
                let read = Contents { code: code("8.0"), ..Contents::default() };
                let before = known.insert(path, read);
                prop_assert!(before.is_none(), "asked for what is known");
            }
        }
        prop_assert!(false, "still unknown");
    }
}
