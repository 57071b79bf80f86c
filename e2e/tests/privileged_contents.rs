//! GPU code that nobody declared: read from a real library once it is there, remembered, and what `run` then goes by.
//! Each refusal stands beside a GPU or a driver that fits, with the same library.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on must fail")]

use std::{
    fs,
    path::{Path, PathBuf},
};

use e2e::{
    documents,
    layout::write_file,
    parts::{self, Driver},
    programs::{Ended, ended},
    skip,
    stage::Stage,
};
use serde_json::{Value, json};

/// What the library carries, as NVIDIA's own tools show it: SASS 6.0, 7.0, 7.5, 8.0, 8.6, 8.9, 9.0 and PTX 9.0 of version 8.4.
const LIBRARY: &str = "libbitsandbytes_cuda124.so";

/// A stage with CUDA 12.4 and a package that carries the library, and says nothing of its code.
struct Scene {
    stage: Stage,
    environment: PathBuf,
    /// The store path that holds the library.
    carrier: String,
}

impl Scene {
    fn set(check: &str) -> Option<(Self, Vec<Driver>)> {
        skip::without(check, skip::root())?;
        let drivers = skip::without(check, parts::drivers())?;
        let toolkits = skip::without(check, parts::toolkits())?;
        let sha256 = "55348a9a4a21bfd99cf8c7b32fe67b4030ae5c2a05738e03c1747f65fa6ec283";
        let wheel = parts::wheel("wheels/bitsandbytes-0.50.2", "bitsandbytes==0.50.2", sha256);
        let library = skip::without(check, wheel)?.join("bitsandbytes").join(LIBRARY);
        let (mut carrier, mut root) = (String::new(), String::new());
        let stage = Stage::new(&toolkits[2..3], |layout, closures| {
            carrier = layout.add("bitsandbytes", &[], |folder, _| {
                write_file(&folder.join("lib").join(LIBRARY), &fs::read(&library)?, false)
            })?;
            let members = [carrier.as_str(), &closures[0].runtime, &closures[0].programs];
            root = layout.add_environment("undeclared-env", &members)?;
            Ok(())
        });
        let stage = skip::without(check, stage)?;
        let package = documents::package("cuda", &[documents::variant("cu124", "12.4", &root)]);
        let environment = stage.environment("undeclared", &[package]).unwrap();
        let scene = Self {
            stage,
            environment,
            carrier,
        };
        Some((scene, drivers))
    }

    fn ran(&self, driver: &Driver, gpu: &str, state: &str) -> Ended {
        let node = self.stage.node(driver).unwrap();
        let command = self
            .stage
            .run(&self.environment, &node, &self.stage.state(state))
            .unwrap();
        // The stage names a GPU of its own; here the GPU is what is asked about.
        let words: Vec<_> = command.get_args().map(|word| word.to_owned()).collect();
        let mut run = std::process::Command::new(command.get_program());
        run.args(words.iter().map(|word| {
            if word == "8.0:tesla" {
                gpu.as_ref()
            } else {
                word.as_os_str()
            }
        }));
        run.args(["/run/cudaenv/packages/cuda/bin/count"]);
        ended(&mut run).unwrap()
    }

    fn fits(&self, driver: &Driver, gpu: &str, state: &str) {
        let ran = self.ran(driver, gpu, state);
        assert_eq!(
            (ran.code, ran.stdout.trim()),
            (0, "libcudart.so.12 100"),
            "{gpu}: {ran:?}"
        );
    }

    /// A run that is refused before the program: the reason's message.
    fn refused(&self, driver: &Driver, gpu: &str, state: &str, reason: &str) -> String {
        let ran = self.ran(driver, gpu, state);
        assert_eq!(ran.code, 125, "{ran:?}");
        let (found, message) = ran.error().unwrap();
        assert_eq!(found, reason, "{message}");
        message
    }

