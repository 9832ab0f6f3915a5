//! The signature that AWS's own OTLP endpoint requires:
//! <https://docs.aws.amazon.com/AmazonCloudWatch/latest/monitoring/CloudWatch-OTLPEndpoint.html>.

use std::time::{Duration, SystemTime};

use aws_config::BehaviorVersion;
use aws_credential_types::Credentials;
use aws_credential_types::provider::{ProvideCredentials, SharedCredentialsProvider};
use aws_sigv4::http_request::{SignableBody, SignableRequest, SigningSettings, sign};
use aws_sigv4::sign::v4;
use opentelemetry_http::{Bytes, HttpError, Request};
use tokio::sync::{Mutex, OnceCell};

/// Credentials that expire sooner than this are not used any more.
const MARGIN: Duration = Duration::from_secs(60);

/// Signs requests to X-Ray with the credentials of the process, and no other request.
#[derive(Debug, Default)]
pub(crate) struct Signer {
    provider: OnceCell<Option<SharedCredentialsProvider>>,
    /// Kept until they expire: the provider may have to call a service, and an export comes every 5 s.
    credentials: Mutex<Option<Credentials>>,
}

impl Signer {
    pub async fn sign(&self, request: &mut Request<Bytes>) -> Result<(), HttpError> {
        let uri = request.uri();
        let host = uri.host().filter(|_| uri.scheme_str() == Some("https")).unwrap_or_default();
        let Some(region) = region(host).map(str::to_owned) else { return Ok(()) };
        let now = SystemTime::now();
        sign_with(request, self.credentials(now).await?, &region, now)
    }

    async fn credentials(&self, now: SystemTime) -> Result<Credentials, HttpError> {
        let load = async || {
            aws_config::defaults(BehaviorVersion::latest()).load().await.credentials_provider()
        };
        let provider =
            self.provider.get_or_init(load).await.as_ref().ok_or("no AWS credentials")?;
        let mut kept = self.credentials.lock().await;
        let valid = |it: &Credentials| it.expiry().is_none_or(|expiry| expiry > now + MARGIN);
        let credentials = match kept.take().filter(valid) {
            Some(credentials) => credentials,
            None => provider.provide_credentials().await?,
        };
        *kept = Some(credentials.clone());
        Ok(credentials)
    }
}

/// The region of `xray.REGION.amazonaws.com`.
fn region(host: &str) -> Option<&str> {
    let (region, domain) = host.strip_prefix("xray.")?.split_once('.')?;
    ["amazonaws.com", "amazonaws.com.cn"].contains(&domain).then_some(region)
}

fn sign_with(
    request: &mut Request<Bytes>,
    credentials: Credentials,
    region: &str,
    time: SystemTime,
) -> Result<(), HttpError> {
    let identity = credentials.into();
    let parameters = v4::SigningParams::builder()
        .identity(&identity)
        .region(region)
        .name("xray")
        .time(time)
        .settings(SigningSettings::default())
        .build()?
        .into();
    let uri = request.uri().to_string();
    let headers = request
        .headers()
        .iter()
        .filter_map(|(name, value)| Some((name.as_str(), value.to_str().ok()?)));
    let body = SignableBody::Bytes(request.body());
    let signable = SignableRequest::new(request.method().as_str(), &uri, headers, body)?;
    let (instructions, _) = sign(signable, &parameters)?.into_parts();
    instructions.apply_to_request_http1x(request);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicU32, Ordering};

    use aws_credential_types::provider::future::ProvideCredentials as Provided;

    /// Gives credentials of an hour, and counts how often.
    #[derive(Debug, Default)]
    struct Hourly(AtomicU32);

    impl ProvideCredentials for Hourly {
        fn provide_credentials<'a>(&'a self) -> Provided<'a>
        where
            Self: 'a,
        {
            let hours = self.0.fetch_add(1, Ordering::Relaxed) + 1;
            let expiry = SystemTime::UNIX_EPOCH + hours * Duration::from_secs(3_600);
            let id = format!("AKID{hours}");
            Provided::ready(Ok(Credentials::new(id, "secret", None, Some(expiry), "test")))
        }
    }

    #[tokio::test]
    async fn credentials_are_asked_for_again_before_they_expire_and_no_sooner() {
        let provider = SharedCredentialsProvider::new(Hourly::default());
        let signer =
            Signer { provider: OnceCell::new_with(Some(Some(provider))), ..Signer::default() };
        for (minute, id) in
            [(0, "AKID1"), (58, "AKID1"), (59, "AKID2"), (118, "AKID2"), (119, "AKID3")]
        {
            let now = SystemTime::UNIX_EPOCH + Duration::from_secs(60 * minute);
            let credentials = signer.credentials(now).await.unwrap();
            assert_eq!(credentials.access_key_id(), id, "at minute {minute}");
        }
    }

    #[tokio::test]
    async fn only_what_goes_to_x_ray_by_tls_is_signed() {
        for (uri, signed) in [
            ("https://xray.us-east-1.amazonaws.com/v1/traces", true),
            ("http://xray.us-east-1.amazonaws.com/v1/traces", false),
            ("https://collector.example.com/v1/traces", false),
        ] {
            let credentials = Credentials::new("AKID", "secret", None, None, "test");
            let provider = SharedCredentialsProvider::new(credentials);
            let signer =
                Signer { provider: OnceCell::new_with(Some(Some(provider))), ..Signer::default() };
            let mut request = Request::post(uri).body(Bytes::new()).unwrap();
            signer.sign(&mut request).await.unwrap();
            assert_eq!(request.headers().contains_key("authorization"), signed, "{uri}");
        }
    }

    #[test]
    fn a_request_to_x_ray_is_signed_as_botocore_signs_it() {
        let mut request = Request::post("https://xray.eu-central-1.amazonaws.com/v1/traces")
            .header("content-type", "application/x-protobuf")
            .body(Bytes::from("spans"))
            .unwrap();
        let secret = "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY";
        let token = Some("token".to_owned());
        let credentials = Credentials::new("AKIDEXAMPLE", secret, token, None, "test");
        // 2026-11-23T02:45:00Z
        let time = SystemTime::UNIX_EPOCH + Duration::from_secs(1_795_401_900);
        sign_with(&mut request, credentials, "eu-central-1", time).unwrap();
        let header = |name: &str| request.headers()[name].to_str().unwrap();
        assert_eq!(header("x-amz-security-token"), "token");
        assert_eq!(
            header("authorization"),
            "AWS4-HMAC-SHA256 Credential=AKIDEXAMPLE/20261123/eu-central-1/xray/aws4_request, \
             SignedHeaders=content-type;host;x-amz-date;x-amz-security-token, \
             Signature=04bf38663ec0c7ad6037d5e3f2694d5260029dae24166a84d364d94d59192839"
        );
    }

    #[test]
    fn only_x_ray_is_signed_for() {
        assert_eq!(region("xray.us-east-1.amazonaws.com"), Some("us-east-1"));
        assert_eq!(region("xray.cn-north-1.amazonaws.com.cn"), Some("cn-north-1"));
        for host in ["127.0.0.1", "xray.example.com", "logs.us-east-1.amazonaws.com", "xray"] {
            assert_eq!(region(host), None, "{host}");
        }
    }
}
