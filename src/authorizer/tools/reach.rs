//! Which addresses may be asked for tools?
//!
//! Who writes a ToolServer says where the authorizer sends a request. It is sent over TLS, never to
//! an address that only the machine itself or its cloud should be asked at, and within what the
//! operator has named. What is judged is the very address that is connected to, after the name was
//! looked up: a name that means another address the next moment gains nothing.

use std::future::Future;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::pin::Pin;
use std::str::FromStr;
use std::sync::Arc;
use std::task::{Context, Poll};

use axum::http::Uri;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

/// A block of addresses, such as `10.96.0.0/12`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Block {
    address: IpAddr,
    length: u8,
}

impl Block {
    const fn v4(a: u8, b: u8, c: u8, d: u8, length: u8) -> Self {
        Self { address: IpAddr::V4(Ipv4Addr::new(a, b, c, d)), length }
    }

    const fn v6(first: u16, second: u16, last: u16, length: u8) -> Self {
        Self { address: IpAddr::V6(Ipv6Addr::new(first, second, 0, 0, 0, 0, 0, last)), length }
    }

    /// Whether an address is in it.
    #[must_use]
    pub fn contains(&self, address: IpAddr) -> bool {
        let (bits, ours, theirs) = match (self.address, address) {
            (IpAddr::V4(ours), IpAddr::V4(theirs)) => (32, u128::from(ours.to_bits()), u128::from(theirs.to_bits())),
            (IpAddr::V6(ours), IpAddr::V6(theirs)) => (128, ours.to_bits(), theirs.to_bits()),
            _ => return false,
        };
        let beyond = bits - u32::from(self.length);
        ours.checked_shr(beyond).unwrap_or(0) == theirs.checked_shr(beyond).unwrap_or(0)
    }
}

impl FromStr for Block {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let wrong = || format!("`{text}` is no block of addresses: write `10.0.0.0/8` or `fd00::/8`");
        let (address, length) = text.split_once('/').map_or((text, None), |(address, length)| (address, Some(length)));
        let address: IpAddr = address.parse().map_err(|_| wrong())?;
        let longest = if address.is_ipv4() { 32 } else { 128 };
        let length = length.map_or(Ok(longest), str::parse).map_err(|_| wrong())?;
        if length > longest {
            return Err(wrong());
        }
        Ok(Self { address, length })
    }
}

/// Never asked, whatever an operator names: nothing there is an MCP server for a cluster, and the
/// clouds give out credentials of machines at some.
const NEVER: &[Block] = &[
    // This host, and link-local with the metadata of all large clouds.
    Block::v4(0, 0, 0, 0, 8),
    Block::v4(169, 254, 0, 0, 16),
    // Metadata elsewhere: Alibaba, Azure's wire server, Oracle.
    Block::v4(100, 100, 100, 200, 32),
    Block::v4(168, 63, 129, 16, 32),
    Block::v4(192, 0, 0, 0, 24),
    // Many at once.
    Block::v4(224, 0, 0, 0, 4),
    Block::v4(240, 0, 0, 0, 4),
    // The same in IPv6: unspecified, link-local, metadata of AWS and Google, multicast.
    Block::v6(0, 0, 0, 128),
    Block::v6(0xfe80, 0, 0, 10),
    Block::v6(0xfd00, 0xec2, 0x254, 128),
    Block::v6(0xfd20, 0xce, 0x254, 128),
    Block::v6(0xff00, 0, 0, 8),
];

/// Which addresses may be asked.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reach {
    /// The only ones; empty means all.
    pub only: Vec<Block>,
    /// Those that may be asked without TLS.
    pub plain: Vec<Block>,
    /// Whether the machine itself may be asked where nobody has named it.
    pub loopback: bool,
}

impl Reach {
    /// For whom writes the address themselves: everything but what is never asked.
    #[must_use]
    pub fn of_a_person() -> Self {
        Self { only: vec![], plain: vec![Block::v4(0, 0, 0, 0, 0), Block::v6(0, 0, 0, 0)], loopback: true }
    }

    /// Whether an address may be asked, over TLS or not.
    #[must_use]
    pub fn allows(&self, address: IpAddr, is_tls: bool) -> bool {
        let address = address.to_canonical();
        if NEVER.iter().any(|block| block.contains(address)) || within(address).is_some_and(|v4| !self.allows(v4.into(), is_tls))
        {
            return false;
        }
        let is_named = self.only.iter().any(|block| block.contains(address));
        let may = match address.is_loopback() {
            true => is_named || (self.only.is_empty() && self.loopback),
            false => is_named || self.only.is_empty(),
        };
        may && (is_tls || address.is_loopback() || self.plain.iter().any(|block| block.contains(address)))
    }

    /// Connects to the first address of a URL's host that may be asked and answers.
    async fn connect(&self, uri: &Uri) -> io::Result<TcpStream> {
        let is_tls = uri.scheme_str() == Some("https");
        let host = uri.host().unwrap_or_default().trim_start_matches('[').trim_end_matches(']');
        let port = uri.port_u16().unwrap_or(if is_tls { 443 } else { 80 });
        let mut last = io::Error::new(io::ErrorKind::NotFound, "the name means no address");
        let mut refused = false;
        for address in tokio::net::lookup_host((host, port)).await? {
            if !self.allows(address.ip(), is_tls) {
                refused = true;
                continue;
            }
            match TcpStream::connect(address).await {
                Ok(stream) => return Ok(stream),
                Err(error) => last = error,
            }
        }
        // Said also where other addresses beside it do not answer: that is what rebinding looks like.
        if refused { Err(io::Error::new(io::ErrorKind::PermissionDenied, Refused)) } else { Err(last) }
    }
}

