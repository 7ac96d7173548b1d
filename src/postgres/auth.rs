//! How a server may have us prove who we are: looked at in its very first answer, before the driver reads it and sends a
//! password. Otherwise whoever listens at a server's address, where nothing says who answers, is given its password.
//!
//! The driver knows no such choice (libpq's `require_auth`), but lets us bring the stream that it speaks over.

use crate::word::{AuthMethods, Endpoint};
use std::{
    convert::Infallible,
    fmt,
    future::{Ready, ready as ready_now},
    io,
    pin::Pin,
    task::{Context, Poll, ready},
};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_postgres::tls::{ChannelBinding, MakeTlsConnect, TlsConnect, TlsStream};

/// The server wants what it may not have.
#[derive(Debug)]
pub(super) struct NotAllowed {
    wants: &'static str,
}

impl fmt::Display for NotAllowed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the server {}, and was given nothing", self.wants)
    }
}

impl std::error::Error for NotAllowed {}

pub(super) const HINT: &str = "nothing proves who answers there. Use TLS that verifies the server (`sslmode=verify-full`), or scram-sha-256 \
    in its `pg_hba.conf` (PgBouncer: `auth_type`); or, where the way there is safe, allow it: `require_auth=password`, or `md5`, in the URL";

/// A stream to a server, watched until the server has let us in.
pub(super) struct Watched<S> {
    inner: S,
    watch: Option<Watch>,
    /// What the stream says of its TLS, where it has it.
    binding: Option<fn(&S) -> ChannelBinding>,
}

impl<S> Watched<S> {
    /// A stream without TLS.
    pub(super) fn new(inner: S, endpoint: &Endpoint) -> Watched<S> {
        Watched::over(inner, endpoint.auth_methods(), None)
    }

    fn over(inner: S, allowed: AuthMethods, binding: Option<fn(&S) -> ChannelBinding>) -> Watched<S> {
        Watched { inner, watch: Some(Watch::new(allowed)), binding }
    }
}

/// What the server has said so far.
#[derive(Debug)]
struct Watch {
    allowed: AuthMethods,
    /// The message at hand: its kind, its length, and of one about authentication the request.
    head: Vec<u8>,
    /// How much of it is still to come, and does not matter.
    rest: usize,
    asked: bool,
}

impl Watch {
    fn new(allowed: AuthMethods) -> Watch {
        Watch { allowed, head: Vec::new(), rest: 0, asked: false }
    }

