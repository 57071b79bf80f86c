//! Caches from the wire.
//! Never quotes a URL or a key in an error: either may hold a secret by mistake.

use super::{At, InvalidField, Problem, Unique, object_name};
use crate::{domain::cache::CacheSource, v1alpha1::CUDABinaryCache};

const LONGEST_URL: usize = 1024;
const LONGEST_ORIGIN: usize = 512;
const LONGEST_KEY_NAME: usize = 128;
const MOST_KEYS: usize = 16;
const MOST_URLS: usize = 8;
/// Characters of base64 that 32 bytes take, padding included.
const KEY_BASE64: usize = 44;
/// As many characters as this are a secret key of 64 bytes, padded or not.
const SECRET_BASE64: usize = 86;

const SPEC: At<'static> = At::root("spec");

impl TryFrom<&CUDABinaryCache> for CacheSource {
    type Error = InvalidField;

    fn try_from(object: &CUDABinaryCache) -> Result<Self, Self::Error> {
        let spec = &object.spec;
        check(&SPEC.field("url"), &spec.url, url)?;
        set("publicKeys", &spec.public_keys, (1, MOST_KEYS), public_key)?;
        set("mirrors", &spec.mirrors, (0, MOST_URLS), url)?;
        set("redirectOrigins", &spec.redirect_origins, (0, MOST_URLS), origin)?;
        Ok(Self {
            name: object_name(object.metadata.name.as_ref())?,
            url: spec.url.clone(),
            mirrors: spec.mirrors.clone(),
            public_keys: spec.public_keys.clone(),
            priority: spec.priority.map(priority).transpose()?,
            redirect_origins: spec.redirect_origins.clone(),
            auth_secret: spec.auth_secret_ref.as_ref().map(|secret| secret.name.clone()),
        })
    }
}

fn check(at: &At<'_>, text: &str, rule: fn(&str) -> Result<(), Problem>) -> Result<(), InvalidField> {
    rule(text).map_err(|problem| at.is(problem))
}

fn set(
    field: &'static str,
    texts: &[String],
    (fewest, most): (usize, usize),
    rule: fn(&str) -> Result<(), Problem>,
) -> Result<(), InvalidField> {
    let list = SPEC.field(field);
    list.count(texts.len(), fewest, most)?;
    let mut unique = Unique::default();
    for (index, text) in texts.iter().enumerate() {
        let at = list.index(index);
        check(&at, text, rule)?;
        unique.value(&at, text)?;
    }
    Ok(())
}

fn url(text: &str) -> Result<(), Problem> {
    let clean = !text.contains(['?', '#']) && !text.contains(char::is_whitespace) && !text.contains(char::is_control);
    let path = text.strip_prefix("file://").is_some_and(|path| path.starts_with('/'));
    if text.len() <= LONGEST_URL && clean && (path || authority(text).is_some()) {
        return Ok(());
    }
    Err(Problem::Url { longest: LONGEST_URL })
}

fn origin(text: &str) -> Result<(), Problem> {
    let alone = authority(text).is_some_and(|authority| text.ends_with(authority));
    let clean = !text.contains(['?', '#']) && !text.contains(char::is_whitespace) && !text.contains(char::is_control);
    if text.len() <= LONGEST_ORIGIN && alone && clean {
        Ok(())
    } else {
        Err(Problem::Origin)
    }
}

/// The host and port of an http(s) URL; `None` where there is none, or a user with it.
fn authority(text: &str) -> Option<&str> {
    let rest = text.strip_prefix("https://").or_else(|| text.strip_prefix("http://"))?;
    let authority = rest.split('/').next()?;
    (!authority.is_empty() && !authority.contains('@')).then_some(authority)
}

fn public_key(text: &str) -> Result<(), Problem> {
    let (name, base64) = text.split_once(':').ok_or(Problem::PublicKey)?;
    let alphabet = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'+' | b'/');
    if base64.len() >= SECRET_BASE64 && base64.bytes().all(|b| alphabet(b) || b == b'=') {
        return Err(Problem::SecretKey);
    }
    let named = !name.is_empty() && name.len() <= LONGEST_KEY_NAME;
    let clean = !name.contains(char::is_whitespace) && !name.contains(char::is_control);
    let shape = base64.len() == KEY_BASE64 && base64.strip_suffix('=').is_some_and(|bits| bits.bytes().all(alphabet));
    if named && clean && shape {
        Ok(())
    } else {
        Err(Problem::PublicKey)
    }
}

fn priority(found: i64) -> Result<u32, InvalidField> {
    let greatest = i64::from(i32::MAX);
    u32::try_from(found).ok().filter(|_| found <= greatest).ok_or_else(|| {
        SPEC.field("priority").is(Problem::OutOfRange {
            found,
            least: 0,
            greatest,
        })
    })
}
