//! Makes the webhook's certificates, writes their Secret, and tells the API server whom to trust.
//! Never overwrites what another replica wrote in between: every write names the version that it changes.

use std::{
    collections::BTreeMap,
    time::{Duration, SystemTime},
};

use json_patch::Patch as JsonPatch;
use k8s_openapi::{
    ByteString,
    api::{
        admissionregistration::v1::{MutatingWebhookConfiguration, ValidatingWebhookConfiguration},
        core::v1::Secret,
    },
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use kube::{
    Api, Client,
    api::{Patch, PatchParams, PostParams},
};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
};
use rustls::pki_types::{CertificateDer, pem::PemObject as _};
use serde_json::json;
use sha2::{Digest as _, Sha256};
use x509_parser::{certificate::X509Certificate, prelude::FromDer as _};

use crate::{
    plan::certificates::{Step, Wanted, mistrusted},
    snapshot::certificates::{ConfigurationKind, Names, SECRET_TYPE, Seen, Webhook, key},
};

/// What could not be done.
#[derive(Debug, thiserror::Error)]
pub enum ActError {
    /// A certificate or key could not be made.
    #[error("a certificate cannot be made")]
    Make(#[source] rcgen::Error),
    /// The newest authority cannot be read back.
    #[error("the newest authority in the secret cannot be read")]
    Authority,
    /// The Secret could not be written.
    #[error("secret {name} cannot be written")]
    Secret {
        /// Its name.
        name: String,
        /// Why.
        source: Box<kube::Error>,
    },
    /// A configuration could not be patched.
    #[error("webhook {webhook} cannot be told whom to trust")]
    Trust {
        /// Its name.
        webhook: String,
        /// Why.
        source: Box<kube::Error>,
    },
}

/// The new contents of the Secret.
type Data = BTreeMap<String, ByteString>;

/// An authority: its name, its certificate in PEM, and its key.
struct Authority {
    name: String,
    pem: String,
    key: KeyPair,
}

/// Does a step. Another replica that was first is no failure: what it did is seen in the next round.
///
/// # Errors
/// What could not be made or written.
pub async fn execute(
    client: &Client,
    names: &Names,
    step: Step,
    seen: &Seen,
    (now, wanted): (SystemTime, &Wanted),
) -> Result<(), ActError> {
    let mut data = seen
        .secret
        .as_ref()
        .and_then(|secret| secret.data.clone())
        .unwrap_or_default();
    match step {
        Step::Begin => {
            data.clear();
            let authority = authority(now, wanted)?;
            put(&mut data, key::AUTHORITIES, authority.pem.clone());
            put(&mut data, key::AUTHORITY_KEY, authority.key.serialize_pem());
            sign(
                &mut data,
                authority.name,
                authority.key,
                (now, wanted),
                now + wanted.authority,
            )?;
        }
        Step::AddAuthority => {
            let authority = authority(now, wanted)?;
            let trusted = String::from_utf8_lossy(seen.data(key::AUTHORITIES)).into_owned();
            put(&mut data, key::AUTHORITIES, format!("{trusted}{}", authority.pem));
            put(&mut data, key::AUTHORITY_KEY, authority.key.serialize_pem());
        }
        Step::Sign => {
            let (name, until) = newest(seen)?;
            let text = String::from_utf8_lossy(seen.data(key::AUTHORITY_KEY)).into_owned();
            let key = KeyPair::from_pem(&text).map_err(ActError::Make)?;
            sign(&mut data, name, key, (now, wanted), until)?;
        }
        Step::DropOld => {
            let trusted = String::from_utf8_lossy(seen.data(key::AUTHORITIES)).into_owned();
            let last = trusted.rfind("-----BEGIN").ok_or(ActError::Authority)?;
            put(&mut data, key::AUTHORITIES, trusted[last..].to_owned());
        }
        Step::Trust => return trust(client, names, seen).await,
    }
    write(client, names, seen.secret.as_ref(), data).await
}

fn put(data: &mut Data, key: &str, text: String) {
    data.insert(key.to_owned(), ByteString(text.into_bytes()));
}

/// A moment as the library writes it; whole seconds, as certificates have no others.
macro_rules! moment {
    ($time:expr) => {
        rcgen::date_time_ymd(1970, 1, 1)
            + Duration::from_secs(
                $time
                    .duration_since(SystemTime::UNIX_EPOCH)
                    .unwrap_or_default()
                    .as_secs(),
            )
    };
}

fn authority(now: SystemTime, wanted: &Wanted) -> Result<Authority, ActError> {
    let key = KeyPair::generate().map_err(ActError::Make)?;
    let hash = Sha256::digest(key.public_key_raw());
    let short: String = hash.iter().take(8).map(|byte| format!("{byte:02x}")).collect();
    let name = format!("cudaenv webhook authority {short}");
    let mut params = named(&name);
    params.not_before = moment!(now - wanted.skew());
    params.not_after = moment!(now + wanted.authority);
    let certificate = params.self_signed(&key).map_err(ActError::Make)?;
    Ok(Authority {
        name,
        pem: certificate.pem(),
        key,
    })
}

/// An authority's parameters but for its life.
fn named(name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::DigitalSignature];
    params
}

