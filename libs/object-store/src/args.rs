//! How a service is told where its object store is.

use std::path::PathBuf;

use crate::StoreError;

/// Where the object store is. Flatten it into a service's settings. Secrets come from the environment or a file, never from a flag.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct RemoteArgs {
    /// Object store: file:///folder, s3://bucket/prefix, or memory: (tests; lost with the process) [default: the folder `remote` in the data folder]
    #[arg(long, env = "OGEL_REMOTE", value_name = "URL")]
    pub remote: Option<String>,
    /// S3: address of the service, for example https://ACCOUNT.r2.cloudflarestorage.com or http://127.0.0.1:9000 [default: AWS]
    #[arg(long, env = "OGEL_S3_ENDPOINT", value_name = "URL")]
    pub s3_endpoint: Option<String>,
    /// S3: region; stores other than AWS take `auto` [default: auto with --s3-endpoint]
    #[arg(long, env = "OGEL_S3_REGION", value_name = "NAME")]
    pub s3_region: Option<String>,
    /// S3: access key id; its secret is read from the variable OGEL_S3_SECRET_ACCESS_KEY (and OGEL_S3_SESSION_TOKEN), or from a file
    #[arg(long, env = "OGEL_S3_ACCESS_KEY_ID", value_name = "ID")]
    pub s3_access_key_id: Option<String>,
    /// S3: file that holds the secret access key and nothing else
    #[arg(long, env = "OGEL_S3_SECRET_ACCESS_KEY_FILE", value_name = "FILE")]
    pub s3_secret_access_key_file: Option<PathBuf>,
    /// Seconds that one request to the object store may take, before the time for its bytes
    #[arg(long, env = "OGEL_REMOTE_TIMEOUT_S", value_name = "SECONDS", default_value_t = 20)]
    pub remote_timeout_s: u64,
}

impl RemoteArgs {
    /// What contradicts itself, before anything is opened.
    pub fn check(&self) -> Result<(), StoreError> {
        let remote = self.remote.as_deref();
        let refused = |cause: &str, remedy: &str| StoreError::Refused {
            store: remote.unwrap_or("by default").to_owned(),
            cause: cause.to_owned(),
            remedy: remedy.to_owned(),
        };
        if remote.is_some_and(|url| url.trim().is_empty()) {
            return Err(refused(
                "OGEL_REMOTE (--remote) is empty",
                "set it to s3://bucket/prefix or file:///folder, or remove it",
            ));
        }
        let s3 = [
            ("OGEL_S3_ENDPOINT", self.s3_endpoint.is_some()),
            ("OGEL_S3_REGION", self.s3_region.is_some()),
            ("OGEL_S3_ACCESS_KEY_ID", self.s3_access_key_id.is_some()),
            ("OGEL_S3_SECRET_ACCESS_KEY_FILE", self.s3_secret_access_key_file.is_some()),
        ];
        let is_s3 = remote.is_some_and(|url| url.starts_with("s3:"));
        match s3.iter().find(|(_, is_set)| *is_set) {
            Some((variable, _)) if !is_s3 => Err(refused(
                &format!("{variable} is set, but OGEL_REMOTE (--remote) names no bucket"),
                "set OGEL_REMOTE=s3://bucket/prefix, or remove the S3 settings",
            )),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn contradictions_are_named() {
        let with = |remote: Option<&str>, endpoint: Option<&str>| {
            let args = RemoteArgs {
                remote: remote.map(Into::into),
                s3_endpoint: endpoint.map(Into::into),
                ..RemoteArgs::default()
            };
            args.check().map_err(|error| error.to_string())
        };
        assert!(with(None, None).is_ok() && with(Some("s3://b"), Some("http://x")).is_ok());
        for remote in [None, Some("file:///x"), Some("")] {
            let error = with(remote, Some("http://x")).unwrap_err();
            assert!(error.contains("OGEL_REMOTE"), "{error}");
        }
    }
}
