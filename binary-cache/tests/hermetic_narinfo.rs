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
    plain.ca = Some("fixed:r:sha256:0mdqa9w1p6cmli6976v4wi0sw9r4p5prkj7lzfd1877wk11c9c73".to_owned());
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
    for value in [
        format!("text:sha256:{digest}"),
        format!("fixed:r:sha256:{digest}"),
        format!("fixed:sha256:{digest}"),
    ] {
        let info = accepted("I39", &and(&format!("CA: {value}\n")));
        assert_eq!(info.fields().ca.as_deref(), Some(value.as_str()));
    }
    assert_eq!(accepted("empty", &and("CA: \n")).fields().ca, None);
}

#[test]
fn a_content_address_of_another_path_is_ignored_and_none_stands_in_for_a_signature() {
    // I39: well-formed, but this path was not made from it. It decides nothing, so it need not be right: see
    // docs/decisions/0008-content-addresses-decide-nothing.md.
    let ring = KeyRing::new(vec![key("cache-1", 1).public_key()]).unwrap();
    let mut fields = fields();
    fields.ca = Some("fixed:r:sha256:0mdqa9w1p6cmli6976v4wi0sw9r4p5prkj7lzfd1877wk11c9c73".to_owned());
    let mut info = NarInfo::new(fields);
    let error = info.clone().verify(&asked(), &ring).unwrap_err();
    assert_eq!(error, TrustError::NoSignature { path: asked() }, "G23");
    info.sign(&key("cache-1", 1));
    let trusted = info.verify(&asked(), &ring).unwrap();
    assert_eq!(
        trusted.signed_by(),
        ["cache-1"],
        "I39: by its signature, as without one"
    );
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
