//! An answer that goes on: lines as they come, each waited for until a moment.
//!
//! Invariants:
//! 1. A line is handed out once and whole; waiting for one in vain loses nothing.
//! 2. The end of the answer, orderly or not, is an error: what a line said before tells them apart.
//!
//! Left out: writing on; a stream is one request.

use std::io::{self, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use super::{BODY_MAX, Error, Response, connect, read_headers, read_line, request, status_of};

/// Bytes read at once.
const PIECE: usize = 16 << 10;
/// Longest line that says how long a chunk is.
const SIZE_MAX: usize = 1 << 10;

/// What a request for a stream came to.
#[derive(Debug)]
pub enum Opened {
    /// A stream.
    Stream(Stream),
    /// Another status than 200, with its body.
    Refused(Response),
}

/// Where a chunked answer stands.
#[derive(Debug)]
enum Chunk {
    /// The answer is not chunked: everything is content.
    None,
    Size,
    Content(usize),
    /// The end of line behind the content.
    After,
    Ended,
}

/// An open answer.
#[derive(Debug)]
pub struct Stream {
    input: TcpStream,
    chunk: Chunk,
    /// Received, and not yet cut into chunks.
    raw: Vec<u8>,
    /// Content, not yet handed out.
    text: Vec<u8>,
}

impl Stream {
    /// Asks for a stream; `timeout` bounds the connecting and the head of the answer.
    pub fn open(
        address: SocketAddr,
        path: &str,
        headers: &[(&str, &str)],
        timeout: Duration,
    ) -> Result<Opened, Error> {
        let mut input = connect(address, timeout)?;
        input.get_mut().write_all(&request(address, "GET", path, headers, b""))?;
        let status = status_of(&read_line(&mut input)?)?;
        let headers = read_headers(&mut input)?;
        if status != 200 {
            return refused(input, Response { status, headers, body: Vec::new() });
        }
        let chunked = headers.iter().any(|(k, v)| k == "transfer-encoding" && v == "chunked");
        let chunk = if chunked { Chunk::Size } else { Chunk::None };
        let raw = input.buffer().to_vec();
        Ok(Opened::Stream(Stream { input: input.into_inner(), chunk, raw, text: Vec::new() }))
    }

    /// The next line that is not empty, without its end; `None` if there is none until `deadline`.
    pub fn line(&mut self, deadline: Instant) -> Result<Option<String>, Error> {
        loop {
            self.cut()?;
            if let Some(line) = self.next_line()? {
                return Ok(Some(line));
            }
            if matches!(self.chunk, Chunk::Ended) {
                return Err(Error::Lost(io::ErrorKind::UnexpectedEof.into()));
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(None);
            }
            self.input.set_read_timeout(Some(left))?;
            let mut piece = [0; PIECE];
            match self.input.read(&mut piece) {
                Ok(0) => return Err(Error::Lost(io::ErrorKind::UnexpectedEof.into())),
                Ok(size) => self.raw.extend_from_slice(&piece[..size]),
                Err(error) if is_late(&error) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    fn next_line(&mut self) -> Result<Option<String>, Error> {
        while let Some(end) = self.text.iter().position(|byte| *byte == b'\n') {
            let rest = self.text.split_off(end + 1);
            let mut line = std::mem::replace(&mut self.text, rest);
            line.truncate(end);
            if !line.is_empty() {
                let line = String::from_utf8(line);
                return line.map(Some).map_err(|_| Error::Malformed("a line".into()));
            }
        }
        match self.text.len() > BODY_MAX {
            true => Err(Error::Malformed("a line without end".into())),
            false => Ok(None),
        }
    }

    /// Moves what is content from what was received.
    fn cut(&mut self) -> Result<(), Error> {
        loop {
            match self.chunk {
                Chunk::Ended => return Ok(()),
                Chunk::None => {
                    self.text.append(&mut self.raw);
                    return Ok(());
                }
                Chunk::Size => {
                    let Some(end) = self.raw.windows(2).position(|two| two == b"\r\n") else {
                        let long = self.raw.len() > SIZE_MAX;
                        return if long { Err(bad_chunk(&self.raw)) } else { Ok(()) };
                    };
                    let line: Vec<u8> = self.raw.drain(..end + 2).take(end).collect();
                    let size = std::str::from_utf8(&line).ok().and_then(|text| {
                        usize::from_str_radix(text.split(';').next()?.trim(), 16).ok()
                    });
                    let size = size.ok_or_else(|| bad_chunk(&line))?;
                    self.chunk = if size == 0 { Chunk::Ended } else { Chunk::Content(size) };
                }
                Chunk::Content(_) | Chunk::After if self.raw.is_empty() => return Ok(()),
                Chunk::Content(left) => {
                    let taken = left.min(self.raw.len());
                    self.text.extend(self.raw.drain(..taken));
                    let left = left - taken;
                    self.chunk = if left == 0 { Chunk::After } else { Chunk::Content(left) };
                }
                Chunk::After if self.raw.len() < 2 => return Ok(()),
                Chunk::After => {
                    self.raw.drain(..2);
                    self.chunk = Chunk::Size;
                }
            }
        }
    }
}

fn refused(mut input: BufReader<TcpStream>, mut response: Response) -> Result<Opened, Error> {
    let length = response.header("content-length").and_then(|length| length.parse().ok());
    let length = length.unwrap_or(0).min(BODY_MAX);
    response.body = super::read_exactly(&mut input, length)?;
    Ok(Opened::Refused(response))
}

fn is_late(error: &io::Error) -> bool {
    use io::ErrorKind::{Interrupted, TimedOut, WouldBlock};
    matches!(error.kind(), WouldBlock | TimedOut | Interrupted)
}

fn bad_chunk(line: &[u8]) -> Error {
    Error::Malformed(format!("chunk size {:?}", String::from_utf8_lossy(line)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    /// What a server that sends these pieces, one a line asked for, is understood to say.
    fn serve(pieces: &'static [&'static [u8]]) -> Opened {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        std::thread::spawn(move || {
            let mut input = BufReader::new(listener.accept().unwrap().0);
            while !read_line(&mut input).unwrap().is_empty() {}
            pieces.iter().for_each(|piece| input.get_mut().write_all(piece).unwrap());
        });
        Stream::open(address, "/", &[], Duration::from_secs(10)).unwrap()
    }

    fn lines(pieces: &'static [&'static [u8]]) -> Vec<String> {
        let Opened::Stream(mut stream) = serve(pieces) else { panic!("refused") };
        let mut lines = Vec::new();
        let later = Instant::now() + Duration::from_secs(10);
        while let Ok(line) = stream.line(later) {
            lines.push(line.expect("in time"));
        }
        lines
    }

    #[test]
    fn lines_are_whole_however_they_come() {
        const HEAD: &[u8] = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n";
        assert_eq!(
            lines(&[HEAD, b"2\r\na\n\r\n5\r\n\nbc\nd\r", b"\n1\r\n\n\r\n"]),
            ["a", "bc", "d"]
        );
        assert_eq!(lines(&[HEAD, b"2\r\na\n\r\n0\r\n\r\n"]), ["a"]);
        assert_eq!(lines(&[HEAD, b"zz\r\n"]), [""; 0]);
        assert_eq!(lines(&[b"HTTP/1.1 200 OK\r\n\r\na\nb", b"\nc"]), ["a", "b"]);
    }

    #[test]
    fn waiting_in_vain_loses_nothing() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let server = std::thread::spawn(move || {
            let mut server = listener.accept().unwrap().0;
            server.write_all(b"HTTP/1.1 200 OK\r\n\r\nhal").unwrap();
            server
        });
        let opened = Stream::open(address, "/", &[], Duration::from_secs(10)).unwrap();
        let Opened::Stream(mut stream) = opened else { panic!("refused") };
        let mut server = server.join().unwrap();
        assert_eq!(stream.line(Instant::now() + Duration::from_millis(30)).unwrap(), None);
        server.write_all(b"f\n").unwrap();
        let later = Instant::now() + Duration::from_secs(10);
        assert_eq!(stream.line(later).unwrap().as_deref(), Some("half"));
        drop(server);
        assert!(matches!(stream.line(later), Err(Error::Lost(_))));
    }

    #[test]
    fn what_is_no_stream_is_an_answer() {
        let pieces = &[b"HTTP/1.1 503 No\r\ncontent-length: 2\r\n\r\n{}" as &[u8]];
        let Opened::Refused(response) = serve(pieces) else { panic!("a stream") };
        assert_eq!((response.status, &response.body[..]), (503, &b"{}"[..]));
    }
}
