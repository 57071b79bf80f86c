//! `explain` from outside: the built program, its output and its exit code.
//! Never calls into the library: what a script sees is what is tested.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on must fail")]

use std::{
    io::Write as _,
    process::{Command, Output, Stdio},
};

const ENVIRONMENT: &str = r#"
apiVersion: cudaenv.dev/v1alpha1
kind: CUDAEnvironment
metadata: {name: pytorch, namespace: team-a}
spec:
  packages:
  - name: torch
    variants:
    - name: cu130
      cuda: "13.0"
      storePaths: {x86_64-linux: /nix/store/00bgd045z0d4icpbc2yyz4gx48ak44la-torch-cu130}
      code: {sass: ["8.0", "9.0"]}
      forwardCompat: {storePath: /nix/store/00bgd045z0d4icpbc2yyz4gx48ak44la-compat, driver: "580.95.05"}
    - name: cu128
      cuda: "12.8"
      storePaths:
        x86_64-linux: /nix/store/00bgd045z0d4icpbc2yyz4gx48ak44la-torch-cu128
        aarch64-linux: /nix/store/10bgd045z0d4icpbc2yyz4gx48ak44la-torch-cu128
      code: {sass: ["8.0", "9.0"], ptx: [{target: "9.0", isa: "8.7"}]}
    - name: cu118
      cuda: "11.8"
      storePaths: {x86_64-linux: /nix/store/00bgd045z0d4icpbc2yyz4gx48ak44la-torch-cu118}
      code: {sass: ["8.0"], ptx: [{target: "8.0", isa: "7.8"}]}
      driver: {max: "549.0"}
"#;

/// Runs `explain -f -` on a text.
fn explain_text(text: &str, arguments: &[&str]) -> Output {
    let mut child = Command::new(env!("CARGO_BIN_EXE_kubectl-cudaenv"))
        .args(["explain", "-f", "-"])
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // A program that refuses its arguments does not read: then the pipe is closed, which is no failure of the test.
    let _ = child.stdin.take().unwrap().write_all(text.as_bytes());
    child.wait_with_output().unwrap()
}

fn explain(arguments: &[&str]) -> Output {
    explain_text(ENVIRONMENT, arguments)
}

fn json(output: &Output) -> serde_json::Value {
    serde_json::from_slice(&output.stdout).unwrap()
}

/// The reason and message of a refusal that was asked for as JSON.
fn refusal(output: &Output) -> (String, String) {
    let (code, document) = (output.status.code(), json(output));
    assert_eq!(
        (code, document.as_object().unwrap().len(), output.stderr.len()),
        (Some(2), 1, 0),
        "{document}"
    );
    let field = |name: &str| document["error"][name].as_str().unwrap().to_owned();
    (field("reason"), field("message"))
}

#[test]
fn every_package_selected_is_exit_0_and_json_says_which_and_why_not_the_others() {
    let output = explain(&["--driver", "550.163.01", "--gpu", "9.0", "--output", "json"]);
    assert_eq!(output.status.code(), Some(0));
    let answer = json(&output);
    assert_eq!(
        answer["selected"],
        serde_json::json!({"torch": {
            "variant": "cu128",
            "mode": "minor-version-compat",
            "warnings": [],
            "cuda": "12.8",
            "storePath": "/nix/store/00bgd045z0d4icpbc2yyz4gx48ak44la-torch-cu128"
        }})
    );
    let rejected: Vec<(&str, &str)> = answer["rejected"]
        .as_array()
        .unwrap()
        .iter()
        .map(|each| (each["variant"].as_str().unwrap(), each["reason"].as_str().unwrap()))
        .collect();
    assert_eq!(
        rejected,
        [("cu130", "driver-too-old"), ("cu118", "outside-declared-range")]
    );
    assert_eq!(
        answer["rejected"][1],
        serde_json::json!({
            "package": "torch",
            "variant": "cu118",
            "reason": "outside-declared-range",
            "detail": "the author declared it for driver 549.0 or older, and the node has 550.163.01"
        })
    );
}

