//! The reader of GPU code against real fat binaries: a wheel with seven CUDA releases in it, NVIDIA's own cuobjdump, and
//! code that NVIDIA's own compiler makes here.
//! It must never need a GPU: compiling for one does not.

#![expect(clippy::expect_used, reason = "a test that cannot go on must fail")]

use std::{
    collections::BTreeSet,
    fs::{self, File},
    path::{Path, PathBuf},
    process::Command,
};

use crds::domain::code::CodeTarget;
use e2e::{parts, programs, skip};
use node_agent::{
    elf::Elf,
    fatbin::{self, Fatbin, scan::scan_store_path},
};

/// What each library of the wheel carries, as NVIDIA's cuobjdump shows it.
const BITSANDBYTES: [(&str, &str, &str, &str); 7] = [
    ("cuda118", "libcudart.so.11.0", "60 70 75 80 86 89 90", "90 7.8"),
    ("cuda121", "libcudart.so.12", "60 70 75 80 86 89 90", "90 8.1"),
    ("cuda124", "libcudart.so.12", "60 70 75 80 86 89 90", "90 8.4"),
    ("cuda126", "libcudart.so.12", "60 70 75 80 86 89 90", "90 8.5"),
    ("cuda128", "libcudart.so.12", "70 75 80 86 89 90 100 120", "120 8.7"),
    ("cuda130", "libcudart.so.13", "75 80 86 89 90 100 120", "120 9.0"),
    ("cuda132", "libcudart.so.13", "75 80 86 89 90 100 120", "120 9.2"),
];

fn bitsandbytes() -> anyhow::Result<PathBuf> {
    let sha256 = "55348a9a4a21bfd99cf8c7b32fe67b4030ae5c2a05738e03c1747f65fa6ec283";
    Ok(parts::wheel("wheels/bitsandbytes-0.50.2", "bitsandbytes==0.50.2", sha256)?.join("bitsandbytes"))
}

fn cuobjdump() -> anyhow::Result<PathBuf> {
    let sha256 = "38780fee50863252a0b8926357faa91615ca1c8346490563f33a06100cd73f58";
    let folder = parts::wheel(
        "wheels/cuda-cuobjdump-13.5.37",
        "nvidia-cuda-cuobjdump==13.5.37",
        sha256,
    )?;
    Ok(folder.join("nvidia/cu13/bin/cuobjdump"))
}

/// The folder with real `ptxas` and `fatbinary`.
fn compiler() -> anyhow::Result<PathBuf> {
    let sha256 = "f5c4f7ead5d964fb4af42bbf1e6d3ec3c1e6e9d83b53749f691d387e7fcaa3a7";
    let folder = parts::wheel("wheels/cuda-nvcc-13.5.37", "nvidia-cuda-nvcc==13.5.37", sha256)?;
    Ok(folder.join("nvidia/cu13/bin"))
}

fn read(file: &Path) -> Fatbin {
    let mut elf = Elf::open(File::open(file).expect("a file")).expect("an ELF file");
    fatbin::read(&mut elf).expect("GPU code")
}

fn sass(found: &Fatbin) -> Vec<String> {
    found.code.sass.iter().map(ToString::to_string).collect()
}

fn library(folder: &Path, name: &str) -> PathBuf {
    folder.join(format!("libbitsandbytes_{name}.so"))
}

#[test]
fn a_wheel_for_seven_cuda_releases_is_read_as_it_was_built() {
    let Some(folder) = skip::without("real fat binaries of seven CUDA releases are read", bitsandbytes()) else {
        return;
    };
    for (name, runtime, targets, ptx) in BITSANDBYTES {
        let found = read(&library(&folder, name));
        let wanted: BTreeSet<CodeTarget> = targets
            .split(' ')
            .map(|target| target.parse().expect("a target"))
            .collect();
        assert_eq!(found.code.sass, wanted, "{name}");
        let of_ptx: Vec<String> = found
            .code
            .ptx
            .iter()
            .map(|ptx| format!("{} {}", ptx.target.capability.to_sm(), ptx.isa))
            .collect();
        assert_eq!(of_ptx, [ptx], "{name}");
        assert!(
            found.needed.iter().any(|needed| needed == runtime),
            "{name}: {:?}",
            found.needed
        );
    }
}

#[test]
fn a_folder_is_scanned_into_what_selection_looks_at() {
    let Some(folder) = skip::without("a real folder is scanned for GPU code", bitsandbytes()) else {
        return;
    };
    let store_path = Path::new("/nix/store/00bgd045z0d4icpbc2yyz4gx48ak44la-bitsandbytes");
    let found = scan_store_path(&folder, store_path).expect("a scan");
    assert_eq!(found.unreadable, []);
    let files: Vec<&str> = found.contents.files.iter().map(|file| file.path.as_str()).collect();
    let wanted = BITSANDBYTES.map(|row| library(store_path, row.0).display().to_string());
    assert_eq!(files, wanted);
    assert_eq!(found.contents.code.sass.len(), 9);
    assert_eq!(found.contents.code.ptx.len(), 7);
    assert_eq!(found.contents.compat, None);
    let text = serde_json::to_string(&found.contents).expect("JSON");
    let back: crds::selection::Contents = serde_json::from_str(&text).expect("the same");
    assert_eq!(back, found.contents);
}

