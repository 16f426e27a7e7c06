//! ⇄ The services behind a lake's URL: builders, options, credentials, timeouts.
//!
//! Owns: which options each service takes, and the sentence on its credentials. Does not own: what
//! is asked of it (`store`).

use super::store::Service;
use crate::error::{Error, Result};
use object_store::aws::{AmazonS3Builder, AmazonS3ConfigKey};
use object_store::{BackoffConfig, ClientOptions, Error as StoreError, RetryConfig};
use std::time::Duration;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Of one request: a part of 8 MiB at 2.5 Mbit/s.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(30);
/// A cut that fails is tried again as a whole, so single requests give up soon.
const RETRIES: usize = 3;
const RETRY_TIMEOUT: Duration = Duration::from_secs(10);

/// A service, and what to look at when it refuses us.
type Opened = Result<(Box<dyn Service>, &'static str)>;

/// By the scheme of the URL; None: no such scheme.
pub fn open(scheme: &str, bucket: &str, options: &[(String, String)]) -> Option<Opened> {
    match scheme {
        "s3" => Some(amazon(bucket, options)),
        "gs" => Some(google(bucket, options)),
        "az" => Some(azure(bucket, options)),
        _ => None,
    }
}

fn retry() -> RetryConfig {
    let backoff = BackoffConfig {
        init_backoff: Duration::from_millis(100),
        max_backoff: Duration::from_secs(2),
        base: 2.,
    };
    RetryConfig { backoff, max_retries: RETRIES, retry_timeout: RETRY_TIMEOUT }
}

fn client() -> ClientOptions {
    ClientOptions::new().with_connect_timeout(CONNECT_TIMEOUT).with_timeout(REQUEST_TIMEOUT)
}

/// The options that a builder knows; one it does not is named in the log, as most come from an
/// environment that other programs use too (`AWS_PROFILE`).
fn known<K: std::str::FromStr>(
    start: &str,
    options: &[(String, String)],
) -> impl Iterator<Item = (K, String)> {
    options.iter().filter_map(move |(name, value)| {
        let key = name.to_ascii_lowercase();
        if !key.starts_with(start) {
            return None;
        }
        let known = key.parse().ok();
        if known.is_none() {
            tracing::debug!(option = name, "the lake does not know this option, it has no effect");
        }
        Some((known?, value.clone()))
    })
}

fn amazon(bucket: &str, options: &[(String, String)]) -> Opened {
    let given = |wanted: &str| {
        let found = options.iter().find(|(key, _)| key.to_ascii_lowercase() == wanted);
        found.map(|(_, value)| value.as_str())
    };
    let plain = ["aws_endpoint", "aws_endpoint_url", "aws_endpoint_url_s3"]
        .iter()
        .filter_map(|key| given(key))
        .any(|endpoint| endpoint.starts_with("http://"));
    if plain && !given("aws_allow_http").is_some_and(|v| ["true", "1", "yes", "on"].contains(&v)) {
        return Err(Error::config(
            "the S3 endpoint is http://, without encryption; set AWS_ALLOW_HTTP=true if that is meant",
        ));
    }
    let mut builder = AmazonS3Builder::new().with_retry(retry()).with_client_options(client());
    for (key, value) in known::<AmazonS3ConfigKey>("aws_", options) {
        builder = builder.with_config(key, value);
    }
    let store = builder.with_bucket_name(bucket).build().map_err(|e| wrong_options("S3", e))?;
    Ok((
        Box::new(store),
        "access is denied, check AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY or the role, and that it may s3:PutObject, s3:GetObject, s3:ListBucket and s3:AbortMultipartUpload",
    ))
}

#[cfg(feature = "gcs")]
fn google(bucket: &str, options: &[(String, String)]) -> Opened {
    use object_store::gcp::{GoogleCloudStorageBuilder, GoogleConfigKey};
    let mut builder =
        GoogleCloudStorageBuilder::new().with_retry(retry()).with_client_options(client());
    for (key, value) in known::<GoogleConfigKey>("google_", options) {
        builder = builder.with_config(key, value);
    }
    let store = builder.with_bucket_name(bucket).build().map_err(|e| wrong_options("GCS", e))?;
    Ok((
        Box::new(store),
        "access is denied, check GOOGLE_SERVICE_ACCOUNT and that it is Storage Object User of the bucket",
    ))
}

#[cfg(not(feature = "gcs"))]
fn google(_: &str, _: &[(String, String)]) -> Opened {
    Err(Error::config("this build cannot write to gs://, build it with --features gcs"))
}

#[cfg(feature = "azure")]
fn azure(container: &str, options: &[(String, String)]) -> Opened {
    use object_store::azure::{AzureConfigKey, MicrosoftAzureBuilder};
    let mut builder =
        MicrosoftAzureBuilder::new().with_retry(retry()).with_client_options(client());
    for (key, value) in known::<AzureConfigKey>("azure_", options) {
        builder = builder.with_config(key, value);
    }
    let built = builder.with_container_name(container).build();
    let store = built.map_err(|e| wrong_options("Azure", e))?;
    Ok((
        Box::new(store),
        "access is denied, check AZURE_STORAGE_ACCOUNT_NAME, AZURE_STORAGE_ACCOUNT_KEY or the identity, and that it is Storage Blob Data Contributor",
    ))
}

#[cfg(not(feature = "azure"))]
fn azure(_: &str, _: &[(String, String)]) -> Opened {
    Err(Error::config("this build cannot write to az://, build it with --features azure"))
}

fn wrong_options(service: &str, e: StoreError) -> Error {
    Error::config(format!("the options of the lake on {service} are not complete")).because(e)
}
