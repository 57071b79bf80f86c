//! `scan`: which GPU code a file or a folder carries.

use std::fmt::Write as _;

use crds::domain::code::GpuCode;

use super::{answer, inputs::InputError};
use crate::{
    args::{Output, ScanArgs},
    fatbin::scan::{Scan, scan_store_path},
    report::failure::{Failure, Reason},
};

pub(super) fn run(args: &ScanArgs, output: Output) -> Result<u8, Failure> {
    let read = |source| InputError::Read {
        path: args.path.clone(),
        source,
    };
    // What a person names may be a link, as `libcuda.so.1` is; only what lies below a scanned folder is never followed.
    let path = std::fs::canonicalize(&args.path).map_err(read)?;
    let kind = path.metadata().map_err(read)?.file_type();
    if !kind.is_file() && !kind.is_dir() {
        return Err(read(std::io::ErrorKind::InvalidInput.into()).into());
    }
    let scan = scan_store_path(&path, &path).map_err(|error| Failure::new(Reason::BadRequest, 2, error))?;
    answer(output, &scan, text)?;
    // A file that was named and could not be read is a failure; one of many in a folder is a remark.
    Ok(u8::from(kind.is_file() && !scan.unreadable.is_empty()))
}

fn text(scan: &Scan) -> String {
    let mut text = String::new();
    for file in &scan.contents.files {
        let _ = writeln!(text, "{}\n  {}", file.path, code(&file.code));
    }
    let files = scan.contents.files.len();
    let _ = writeln!(
        text,
        "{files} of {} ELF files carry GPU code; in all: {}",
        scan.elf_files,
        code(&scan.contents.code)
    );
    for runtime in &scan.runtimes {
        let _ = writeln!(text, "CUDA runtime {runtime}");
    }
    for stub in &scan.stubs {
        let _ = writeln!(
            text,
            "stub: {stub} is for linking only; on a run-time path it answers error 34 to everything"
        );
    }
    for file in &scan.unreadable {
        let _ = writeln!(text, "not read: {}: {}", file.path, file.why);
    }
    text
}

/// `SASS 7.5 8.0, PTX 9.0 (8.7)`.
fn code(code: &GpuCode) -> String {
    let list = |items: Vec<String>| {
        if items.is_empty() {
            "none".to_owned()
        } else {
            items.join(" ")
        }
    };
    let sass = list(code.sass.iter().map(ToString::to_string).collect());
    let ptx = list(
        code.ptx
            .iter()
            .map(|ptx| format!("{} ({})", ptx.target, ptx.isa))
            .collect(),
    );
    format!("SASS {sass}, PTX {ptx}")
}
