//! The login: the version, the kind of security, and the proof of who the client is (RFC 6143, sections 7.1
//! and 7.2).

use std::io;
use std::time::Duration;

use des::Des;
use des::cipher::{Block, BlockCipherEncrypt, KeyInit};
use link::{Credentials, Link};
use subtle::ConstantTimeEq;

use crate::failures::{Failures, Peer};
use crate::password::{PASSWORD_LEN, Password};
use crate::proto::{Version, security};

/// The time that a client has for its version, its choice of security and TLS. Programs do these at once.
const STEP: Duration = Duration::from_secs(20);
/// The time that a client has for its answer to a challenge: its user may be typing the password.
const ANSWER: Duration = Duration::from_secs(180);
/// The length of VncAuth's challenge.
const CHALLENGE: usize = 16;

/// The reason why a connection ended.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Ended {
    /// The client hung up in the middle of something, or the host failed.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// It broke the protocol.
    #[error("it {0}")]
    Protocol(&'static str),
    /// It took too long.
    #[error("it {0}")]
    Late(&'static str),
    /// The server was stopped.
    #[error("the server stops")]
    Stopped,
    /// It did not prove who it is.
    #[error("refused: {0}")]
    Refused(&'static str),
}

/// The proof that clients must give.
pub(crate) struct Terms<'a> {
    pub(crate) password: Option<&'a Password>,
    pub(crate) credentials: Option<&'a Credentials>,
    pub(crate) failures: &'a Failures,
    pub(crate) peer: Peer,
    /// Returns the reason why nobody else gets in now, if there is one.
    pub(crate) full: &'a dyn Fn() -> Option<&'static str>,
}

async fn in_time<T, E: Into<Ended>>(
    time: Duration,
    step: impl Future<Output = Result<T, E>>,
) -> Result<T, Ended> {
    match executor::timeout(time, step).await {
        Some(result) => result.map_err(Into::into),
        None => Err(Ended::Late("did not log in in time")),
    }
}

/// Logs a client in. Returns after the last message of the login was sent.
pub(crate) async fn login(link: &mut Link, terms: &Terms<'_>) -> Result<(), Ended> {
    let version = in_time(STEP, greet(link)).await?;
    let vnc = match (terms.credentials, terms.password) {
        (Some(credentials), password) => {
            in_time(STEP, vencrypt(link, version, credentials, password.is_some())).await?;
            password
        }
        (None, password) => {
            let kind = if password.is_some() { security::VNC } else { security::NONE };
            in_time(STEP, choose(link, version, kind)).await?;
            password
        }
    };
    let secure = terms.credentials.is_some();
    match vnc {
        Some(password) => vnc_auth(link, version, password, terms).await?,
        // Before 3.8, nobody waits for a result that cannot be bad.
        None if version < Version::V8 && !secure => {}
        None => result(link, version, (terms.full)()).await?,
    }
    match (terms.full)() {
        None => Ok(()),
        Some(why) => Err(Ended::Refused(why)),
    }
}

async fn greet(link: &Link) -> Result<Version, Ended> {
    link.send(Version::OURS).await?;
    let mut bytes = [0; Version::LEN];
    link.fill(&mut bytes).await?;
    Version::parse(&bytes).ok_or(Ended::Protocol("does not speak RFB"))
}

fn reason(text: &str) -> Vec<u8> {
    [&(text.len() as u32).to_be_bytes(), text.as_bytes()].concat()
}

/// Offers one kind of security, and receives the client's choice.
async fn choose(link: &Link, version: Version, kind: u8) -> Result<(), Ended> {
    if version == Version::V3 {
        // The server decides.
        return Ok(link.send(&u32::from(kind).to_be_bytes()).await?);
    }
    link.send(&[1, kind]).await?;
    let mut chosen = [0];
    link.fill(&mut chosen).await?;
    if chosen != [kind] {
        return Err(Ended::Protocol("chose a kind of security that was not offered"));
    }
    Ok(())
}

/// Negotiates VeNCrypt (rfbproto, "VeNCrypt"), version 0.2, and begins TLS.
async fn vencrypt(
    link: &mut Link,
    version: Version,
    credentials: &Credentials,
    password: bool,
) -> Result<(), Ended> {
    if version == Version::V3 {
        let why = "this server requires TLS, which RFB 3.3 does not have";
        link.send(&[&u32::from(security::INVALID).to_be_bytes()[..], &reason(why)].concat()).await?;
        return Err(Ended::Refused(why));
    }
    choose(link, version, security::VENCRYPT).await?;
    link.send(&[0, 2]).await?;
    let mut chosen = [0; 2];
    link.fill(&mut chosen).await?;
    if chosen != [0, 2] {
        link.send(&[1]).await?;
        return Err(Ended::Protocol("does not speak VeNCrypt 0.2"));
    }
    let kind = if password { security::X509_VNC } else { security::X509_NONE };
    link.send(&[&[0, 1][..], &kind.to_be_bytes()].concat()).await?;
    let mut chosen = [0; 4];
    link.fill(&mut chosen).await?;
    if u32::from_be_bytes(chosen) != kind {
        link.send(&[0]).await?;
        return Err(Ended::Protocol("chose a kind of VeNCrypt that was not offered"));
    }
    link.send(&[1]).await?;
    Ok(link.secure(credentials).await?)
}

/// Sends the result of the login. With a reason it is a failure, which returns as an error.
async fn result(link: &Link, version: Version, failure: Option<&'static str>) -> Result<(), Ended> {
    let mut message = u32::from(failure.is_some()).to_be_bytes().to_vec();
    if let Some(why) = failure
        && version == Version::V8
    {
        message.extend(reason(why));
    }
    in_time(STEP, link.send(&message)).await?;
    failure.map_or(Ok(()), |why| Err(Ended::Refused(why)))
}

/// Demands the password (RFC 6143, section 7.2.2).
async fn vnc_auth(
    link: &Link,
    version: Version,
    password: &Password,
    terms: &Terms<'_>,
) -> Result<(), Ended> {
    let mut challenge = [0; CHALLENGE];
    rustix::rand::getrandom(&mut challenge, rustix::rand::GetRandomFlags::empty())
        .map_err(io::Error::from)?;
    let mut answer = [0; CHALLENGE];
    in_time(ANSWER, async {
        link.send(&challenge).await?;
        link.fill(&mut answer).await
    })
    .await?;
    judgement(link, terms).await?;
    let key = password.key();
    // Compared even if it cannot be right, so that the time says nothing.
    let equal = encrypted(key.unwrap_or_default(), challenge).ct_eq(&answer);
    let failure = match (bool::from(equal), key) {
        (true, Some(_)) => {
            terms.failures.succeeded(terms.peer);
            (terms.full)()
        }
        (_, key) => {
            terms.failures.failed(terms.peer, executor::now());
            let unset = key.is_none().then_some("no password is set, or it has expired");
            Some(unset.unwrap_or("wrong password"))
        }
    };
    result(link, version, failure).await
}

/// Waits until an attempt of this peer may be judged. Attempts of one peer are judged one after the other,
/// however many connections it makes. A client that hangs up meanwhile is not judged.
async fn judgement(link: &Link, terms: &Terms<'_>) -> Result<(), Ended> {
    let mut waiting = None;
    while let Some(until) = terms.failures.pause(terms.peer, executor::now()) {
        if waiting.is_none() {
            let place = terms.failures.wait(terms.peer);
            waiting = Some(place.ok_or(Ended::Refused("too many attempts of its address wait"))?);
        }
        let pause = until.saturating_sub(executor::now());
        match executor::timeout(pause, link.fill_or_end(&mut [0])).await {
            None => {}
            Some(Ok(false)) => return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into()),
            Some(Ok(true)) => return Err(Ended::Protocol("did not wait for the result of its login")),
            Some(Err(e)) => return Err(e.into()),
        }
    }
    Ok(())
}

/// Returns the right answer to a challenge: DES of each half, with the password as the key. VncAuth takes
/// the bits of each byte of the key in the opposite order.
fn encrypted(password: [u8; PASSWORD_LEN], mut challenge: [u8; CHALLENGE]) -> [u8; CHALLENGE] {
    let cipher = Des::new(&password.map(u8::reverse_bits).into());
    for half in challenge.chunks_exact_mut(CHALLENGE / 2) {
        let mut block = Block::<Des>::default();
        block.copy_from_slice(half);
        cipher.encrypt_block(&mut block);
        half.copy_from_slice(&block);
    }
    challenge
}

#[cfg(test)]
#[path = "login_tests.rs"]
mod tests;
