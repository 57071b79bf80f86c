//! The text of narinfos: a published one, and every way to get one wrong, each beside a good one.
//! Never asks a cache: the published one is a file here.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test that cannot go on must fail"
)]

#[path = "support/signed.rs"]
mod signed;

use binary_cache::{
    compression::Compression,
    key::KeyRing,
    narinfo::{DownloadUrl, MAX_SIZE, NarInfo, NarInfoError, TrustError, UrlError},
};
use crds::domain::store_path::StorePath;
use signed::{asked, fields, key, signed_text};

const UPSTREAM: &str = include_str!("data/upstream-narinfo/hello-2.10.narinfo");
const UPSTREAM_KEY: &str = "cache.nixos.org-1:6NCHdD59X431o0gWypbMrAURkbJ16ZPMQFGspcDShjY=";
const UPSTREAM_PATH: &str = "/nix/store/w9yy7v61ipb5rx6i35zq1mvc2iqfmps1-hello-2.10";

fn upstream_ring() -> KeyRing {
    KeyRing::parse([UPSTREAM_KEY]).unwrap()
}

fn trusted(text: &str, path: &StorePath) -> bool {
    NarInfo::parse(text.as_bytes()).is_ok_and(|info| info.verify(path, &upstream_ring()).is_ok())
}

/// The good narinfo, whose lines the cases edit.
fn good() -> String {
    signed_text(&key("cache-1", 1))
}

/// The good narinfo with the line of `field` replaced by `line`.
fn with(field: &str, line: &str) -> String {
    let replace = |old: &str| match old.starts_with(&format!("{field}: ")) {
        true => line.to_owned(),
        false => format!("{old}\n"),
    };
    good().lines().map(replace).collect()
}

/// The good narinfo with `line` behind its last.
fn and(line: &str) -> String {
    good() + line
}

fn variant(error: &impl std::fmt::Debug) -> String {
    format!("{error:?}").split([' ', '{', '(']).next().unwrap().to_owned()
}

fn refused(case: &str, text: impl AsRef<[u8]>, wanted: &str) -> NarInfoError {
    let error = NarInfo::parse(text.as_ref()).expect_err(case);
    assert_eq!(variant(&error), wanted, "{case}: {error}");
    error
}

fn accepted(case: &str, text: &str) -> NarInfo {
    NarInfo::parse(text.as_bytes()).unwrap_or_else(|error| panic!("{case}: {error}"))
}

#[test]
fn a_published_narinfo_is_trusted_by_the_published_key() {
    let path: StorePath = UPSTREAM_PATH.parse().unwrap();
    let info = NarInfo::parse(UPSTREAM.as_bytes())
        .unwrap()
        .verify(&path, &upstream_ring())
        .unwrap();
    assert_eq!(info.store_path(), &path);
    assert_eq!(info.nar_size(), 205_968);
    assert_eq!(
        info.nar_hash().to_string(),
        "sha256:1mi14cqk363wv368ffiiy01knardmnlyphi6h9xv6dkjz44hk30i"
    );
    assert_eq!(info.references().len(), 2);
    assert_eq!(info.signed_by(), ["cache.nixos.org-1"]);
    assert_eq!(info.download().compression, Compression::Xz);
    assert_eq!(info.download().file_size, Some(41_232));
    assert_eq!(info.text(), UPSTREAM);
}

#[test]
fn every_signed_character_counts() {
    let path: StorePath = UPSTREAM_PATH.parse().unwrap();
    assert!(trusted(UPSTREAM, &path));
    let mut start = 0;
    let (mut changed, mut harmless) = (0, 0);
    for line in UPSTREAM.split_inclusive('\n') {
        let signed = ["StorePath", "NarHash", "NarSize", "References", "Sig"]
            .iter()
            .any(|field| line.starts_with(field));
        for at in start..start + line.len() {
            for flip in [0x01, 0x02, 0x20] {
                let mut bytes = UPSTREAM.as_bytes().to_vec();
                bytes[at] ^= flip;
                let still = String::from_utf8(bytes).is_ok_and(|text| trusted(&text, &path));
                assert!(!(signed && still), "byte {at} changed by {flip}, in {line}");
                changed += u32::from(!still);
                harmless += u32::from(still);
            }
        }
        start += line.len();
    }
    assert!(
        changed > 900 && harmless > 100,
        "{changed} {harmless}: unsigned fields are hints, so some changes pass"
    );
}