#[test]
fn the_modes_and_reasons_follow_the_node() {
    for (arguments, variant, mode, code) in [
        (&["--driver", "580.95.05", "--gpu", "8.0"][..], "cu130", "native", 0),
        (&["--driver", "570.124.06", "--gpu", "9.0"], "cu128", "native", 0),
        (&["--driver", "535.274.02", "--gpu", "8.0"], "cu118", "native", 0),
        (
            &["--driver", "535.274.02", "--gpu", "8.0", "--gpu", "9.0"],
            "cu118",
            "native",
            0,
        ),
        (
            &["--driver", "525.147.05", "--system", "aarch64-linux"],
            "cu128",
            "minor-version-compat",
            0,
        ),
        (
            &["--driver", "555.58.02", "--driver-cuda", "13.0"],
            "cu130",
            "native",
            0,
        ),
        (&["--driver", "470.256.02", "--gpu", "7.5"], "", "", 3),
        (
            &["--driver", "535.274.02", "--gpu", "12.0", "--system", "aarch64-linux"],
            "",
            "",
            3,
        ),
        (&[], "", "", 3),
    ] {
        let output = explain(&[arguments, &["--output", "json"]].concat());
        let selected = &json(&output)["selected"]["torch"];
        let text = |field: &str| selected[field].as_str().unwrap_or_default().to_owned();
        assert_eq!(
            (text("variant").as_str(), text("mode").as_str(), output.status.code()),
            (variant, mode, Some(code)),
            "{arguments:?}"
        );
    }
}

#[test]
fn forward_compatibility_needs_a_brand_that_may() {
    let only = ENVIRONMENT.split("    - name: cu128").next().unwrap();
    for (gpu, code, says) in [
        ("9.0:tesla", 0, "forward-compat"),
        ("9.0", 3, "as in 9.0:tesla"),
        ("8.0:geforce-rtx", 3, "not for GPUs of brand geforce-rtx (error 804)"),
    ] {
        let output = explain_text(only, &["--driver", "535.274.02", "--gpu", gpu, "--output", "json"]);
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(
            output.status.code() == Some(code) && text.contains(says),
            "{gpu}: {text}"
        );
    }
}

#[test]
fn no_driver_is_an_answer() {
    let output = explain(&["--output", "json"]);
    assert_eq!(output.status.code(), Some(3));
    let answer = json(&output);
    assert_eq!(answer["selected"], serde_json::json!({}));
    let reasons: Vec<&str> = (0..3)
        .map(|index| answer["rejected"][index]["reason"].as_str().unwrap())
        .collect();
    assert_eq!(reasons, ["driver-missing"; 3]);
}

#[test]
fn the_table_is_for_people() {
    let output = explain(&["--driver", "535.274.02", "--gpu", "8.0"]);
    let text = String::from_utf8(output.stdout).unwrap();
    assert_eq!(
        text,
        "\
team-a/pytorch on driver 535.274.02 (CUDA 12.2), GPU 8.0, x86_64-linux

PACKAGE  VARIANT  VERDICT   REASON                DETAIL
torch    cu130    rejected  driver-too-old        CUDA 13.0 does not start on driver 535.274.02 (CUDA 12.2) (error 35);
                                                  needs driver 580.65.06 or newer; its forward compatibility does not
                                                  help: it depends on the GPU's brand, which is not known for compute
                                                  capability 8.0; name it, as in 8.0:tesla or 8.0:geforce-rtx
torch    cu128    fits      minor-version-compat  fits too; the selected one ranks higher
torch    cu118    selected  native
"
    );
}

#[test]
fn yaml_says_the_same_as_json() {
    let node = ["--driver", "535.274.02", "--gpu", "8.0", "--output"];
    let yaml = explain(&[&node[..], &["yaml"]].concat());
    let text = String::from_utf8(yaml.stdout).unwrap();
    assert!(
        text.starts_with("selected:\n  torch:\n    variant: cu118\n    mode: native\n"),
        "{text}"
    );
    assert_eq!(text.matches("reason: driver-too-old").count(), 1);
}

/// Entries X01 to X22 of the corpus of bad driver strings; the accepted twins are the numeric ones.
#[test]
fn what_is_no_driver_version_is_refused_and_shown() {
    let bad = include_str!("../../crds/tests/data/bad_drivers.json");
    let refused: Vec<String> = serde_json::from_str(bad).unwrap();
    let long = ["9".repeat(10_000), vec!["1"; 10_000].join(".")];
    for text in refused.into_iter().chain(long) {
        let (reason, message) = refusal(&explain(&[&format!("--driver={text}"), "--output", "json"]));
        assert_eq!(reason, "BadRequest");
        assert!(
            message.contains("is not an NVIDIA driver version") && message.len() < 1200,
            "{text}: {message}"
        );
        assert!(!message.contains('\n'), "{message}");
    }
    for text in ["550.54.15", "550.54", "550.9.0"] {
        assert_eq!(explain(&["--driver", text]).status.code(), Some(0), "{text}");
    }
}

