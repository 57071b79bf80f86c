//! Keys and signatures: what is trusted, what is not, and that a secret never shows.
//! Never signs with a key that is used anywhere else.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test that cannot go on must fail"
)]

#[path = "support/signed.rs"]
mod signed;

use base64::{Engine, engine::general_purpose::STANDARD};
use binary_cache::{
    key::{KeyNameError, KeyRing, KeyRingError, PublicKey, PublicKeyError, SecretKey, SecretKeyError, SignatureError},
    narinfo::{NarInfo, NarInfoError, TrustError},
};
use crds::domain::store_path::StorePath;
use signed::{asked, fields, key, signed_text};

/// The group order, in bytes of 8 bits, least significant first (RFC 8032, 5.1).
const ORDER: [u8; 32] = [
    0xed, 0xd3, 0xf5, 0x5c, 0x1a, 0x63, 0x12, 0x58, 0xd6, 0x9c, 0xf7, 0xa2, 0xde, 0xf9, 0xde, 0x14, 0, 0, 0, 0, 0, 0,
    0, 0, 0, 0, 0, 0, 0, 0, 0, 0x10,
];

fn verify(text: &str, ring: &KeyRing) -> Result<Vec<String>, TrustError> {
    let info = NarInfo::parse(text.as_bytes()).expect("the narinfo itself is good");
    info.verify(&asked(), ring).map(|info| info.signed_by().to_vec())
}

fn ring(keys: &[&SecretKey]) -> KeyRing {
    KeyRing::new(keys.iter().map(|key| key.public_key()).collect()).unwrap()
}

fn variant(error: &TrustError) -> String {
    format!("{error:?}").split([' ', '{']).next().unwrap().to_owned()
}

/// The good narinfo with its only signature's text replaced.
fn with_sig(sig: &str) -> String {
    let text = signed_text(&key("cache-1", 1));
    let at = text.find("Sig: ").unwrap();
    format!("{}Sig: {sig}\n", &text[..at])
}

/// The line of the signature, from 1.
fn sig_line(text: &str) -> usize {
    1 + text.lines().position(|line| line.starts_with("Sig: ")).unwrap()
}

/// Bytes of the good signature.
fn good_bytes() -> Vec<u8> {
    let text = signed_text(&key("cache-1", 1));
    let (_, encoded) = text.trim_end().rsplit_once(':').unwrap();
    STANDARD.decode(encoded).unwrap()
}

/// A public key named `cache-1`.
fn good_key() -> String {
    key("cache-1", 1).public_key().to_string()
}

#[test]
fn only_a_good_signature_by_a_trusted_key_is_trusted() {
    let (trusted, other) = (key("cache-1", 1), key("cache-1", 2));
    let ring = ring(&[&trusted]);
    let good = signed_text(&trusted);
    assert_eq!(verify(&good, &ring).unwrap(), ["cache-1"]);

    let bytes = good_bytes();
    let sig = |bytes: &[u8]| with_sig(&format!("cache-1:{}", STANDARD.encode(bytes)));
    let flipped: Vec<u8> = bytes
        .iter()
        .enumerate()
        .map(|(at, byte)| if at == 7 { byte ^ 1 } else { *byte })
        .collect();
    let unpadded = STANDARD.encode(&bytes).trim_end_matches('=').to_owned();
    let other_name = with_sig(&format!("cache-2:{}", STANDARD.encode(&bytes)));
    let mut other_size = fields();
    other_size.nar_size += 1;
    let mut other_references = fields();
    other_references.references.pop();
    let graft = |fields| {
        let text = NarInfo::new(fields).to_text().to_owned();
        let sig = good.lines().find(|line| line.starts_with("Sig: ")).unwrap();
        format!("{text}{sig}\n")
    };
    for (case, text, wanted) in [
        ("G01 none", NarInfo::new(fields()).to_text().to_owned(), "NoSignature"),
        ("G02 unknown key", signed_text(&key("stranger-1", 1)), "UntrustedKey"),
        ("G03 known name, other key", signed_text(&other), "BadSignature"),
        ("G04 right key, other name", other_name, "UntrustedKey"),
        ("G05 one bit flipped", sig(&flipped), "BadSignature"),
        ("G06 64 zero bytes", sig(&[0; 64]), "BadSignature"),
        ("G07 63 bytes", sig(&bytes[..63]), "MalformedSignature"),
        ("G08 65 bytes", sig(&[&bytes[..], &[0]].concat()), "MalformedSignature"),
        ("G09 not base64", with_sig("cache-1:#not*base64#"), "MalformedSignature"),
        (
            "G10 no padding",
            with_sig(&format!("cache-1:{unpadded}")),
            "MalformedSignature",
        ),
        ("G11 no colon", with_sig(&STANDARD.encode(&bytes)), "MalformedSignature"),
        (
            "G12 empty name",
            with_sig(&format!(":{}", STANDARD.encode(&bytes))),
            "MalformedSignature",
        ),
        (
            "G13 space",
            with_sig(&format!("cache 1:{}", STANDARD.encode(&bytes))),
            "MalformedSignature",
        ),
        ("G17 other NarSize", graft(other_size), "BadSignature"),
        ("G18 other references", graft(other_references), "BadSignature"),
    ] {
        let error = verify(&text, &ring).expect_err(case);
        assert_eq!(variant(&error), wanted, "{case}: {error}");
        if let TrustError::MalformedSignature { line, .. } = error {
            assert_eq!(line, sig_line(&text), "{case}");
        }
    }
}