    /// Whether the server has let us in with these bytes.
    fn see(&mut self, bytes: &[u8]) -> Result<bool, NotAllowed> {
        for byte in bytes {
            if self.rest > 0 {
                self.rest -= 1;
                continue;
            }
            self.head.push(*byte);
            let Some(length) = self.head.get(1..5).and_then(|length| length.try_into().ok()).map(u32::from_be_bytes) else {
                continue;
            };
            let wanted = if self.head[0] == b'R' { 9 } else { 5 };
            if self.head.len() < wanted {
                continue;
            }
            let let_in = self.head[0] == b'R' && self.request(self.head[8])?;
            // The length counts itself.
            self.rest = (length as usize + 1).saturating_sub(wanted);
            self.head.clear();
            if let_in {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Whether we are let in, by what the server says of authentication. Methods that the driver does not have fail there.
    fn request(&mut self, code: u8) -> Result<bool, NotAllowed> {
        let (allowed, wants) = match code {
            0 => (self.asked || self.allowed.none, "lets us in without a proof of who we are"),
            3 => (self.allowed.password, "wants the password in the clear"),
            5 => (self.allowed.md5, "wants the password's md5 hash"),
            10 => (self.allowed.scram, "wants a proof by scram-sha-256"),
            _ => (true, ""),
        };
        self.asked = true;
        if allowed { Ok(code == 0) } else { Err(NotAllowed { wants }) }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Watched<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        ready!(Pin::new(&mut self.inner).poll_read(cx, buf))?;
        if let Some(watch) = &mut self.watch {
            match watch.see(&buf.filled()[before..]) {
                Ok(false) => {}
                Ok(true) => self.watch = None,
                Err(refused) => return Poll::Ready(Err(io::Error::other(refused))),
            }
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Watched<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> TlsStream for Watched<S> {
    fn channel_binding(&self) -> ChannelBinding {
        self.binding.map_or_else(ChannelBinding::none, |binding| binding(&self.inner))
    }
}

/// Makes watched streams over TLS.
pub(super) struct OverTls<T> {
    tls: T,
    allowed: AuthMethods,
}

impl<T> OverTls<T> {
    pub(super) fn new(tls: T, endpoint: &Endpoint) -> OverTls<T> {
        OverTls { tls, allowed: endpoint.auth_methods() }
    }
}

/// Makes watched streams without TLS. The driver is told that this is TLS on which nothing is to be agreed.
#[derive(Clone)]
pub(super) struct Plain {
    allowed: AuthMethods,
}

impl Plain {
    pub(super) fn new(endpoint: &Endpoint) -> Plain {
        Plain { allowed: endpoint.auth_methods() }
    }
}

type Handshake<S, E> = Pin<Box<dyn Future<Output = Result<Watched<S>, E>> + Send>>;

impl<S, T> MakeTlsConnect<S> for OverTls<T>
where
    T: MakeTlsConnect<S>,
    T::Stream: 'static,
    <T::TlsConnect as TlsConnect<S>>::Future: Send + 'static,
{
    type Stream = Watched<T::Stream>;
    type TlsConnect = OverTls<T::TlsConnect>;
    type Error = T::Error;

    fn make_tls_connect(&mut self, domain: &str) -> Result<Self::TlsConnect, Self::Error> {
        Ok(OverTls { tls: self.tls.make_tls_connect(domain)?, allowed: self.allowed })
    }
}

impl<S, T> TlsConnect<S> for OverTls<T>
where
    T: TlsConnect<S>,
    T::Stream: 'static,
    T::Future: Send + 'static,
{
    type Stream = Watched<T::Stream>;
    type Error = T::Error;
    type Future = Handshake<T::Stream, T::Error>;

    fn connect(self, stream: S) -> Self::Future {
        let (handshake, allowed) = (TlsConnect::connect(self.tls, stream), self.allowed);
        Box::pin(async move { Ok(Watched::over(handshake.await?, allowed, Some(TlsStream::channel_binding))) })
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin + Send + 'static> MakeTlsConnect<S> for Plain {
    type Stream = Watched<S>;
    type TlsConnect = Plain;
    type Error = Infallible;

    fn make_tls_connect(&mut self, _: &str) -> Result<Self::TlsConnect, Self::Error> {
        Ok(self.clone())
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin + Send + 'static> TlsConnect<S> for Plain {
    type Stream = Watched<S>;
    type Error = Infallible;
    type Future = Ready<Result<Watched<S>, Infallible>>;

    fn connect(self, stream: S) -> Self::Future {
        ready_now(Ok(Watched::over(stream, self.allowed, None)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(kind: u8, body: &[u8]) -> Vec<u8> {
        let length = u32::try_from(body.len() + 4).unwrap().to_be_bytes();
        [&[kind][..], &length, body].concat()
    }

    fn request(code: u8) -> Vec<u8> {
        message(b'R', &[0, 0, 0, code])
    }

    fn seen(url: &str, said: &[u8], at_once: usize) -> Result<bool, String> {
        let mut watch = Watch::new(Endpoint::parse(url).unwrap().auth_methods());
        let mut let_in = false;
        for bytes in said.chunks(at_once) {
            let_in |= watch.see(bytes).map_err(|refused| refused.to_string())?;
        }
        Ok(let_in)
    }

    #[test]
    fn a_password_goes_in_the_clear_to_nobody_who_is_not_known() {
        // Whatever comes before it, and in however small pieces.
        let notice = message(b'N', b"SNOTICE\0R\0\0\0\x08\0\0\0\0\0");
        for at_once in [1, 3, 1000] {
            let said = |code| [notice.clone(), request(code), request(0)].concat();
            for url in ["postgresql://u@127.0.0.1/x", "postgresql://u@h/x?sslmode=require", "postgresql://u@/x?host=/tmp"] {
                assert!(seen(url, &said(3), at_once).unwrap_err().contains("in the clear"), "{url}");
                assert_eq!(seen(url, &said(10), at_once), Ok(true), "{url}");
                assert_eq!(seen(url, &request(0), at_once), Ok(true), "{url}");
            }
            assert_eq!(seen("postgresql://u@127.0.0.1/x", &said(5), at_once), Ok(true));
            assert!(seen("postgresql://u@h/x?sslmode=require", &said(5), at_once).unwrap_err().contains("md5"));
            for url in [
                "postgresql://u@h/x",
                "postgresql://u@h/x?sslmode=verify-ca",
                "postgresql://u@h/x?sslmode=require&require_auth=password",
            ] {
                assert_eq!(seen(url, &said(3), at_once), Ok(true), "{url}");
            }
            let strict = "postgresql://u@h/x?require_auth=scram-sha-256";
            assert!(seen(strict, &said(5), at_once).is_err() && seen(strict, &request(0), at_once).is_err());
            assert_eq!(seen(strict, &said(10), at_once), Ok(true));
        }
    }
}
