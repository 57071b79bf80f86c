//! Reading the webhook's Secret and configurations.
//! Never trusts what it reads because it is there: keys must belong to certificates, and certificates to authorities.

use std::{
    collections::BTreeSet,
    net::IpAddr,
    sync::Arc,
    time::{Duration, SystemTime},
};

use k8s_openapi::api::{
    admissionregistration::v1::{MutatingWebhookConfiguration, ValidatingWebhookConfiguration, WebhookClientConfig},
    core::v1::Secret,
};
use kube::{Api, Client};
use rcgen::KeyPair;
use rustls::{
    crypto::ring,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _},
    sign::CertifiedKey,
};
use x509_parser::{certificate::X509Certificate, extensions::GeneralName, prelude::FromDer as _};

use crate::{
    failure::chain,
    snapshot::certificates::{Certificates, ConfigurationKind, Kept, Life, Names, SECRET_TYPE, Seen, Webhook, key},
};

/// Most certificates in a bundle that are looked at.
const MOST_AUTHORITIES: usize = 8;

/// What could not be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The Secret.
    #[error("secret {namespace}/{name} cannot be read")]
    Secret {
        /// Its namespace.
        namespace: String,
        /// Its name.
        name: String,
        /// Why.
        source: Box<kube::Error>,
    },
    /// A configuration.
    #[error("webhook configuration {name} cannot be read")]
    Configuration {
        /// Its name.
        name: String,
        /// Why.
        source: Box<kube::Error>,
    },
}