#[test]
fn a_key_name_has_neither_space_nor_newline() {
    for (case, wrong) in [("G13 space", ' '), ("G13 newline", '\n')] {
        let text = good_key().replace('-', &wrong.to_string());
        let error = PublicKeyError::Name(KeyNameError::Character { position: 5 });
        assert_eq!(text.parse::<PublicKey>(), Err(error), "{case}");
    }
    assert!(good_key().parse::<PublicKey>().is_ok(), "the twin");
    // G13: what stands behind the newline is a line of its own, and no field.
    let text = with_sig(&format!("cache\n-1:{}", STANDARD.encode(good_bytes())));
    let behind = sig_line(&text) + 1;
    let error = NarInfo::parse(text.as_bytes()).unwrap_err();
    let field = "-1".to_owned();
    assert_eq!(error, NarInfoError::NoSpace { line: behind, field });
    let text = with_sig(&format!("cache-1:{}", STANDARD.encode(good_bytes())));
    NarInfo::parse(text.as_bytes()).unwrap();
}

#[test]
fn references_that_were_added_or_stripped_break_the_signature() {
    let trusted = key("cache-1", 1);
    let mut bare = fields();
    let references = std::mem::take(&mut bare.references);
    let mut info = NarInfo::new(bare);
    info.sign(&trusted);
    assert!(verify(info.to_text(), &ring(&[&trusted])).is_ok());
    let named: Vec<&str> = references.iter().map(StorePath::base_name).collect();
    let added = info
        .to_text()
        .replace("References: ", &format!("References: {}", named.join(" ")));
    assert_eq!(
        variant(&verify(&added, &ring(&[&trusted])).unwrap_err()),
        "BadSignature",
        "G19"
    );

    let good = signed_text(&trusted);
    let stripped: String = good
        .lines()
        .filter(|line| !line.starts_with("References"))
        .map(|line| format!("{line}\n"))
        .collect();
    assert_eq!(
        variant(&verify(&stripped, &ring(&[&trusted])).unwrap_err()),
        "BadSignature",
        "I35"
    );
}

#[test]
fn a_signature_is_for_one_path_in_one_store() {
    let trusted = key("cache-1", 1);
    let mut other = fields();
    other.store_path = "/nix/store/00000000000000000000000000000001-other".parse().unwrap();
    let mut info = NarInfo::new(other);
    info.sign(&trusted);
    let sig = info
        .to_text()
        .lines()
        .find_map(|line| line.strip_prefix("Sig: "))
        .unwrap()
        .to_owned();
    assert_eq!(
        variant(&verify(&with_sig(&sig), &ring(&[&trusted])).unwrap_err()),
        "BadSignature",
        "G16"
    );

    let fingerprint = NarInfo::new(fields()).fingerprint();
    let good = trusted.sign(fingerprint.as_bytes()).to_string();
    assert!(verify(&with_sig(&good), &ring(&[&trusted])).is_ok());
    let elsewhere = trusted
        .sign(fingerprint.replace("/nix/store", "/gnu/store").as_bytes())
        .to_string();
    assert_eq!(
        variant(&verify(&with_sig(&elsewhere), &ring(&[&trusted])).unwrap_err()),
        "BadSignature",
        "G24"
    );
}

