//! From settings to a store.

use std::{path::Path, sync::Arc, time::Duration};

use object_store::{
    RetryConfig,
    aws::{AmazonS3Builder, S3ConditionalPut},
    client::ClientOptions,
    local::LocalFileSystem,
    memory::InMemory,
};

use crate::{ObjectStore, RemoteArgs, StoreError, StoreMetrics, store::Backend};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

impl ObjectStore {
    /// Opens the store that the settings name, or the local directory `default_dir`. Nothing is asked of a remote store yet, so that a
    /// process starts during its outage; see [`ObjectStore::probe`].
    pub fn open(args: &RemoteArgs, default_dir: &Path, metrics: StoreMetrics) -> Result<ObjectStore, StoreError> {
        let timeout = Duration::from_secs(args.remote_timeout_s.max(1));
        let Some(url) = args.remote.as_deref() else {
            return Self::local(default_dir, metrics, timeout);
        };
        let refused = |cause: &str| StoreError::Refused {
            store: url.to_owned(),
            cause: cause.to_owned(),
            remedy: "set OGEL_REMOTE (--remote) to file:///folder, s3://bucket/prefix or memory:".to_owned(),
        };
        match url.split_once(':') {
            Some(("file", rest)) => {
                let folder = rest.strip_prefix("//").unwrap_or(rest);
                if folder.is_empty() {
                    return Err(refused("it names no folder"));
                }
                Self::local(Path::new(folder), metrics, timeout)
            }
            Some(("memory", "" | "//")) => Ok(Self::memory(metrics)),
            Some(("s3", rest)) => {
                let place = rest.strip_prefix("//").unwrap_or(rest);
                let (bucket, prefix) = place.split_once('/').unwrap_or((place, ""));
                if bucket.is_empty() {
                    return Err(refused("it names no bucket"));
                }
                Self::s3(args, url, bucket, prefix, metrics, timeout)
            }
            _ => Err(refused("this kind of store is not known")),
        }
    }

    /// A store in memory that is gone with the process. For tests.
    pub fn memory(metrics: StoreMetrics) -> ObjectStore {
        let memory = Arc::new(InMemory::new());
        let backend = Backend { store: memory.clone(), multipart: Some(memory), sorted_lists: true };
        Self::over(backend, "memory:".into(), "", metrics, Duration::from_secs(20))
    }

    fn local(folder: &Path, metrics: StoreMetrics, timeout: Duration) -> Result<ObjectStore, StoreError> {
        let url = format!("file://{}", folder.display());
        let refused = |cause: String| StoreError::Refused {
            store: url.clone(),
            cause,
            remedy: "name a folder in OGEL_REMOTE (--remote) that this process may write to".to_owned(),
        };
        ogel_service::durable_file::create_folders(folder).map_err(|error| refused(error.to_string()))?;
        let store = LocalFileSystem::new_with_prefix(folder).map_err(|error| refused(error.to_string()))?;
        // Without fsync an object would be announced as durable while it is only in the page cache (H23).
        let backend = Backend { store: Arc::new(store.with_fsync(true)), multipart: None, sorted_lists: false };
        Ok(Self::over(backend, url, "", metrics, timeout))
    }

    fn s3(
        args: &RemoteArgs,
        url: &str,
        bucket: &str,
        prefix: &str,
        metrics: StoreMetrics,
        timeout: Duration,
    ) -> Result<ObjectStore, StoreError> {
        let refused = |cause: String, remedy: &str| StoreError::Refused {
            store: url.to_owned(),
            cause,
            remedy: remedy.to_owned(),
        };
        // A second call finds it installed, which is as good.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let mut builder = AmazonS3Builder::new()
            .with_bucket_name(bucket)
            .with_conditional_put(S3ConditionalPut::ETagMatch)
            .with_disable_tagging(true)
            // Time limits and retries are ours: the library's would hide lost replies from us.
            .with_retry(RetryConfig { max_retries: 0, ..RetryConfig::default() })
            .with_client_options(ClientOptions::new().with_timeout_disabled().with_connect_timeout(CONNECT_TIMEOUT));
        let region = match (&args.s3_region, &args.s3_endpoint) {
            (Some(region), _) => region.as_str(),
            (None, Some(_)) => "auto",
            (None, None) => {
                return Err(refused(
                    "no region is given".into(),
                    "set OGEL_S3_REGION, or OGEL_S3_ENDPOINT for a store that is not AWS",
                ));
            }
        };
        builder = builder.with_region(region);
        if let Some(endpoint) = &args.s3_endpoint {
            builder =
                builder.with_endpoint(endpoint.trim_end_matches('/')).with_allow_http(endpoint.starts_with("http://"));
        }
        match (&args.s3_access_key_id, secret_key(args).map_err(|cause| refused(cause, "check the file"))?) {
            (Some(id), Some(secret)) => {
                builder = builder.with_access_key_id(id).with_secret_access_key(secret);
                if let Ok(token) = std::env::var("OGEL_S3_SESSION_TOKEN") {
                    builder = builder.with_token(token);
                }
            }
            // On AWS the machine's own role is asked for keys.
            (None, None) if args.s3_endpoint.is_none() => {}
            _ => {
                return Err(refused(
                    "an access key id and its secret are needed, both".into(),
                    "set OGEL_S3_ACCESS_KEY_ID and OGEL_S3_SECRET_ACCESS_KEY (or OGEL_S3_SECRET_ACCESS_KEY_FILE)",
                ));
            }
        }
        let store = builder.build().map_err(|error| refused(error.to_string(), "check the S3 settings"))?;
        let store = Arc::new(store);
        let backend = Backend { store: store.clone(), multipart: Some(store), sorted_lists: true };
        Ok(Self::over(backend, url.to_owned(), prefix, metrics, timeout))
    }
}

fn secret_key(args: &RemoteArgs) -> Result<Option<String>, String> {
    match &args.s3_secret_access_key_file {
        Some(path) => std::fs::read_to_string(path)
            .map(|text| Some(text.trim().to_owned()))
            .map_err(|error| format!("the secret access key file {} cannot be read: {error}", path.display())),
        None => Ok(std::env::var("OGEL_S3_SECRET_ACCESS_KEY").ok().filter(|secret| !secret.is_empty())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn open(remote: &str) -> Result<ObjectStore, StoreError> {
        let args = RemoteArgs { remote: Some(remote.into()), ..RemoteArgs::default() };
        ObjectStore::open(&args, Path::new("/nowhere"), StoreMetrics::default())
    }

    #[test]
    fn mistakes_are_refused_with_what_to_do() {
        for (remote, expected) in [
            ("ftp://x", "OGEL_REMOTE (--remote) to file:///folder"),
            ("s3://", "names no bucket"),
            ("file:", "names no folder"),
            ("s3://bucket/prefix", "OGEL_S3_REGION"),
            ("nonsense", "not known"),
        ] {
            let error = open(remote).err().map(|error| error.to_string()).unwrap_or_default();
            assert!(error.contains(expected), "{remote}: {error}");
        }
        let args = RemoteArgs {
            remote: Some("s3://bucket".into()),
            s3_endpoint: Some("http://127.0.0.1:1".into()),
            s3_access_key_id: Some("id".into()),
            ..RemoteArgs::default()
        };
        let error = ObjectStore::open(&args, Path::new("/nowhere"), StoreMetrics::default()).unwrap_err().to_string();
        assert!(error.contains("OGEL_S3_SECRET_ACCESS_KEY"), "{error}");
    }
}