#[test]
fn writing_and_reading_are_inverse() {
    let text = good();
    let info = accepted("written", &text);
    let mut sorted = fields();
    sorted.references.sort();
    assert_eq!(info.fields(), &sorted);
    assert_eq!(info.to_text(), text);
    let mut plain = fields();
    (plain.references, plain.deriver, plain.ca) = (Vec::new(), None, None);
    (plain.download.file_hash, plain.download.file_size) = (None, None);
    let info = NarInfo::new(plain.clone());
    assert_eq!(accepted("without anything optional", info.to_text()).fields(), &plain);
    let (path, address, _) = ADDRESSED[0];
    (plain.store_path, plain.ca) = (StorePath::from_base_name(path).unwrap(), Some(address.to_owned()));
    let info = NarInfo::new(plain.clone());
    assert_eq!(accepted("with a content address", info.to_text()).fields(), &plain);
}

#[test]
fn the_text_as_a_whole_is_checked_first() {
    accepted("twin", &good());
    refused("I01 empty", "", "Empty");
    refused("I02 no newline at the end", good().trim_end(), "Unterminated");
    assert_eq!(
        refused("I03 CRLF", good().replace('\n', "\r\n"), "CarriageReturn"),
        NarInfoError::CarriageReturn { line: 1 }
    );
    refused("I04 BOM", format!("\u{feff}{}", good()), "ByteOrderMark");
    assert_eq!(
        refused("I05 no colon", and("nonsense\n"), "NoColon"),
        NarInfoError::NoColon { line: 11 }
    );
    refused("I05 empty line", and("\n"), "NoColon");
    refused("I05 a web page", "<!DOCTYPE html>\n<html>\n</html>\n", "NoColon");
    let error = refused("I06 no space", and("Key:value\n"), "NoSpace");
    assert_eq!(
        error,
        NarInfoError::NoSpace {
            line: 11,
            field: "Key".to_owned()
        }
    );
    refused(
        "I06 nothing behind the colon",
        with("References", "References:\n"),
        "NoSpace",
    );
    refused("I07 leading space", with("NarSize", " NarSize: 4096\n"), "BadFieldName");
    refused("I07 space before the colon", and("Key : value\n"), "BadFieldName");
    refused("I07 no name", and(": value\n"), "BadFieldName");
    accepted("I08 unknown key, twice", &and("Novelty: 1\nNovelty: 2\n"));
    accepted(
        "I09 just below the limit",
        &and(&format!("X: {}\n", "x".repeat(MAX_SIZE - good().len() - 4))),
    );
    refused(
        "I09 just above the limit",
        and(&format!("X: {}\n", "x".repeat(MAX_SIZE - good().len() - 3))),
        "TooLarge",
    );
    refused("I09 10 MB", vec![b'x'; 10 << 20], "TooLarge");
    let not_utf8 = [good().as_bytes(), b"X: \xff\n"].concat();
    assert_eq!(
        refused("I10 not UTF-8", not_utf8, "NotUtf8"),
        NarInfoError::NotUtf8 { line: 11 }
    );
    assert_eq!(
        refused("I11 NUL", and("X: a\0b\n"), "Nul"),
        NarInfoError::Nul { line: 11 }
    );
}

#[test]
fn the_store_path_is_one_and_the_one_asked_for() {
    let line = |path: &str| with("StorePath", &format!("StorePath: {path}\n"));
    assert_eq!(
        refused("I12 missing", with("StorePath", ""), "Missing"),
        NarInfoError::Missing { field: "StorePath" }
    );
    let hash = asked().hash().to_owned();
    for (case, path) in [
        ("I13 other store", format!("/gnu/store/{hash}-thing-1.0")),
        ("I16 parent", "/nix/store/..".to_owned()),
        ("I17 tail", format!("/nix/store/{hash}-thing-1.0/bin/sh")),
        (
            "I18 letters that are not used",
            format!("/nix/store/{}eout-thing-1.0", &hash[..28]),
        ),
        ("I19 name .", format!("/nix/store/{hash}-.")),
        ("I19 name ..", format!("/nix/store/{hash}-..")),
        ("I19 name .-a", format!("/nix/store/{hash}-.-a")),
        ("I19 name ..-a", format!("/nix/store/{hash}-..-a")),
        (
            "I20 name of 212 bytes",
            format!("/nix/store/{hash}-{}", "n".repeat(212)),
        ),
        ("empty", String::new()),
        ("a base name alone", format!("{hash}-thing-1.0")),
    ] {
        refused(case, line(&path), "StorePath");
    }
    accepted(
        "I20 name of 211 bytes",
        &line(&format!("/nix/store/{hash}-{}", "n".repeat(211))),
    );
    let ring = KeyRing::new(vec![key("cache-1", 1).public_key()]).unwrap();
    let ask = |path: &str| accepted("good", &good()).verify(&path.parse().unwrap(), &ring);
    let error = ask("/nix/store/00000000000000000000000000000000-thing-1.0").unwrap_err();
    assert!(matches!(error, TrustError::OtherPath { .. }), "I14: {error}");
    let error = ask(&format!("/nix/store/{hash}-thing-1.1")).unwrap_err();
    assert!(matches!(error, TrustError::OtherName { .. }), "I15: {error}");
    ask(&asked().to_string()).unwrap();
}

