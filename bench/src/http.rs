//! As much of an HTTP/1.1 client (RFC 9112) as WHIP and WHEP need: POST, GET and DELETE over one kept connection.

use std::fmt;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream, ToSocketAddrs};
use std::time::Duration;

const TIMEOUT: Duration = Duration::from_secs(30);
const BODY_BYTES_MAX: u64 = 1 << 20;

/// An `http:` URL.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Url {
    /// Host and port.
    pub authority: String,
    /// From the slash on; never empty.
    pub path: String,
}

impl Url {
    pub fn parse(text: &str) -> Result<Url, String> {
        let rest = text.strip_prefix("http://").ok_or("a URL must begin with http:// (the generator speaks no TLS)")?;
        let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
        if authority.is_empty() || authority.contains(|c: char| c.is_whitespace() || c == '@') {
            return Err(format!("{text:?} has no host"));
        }
        let has_port = authority.rsplit_once(':').is_some_and(|(_, port)| port.parse::<u16>().is_ok());
        let authority = if has_port { authority.to_owned() } else { format!("{authority}:80") };
        Ok(Url { authority, path: if path.is_empty() { "/".into() } else { path.into() } })
    }

    /// `path` below this URL.
    pub fn below(&self, path: &str) -> Url {
        Url { authority: self.authority.clone(), path: format!("{}{path}", self.path.trim_end_matches('/')) }
    }

    /// A `Location` (RFC 9110 §10.2.2) as seen from here.
    pub fn join(&self, location: &str) -> Result<Url, String> {
        if location.contains("://") {
            return Url::parse(location);
        }
        let path = match location.strip_prefix('/') {
            Some(_) => location.to_owned(),
            None => format!("{}/{location}", self.path.rsplit_once('/').map_or("", |(folder, _)| folder)),
        };
        Ok(Url { authority: self.authority.clone(), path })
    }

    fn resolve(&self) -> io::Result<SocketAddr> {
        self.authority.to_socket_addrs()?.next().ok_or_else(|| io::Error::other("the host has no address"))
    }
}

impl fmt::Display for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "http://{}{}", self.authority, self.path)
    }
}

#[derive(Debug)]
pub struct Response {
    pub status: u16,
    pub location: Option<String>,
    pub body: String,
}

/// One connection, made when needed and again when the server has closed it.
#[derive(Default)]
pub struct Client {
    connection: Option<(String, BufReader<TcpStream>)>,
}

impl Client {
    pub fn request(&mut self, method: &str, url: &Url, token: Option<&str>, body: Option<&str>) -> Result<Response, String> {
        let kept = self.connection.as_ref().is_some_and(|(authority, _)| *authority == url.authority);
        let mut result = self.attempt(method, url, token, body);
        if result.is_err() && kept {
            // Servers close idle connections whenever they like (RFC 9112 §9.5).
            self.connection = None;
            result = self.attempt(method, url, token, body);
        }
        if result.is_err() {
            self.connection = None;
        }
        result.map_err(|error| format!("{method} {url}: {error}"))
    }

    fn attempt(&mut self, method: &str, url: &Url, token: Option<&str>, body: Option<&str>) -> io::Result<Response> {
        if self.connection.as_ref().is_none_or(|(authority, _)| *authority != url.authority) {
            let stream = TcpStream::connect_timeout(&url.resolve()?, TIMEOUT)?;
            stream.set_nodelay(true)?;
            stream.set_read_timeout(Some(TIMEOUT))?;
            stream.set_write_timeout(Some(TIMEOUT))?;
            self.connection = Some((url.authority.clone(), BufReader::new(stream)));
        }
        let Some((_, reader)) = &mut self.connection else { return Err(io::Error::other("no connection")) };
        let mut request = format!("{method} {} HTTP/1.1\r\nHost: {}\r\n", url.path, url.authority);
        if let Some(token) = token {
            request += &format!("Authorization: Bearer {token}\r\n");
        }
        if let Some(body) = body {
            request += &format!("Content-Type: application/sdp\r\nContent-Length: {}\r\n\r\n{body}", body.len());
        } else {
            request += "\r\n";
        }
        reader.get_mut().write_all(request.as_bytes())?;
        let (response, keep) = read_response(reader)?;
        if !keep {
            self.connection = None;
        }
        Ok(response)
    }
}

