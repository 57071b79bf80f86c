//! One file of one site, over whichever scheme its address has.
//! Never retries and never decides: it only hides whether a cache is a server or a folder.

use std::sync::Arc;

use bytes::Bytes;

use crate::{
    cache::Site,
    fault::Fault,
    folder::{self, FolderBody},
    http::{Head, HttpClient, PacedBody, Part, Via},
    options::Options,
};

#[derive(Debug, Clone)]
pub(crate) struct Transport {
    http: HttpClient,
}

/// The bytes of a file, as they come.
#[derive(Debug)]
pub(crate) enum Body {
    Http(Box<PacedBody>),
    Folder(FolderBody),
}

impl Transport {
    pub(crate) fn new(options: Arc<Options>) -> Result<Self, rustls::Error> {
        Ok(Self {
            http: HttpClient::new(options)?,
        })
    }

    /// A small file as a whole, at most `limit` bytes.
    pub(crate) async fn document(&self, site: &Site, location: &str, limit: u64) -> Result<Bytes, Fault> {
        if site.base.scheme() != "file" {
            return self.http.document(site, location, limit).await;
        }
        folder::document(site, location, limit).await
    }

    /// A file of any size, from `part.from` on where the site can do that.
    pub(crate) async fn open(&self, site: &Site, location: &str, part: &Part, via: Via) -> Result<(Head, Body), Fault> {
        if site.base.scheme() != "file" {
            let (head, body) = self.http.open(site, location, part, via).await?;
            return Ok((head, Body::Http(Box::new(body))));
        }
        let (length, body) = folder::open(site, location, part.from).await?;
        let length = length.checked_sub(part.from).ok_or(Fault::Changed)?;
        Ok((
            Head {
                from: part.from,
                length: Some(length),
                in_parts: false,
                validator: None,
            },
            Body::Folder(body),
        ))
    }
}

impl Body {
    /// The next bytes; `None` at the end that the source meant.
    pub(crate) async fn chunk(&mut self) -> Result<Option<Bytes>, Fault> {
        match self {
            Self::Http(body) => body.chunk().await,
            Self::Folder(body) => body.chunk().await,
        }
    }
}