/// Entries X23 and X24: newer than every known branch, older than every variant.
#[test]
fn unknown_branches_need_their_cuda_release() {
    let (_, message) = refusal(&explain(&["--driver", "565.57.01", "--output", "json"]));
    assert_eq!(
        message,
        "the CUDA release of driver branch 565 is not known; give it with --driver-cuda"
    );
    let newer = explain(&[
        "--driver",
        "900.10.01",
        "--driver-cuda",
        "15.0",
        "--gpu",
        "9.0",
        "--output",
        "json",
    ]);
    assert_eq!(newer.status.code(), Some(0));
    let warnings = json(&newer)["selected"]["torch"]["warnings"].to_string();
    assert!(warnings.contains("newer than every branch known"), "{warnings}");
    let older = explain(&["--driver", "418.226.00", "--output", "json"]);
    assert_eq!(older.status.code(), Some(3));
    assert!(String::from_utf8_lossy(&older.stdout).contains("needs driver 450.80.02 or newer"));
}

#[test]
#[expect(clippy::too_many_lines, reason = "a table: one row a case")]
fn wrong_arguments_and_files_are_refused_with_the_reason() {
    let absent = ["explain", "-f", "/nonexistent/env.yaml", "--output=json"];
    let output = Command::new(env!("CARGO_BIN_EXE_kubectl-cudaenv"))
        .args(absent)
        .output()
        .unwrap();
    assert!(refusal(&output).1.starts_with("cannot read /nonexistent/env.yaml: "));
    for (text, arguments, reason, says) in [
        (
            ENVIRONMENT,
            &["--gpu", "9"][..],
            "BadRequest",
            "--gpu: `9` is not a compute capability",
        ),
        (
            ENVIRONMENT,
            &["--gpu", "9.0:voodoo"],
            "BadRequest",
            "`voodoo` is not a brand known to NVML: quadro, tesla",
        ),
        (ENVIRONMENT, &["--gpu", "9.0:"], "BadRequest", "is not a brand"),
        (
            ENVIRONMENT,
            &["--system", "riscv64-linux"],
            "BadRequest",
            "--system: `riscv64-linux`",
        ),
        (
            ENVIRONMENT,
            &["--driver", "550.54", "--driver-cuda", "12"],
            "BadRequest",
            "--driver-cuda: `12`",
        ),
        (
            ENVIRONMENT,
            &["--driver-cuda", "12.4"],
            "BadRequest",
            "required arguments were not provided: --driver <VERSION>",
        ),
        (
            ENVIRONMENT,
            &["--gpu", "0.0"],
            "BadRequest",
            "--gpu: `0.0` is not a compute capability",
        ),
        (ENVIRONMENT, &["--nonsense"], "BadRequest", "unexpected argument"),
        (
            ENVIRONMENT,
            &["--name", "team-b/pytorch"],
            "EnvironmentNotFound",
            "it has team-a/pytorch",
        ),
        ("", &[], "BadRequest", "no object"),
        ("{", &[], "BadRequest", "neither YAML nor JSON"),
        (
            &ENVIRONMENT.replace("\"12.8\"", "12.8"),
            &[],
            "BadRequest",
            "variants[1].cuda: expected a string",
        ),
        (
            &ENVIRONMENT.replace("-compat,", "-compat.drv,"),
            &[],
            "BadRequest",
            "variants[0].forwardCompat.storePath",
        ),
    ] {
        let (found, message) = refusal(&explain_text(text, &[arguments, &["--output", "json"]].concat()));
        assert!(
            found == reason && message.contains(says),
            "{arguments:?}: {found}: {message}"
        );
    }
    let plain = explain(&["--gpu", "9"]);
    assert_eq!((plain.status.code(), plain.stdout.len()), (Some(2), 0));
    assert!(String::from_utf8_lossy(&plain.stderr).starts_with("error: --gpu: `9`"));
}

#[test]
fn a_file_with_several_environments_needs_a_name() {
    let several = format!(
        "{ENVIRONMENT}---{}",
        ENVIRONMENT.replace("name: pytorch, namespace: team-a", "name: other")
    );
    let (_, message) = refusal(&explain_text(&several, &["--output", "json"]));
    assert!(
        message.ends_with("choose one with --name: team-a/pytorch, other"),
        "{message}"
    );
    for (name, shown) in [
        ("other", "other on driver"),
        ("pytorch", "team-a/pytorch on"),
        ("team-a/pytorch", "team-a/pytorch on"),
    ] {
        let named = explain_text(&several, &["--driver", "550.54.15", "--name", name]);
        assert!(
            named.status.code() == Some(0) && named.stdout.starts_with(shown.as_bytes()),
            "{name}"
        );
    }
    let twins = format!("{several}---{}", ENVIRONMENT.replace("team-a", "team-b"));
    let (_, message) = refusal(&explain_text(&twins, &["--name", "pytorch", "--output", "json"]));
    assert!(
        message.ends_with("choose one with --name: team-a/pytorch, team-b/pytorch"),
        "{message}"
    );
}