/// The IPv4 address that a gateway would make of an IPv6 address (NAT64, 6to4, and what came before).
fn within(address: IpAddr) -> Option<Ipv4Addr> {
    let IpAddr::V6(v6) = address else { return None };
    let v4 = |first: u16, second: u16| Some(Ipv4Addr::from_bits(u32::from(first) << 16 | u32::from(second)));
    match v6.segments() {
        [0x64, 0xff9b, 0, 0, 0, 0, first, second] => v4(first, second),
        [0, 0, 0, 0, 0, 0, first, second] if first != 0 => v4(first, second),
        [0x2002, first, second, ..] => v4(first, second),
        _ => None,
    }
}

/// An address may not be asked.
#[derive(Debug, thiserror::Error)]
#[error("its address may not be asked")]
pub struct Refused;

/// Connects to what may be asked, and to nothing else.
#[derive(Clone, Debug)]
pub struct Connector(pub Arc<Reach>);

impl tower_service::Service<Uri> for Connector {
    type Response = TokioIo<TcpStream>;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = io::Result<Self::Response>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let reach = self.0.clone();
        Box::pin(async move { Ok(TokioIo::new(reach.connect(&uri).await?)) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn block(text: &str) -> Block {
        text.parse().unwrap()
    }

    fn allows(reach: &Reach, address: &str, is_tls: bool) -> bool {
        reach.allows(address.parse().unwrap(), is_tls)
    }

    #[test]
    fn what_gives_out_credentials_of_machines_is_asked_by_nobody() {
        let everything = Reach { only: vec![block("0.0.0.0/0"), block("::/0")], ..Reach::of_a_person() };
        for address in [
            "169.254.169.254",
            "169.254.0.1",
            "0.0.0.0",
            "100.100.100.200",
            "168.63.129.16",
            "192.0.0.192",
            "224.0.0.1",
            "255.255.255.255",
            "::",
            "fe80::1",
            "febf::1",
            "fd00:ec2::254",
            "fd20:ce::254",
            "ff02::1",
            "::ffff:169.254.169.254",
            "64:ff9b::a9fe:a9fe",
            "2002:a9fe:a9fe::1",
            "::169.254.169.254",
        ] {
            for reach in [&everything, &Reach::default(), &Reach::of_a_person()] {
                assert!(!allows(reach, address, true) && !allows(reach, address, false), "{address}: {reach:?}");
            }
        }
    }

    #[test]
    fn without_tls_only_what_is_named_is_asked() {
        let named = Reach { plain: vec![block("10.96.0.0/12")], ..Reach::default() };
        for (address, plain) in [("10.97.1.2", true), ("10.112.0.1", false), ("192.0.2.1", false), ("2001:db8::1", false)] {
            assert!(allows(&named, address, true), "{address}");
            assert_eq!(allows(&named, address, false), plain, "{address}");
        }
    }

    #[test]
    fn the_machine_itself_is_asked_where_it_is_named() {
        let loopback = ["127.0.0.1", "127.9.9.9", "::1", "::ffff:127.0.0.1", "64:ff9b::7f00:1"];
        for address in loopback {
            assert!(!allows(&Reach::default(), address, true), "{address}");
        }
        let named = Reach { only: vec![block("127.0.0.0/8")], ..Reach::default() };
        assert!(allows(&named, "127.0.0.1", false) && allows(&named, "::ffff:127.0.0.1", true));
        assert!(!allows(&named, "10.0.0.1", true), "what is named is all there is");
        assert!(allows(&Reach { loopback: true, ..Reach::default() }, "::1", false));
    }

    #[test]
    fn a_block_is_read_or_refused() {
        assert!(block("10.0.0.0/8").contains("10.255.255.255".parse().unwrap()));
        assert!(!block("10.0.0.0/8").contains("11.0.0.0".parse().unwrap()));
        assert!(
            block("192.0.2.7").contains("192.0.2.7".parse().unwrap())
                && !block("192.0.2.7").contains("192.0.2.8".parse().unwrap())
        );
        assert!(
            block("0.0.0.0/0").contains("192.0.2.7".parse().unwrap()) && !block("0.0.0.0/0").contains("::1".parse().unwrap())
        );
        for text in ["", "10.0.0.0/33", "fd00::/129", "10.0.0.0/-1", "10.0.0.0/", "example.com", "10.0.0/8"] {
            assert!(text.parse::<Block>().is_err(), "{text}");
        }
    }

    #[tokio::test]
    async fn a_name_is_judged_by_the_address_that_it_means() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let uri: Uri = format!("http://localhost:{}/mcp", listener.local_addr().unwrap().port()).parse().unwrap();
        let refused = Reach::default().connect(&uri).await.unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::PermissionDenied, "{refused}");
        let reach = Reach { loopback: true, ..Reach::default() };
        let stream = reach.connect(&uri).await.unwrap();
        assert!(stream.peer_addr().unwrap().ip().is_loopback());
    }
}
