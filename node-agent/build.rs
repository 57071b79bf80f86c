//! Compiles the messages of CSI and of kubelet's plugin registration, without protoc.
//! Never fetches anything: the definitions are our own files.

use std::path::Path;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let folder = Path::new("proto");
    let files = ["csi.proto", "registration.proto"];
    for file in files {
        println!("cargo::rerun-if-changed={}", folder.join(file).display());
    }
    let descriptors = protox::compile(files, [folder])?;
    // Clients too: the tests speak to the services as kubelet does.
    tonic_prost_build::configure().compile_fds(descriptors)?;
    Ok(())
}
