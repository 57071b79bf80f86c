//! `make demo`: one environment on six nodes with different real drivers; what lands where, why, and does it fit.
//! It must never print a result that a run of `node-agent` did not give, and fails when one is not as the rule says.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::Path;
use std::process::ExitCode;
use std::time::Instant;

use anyhow::{Context, Result, bail, ensure};
use e2e::closure::{self, Closure};
use e2e::demo_table::{self, Row};
use e2e::layout::Layout;
use e2e::parts::{Driver, Toolkit};
use e2e::programs::{Ended, ended};
use e2e::stage::Stage;
use e2e::{documents, parts, skip};
use serde_json::Value;

/// The runtimes that the package `cuda` comes in; the first is what the package `jpeg` was built with.
const VARIANTS: [&str; 4] = ["11.8", "12.4", "12.8", "13.0"];
const GPU: &str = "8.0 (A100)";
const ASK_ALL: &str = "exec /run/cudaenv/packages/cuda/bin/count /run/cudaenv/packages/*/lib/libcudart.so.*";

fn main() -> ExitCode {
    match demonstrate() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            say(&format!("demo: {error:#}"));
            ExitCode::FAILURE
        }
    }
}

fn demonstrate() -> Result<()> {
    skip::root()
        .map_err(anyhow::Error::msg)
        .context("the views are mounts")?;
    say("fetching real drivers and CUDA runtimes, unless they are here already");
    let (drivers, toolkits) = (parts::available_drivers()?, wanted(parts::available_toolkits()?));
    ensure!(
        !drivers.is_empty() && !toolkits.is_empty(),
        "no drivers or no runtimes could be fetched: nothing to show"
    );
    let mut jpeg = None;
    let stage = Stage::new(&toolkits, |layout, closures| {
        jpeg = add_jpeg(layout, closures)
            .inspect_err(|error| say(&format!("without package jpeg: {error:#}")))
            .ok();
        Ok(())
    })?;
    introduce(&stage, &drivers, jpeg.as_deref());
    let environment = environment(&stage, jpeg.as_deref())?;
    let started = now();
    let (mut rows, mut wrong) = (Vec::new(), Vec::new());
    for driver in &drivers {
        match visit(&stage, driver, &environment) {
            Ok(row) => rows.push(row),
            Err(error) => wrong.push(format!("driver {}: {error:#}", driver.version)),
        }
    }
    say(&format!("\n{}", demo_table::render(&rows)));
    say(&format!(
        "\n{} nodes in {:.1} s, with a GPU {GPU} declared and none there.",
        rows.len(),
        started.elapsed().as_secs_f64()
    ));
    if wrong.is_empty() {
        Ok(())
    } else {
        bail!("not as the rule says:\n  {}", wrong.join("\n  "))
    }
}

fn wanted(toolkits: Vec<Toolkit>) -> Vec<Toolkit> {
    for cuda in VARIANTS
        .iter()
        .filter(|cuda| toolkits.iter().all(|toolkit| toolkit.cuda != **cuda))
    {
        say(&format!("CUDA runtime {cuda} could not be fetched: going on without"));
    }
    toolkits
        .into_iter()
        .filter(|toolkit| VARIANTS.contains(&toolkit.cuda.as_str()))
        .collect()
}

/// A second package, of CUDA 11: a real library with real GPU code, and the runtime that it needs.
fn add_jpeg(layout: &mut Layout, closures: &[Closure]) -> Result<String> {
    let folder = parts::toolkit_folder("cuda-nvjpeg-11.9.0.86")?;
    let old = closures
        .iter()
        .find(|closure| closure.toolkit.cuda == VARIANTS[0])
        .context("no runtime 11.8")?;
    let library = closure::add_libraries(layout, "nvjpeg-11.9.0.86", &[&old.runtime], &folder.join("lib"))?;
    layout.add_environment("jpeg-11.8-env", &[&library, &old.runtime])
}

fn variant_name(cuda: &str) -> String {
    format!("cu{}", cuda.replace('.', ""))
}