/// Why a Secret of ours cannot be used.
#[derive(Debug, thiserror::Error)]
enum Unusable {
    #[error("it has no usable entry `{0}`")]
    Entry(&'static str),
    #[error("the keys in it do not belong to the certificates")]
    Keys,
    #[error("its serving certificate was signed by none of its authorities")]
    Signer,
    #[error("the serving certificate cannot be loaded")]
    Serving(#[source] rustls::Error),
}

/// Everything that is looked at, and the certificate to serve.
///
/// # Errors
/// The API server does not answer, or forbids it.
pub async fn read(client: &Client, names: &Names) -> Result<(Seen, Option<Arc<CertifiedKey>>), ReadError> {
    let secrets = Api::<Secret>::namespaced(client.clone(), &names.namespace);
    let secret = secrets.get_opt(&names.secret).await;
    let secret = secret.map_err(|error| ReadError::Secret {
        namespace: names.namespace.clone(),
        name: names.secret.clone(),
        source: Box::new(error),
    })?;
    let (kept, serving) = match &secret {
        None => (Kept::Absent, None),
        Some(secret) => understand(secret),
    };
    let webhooks = webhooks(client, &names.configuration).await;
    let webhooks = webhooks.map_err(|error| ReadError::Configuration {
        name: names.configuration.clone(),
        source: Box::new(error),
    })?;
    Ok((Seen { kept, secret, webhooks }, serving))
}

async fn webhooks(client: &Client, name: &str) -> Result<Vec<Webhook>, kube::Error> {
    let webhook = |kind, index, name: String, client: WebhookClientConfig| Webhook {
        kind,
        index,
        name,
        bundle: client.ca_bundle.map(|bundle| bundle.0).unwrap_or_default(),
    };
    let mutating = Api::<MutatingWebhookConfiguration>::all(client.clone())
        .get_opt(name)
        .await?;
    let validating = Api::<ValidatingWebhookConfiguration>::all(client.clone())
        .get_opt(name)
        .await?;
    let mutating = mutating.and_then(|found| found.webhooks).unwrap_or_default();
    let validating = validating.and_then(|found| found.webhooks).unwrap_or_default();
    let mutating = mutating.into_iter().enumerate();
    let mutating =
        mutating.map(|(index, found)| webhook(ConfigurationKind::Mutating, index, found.name, found.client_config));
    let validating = validating.into_iter().enumerate();
    let validating =
        validating.map(|(index, found)| webhook(ConfigurationKind::Validating, index, found.name, found.client_config));
    Ok(mutating.chain(validating).collect())
}

fn understand(secret: &Secret) -> (Kept, Option<Arc<CertifiedKey>>) {
    let kind = secret.type_.as_deref().unwrap_or("Opaque");
    if kind != SECRET_TYPE {
        let kind = kind.to_owned();
        return (Kept::Foreign { kind }, None);
    }
    match certificates(secret) {
        Ok((certificates, serving)) => (Kept::Usable(certificates), Some(Arc::new(serving))),
        Err(unusable) => {
            let why = chain(&unusable);
            (Kept::Unusable { why }, None)
        }
    }
}

fn certificates(secret: &Secret) -> Result<(Certificates, CertifiedKey), Unusable> {
    let entry = |key: &'static str| {
        let found = secret.data.as_ref().and_then(|data| data.get(key));
        found.map(|bytes| bytes.0.as_slice()).ok_or(Unusable::Entry(key))
    };
    let ders = all(entry(key::AUTHORITIES)?, key::AUTHORITIES)?;
    let authorities = ders.iter().map(|der| parse(der, key::AUTHORITIES));
    let authorities: Vec<_> = authorities.collect::<Result<_, _>>()?;
    let newest = authorities.last().ok_or(Unusable::Entry(key::AUTHORITIES))?;
    let signing = std::str::from_utf8(entry(key::AUTHORITY_KEY)?).ok();
    let signing = signing.and_then(|text| KeyPair::from_pem(text).ok());
    let signing = signing.ok_or(Unusable::Entry(key::AUTHORITY_KEY))?;
    if signing.public_key_raw() != newest.public_key().subject_public_key.data.as_ref() {
        return Err(Unusable::Keys);
    }
    let chain = all(entry(key::SERVING)?, key::SERVING)?;
    let leaf = chain.first().ok_or(Unusable::Entry(key::SERVING))?.clone();
    let leaf = parse(&leaf, key::SERVING)?;
    // Every authority has a name of its own, made from its key.
    let signed_by = authorities
        .iter()
        .rposition(|authority| authority.subject().as_raw() == leaf.issuer().as_raw());
    let certificates = Certificates {
        authorities: authorities.iter().map(life).collect(),
        serving: life(&leaf),
        names: names(&leaf),
        signed_by: signed_by.ok_or(Unusable::Signer)?,
    };
    let private = PrivateKeyDer::from_pem_slice(entry(key::SERVING_KEY)?);
    let private = private.map_err(|_| Unusable::Entry(key::SERVING_KEY))?;
    let serving = CertifiedKey::from_der(chain, private, &ring::default_provider()).map_err(Unusable::Serving)?;
    Ok((certificates, serving))
}

fn all(pem: &[u8], entry: &'static str) -> Result<Vec<CertificateDer<'static>>, Unusable> {
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).take(MOST_AUTHORITIES).collect();
    found.map_err(|_| Unusable::Entry(entry))
}

fn parse<'a>(der: &'a CertificateDer<'static>, entry: &'static str) -> Result<X509Certificate<'a>, Unusable> {
    let parsed = X509Certificate::from_der(der).map_err(|_| Unusable::Entry(entry))?;
    Ok(parsed.1)
}

fn life(certificate: &X509Certificate<'_>) -> Life {
    let moment =
        |seconds: i64| SystemTime::UNIX_EPOCH + Duration::from_secs(u64::try_from(seconds).unwrap_or_default());
    let validity = certificate.validity();
    Life {
        from: moment(validity.not_before.timestamp()),
        until: moment(validity.not_after.timestamp()),
    }
}

fn names(certificate: &X509Certificate<'_>) -> BTreeSet<String> {
    let extension = certificate.subject_alternative_name().ok().flatten();
    let names = extension.map(|extension| extension.value.general_names.iter());
    names.into_iter().flatten().filter_map(name).collect()
}

fn name(name: &GeneralName<'_>) -> Option<String> {
    if let GeneralName::IPAddress(bytes) = name {
        let four = <[u8; 4]>::try_from(*bytes).map(IpAddr::from);
        let address = four.or_else(|_| <[u8; 16]>::try_from(*bytes).map(IpAddr::from));
        return address.ok().map(|address| address.to_string());
    }
    if let GeneralName::DNSName(name) = name {
        return Some((*name).to_owned());
    }
    None
}