#[test]
fn one_good_signature_among_bad_ones_is_enough() {
    let (trusted, stranger) = (key("cache_1", 1), key("stranger", 2));
    let mut info = NarInfo::new(fields());
    info.sign(&stranger);
    info.sign(&trusted);
    let text = info
        .to_text()
        .replacen("Sig: ", "Sig: nonsense\nSig: cache_1:AAAA\nSig: ", 1);
    let info = NarInfo::parse(text.as_bytes())
        .unwrap()
        .verify(&asked(), &ring(&[&trusted]))
        .unwrap();
    assert_eq!(info.signed_by(), ["cache_1"], "G14, and G13 with an underscore");
    let lines: Vec<usize> = info
        .malformed_signatures()
        .iter()
        .map(|malformed| malformed.line)
        .collect();
    assert_eq!(lines, [10, 11]);
    assert_eq!(
        info.malformed_signatures()[0].error,
        SignatureError::Name(KeyNameError::NoColon)
    );
    assert_eq!(
        info.malformed_signatures()[1].error,
        SignatureError::Length { found: 3 }
    );
    // What is kept has the good one first, the stranger's for whoever trusts it, and nothing that is no signature.
    let kept: Vec<_> = info
        .text()
        .lines()
        .filter_map(|line| line.strip_prefix("Sig: "))
        .collect();
    assert_eq!(kept.len(), 2, "{kept:?}");
    assert!(
        kept[0].starts_with("cache_1:") && kept[1].starts_with("stranger:"),
        "{kept:?}"
    );
}

#[test]
fn too_many_signatures_are_not_even_tried() {
    let trusted = key("cache-1", 1);
    let sig = signed_text(&trusted).lines().last().unwrap().to_owned() + "\n";
    let bare = NarInfo::new(fields()).to_text().to_owned();
    assert!(verify(&(bare.clone() + &sig.repeat(64)), &ring(&[&trusted])).is_ok());
    let error = verify(&(bare.clone() + &sig.repeat(65)), &ring(&[&trusted])).unwrap_err();
    assert_eq!(variant(&error), "TooManySignatures");
    let error = verify(&(bare + &"Sig: x\n".repeat(100_000)), &ring(&[&trusted])).unwrap_err();
    assert_eq!(variant(&error), "TooManySignatures", "G15");
}

#[test]
fn a_signature_has_one_spelling() {
    let trusted = key("cache-1", 1);
    let mut bytes = good_bytes();
    // S + L satisfies the same equation; strict verification refuses it (RFC 8032, 5.1.7).
    let mut carry = 0_u16;
    for (byte, order) in bytes[32..].iter_mut().zip(ORDER) {
        carry += u16::from(*byte) + u16::from(order);
        *byte = carry.to_le_bytes()[0];
        carry >>= 8;
    }
    let text = with_sig(&format!("cache-1:{}", STANDARD.encode(bytes)));
    assert_eq!(
        variant(&verify(&text, &ring(&[&trusted])).unwrap_err()),
        "BadSignature",
        "G20"
    );
}