#[test]
fn no_line_replaces_an_earlier_one() {
    for (case, line) in [
        (
            "I21",
            "StorePath: /nix/store/7rjj86a15146cq1d3qy068lml7n7ykzm-thing-1.0\n",
        ),
        (
            "I22",
            "NarHash: sha256:0mdqa9w1p6cmli6976v4wi0sw9r4p5prkj7lzfd1877wk11c9c73\n",
        ),
        ("I23", "References: 00000000000000000000000000000000-needed\n"),
        ("URL", "URL: nar/other.nar.xz\n"),
        ("Compression", "Compression: xz\n"),
        ("NarSize", "NarSize: 4096\n"),
        ("FileHash", "FileHash: x\n"),
        ("FileSize", "FileSize: 1\n"),
        ("Deriver", "Deriver: unknown-deriver\n"),
        ("CA", "CA: \nCA: \n"),
        ("System", "System: a\nSystem: b\n"),
    ] {
        refused(case, and(line), "Duplicate");
    }
    accepted("twin", &and("CA: \nSystem: x86_64-linux\n"));
}

#[test]
fn only_sha256_counts_as_a_hash() {
    let line = |value: &str| with("NarHash", &format!("NarHash: {value}\n"));
    refused("I22 missing", with("NarHash", ""), "Missing");
    let hex = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
    for (case, value, reason) in [
        ("I24 md5", "md5:d41d8cd98f00b204e9800998ecf8427e", "RefusedAlgorithm"),
        (
            "I24 sha1",
            "sha1:da39a3ee5e6b4b0d3255bfef95601890afd80709",
            "RefusedAlgorithm",
        ),
        ("I24 sha512", "sha512:0", "RefusedAlgorithm"),
        (
            "I26 one short",
            "sha256:0mdqa9w1p6cmli6976v4wi0sw9r4p5prkj7lzfd1877wk11c9c7",
            "Length",
        ),
        ("no algorithm", hex, "NoAlgorithm"),
        (
            "a space",
            "sha256:0mdqa9w1p6cmli6976v4wi0sw9r4p5prkj7lzfd1877wk11c9c73 ",
            "Length",
        ),
    ] {
        let NarInfoError::Hash {
            line: 6,
            field: "NarHash",
            source,
        } = refused(case, line(value), "Hash")
        else {
            panic!("{case}: another line or field")
        };
        assert_eq!(variant(&source), reason, "{case}");
    }
    // Another spelling of the same hash has the same fingerprint, so the signature holds.
    let ring = KeyRing::new(vec![key("cache-1", 1).public_key()]).unwrap();
    for value in [
        format!("sha256:{hex}"),
        "sha256-47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=".to_owned(),
    ] {
        accepted("I25", &line(&value)).verify(&asked(), &ring).unwrap();
    }
    refused("FileHash too", with("FileHash", "FileHash: md5:00\n"), "Hash");
    accepted("FileHash may be missing", &with("FileHash", ""));
}

