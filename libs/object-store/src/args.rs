//! How a service is told where its object store is.

use std::path::PathBuf;

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