fn malformed(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("malformed answer: {what}"))
}

/// The response, and whether the connection may be used again.
fn read_response(reader: &mut impl BufRead) -> io::Result<(Response, bool)> {
    let line = read_line(reader)?;
    let status: u16 = line.split(' ').nth(1).and_then(|code| code.parse().ok()).ok_or_else(|| malformed("status line"))?;
    let mut response = Response { status, location: None, body: String::new() };
    let (mut length, mut chunked, mut keep) = (None, false, true);
    loop {
        let line = read_line(reader)?;
        if line.is_empty() {
            break;
        }
        let (name, value) = line.split_once(':').ok_or_else(|| malformed("header"))?;
        let value = value.trim();
        match name.to_ascii_lowercase().as_str() {
            "content-length" => length = Some(value.parse::<u64>().map_err(|_| malformed("Content-Length"))?),
            "transfer-encoding" => chunked = value.eq_ignore_ascii_case("chunked"),
            "connection" => keep = !value.eq_ignore_ascii_case("close"),
            "location" => response.location = Some(value.to_owned()),
            _ => {}
        }
    }
    let mut body = Vec::new();
    match (chunked, length) {
        _ if matches!(status, 204 | 304) => {}
        (true, _) => read_chunks(reader, &mut body)?,
        (false, Some(length)) if length <= BODY_BYTES_MAX => {
            reader.take(length).read_to_end(&mut body)?;
            if body.len() as u64 != length {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
        (false, Some(_)) => return Err(malformed("too long")),
        (false, None) => {
            keep = false;
            reader.take(BODY_BYTES_MAX).read_to_end(&mut body)?;
        }
    }
    response.body = String::from_utf8_lossy(&body).into_owned();
    Ok((response, keep))
}

/// RFC 9112 §7.1, without trailers.
fn read_chunks(reader: &mut impl BufRead, body: &mut Vec<u8>) -> io::Result<()> {
    loop {
        let line = read_line(reader)?;
        let size = line.split(';').next().and_then(|size| u64::from_str_radix(size.trim(), 16).ok());
        let size = size.filter(|size| body.len() as u64 + size <= BODY_BYTES_MAX).ok_or_else(|| malformed("chunk"))?;
        reader.by_ref().take(size).read_to_end(body)?;
        read_line(reader)?;
        if size == 0 {
            return Ok(());
        }
    }
}

fn read_line(reader: &mut impl BufRead) -> io::Result<String> {
    let mut line = String::new();
    if reader.by_ref().take(16 * 1024).read_line(&mut line)? == 0 {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok(line.trim_end().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls() {
        let url = Url::parse("http://localhost:7880").expect("valid");
        assert_eq!(url.below("/whip/a").to_string(), "http://localhost:7880/whip/a");
        assert_eq!(url.below("/whip/a").join("b").map(|url| url.path), Ok("/whip/b".into()));
        assert_eq!(url.join("/whip/a/b").map(|url| url.path), Ok("/whip/a/b".into()));
        assert_eq!(url.join("http://other/x").map(|url| url.authority), Ok("other:80".into()));
        assert!(Url::parse("https://a").is_err() && Url::parse("http://").is_err());
    }

    #[test]
    fn responses() {
        let read = |text: &str| read_response(&mut text.as_bytes()).map(|(response, keep)| (response.status, response.body, keep));
        let whole = "HTTP/1.1 201 Created\r\nLocation: /a\r\ncontent-length: 3\r\n\r\nabcd";
        assert_eq!(read(whole).expect("valid"), (201, "abc".into(), true));
        let chunked = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n2\r\nab\r\n1\r\nc\r\n0\r\n\r\n";
        assert_eq!(read(chunked).expect("valid"), (200, "abc".into(), false));
        assert_eq!(read("HTTP/1.1 204 No Content\r\n\r\n").expect("valid"), (204, String::new(), true));
        assert!(read("HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nab").is_err());
        assert!(read("").is_err());
    }
}