fn environment(stage: &Stage, jpeg: Option<&str>) -> Result<std::path::PathBuf> {
    let variants = stage.closures.iter().rev().map(|closure| {
        let cuda = &closure.toolkit.cuda;
        documents::variant(&variant_name(cuda), cuda, &closure.environment)
    });
    let mut packages = vec![documents::package("cuda", &variants.collect::<Vec<_>>())];
    packages.extend(jpeg.map(|path| documents::package("jpeg", &[documents::variant("cu118", "11.8", path)])));
    stage.environment("demo", &packages)
}

fn introduce(stage: &Stage, drivers: &[Driver], jpeg: Option<&str>) {
    let versions = |names: Vec<&str>| names.join(", ");
    say(&format!(
        "drivers:     {}",
        versions(drivers.iter().map(|driver| driver.version.as_str()).collect())
    ));
    say(&format!(
        "runtimes:    {}",
        versions(stage.closures.iter().map(|c| c.toolkit.version.as_str()).collect())
    ));
    say(&format!(
        "environment: package cuda in {} variants{}",
        stage.closures.len(),
        jpeg.map_or("", |_| ", package jpeg of CUDA 11.8")
    ));
    say(&format!(
        "cache:       {}, {} store paths, packed and signed by {}",
        stage.server.url(),
        stage.layout.paths().len(),
        stage.packed_by
    ));
    say(&format!("key:         {}\n", stage.public_key));
}

/// Runs the environment on a node with that driver, then forces what was refused.
fn visit(stage: &Stage, driver: &Driver, environment: &Path) -> Result<Row> {
    let node = stage.node(driver)?;
    let state = stage.state(&driver.version);
    let started = now();
    let ran = ended(stage.run(environment, &node, &state)?.args(["sh", "-c", ASK_ALL]))?;
    let seconds = started.elapsed().as_secs_f64();
    ensure!(ran.code == 0, "the run failed: {ran:?}");
    let report = report(&ran)?;
    let (selection, answers) = (&report["selection"], codes(&ran.stdout)?);
    let chosen = &selection["selected"]["cuda"];
    let (variant, mode) = (text(&chosen["variant"]), text(&chosen["mode"]));
    explain(driver, &report, &variant, &mode);
    ensure!(variant == expected_variant(stage, driver)?, "{variant} was chosen");
    ensure!(
        answers.values().all(|code| *code == 100),
        "a chosen runtime does not fit: {answers:?}"
    );
    let jpeg = selection["selected"].get("jpeg").map(|jpeg| text(&jpeg["variant"]));
    ensure!(
        jpeg.as_ref().is_none_or(|variant| variant == "cu118"),
        "package jpeg: {jpeg:?}"
    );
    let refused = refused_variants(selection);
    let forced = match refused.first() {
        Some(refused) => format!("{refused} → {}", force(stage, driver, &node, refused)?),
        None => "none refused".to_owned(),
    };
    Ok(Row {
        driver: driver.version.clone(),
        cuda: text(&report["cuda"]),
        chosen: jpeg.map_or(variant.clone(), |jpeg| format!("{variant} / {jpeg}")),
        mode,
        others: others(selection),
        fetched: format!(
            "{} ({} paths)",
            megabytes(&report["downloadedBytes"]),
            report["fetchedPaths"]
        ),
        seconds,
        answers: answers
            .iter()
            .map(|(library, code)| format!("{library}: {code}"))
            .collect::<Vec<_>>()
            .join(", "),
        forced,
    })
}

/// The rule, in the words of this demonstration: the newest runtime that the driver knows, else the newest of its major.
fn expected_variant(stage: &Stage, driver: &Driver) -> Result<String> {
    let number = |text: &str| {
        text.split('.')
            .filter_map(|part| part.parse().ok())
            .collect::<Vec<u32>>()
    };
    let starts = stage
        .closures
        .iter()
        .map(|closure| &closure.toolkit)
        .filter(|toolkit| driver.runs(toolkit));
    let best = starts.max_by_key(|t| (number(&t.cuda) <= number(driver.cuda), number(&t.cuda)));
    Ok(variant_name(&best.context("nothing fits this driver")?.cuda))
}