    /// What is remembered of the library's store path.
    fn remembered(&self, state: &str) -> PathBuf {
        let hash = &self.carrier["/nix/store/".len()..][..32];
        self.stage.state(state).join("meta").join(format!("{hash}.scan.json"))
    }
}

fn read(file: &Path) -> Value {
    serde_json::from_slice(&fs::read(file).unwrap()).unwrap()
}

#[test]
fn undeclared_code_is_read_from_the_library_and_decides() {
    let Some((scene, drivers)) = Scene::set("undeclared GPU code is read and decides") else {
        return;
    };
    let (older, newer) = (&drivers[3], &drivers[4]);
    assert_eq!((older.isa, newer.isa), ("8.2", "8.4"));
    let file = scene.remembered("one");
    let message = scene.refused(newer, "5.2:tesla", "one", "NoCodeForGPU");
    assert!(message.contains("no code for compute capability 5.2"), "{message}");
    let sass = &read(&file)["contents"]["code"]["sass"];
    assert_eq!(*sass, json!(["6.0", "7.0", "7.5", "8.0", "8.6", "8.9", "9.0"]));
    for gpu in ["6.1:tesla", "8.0:tesla"] {
        scene.fits(newer, gpu, "one");
    }
    // For a GPU newer than all of its SASS there is the PTX, which only a driver of its own release compiles.
    let message = scene.refused(older, "12.0:geforce-rtx", "one", "PtxTooNew");
    assert!(
        message.contains("PTX of version 8.4") && message.contains("up to 8.2"),
        "{message}"
    );
    scene.fits(newer, "12.0:geforce-rtx", "one");
    scene.fits(older, "9.0:tesla", "one");
}

#[test]
fn what_was_read_is_remembered_and_what_cannot_be_understood_is_read_again() {
    let Some((scene, drivers)) = Scene::set("what a library carries is remembered") else {
        return;
    };
    let (driver, state) = (&drivers[4], "two");
    scene.fits(driver, "8.0:tesla", state);
    let file = scene.remembered(state);
    let truth = read(&file);

    // Believed as it stands: another word in it is another answer, and the library is not looked at.
    let mut changed = truth.clone();
    changed["contents"]["code"] = json!({"sass": ["5.2"], "ptx": []});
    fs::write(&file, changed.to_string()).unwrap();
    scene.fits(driver, "5.2:tesla", state);
    scene.refused(driver, "8.0:tesla", state, "NoCodeForGPU");
    assert_eq!(read(&file), changed);

    let mut older = changed.clone();
    older["format"] = json!(1);
    for garbage in ["", "garbage", "{}", "{\"format\":2}", &older.to_string()] {
        fs::write(&file, garbage).unwrap();
        scene.fits(driver, "8.0:tesla", state);
        assert_eq!(read(&file), truth, "after {garbage:?}");
    }
    fs::remove_file(&file).unwrap();
    scene.refused(driver, "5.2:tesla", state, "NoCodeForGPU");
    assert_eq!(read(&file), truth);
}

#[test]
fn a_library_that_cannot_be_read_is_named_where_the_rest_decides() {
    let Some((scene, drivers)) = Scene::set("a library that cannot be read is named") else {
        return;
    };
    let driver = &drivers[4];
    scene.fits(driver, "8.0:tesla", "three");
    // As a scan that met a broken library remembers it.
    let file = scene.remembered("three");
    let mut broken = read(&file);
    let library = format!("{}/lib/{LIBRARY}", scene.carrier);
    broken["contents"]["unreadable"] = json!([library]);
    broken["contents"]["code"] = json!({"sass": ["5.2"], "ptx": []});
    fs::write(&file, broken.to_string()).unwrap();
    let message = scene.refused(driver, "8.0:tesla", "three", "NoCodeForGPU");
    assert!(
        message.contains(&format!("{library}, which could not be read")),
        "{message}"
    );
    assert!(message.contains("declare `code`"), "{message}");
    scene.fits(driver, "5.2:tesla", "three");
}
