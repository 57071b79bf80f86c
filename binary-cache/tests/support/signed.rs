//! A small narinfo and keys to sign it with.
//! Never a key that is used outside tests.

use binary_cache::{
    compression::Compression,
    key::SecretKey,
    narinfo::{Download, Fields, NarInfo},
};
use crds::domain::store_path::StorePath;

/// The path that the narinfo is about.
pub(crate) fn asked() -> StorePath {
    "/nix/store/7rjj86a15146cq1d3qy068lml7n7ykzm-thing-1.0".parse().unwrap()
}

/// What the narinfo says.
pub(crate) fn fields() -> Fields {
    Fields {
        store_path: asked(),
        nar_hash: "sha256:0mdqa9w1p6cmli6976v4wi0sw9r4p5prkj7lzfd1877wk11c9c73"
            .parse()
            .unwrap(),
        nar_size: 4096,
        references: vec![
            asked(),
            "/nix/store/00000000000000000000000000000000-needed".parse().unwrap(),
        ],
        deriver: Some(
            "/nix/store/11111111111111111111111111111111-thing-1.0.drv"
                .parse()
                .unwrap(),
        ),
        ca: None,
        download: Download {
            url: "nar/thing.nar.xz".parse().unwrap(),
            compression: Compression::Xz,
            file_hash: Some(
                "sha256:1b4sb93wp679q4zx9k1ignby1yna3z7c4c2ri3wphylbc2dwsys0"
                    .parse()
                    .unwrap(),
            ),
            file_size: Some(1234),
        },
    }
}

/// The key that this name and number stand for.
pub(crate) fn key(name: &str, seed: u8) -> SecretKey {
    SecretKey::from_seed(name, &[seed; 32]).unwrap()
}

/// The narinfo, signed.
pub(crate) fn signed_text(key: &SecretKey) -> String {
    let mut info = NarInfo::new(fields());
    info.sign(key);
    info.to_text().to_owned()
}