#[test]
fn nvidias_own_tool_lists_the_same_entries() {
    let check = "the reader of GPU code agrees with NVIDIA's cuobjdump";
    let Some((folder, tool)) = skip::without(check, bitsandbytes().and_then(|folder| Ok((folder, cuobjdump()?))))
    else {
        return;
    };
    // One of the seven it cannot read itself: it stops with "Invalid ELF".
    for (name, ..) in BITSANDBYTES.into_iter().filter(|row| row.0 != "cuda121") {
        let file = library(&folder, name);
        // Lines such as `ELF file    1: libx.1.sm_70.cubin` and `PTX file    1: libx.1.sm_90.ptx`.
        let list = |what: &str, suffix: &str| -> Vec<CodeTarget> {
            let said = programs::finished(Command::new(&tool).args(["-all", what]).arg(&file)).expect("cuobjdump");
            let target = |line: &str| line.strip_suffix(suffix)?.rsplit('.').next()?.parse().ok();
            said.lines().filter_map(target).collect()
        };
        let (cubins, ptx) = (list("--list-elf", ".cubin"), list("--list-ptx", ".ptx"));
        let found = read(&file);
        assert_eq!(found.entries, (cubins.len() + ptx.len()) as u64, "{name}");
        assert!(found.entries > 50, "{name}: {}", found.entries);
        assert_eq!(found.code.sass, cubins.into_iter().collect(), "{name}");
        let targets: BTreeSet<CodeTarget> = found.code.ptx.iter().map(|ptx| ptx.target).collect();
        assert_eq!(targets, ptx.into_iter().collect(), "{name}");
    }
}

/// Compiles a kernel for each target and links the fat binaries into one library, as nvcc would.
fn made_library(tools: &Path, folder: &Path, options: &[&str]) -> PathBuf {
    let run = |command: &mut Command| drop(programs::finished(command.current_dir(folder)).expect("a tool that runs"));
    let kernel = |target: &str| {
        let ptx = format!(".version 9.0\n.target sm_{target}\n.address_size 64\n.visible .entry k() {{ ret; }}\n");
        fs::write(folder.join(format!("{target}.ptx")), ptx).expect("written");
        let (arch, output) = (format!("-arch=sm_{target}"), format!("{target}.cubin"));
        run(Command::new(tools.join("ptxas")).args([&arch, &format!("{target}.ptx"), "-o", &output]));
    };
    let mut regions = String::new();
    for (index, (section, cubins, ptx)) in [
        (".nv_fatbin", &["80", "90a", "100f"][..], &["90"][..]),
        (".nv_fatbin", &["120a", "121f"], &["100f", "90a"]),
        ("__nv_relfatbin", &["75", "103"], &[]),
    ]
    .into_iter()
    .enumerate()
    {
        let mut fatbinary = Command::new(tools.join("fatbinary"));
        fatbinary
            .arg("--64")
            .args(options)
            .arg(format!("--create={index}.fatbin"));
        for target in cubins.iter().chain(ptx) {
            kernel(target);
        }
        let image =
            |kind: &str, target: &str, suffix: &str| format!("--image3=kind={kind},sm={target},file={target}.{suffix}");
        fatbinary.args(cubins.iter().map(|target| image("elf", target, "cubin")));
        fatbinary.args(ptx.iter().map(|target| image("ptx", target, "ptx")));
        run(&mut fatbinary);
        regions.push_str(&format!(
            ".section {section},\"a\"\n.balign 8\n.incbin \"{index}.fatbin\"\n"
        ));
    }
    fs::write(folder.join("made.S"), regions).expect("written");
    run(Command::new("gcc").args(["-shared", "-o", "libmade.so", "made.S"]));
    folder.join("libmade.so")
}

#[test]
fn the_suffixes_of_code_made_by_nvidias_compiler_are_read() {
    let check = "targets with suffix a and f are read from code made by ptxas and fatbinary";
    let Some(tools) = skip::without(check, compiler()) else {
        return;
    };
    for options in [&[][..], &["--compress-all"], &["--compress=false"]] {
        let folder = tempfile::tempdir().expect("a folder");
        let found = read(&made_library(&tools, folder.path(), options));
        assert_eq!(
            sass(&found),
            ["7.5", "8.0", "9.0a", "10.0f", "10.3", "12.0a", "12.1f"],
            "{options:?}"
        );
        let ptx: Vec<String> = found
            .code
            .ptx
            .iter()
            .map(|ptx| format!("{} {}", ptx.target, ptx.isa))
            .collect();
        assert_eq!(ptx, ["9.0 9.0", "9.0a 9.0", "10.0f 9.0"], "{options:?}");
        assert_eq!(found.entries, 10, "{options:?}");
    }
}