#[test]
fn the_output_may_be_chosen_before_the_command_and_a_missing_argument_is_named() {
    let run = |arguments: &[&str]| {
        Command::new(env!("CARGO_BIN_EXE_kubectl-cudaenv"))
            .args(arguments)
            .output()
            .unwrap()
    };
    for arguments in [
        &["explain", "--output", "json"][..],
        &["--output", "json", "explain"],
        &["-ojson", "explain"],
    ] {
        let (reason, message) = refusal(&run(arguments));
        assert_eq!(
            (reason.as_str(), message.as_str()),
            (
                "BadRequest",
                "the following required arguments were not provided: --filename <FILE>"
            )
        );
    }
    let absent = run(&["-o", "json", "explain", "-f", "/nonexistent/env.yaml"]);
    assert!(refusal(&absent).1.starts_with("cannot read /nonexistent/env.yaml: "));
    let (_, message) = refusal(&run(&["explain", "-f", "-", "--output", "jso", "--output=json"]));
    assert!(message.contains("invalid value 'jso'"), "{message}");
}

#[test]
fn what_all_variants_share_stands_once_below_the_table() {
    let output = explain(&["--gpu", "8.0"]);
    assert_eq!(
        String::from_utf8(output.stdout).unwrap(),
        "\
team-a/pytorch on a node without driver, GPU 8.0, x86_64-linux

PACKAGE  VARIANT  VERDICT   REASON
torch    cu130    rejected  driver-missing
torch    cu128    rejected  driver-missing
torch    cu118    rejected  driver-missing

Nothing fits: the node has no NVIDIA driver; install one, or run on a node that has one.
"
    );
}

#[test]
fn details_stand_below_their_line_where_long_names_leave_no_room() {
    let long = ENVIRONMENT.replace("name: torch\n", "name: torch-of-a-team-with-a-very-long-name\n");
    let output = explain_text(&long, &["--driver", "550.163.01", "--gpu", "9.0"]);
    assert_eq!(
        String::from_utf8(output.stdout).unwrap(),
        "\
team-a/pytorch on driver 550.163.01 (CUDA 12.4), GPU 9.0, x86_64-linux

PACKAGE                                VARIANT  VERDICT   REASON
    DETAIL
torch-of-a-team-with-a-very-long-name  cu130    rejected  driver-too-old
    CUDA 13.0 does not start on driver 550.163.01 (CUDA 12.4) (error 35); needs driver 580.65.06 or newer; its forward
    compatibility does not help: it depends on the GPU's brand, which is not known for compute capability 9.0; name it,
    as in 9.0:tesla or 9.0:geforce-rtx
torch-of-a-team-with-a-very-long-name  cu128    selected  minor-version-compat
torch-of-a-team-with-a-very-long-name  cu118    rejected  outside-declared-range
    the author declared it for driver 549.0 or older, and the node has 550.163.01
"
    );
}

#[test]
fn a_compute_capability_that_no_table_knows_is_a_warning() {
    for (gpu, warned) in [("99.9", true), ("12.0", false)] {
        let output = explain(&["--driver", "570.124.06", "--gpu", gpu, "--output", "json"]);
        assert_eq!(output.status.code(), Some(0));
        let warnings = json(&output)["selected"]["torch"]["warnings"].to_string();
        let says = format!("compute capability {gpu} is not known to this version");
        assert_eq!(warnings.contains(&says), warned, "{warnings}");
    }
    let output = explain(&["--driver", "580.95.05", "--gpu", "6.9", "--output", "json"]);
    let detail = json(&output)["rejected"][0]["detail"].as_str().unwrap().to_owned();
    assert!(
        detail.ends_with("; compute capability 6.9 is not known to this version"),
        "{detail}"
    );
}

#[test]
fn a_file_without_end_is_refused_in_bounded_memory() {
    let endless = ["explain", "-f", "/dev/zero", "--output", "json"];
    let output = Command::new(env!("CARGO_BIN_EXE_kubectl-cudaenv"))
        .args(endless)
        .output()
        .unwrap();
    let (_, message) = refusal(&output);
    assert!(message.contains("more than 4194304 bytes"), "{message}");
}

#[test]
fn help_is_an_answer() {
    let output = Command::new(env!("CARGO_BIN_EXE_kubectl-cudaenv"))
        .args(["explain", "--help"])
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(0));
    assert!(String::from_utf8_lossy(&output.stdout).contains("kubectl cudaenv explain"));
}