#[test]
fn keys_that_anyone_can_sign_for_are_refused_at_configuration() {
    let text = |bytes: &[u8]| format!("cache-1:{}", STANDARD.encode(bytes));
    let name = || "cache-1".to_owned();
    let mut identity = [0; 32];
    identity[0] = 1;
    let mut order_eight = [
        0x26, 0xe8, 0x95, 0x8f, 0xc2, 0xb2, 0x27, 0xb0, 0x45, 0xc3, 0xf4, 0x89, 0xf2, 0xef, 0x98, 0xf0, 0xd5, 0xdf,
        0xac, 0x05, 0xd3, 0xc6, 0x33, 0x39, 0xb1, 0x38, 0x02, 0x88, 0x6d, 0x53, 0xfc, 0x05,
    ];
    for bytes in [identity, [0; 32], order_eight] {
        assert_eq!(
            text(&bytes).parse::<PublicKey>(),
            Err(PublicKeyError::LowOrder { name: name() }),
            "{bytes:x?}"
        );
    }
    order_eight[31] |= 0x80;
    assert_eq!(
        text(&order_eight).parse::<PublicKey>(),
        Err(PublicKeyError::LowOrder { name: name() })
    );

    // y = p + 3 and y = 3 are one point: only the smaller number spells it.
    let (mut small, mut large) = ([0; 32], [0xff; 32]);
    (small[0], large[0], large[31]) = (3, 0xf0, 0x7f);
    assert!(text(&small).parse::<PublicKey>().is_ok(), "the twin is a point");
    assert_eq!(
        text(&large).parse::<PublicKey>(),
        Err(PublicKeyError::NotCanonical { name: name() })
    );

    let mut off_curve = [0; 32];
    off_curve[0] = 2;
    assert_eq!(
        text(&off_curve).parse::<PublicKey>(),
        Err(PublicKeyError::NotAPoint { name: name() })
    );
    for (bytes, found) in [(&[1; 31][..], 31), (&[1; 33], 33)] {
        assert_eq!(
            text(bytes).parse::<PublicKey>(),
            Err(PublicKeyError::Length { name: name(), found })
        );
    }
    assert_eq!(
        "cache-1:*".parse::<PublicKey>(),
        Err(PublicKeyError::Base64 { name: name() })
    );
    assert_eq!(
        "cache-1".parse::<PublicKey>(),
        Err(PublicKeyError::Name(KeyNameError::NoColon))
    );
    assert_eq!(KeyRing::parse(Vec::<String>::new()), Err(KeyRingError::Empty));
    let good = key("cache-1", 1).public_key().to_string();
    let error = KeyRing::parse([good.as_str(), "x"]).unwrap_err();
    assert!(matches!(error, KeyRingError::Key { index: 1, .. }), "{error}");
    assert!(
        error.to_string().contains("public key number 2"),
        "people count from 1: {error}"
    );
    assert_eq!(KeyRing::parse([&good]).unwrap().keys()[0].to_string(), good);
}

#[test]
fn two_keys_of_one_name_are_both_tried() {
    let (old, new) = (key("cache-1", 1), key("cache-1", 2));
    let ring = ring(&[&old, &new]);
    for key in [&old, &new] {
        assert_eq!(verify(&signed_text(key), &ring).unwrap(), ["cache-1"], "G21");
    }
    let mut both = NarInfo::new(fields());
    both.sign(&old);
    both.sign(&new);
    assert_eq!(verify(both.to_text(), &ring).unwrap(), ["cache-1"], "named once");
}

#[test]
fn a_secret_key_is_never_trusted_and_never_printed() {
    let seed = [7; 32];
    let public = key("cache-1", 7).public_key().to_string();
    let half = STANDARD.decode(public.split_once(':').unwrap().1).unwrap();
    let encoded = STANDARD.encode([&seed[..], &half].concat());
    let secret = format!("cache-1:{encoded}");
    let error = secret.parse::<PublicKey>().unwrap_err();
    assert_eq!(
        error,
        PublicKeyError::IsSecretKey {
            name: "cache-1".to_owned()
        },
        "G22"
    );
    let parsed: SecretKey = format!("{secret}\n").parse().expect("as a secret key it is good");
    let wrong = format!("cache-1:{}", STANDARD.encode([8; 64]));
    let halves = wrong.parse::<SecretKey>().unwrap_err();
    assert_eq!(
        halves,
        SecretKeyError::Halves {
            name: "cache-1".to_owned()
        }
    );
    for shown in [
        error.to_string(),
        format!("{error:?}"),
        format!("{parsed:?}"),
        halves.to_string(),
    ] {
        assert!(!shown.contains(&encoded[..8]) && !shown.contains("7, 7"), "{shown}");
    }
    assert_eq!(parsed.public_key().to_string(), public);
    let message = b"message";
    assert!(parsed.public_key().verifies(message, &parsed.sign(message)));
}
