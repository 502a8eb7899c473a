//! Which certificates a probe of the kind "https" accepts, and what it sees of them. Files are read when checks begin,
//! not for each probe.
//!
//! The provider of cryptography is graviola, which is Rust and assembly and needs no C compiler. It refuses to run on a
//! processor without the instructions that it is written in, by a panic: they are looked for first.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::{Context as _, Result, bail};
use log::warn;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{Resumption, WebPkiServerVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme};

use super::plan::Plan;
use super::talk::{HttpsTalk, Talk, expiry};
use crate::config::Config;
use crate::probe::check::{Https, Verify};
use crate::probe::{Kind, ProbeResult, ProbedBy};
use crate::text::Plain;

/// Where systems keep the authorities that they trust: Debian and Alpine, Red Hat, SUSE, the BSDs' name.
const SYSTEM: [&str; 4] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
];

/// Bytes of a file of authorities; Debian's has 220 KiB.
const LONGEST_FILE: u64 = 16 * 1024 * 1024;

/// When the certificate that a server showed expires, in seconds after the Unix epoch; 0: it showed none.
pub(super) type Seen = AtomicU64;

/// What one kind of check goes by.
#[derive(Debug, Clone)]
pub(super) struct Trust {
    provider: Arc<CryptoProvider>,
    /// `None`: any certificate will do.
    authorities: Option<Arc<WebPkiServerVerifier>>,
}

/// What the checks of a plan go by.
#[derive(Debug, Default)]
pub(super) struct Trusts(HashMap<Verify, Trust>);

/// Finds what of this host keeps checks of the kind "https" from working.
///
/// # Errors
/// The first one, by the name of its VIP.
pub fn refuse_unusable(config: &Config) -> Result<()> {
    for vip in &config.vips {
        let by = vip.probing.as_ref().map(|probing| &probing.by);
        let Some(ProbedBy::Check(check)) = by else {
            continue;
        };
        if let Kind::Https(https) = &check.kind {
            Trust::load(&https.verify).with_context(|| format!("vip {}", vip.name))?;
        }
    }
    Ok(())
}

impl Trusts {
    /// Those that a plan's checks need. One that cannot be read again stays as it was.
    pub(super) fn follow(&mut self, plan: &Plan) {
        let mut before = std::mem::take(&mut self.0);
        for probed in &plan.probed {
            let Kind::Https(Https { verify, .. }) = &probed.check.kind else {
                continue;
            };
            if self.0.contains_key(verify) {
                continue;
            }
            match Trust::load(verify) {
                Ok(trust) => drop(self.0.insert(verify.clone(), trust)),
                Err(error) => {
                    warn!("vip {}: {error:#}", probed.target.vip);
                    let known = before.remove(verify);
                    self.0.extend(known.map(|trust| (verify.clone(), trust)));
                }
            }
        }
    }

    /// A conversation of such a check.
    pub(super) fn talk(&self, check: &Https, destination: SocketAddr) -> Result<Talk, ProbeResult> {
        let trust = self.0.get(&check.verify).ok_or(ProbeResult::NotSent)?;
        let talk = HttpsTalk::new(check, destination, trust);
        let talk = talk.map_err(|_| ProbeResult::NotSent)?;
        Ok(Talk::Https(Box::new(talk)))
    }
}

impl Trust {
    /// # Errors
    /// The processor lacks instructions, or a file cannot be read or has no certificate.
    pub(super) fn load(verify: &Verify) -> Result<Self> {
        let lacking = lacking_instructions();
        if !lacking.is_empty() {
            bail!(
                "health.kind = \"https\" needs a processor with {}, which this one lacks; use \"tls\", or \"http\" on another port",
                lacking.join(", ")
            );
        }
        let provider = Arc::new(rustls_graviola::default_provider());
        let authorities = match verify {
            Verify::None => None,
            Verify::System => {
                let found = SYSTEM
                    .into_iter()
                    .find(|path| std::fs::metadata(path).is_ok());
                let path = found.context(
                    "health.verify = \"system\": no file of authorities is where systems have it; install \
                     ca-certificates, or name a file",
                )?;
                Some(authorities(path, &provider)?)
            }
            Verify::File(path) => Some(authorities(path, &provider)?),
        };
        Ok(Self {
            provider,
            authorities,
        })
    }