/// Runs a refused variant all the same, declared as CUDA 11.0 so that selection lets it pass: the runtime's own answer.
fn force(stage: &Stage, driver: &Driver, node: &Path, refused: &str) -> Result<i32> {
    let closure = stage
        .closures
        .iter()
        .find(|closure| variant_name(&closure.toolkit.cuda) == refused);
    let path = &closure.context("a variant that is not in the environment")?.environment;
    let lie = documents::package("cuda", &[documents::variant(refused, "11.0", path)]);
    let environment = stage.environment("forced", &[lie])?;
    let ran = ended(
        stage
            .run(&environment, node, &stage.state(&driver.version))?
            .args(["sh", "-c", ASK_ALL]),
    )?;
    let code = codes(&ran.stdout)?
        .into_values()
        .next()
        .with_context(|| format!("no answer: {ran:?}"))?;
    ensure!(code == 35, "the refused {refused} answers {code}");
    Ok(code)
}

/// The report that `run --output json` gives before the program starts.
fn report(ran: &Ended) -> Result<Value> {
    let lines = ran
        .stderr
        .lines()
        .filter_map(|line| serde_json::from_str::<Value>(line).ok());
    lines
        .into_iter()
        .find_map(|mut value| value.get_mut("run").map(Value::take))
        .with_context(|| format!("no report: {ran:?}"))
}

/// `LIBRARY CODE` lines, by the library's bare name.
fn codes(stdout: &str) -> Result<BTreeMap<String, i32>> {
    let pair = |line: &str| {
        let (library, code) = line.rsplit_once(' ').context("not LIBRARY CODE")?;
        let name = library.rsplit('/').next().unwrap_or(library);
        Ok((name.to_owned(), code.parse()?))
    };
    stdout.lines().map(pair).collect()
}

fn refused_variants(selection: &Value) -> Vec<String> {
    let rejected = selection["rejected"].as_array().into_iter().flatten();
    rejected
        .filter(|rejected| rejected["package"] == "cuda")
        .map(|rejected| text(&rejected["variant"]))
        .collect()
}

/// Why each variant of `cuda` that was not chosen was not, in few words.
fn others(selection: &Value) -> String {
    let mut by_reason: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for rejected in selection["rejected"].as_array().into_iter().flatten() {
        by_reason
            .entry(text(&rejected["reason"]))
            .or_default()
            .push(text(&rejected["variant"]));
    }
    for outranked in selection["alternatives"].as_array().into_iter().flatten() {
        let why = format!("outranked ({})", text(&outranked["mode"]));
        by_reason.entry(why).or_default().push(text(&outranked["variant"]));
    }
    let words = by_reason
        .into_iter()
        .map(|(why, variants)| format!("{}: {why}", variants.join(", ")));
    words.collect::<Vec<_>>().join("; ")
}

fn explain(driver: &Driver, report: &Value, variant: &str, mode: &str) {
    say(&format!(
        "driver {} (CUDA {}): {variant}, {mode}",
        driver.version,
        text(&report["cuda"])
    ));
    for rejected in report["selection"]["rejected"].as_array().into_iter().flatten() {
        say(&format!(
            "  not {}: {}",
            text(&rejected["variant"]),
            text(&rejected["detail"])
        ));
    }
    for outranked in report["selection"]["alternatives"].as_array().into_iter().flatten() {
        say(&format!(
            "  {} would do too: {}",
            text(&outranked["variant"]),
            text(&outranked["mode"])
        ));
    }
}

/// A string as it is, anything else as JSON.
fn text(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

fn megabytes(bytes: &Value) -> String {
    bytes
        .as_u64()
        .map_or_else(|| "?".to_owned(), |bytes| format!("{:.1} MB", bytes as f64 / 1e6))
}

#[expect(
    clippy::disallowed_methods,
    reason = "this is a composition root: it reads the clock"
)]
fn now() -> Instant {
    Instant::now()
}

/// Prints a line at once, so that one sees where it is.
fn say(line: &str) {
    let mut out = std::io::stdout().lock();
    let _nobody_reads = writeln!(out, "{line}").and_then(|()| out.flush());
}
