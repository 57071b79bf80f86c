//! A selection in words. Never leaves out a variant's reason.

use std::{collections::BTreeMap, fmt::Write as _};

use crds::selection::{Reason as Misfit, Selection};

use super::failure::Reason;

/// Why there is no view, for people: the packages without a variant, each variant with its reason.
pub fn refusal(selection: &Selection) -> String {
    if let Some(shared) = selection.shared_rejection() {
        return format!("no variant fits this node: {}: {}", shared.reason, shared.detail);
    }
    let mut text = String::new();
    let mut last = None;
    for rejected in selection
        .rejected
        .iter()
        .filter(|one| !selection.selected.contains_key(&one.package))
    {
        if last != Some(&rejected.package) {
            let _ = write!(
                text,
                "{}no variant of package {} fits this node",
                if last.is_some() { "; " } else { "" },
                rejected.package
            );
            last = Some(&rejected.package);
        }
        let _ = write!(text, "; {}: {}: {}", rejected.variant, rejected.reason, rejected.detail);
    }
    if text.is_empty() {
        "no variant fits this node".to_owned()
    } else {
        text
    }
}

/// The same without the sentences, for where room is short: each package's variants by reason.
pub fn refusal_in_brief(selection: &Selection) -> String {
    let mut packages: BTreeMap<&str, BTreeMap<Misfit, Vec<&str>>> = BTreeMap::new();
    for rejected in &selection.rejected {
        if !selection.selected.contains_key(&rejected.package) {
            let reasons = packages.entry(&rejected.package).or_default();
            reasons.entry(rejected.reason).or_default().push(&rejected.variant);
        }
    }
    let package = |(package, reasons): (&str, BTreeMap<Misfit, Vec<&str>>)| {
        let reasons = reasons
            .iter()
            .map(|(reason, variants)| format!("{reason}: {}", variants.join(", ")));
        let reasons = reasons.collect::<Vec<_>>().join("; ");
        format!("no variant of package {package} fits this node; {reasons}")
    };
    packages.into_iter().map(package).collect::<Vec<_>>().join("; ")
}

/// The word for programs: the reason of the variant that came closest to fitting.
pub fn reason(selection: &Selection) -> Reason {
    let misses = selection
        .rejected
        .iter()
        .filter(|one| !selection.selected.contains_key(&one.package));
    match misses.map(|one| one.reason).max_by_key(|reason| closeness(*reason)) {
        Some(Misfit::DriverMismatch) => Reason::DriverMismatch,
        Some(Misfit::DriverMissing) | None => Reason::DriverNotReady,
        Some(Misfit::NoVariantForSystem) => Reason::NoVariantForSystem,
        Some(Misfit::OutsideDeclaredRange) => Reason::OutsideDeclaredRange,
        Some(Misfit::DriverTooOld) => Reason::DriverTooOld,
        Some(Misfit::NoCodeForGpu) => Reason::NoCodeForGPU,
        Some(Misfit::PtxTooNew) => Reason::PtxTooNew,
    }
}

/// How far a variant came on the way through the rule.
fn closeness(reason: Misfit) -> u8 {
    match reason {
        Misfit::DriverMissing | Misfit::DriverMismatch => 0,
        Misfit::NoVariantForSystem => 1,
        Misfit::OutsideDeclaredRange => 2,
        Misfit::DriverTooOld => 3,
        Misfit::NoCodeForGpu => 4,
        Misfit::PtxTooNew => 5,
    }
}

/// What was selected, one line a package, warnings below.
pub fn summary(selection: &Selection) -> String {
    let mut text = String::new();
    for (package, selected) in &selection.selected {
        let _ = writeln!(
            text,
            "{package}: {} (CUDA {}, {})",
            selected.variant, selected.cuda, selected.mode
        );
        for warning in &selected.warnings {
            let _ = writeln!(text, "  warning: {warning}");
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use crds::selection::Rejected;

    use super::*;

    #[test]
    fn the_closest_miss_gives_the_word_and_every_variant_its_sentence() {
        let rejected = |variant: &str, reason| Rejected {
            package: "pytorch".into(),
            variant: variant.into(),
            reason,
            detail: format!("detail of {variant}"),
        };
        let selection = Selection {
            rejected: vec![
                rejected("cu130", Misfit::DriverTooOld),
                rejected("cu118", Misfit::NoCodeForGpu),
            ],
            ..Selection::default()
        };
        assert_eq!(reason(&selection), Reason::NoCodeForGPU);
        assert_eq!(
            refusal(&selection),
            "no variant of package pytorch fits this node; cu130: driver-too-old: detail of cu130; cu118: no-code-for-gpu: detail of cu118"
        );
        assert_eq!(
            refusal_in_brief(&selection),
            "no variant of package pytorch fits this node; driver-too-old: cu130; no-code-for-gpu: cu118"
        );
    }

    #[test]
    fn what_all_variants_share_is_said_once() {
        let rejected = |package: &str, variant: &str| Rejected {
            package: package.into(),
            variant: variant.into(),
            reason: Misfit::DriverMissing,
            detail: "the node has no driver".into(),
        };
        let mut selection = Selection {
            rejected: vec![rejected("pytorch", "cu130"), rejected("jax", "cu118")],
            ..Selection::default()
        };
        let once = "no variant fits this node: driver-missing: the node has no driver";
        assert_eq!(refusal(&selection), once);
        selection.rejected[1].detail.push_str(" at all");
        assert_ne!(refusal(&selection), once);
        selection.rejected.pop();
        let named = "no variant of package pytorch fits this node; cu130: driver-missing: the node has no driver";
        assert_eq!(refusal(&selection), named);
    }
}
