//! The signature that AWS's own OTLP endpoint asks for:
//! <https://docs.aws.amazon.com/AmazonCloudWatch/latest/monitoring/CloudWatch-OTLPEndpoint.html>.

use std::time::SystemTime;

use aws_config::BehaviorVersion;
use aws_credential_types::Credentials;
use aws_credential_types::provider::{ProvideCredentials, SharedCredentialsProvider};
use aws_sigv4::http_request::{SignableBody, SignableRequest, SigningSettings, sign};
use aws_sigv4::sign::v4;
use opentelemetry_http::{Bytes, HttpError, Request};
use tokio::sync::OnceCell;

/// Signs requests to X-Ray with the credentials of the process, and no other request. Credentials
/// are asked for anew at every export, so that expired ones are not used.
#[derive(Debug, Default)]
pub(crate) struct Signer(OnceCell<Option<SharedCredentialsProvider>>);

impl Signer {
    pub async fn sign(&self, request: &mut Request<Bytes>) -> Result<(), HttpError> {
        let Some(region) = region(request.uri().host().unwrap_or_default()) else { return Ok(()) };
        let region = region.to_owned();
        let load = async || {
            aws_config::defaults(BehaviorVersion::latest()).load().await.credentials_provider()
        };
        let provider = self.0.get_or_init(load).await.as_ref().ok_or("no AWS credentials")?;
        let credentials = provider.provide_credentials().await?;
        sign_with(request, credentials, &region, SystemTime::now())
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
    use std::time::Duration;

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