#[test]
fn sizes_are_plain_decimal_numbers() {
    let line = |value: &str| with("NarSize", &format!("NarSize: {value}\n"));
    assert_eq!(
        refused("I27 zero", line("0"), "ZeroNarSize"),
        NarInfoError::ZeroNarSize { line: 7 }
    );
    for (case, value) in [
        ("I28 negative", "-1"),
        ("I29 2^64", "18446744073709551616"),
        ("I30 exponent", "1e9"),
        ("I31 leading space", " 1"),
        ("I31 trailing space", "1 "),
        ("I31 inner space", "1 000"),
        ("plus", "+1"),
        ("hexadecimal", "0x10"),
        ("nothing", ""),
    ] {
        refused(case, line(value), "Number");
        refused(case, with("FileSize", &format!("FileSize: {value}\n")), "Number");
    }
    assert_eq!(
        accepted("2^64-1", &line("18446744073709551615")).fields().nar_size,
        u64::MAX
    );
    assert_eq!(
        accepted("size unknown", &with("FileSize", "FileSize: 0\n"))
            .fields()
            .download
            .file_size,
        None
    );
    refused("missing", with("NarSize", ""), "Missing");
}

#[test]
fn references_are_a_set_of_base_names() {
    let line = |value: &str| with("References", &format!("References: {value}\n"));
    let (a, b) = ("00000000000000000000000000000000-needed", asked());
    let ring = KeyRing::new(vec![key("cache-1", 1).public_key()]).unwrap();
    let unsorted = line(&format!("{} {a}", b.base_name()));
    let info = accepted("I32", &unsorted)
        .verify(&asked(), &ring)
        .expect("sorted before it is checked");
    assert_eq!(info.references()[0].base_name(), a);
    let error = refused("I33 twice", line(&format!("{a} {a}")), "DuplicateReference");
    assert_eq!(
        error,
        NarInfoError::DuplicateReference {
            line: 8,
            reference: a.to_owned()
        }
    );
    refused("I34 absolute", line(&format!("/nix/store/{a}")), "Reference");
    refused("parent", line(".."), "Reference");
    refused(
        "two spaces",
        line(&format!("{a}  {}", b.base_name())),
        "ReferenceSpacing",
    );
    refused("space at the end", line(&format!("{a} ")), "ReferenceSpacing");
    refused("space at the beginning", line(&format!(" {a}")), "ReferenceSpacing");
    assert!(accepted("none", &line("")).fields().references.is_empty());
    assert!(
        accepted("no line", &with("References", ""))
            .fields()
            .references
            .is_empty()
    );
    let many: Vec<String> = (0..20_000).map(|number| format!("{number:032}-n")).collect();
    assert_eq!(
        accepted("20,000", &line(&many.join(" "))).fields().references.len(),
        20_000
    );
}

#[test]
fn deriver_compression_and_content_address_are_known_forms_or_none() {
    let deriver = |value: &str| with("Deriver", &format!("Deriver: {value}\n"));
    assert_eq!(
        accepted("I36 unknown", &deriver("unknown-deriver")).fields().deriver,
        None
    );
    for value in ["../x.drv", "/nix/store/11111111111111111111111111111111-x.drv", ""] {
        refused("I36", deriver(value), "Deriver");
    }
    let compression = |line: &str| with("Compression", line);
    assert_eq!(
        accepted("I37 missing", &compression("")).fields().download.compression,
        Compression::Bzip2
    );
    for value in ["", "lzma2", "zstd ", "XZ", "lz4", "xz,zstd"] {
        refused("I37", compression(&format!("Compression: {value}\n")), "Compression");
    }
    for known in Compression::ALL {
        let info = accepted("I37", &compression(&format!("Compression: {known}\n")));
        assert_eq!(info.fields().download.compression, known);
    }
    let digest = "0mdqa9w1p6cmli6976v4wi0sw9r4p5prkj7lzfd1877wk11c9c73";
    for (value, reason) in [
        ("nonsense".to_owned(), "Method"),
        (format!("source:sha256:{digest}"), "Method"),
        ("text:sha256".to_owned(), "Algorithm"),
        (format!("fixed:r:sha3:{digest}"), "Algorithm"),
        (format!("fixed:r:sha256:{}", &digest[1..]), "Digest"),
        (format!("fixed:r:sha1:{digest}"), "Digest"),
    ] {
        let NarInfoError::Ca { line: 11, source } = refused("I38", and(&format!("CA: {value}\n")), "Ca") else {
            panic!("{value}: another line")
        };
        assert_eq!(variant(&source), reason, "{value}");
    }
    assert_eq!(accepted("empty", &and("CA: \n")).fields().ca, None);
}