/// Signs a new serving certificate with the authority of that name and key, which counts until `until`.
fn sign(
    data: &mut Data,
    authority: String,
    key: KeyPair,
    (now, wanted): (SystemTime, &Wanted),
    until: SystemTime,
) -> Result<(), ActError> {
    let names: Vec<String> = wanted.names.iter().cloned().collect();
    let mut params = CertificateParams::new(names).map_err(ActError::Make)?;
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, "cudaenv webhook");
    params.not_before = moment!(now - wanted.skew());
    params.not_after = moment!((now + wanted.serving).min(until));
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    params.use_authority_key_identifier_extension = true;
    let own = KeyPair::generate().map_err(ActError::Make)?;
    let issuer = Issuer::new(named(&authority), key);
    let certificate = params.signed_by(&own, &issuer).map_err(ActError::Make)?;
    put(data, self::key::SERVING, certificate.pem());
    put(data, self::key::SERVING_KEY, own.serialize_pem());
    Ok(())
}

/// The newest authority's name, and until when it counts.
fn newest(seen: &Seen) -> Result<(String, SystemTime), ActError> {
    let all = CertificateDer::pem_slice_iter(seen.data(key::AUTHORITIES));
    let der = all.filter_map(Result::ok).last().ok_or(ActError::Authority)?;
    let (_, parsed) = X509Certificate::from_der(&der).map_err(|_| ActError::Authority)?;
    let name = parsed.subject().iter_common_name().next();
    let name = name.and_then(|name| name.as_str().ok()).ok_or(ActError::Authority)?;
    let until = u64::try_from(parsed.validity().not_after.timestamp()).unwrap_or_default();
    Ok((name.to_owned(), SystemTime::UNIX_EPOCH + Duration::from_secs(until)))
}

async fn write(client: &Client, names: &Names, old: Option<&Secret>, data: Data) -> Result<(), ActError> {
    let secrets = Api::<Secret>::namespaced(client.clone(), &names.namespace);
    let written = match old {
        None => {
            let secret = Secret {
                metadata: ObjectMeta {
                    name: Some(names.secret.clone()),
                    ..ObjectMeta::default()
                },
                type_: Some(SECRET_TYPE.to_owned()),
                data: Some(data),
                ..Secret::default()
            };
            secrets.create(&PostParams::default(), &secret).await
        }
        Some(old) => {
            let mut secret = old.clone();
            secret.data = Some(data);
            secrets.replace(&names.secret, &PostParams::default(), &secret).await
        }
    };
    match written {
        Ok(_) => Ok(()),
        Err(error) if other_was_first(&error) => Ok(()),
        Err(error) => Err(ActError::Secret {
            name: names.secret.clone(),
            source: Box::new(error),
        }),
    }
}

async fn trust(client: &Client, names: &Names, seen: &Seen) -> Result<(), ActError> {
    let mutating = Api::<MutatingWebhookConfiguration>::all(client.clone());
    let validating = Api::<ValidatingWebhookConfiguration>::all(client.clone());
    let bundle = ByteString(seen.data(key::AUTHORITIES).to_vec());
    for webhook in mistrusted(seen) {
        let patch = Patch::Json::<()>(patch(webhook, &bundle).ok_or(ActError::Authority)?);
        let (name, params) = (names.configuration.as_str(), PatchParams::default());
        let patched = match webhook.kind {
            ConfigurationKind::Mutating => mutating.patch(name, &params, &patch).await.map(drop),
            ConfigurationKind::Validating => validating.patch(name, &params, &patch).await.map(drop),
        };
        match patched {
            Ok(()) => {}
            Err(error) if other_was_first(&error) => {}
            Err(error) => {
                return Err(ActError::Trust {
                    webhook: webhook.name.clone(),
                    source: Box::new(error),
                });
            }
        }
    }
    Ok(())
}

/// Says whom to trust, if the webhook is still where it was seen.
fn patch(webhook: &Webhook, bundle: &ByteString) -> Option<JsonPatch> {
    let at = format!("/webhooks/{}", webhook.index);
    let patch = json!([
        {"op": "test", "path": format!("{at}/name"), "value": webhook.name},
        {"op": "add", "path": format!("{at}/clientConfig/caBundle"), "value": bundle},
    ]);
    serde_json::from_value(patch).ok()
}

/// What was to be changed had changed already: it is looked at again.
fn other_was_first(error: &kube::Error) -> bool {
    matches!(error, kube::Error::Api(status) if status.code == 409 || status.code == 404)
}
