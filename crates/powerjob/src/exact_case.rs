//! A socket that writes one header name in capitals.
//!
//! PowerJob's client looks `X-POWERJOB-AUTH-PASSED` up among the names as they came, with their case, and sends every
//! request a second time when it does not find it: two instances for one `runJob`. Our HTTP writes names in lower case.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// The header, as HTTP libraries know it.
pub(crate) const AUTH_PASSED: &str = "x-powerjob-auth-passed";
/// A header's name begins a line.
const WRITTEN: &[u8] = b"\r\nx-powerjob-auth-passed:";
const WANTED: &[u8] = b"\r\nX-POWERJOB-AUTH-PASSED:";
/// Bytes that wait for the peer at most before the writer waits too.
const WAITING: usize = 256 << 10;

/// The wrapper. Whatever is written at once is looked at as a whole; a response's head is.
pub struct ExactCase<S> {
    inner: S,
    waiting: BytesMut,
}

impl<S> ExactCase<S> {
    pub fn new(inner: S) -> Self {
        ExactCase { inner, waiting: BytesMut::new() }
    }
}

impl<S: AsyncWrite + Unpin> ExactCase<S> {
    fn poll_drain(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.waiting.is_empty() {
            let written = ready!(Pin::new(&mut self.inner).poll_write(cx, &self.waiting))?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.waiting.advance(written);
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for ExactCase<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().inner).poll_read(cx, buf)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for ExactCase<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        if this.waiting.len() > WAITING {
            ready!(this.poll_drain(cx))?;
        }
        let start = this.waiting.len();
        this.waiting.extend_from_slice(buf);
        capitalise(&mut this.waiting[start..]);
        // Whether it went out shows at the flush, which follows.
        if let Poll::Ready(Err(error)) = this.poll_drain(cx) {
            return Poll::Ready(Err(error));
        }
        Poll::Ready(Ok(buf.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        ready!(this.poll_drain(cx))?;
        Pin::new(&mut this.inner).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        ready!(this.poll_drain(cx))?;
        Pin::new(&mut this.inner).poll_shutdown(cx)
    }
}

/// In a response's head, and nowhere else.
fn capitalise(bytes: &mut [u8]) {
    if !bytes.starts_with(b"HTTP/1.") {
        return;
    }
    let end = bytes.windows(4).position(|window| window == b"\r\n\r\n").unwrap_or(bytes.len());
    let found = bytes[..end].windows(WRITTEN.len()).position(|window| window == WRITTEN);
    if let Some(at) = found {
        bytes[at..at + WANTED.len()].copy_from_slice(WANTED);
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    #[tokio::test]
    async fn the_name_is_in_capitals_on_the_wire_and_nothing_else_changes() {
        let (near, mut far) = tokio::io::duplex(7);
        let head =
            "HTTP/1.1 200 OK\r\nx-powerjob-auth-passed: true\r\ncontent-length: 25\r\n\r\n\r\nx-powerjob-auth-passed:";
        let read = tokio::spawn(async move {
            let mut text = String::new();
            far.read_to_string(&mut text).await.unwrap();
            text
        });
        let mut socket = ExactCase::new(near);
        socket.write_all(head.as_bytes()).await.unwrap();
        socket.shutdown().await.unwrap();
        let expected = head.replacen("x-powerjob-auth-passed", "X-POWERJOB-AUTH-PASSED", 1);
        assert_eq!(read.await.unwrap(), expected);
    }
}