/// Content-addressed paths as Nix 2.8.0 made them, with their addresses and references: `nix-store --add`, `--add-fixed` with
/// and without `--recursive`, `builtins.toFile`, and `nix store make-content-addressed`.
const ADDRESSED: [(&str, &str, &[&str]); 9] = [
    (
        "rwzlk7p3v53djms8rzfyl2xyi0mj43bw-tree",
        "fixed:r:sha256:1n7i5d9pqxda055s7r0ndpvq2nhfk2gc7yp2wfqh8m9zi1kwdlsa",
        &[],
    ),
    (
        "563rjc8skvl32sn4b85s977wnhafb30j-selfy",
        "fixed:r:sha256:1070hkzkvadpaqsp2zlhah8lpin3xz8q4hrb0jrw92ml50b63mai",
        &[
            "563rjc8skvl32sn4b85s977wnhafb30j-selfy",
            "rwzlk7p3v53djms8rzfyl2xyi0mj43bw-tree",
        ],
    ),
    (
        "dhnq8yx66flyr6bna9nkz8zj8yallw35-tree",
        "fixed:r:sha1:2qn5l5rgzszrq7vanjllfwsxgfyf1flp",
        &[],
    ),
    (
        "gpqz32wnj4gdnz0yv2vjfcsslbwhfdr3-tree",
        "fixed:r:sha512:0qgs3mqqbd8m1bv6vahxazqsm4ag45pdf92y2a5054dhcdays7bz2phzir4w1aq8sn01s6xsmzw53dn2fl9vwxlw2pkgfzki6p58sl4",
        &[],
    ),
    (
        "z1rahp9fy11h8yvihxhgj8vr2pb6db1a-file.txt",
        "fixed:sha256:00xyyr3fi8l6hb839bv3f7yb86yjv7xi1cgh1xnhipym4asvb4aq",
        &[],
    ),
    (
        "saz56sqca1hwr9kl6nifa7sxp08crgg7-file.txt",
        "fixed:sha1:iwjz551fyw0cxcjgf4l6c879zabd6wpm",
        &[],
    ),
    (
        "14jkq42hdy6md5659r4q5gjfd9q9bf6v-file.txt",
        "fixed:md5:4425hx5d1mc9y39llj4k4nm55i",
        &[],
    ),
    (
        "yrljpcqq0i1pa6pzl42wk4aswnsjar74-a.txt",
        "text:sha256:1fs8xspqaxw0p5r4wz0lz3pqd9sdvhirmcriqbxcmg8vr89835ya",
        &[],
    ),
    (
        "7kg4na2ccdn7kn4hj8cb2fdfk26k1r1j-b.txt",
        "text:sha256:1ksi5gg15vac8asidyqvxd3982mw2g11x4h3y35wh5rxl5jf0y4z",
        &["yrljpcqq0i1pa6pzl42wk4aswnsjar74-a.txt"],
    ),
];

/// An unsigned narinfo with a content address.
fn addressed(path: &str, address: &str, references: &[&str]) -> NarInfo {
    let store_path = |name: &&str| StorePath::from_base_name(name).unwrap();
    let mut all = fields();
    all.store_path = store_path(&path);
    all.references = references.iter().map(store_path).collect();
    all.ca = Some(address.to_owned());
    NarInfo::new(all)
}

/// I39.
#[test]
fn a_content_address_must_be_that_of_its_path() {
    for (path, address, references) in ADDRESSED {
        let text = addressed(path, address, references).to_text().to_owned();
        assert_eq!(accepted(path, &text).fields().ca.as_deref(), Some(address));
        let wrong = |case: &str, text: &str| {
            let NarInfoError::Ca { source, .. } = refused(case, text, "Ca") else {
                panic!("{case}")
            };
            variant(&source)
        };
        for (other, other_address, _) in ADDRESSED.iter().filter(|other| other.0 != path) {
            let text = addressed(path, other_address, references).to_text().to_owned();
            let reason = wrong(&format!("{path} with the address of {other}"), &text);
            assert!(["OtherPath", "References"].contains(&reason.as_str()), "{reason}");
        }
        let name = format!("{}x", &path[..path.len() - 1]);
        assert_eq!(wrong(path, addressed(&name, address, &[]).to_text()), "OtherPath");
        let more: Vec<&str> = [references, &["00000000000000000000000000000000-more"]].concat();
        let by_name = address.starts_with("text:") || address.starts_with("fixed:r:sha256:");
        let reason = wrong(path, addressed(path, address, &more).to_text());
        assert_eq!(reason, if by_name { "OtherPath" } else { "References" }, "{path}");
    }
    let (path, address, _) = ADDRESSED[7];
    let NarInfoError::Ca { source, .. } = refused("text", addressed(path, address, &[path]).to_text(), "Ca") else {
        panic!("{path}")
    };
    assert_eq!(variant(&source), "References", "a text cannot hold its own name");
}

