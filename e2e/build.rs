//! Compiles the messages of the Controller service that only tests serve, without protoc.
//! Never fetches anything: the definition is our own file.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo::rerun-if-changed=proto/controller.proto");
    let descriptors = protox::compile(["controller.proto"], ["proto"])?;
    tonic_prost_build::configure()
        .build_client(false)
        .compile_fds(descriptors)?;
    Ok(())
}