    /// For one connection: rustls's configuration, and where what it sees of the certificate will be.
    pub(super) fn config(&self) -> Result<(Arc<ClientConfig>, Arc<Seen>), Error> {
        let seen = Arc::new(Seen::new(0));
        let verifier = Witness {
            provider: Arc::clone(&self.provider),
            authorities: self.authorities.clone(),
            seen: Arc::clone(&seen),
        };
        let builder = ClientConfig::builder_with_provider(Arc::clone(&self.provider));
        let builder = builder.with_safe_default_protocol_versions()?;
        let mut config = builder
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(verifier))
            .with_no_client_auth();
        // A resumed session shows no certificate.
        config.resumption = Resumption::disabled();
        Ok((Arc::new(config), seen))
    }
}

fn authorities(path: &str, provider: &Arc<CryptoProvider>) -> Result<Arc<WebPkiServerVerifier>> {
    let shown = Plain(path.to_owned());
    let what = || format!("health.verify: cannot read {shown}");
    let length = std::fs::metadata(path).with_context(what)?.len();
    if length > LONGEST_FILE {
        bail!("health.verify: {shown} has {length} bytes; that is no file of authorities");
    }
    let text = std::fs::read(path).with_context(what)?;
    let mut roots = RootCertStore::empty();
    let certificates = CertificateDer::pem_slice_iter(&text);
    let (added, _) = roots.add_parsable_certificates(certificates.filter_map(Result::ok));
    if added == 0 {
        bail!("health.verify: {shown} has no certificate in PEM");
    }
    let builder =
        WebPkiServerVerifier::builder_with_provider(Arc::new(roots), Arc::clone(provider));
    builder
        .build()
        .with_context(|| format!("health.verify: {shown}"))
}

/// Looks at the certificate, and has the authorities judge it where there are some.
#[derive(Debug)]
struct Witness {
    provider: Arc<CryptoProvider>,
    authorities: Option<Arc<WebPkiServerVerifier>>,
    seen: Arc<Seen>,
}

impl ServerCertVerifier for Witness {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let expires = expiry::not_after(end_entity).unwrap_or_default();
        self.seen.store(expires, Ordering::Relaxed);
        match &self.authorities {
            None => Ok(ServerCertVerified::assertion()),
            Some(authorities) => authorities.verify_server_cert(
                end_entity,
                intermediates,
                server_name,
                ocsp_response,
                now,
            ),
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls12_signature(message, certificate, signed, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signed, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        let algorithms = &self.provider.signature_verification_algorithms;
        algorithms.supported_schemes()
    }
}

/// What graviola needs and this processor lacks (`verify_cpu_features` of graviola 0.4: without it it panics).
fn lacking_instructions() -> Vec<&'static str> {
    let mut lacking = Vec::new();
    let mut need = |name, is_there: bool| lacking.extend((!is_there).then_some(name));
    #[cfg(target_arch = "x86_64")]
    {
        need("aes", std::arch::is_x86_feature_detected!("aes"));
        need(
            "pclmulqdq",
            std::arch::is_x86_feature_detected!("pclmulqdq"),
        );
        need("bmi1", std::arch::is_x86_feature_detected!("bmi1"));
        need("bmi2", std::arch::is_x86_feature_detected!("bmi2"));
        need("adx", std::arch::is_x86_feature_detected!("adx"));
        need("avx", std::arch::is_x86_feature_detected!("avx"));
        need("avx2", std::arch::is_x86_feature_detected!("avx2"));
    }
    #[cfg(target_arch = "aarch64")]
    {
        need("neon", std::arch::is_aarch64_feature_detected!("neon"));
        need("aes", std::arch::is_aarch64_feature_detected!("aes"));
        need("pmull", std::arch::is_aarch64_feature_detected!("pmull"));
        need("sha2", std::arch::is_aarch64_feature_detected!("sha2"));
    }
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    need("the instructions of x86-64 or aarch64", false);
    lacking
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_that_cannot_be_used_are_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
        std::fs::write(path("empty"), "no certificate\n").unwrap();
        let pem = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
        std::fs::write(path("broken"), pem).unwrap();
        for (name, expected) in [
            ("missing", "No such file"),
            ("empty", "has no certificate in PEM"),
            ("broken", "has no certificate in PEM"),
        ] {
            let error = Trust::load(&Verify::File(path(name))).unwrap_err();
            let text = format!("{error:#}");
            assert!(
                text.contains(&path(name)) && text.contains(expected),
                "{text}"
            );
        }
        assert!(Trust::load(&Verify::None).is_ok());
    }
}