#[test]
fn a_right_content_address_stands_in_for_no_signature() {
    let ring = KeyRing::new(vec![key("cache-1", 1).public_key()]).unwrap();
    let (path, address, references) = ADDRESSED[0];
    let path = StorePath::from_base_name(path).unwrap();
    let read = |info: &NarInfo| accepted("read back", info.to_text());
    let mut info = addressed(path.base_name(), address, references);
    let error = read(&info).verify(&path, &ring).unwrap_err();
    assert_eq!(error, TrustError::NoSignature { path: path.clone() }, "G23");
    info.sign(&key("cache-1", 1));
    assert_eq!(read(&info).verify(&path, &ring).unwrap().signed_by(), ["cache-1"]);
}

#[test]
fn a_download_stays_below_the_caches_own_address() {
    for (url, wanted) in [
        ("", UrlError::Empty),
        ("?x", UrlError::Empty),
        ("https://elsewhere.example/nar/x", UrlError::Absolute),
        ("file:x", UrlError::Absolute),
        ("C:x", UrlError::Absolute),
        ("//host/x", UrlError::LeadingSlash),
        ("/nar/x", UrlError::LeadingSlash),
        ("../../x", UrlError::ParentDirectory),
        ("nar/..", UrlError::ParentDirectory),
        ("nar/%2e%2e/x", UrlError::ParentDirectory),
        ("nar/.%2E/x", UrlError::ParentDirectory),
        ("nar/..?x", UrlError::ParentDirectory),
        ("nar/%2e%2e%2fx", UrlError::HiddenSeparator),
        ("nar%5cx", UrlError::HiddenSeparator),
        ("nar/%00", UrlError::HiddenSeparator),
        ("nar/%0d%0a", UrlError::HiddenSeparator),
        ("nar/%2", UrlError::BadEscape),
        ("nar/%zz", UrlError::BadEscape),
        ("nar/x#y", UrlError::Fragment),
        ("nar\\x", UrlError::Backslash),
        ("nar/a b", UrlError::Character { position: 5 }),
        ("nar/a\tb", UrlError::Character { position: 5 }),
        ("nar/\u{e9}", UrlError::Character { position: 4 }),
    ] {
        assert_eq!(url.parse::<DownloadUrl>(), Err(wanted), "I40 {url}");
        refused(url, with("URL", &format!("URL: {url}\n")), "Url");
    }
    assert_eq!("x".repeat(4097).parse::<DownloadUrl>(), Err(UrlError::TooLong));
    for url in [
        "nar/x.nar.xz",
        "x.nar",
        "nar/x.nar.xz?hash=a:b/../c",
        "a/b/c",
        "nar/...",
        "nar/x%20y",
        "nar/a:b",
        "./nar/x",
    ] {
        assert_eq!(
            accepted(url, &with("URL", &format!("URL: {url}\n")))
                .fields()
                .download
                .url
                .as_str(),
            url
        );
    }
    refused("missing", with("URL", ""), "Missing");
}

#[test]
fn what_nobody_signed_and_nobody_needs_is_not_kept() {
    let signer = key("cache-1", 1);
    let keys = KeyRing::new(vec![signer.public_key()]).unwrap();
    let mut padded = signed_text(&signer);
    for line in 0..900 {
        padded += &format!("X-Padding-{line}: {}\n", "x".repeat(1000));
    }
    let verified = NarInfo::parse(padded.as_bytes())
        .unwrap()
        .verify(&asked(), &keys)
        .unwrap();
    assert!(
        padded.len() > 900_000 && verified.text().len() < 2000,
        "{}",
        verified.text().len()
    );
    let again = NarInfo::parse(verified.text().as_bytes())
        .unwrap()
        .verify(&asked(), &keys)
        .unwrap();
    assert_eq!(again, verified, "what is kept proves as much");
}
