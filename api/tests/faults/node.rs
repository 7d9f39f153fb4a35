//! Nodes in homes that end with the test, and subscriptions to them.

use std::io::{Read, Write};
use std::net::TcpStream;

use anyhow::{Context, Result, ensure};
use jepsen::real::node::Program;
pub(crate) use jepsen::real::node::{
    Node, PATIENCE, REQUEST, await_equal, copy, is_digest, start_all,
};
use tempfile::TempDir;

/// A cluster's authority, and the homes of its nodes.
pub(crate) struct Site {
    site: jepsen::real::node::Site,
    _directory: TempDir,
}

impl Site {
    /// An empty one; only nodes of one cluster talk to each other.
    pub(crate) fn new(cluster: &str) -> Result<Site> {
        let directory = tempfile::tempdir()?;
        let program = Program::at(env!("CARGO_BIN_EXE_atoll"));
        let site = jepsen::real::node::Site::new(directory.path(), program, cluster);
        Ok(Site { site, _directory: directory })
    }

    /// A node with a certificate, in a region of its own; not started.
    pub(crate) fn node(&self, name: &str) -> Result<Node> {
        self.site.node(name)
    }

    /// Three nodes that know each other, ready.
    pub(crate) fn three(&self) -> Result<[Node; 3]> {
        let mut nodes = [self.node("eu-1")?, self.node("us-1")?, self.node("ap-1")?];
        start_all(&mut nodes)?;
        Ok(nodes)
    }

    /// Two nodes that know each other, ready.
    pub(crate) fn two(&self) -> Result<[Node; 2]> {
        let mut nodes = [self.node("eu-1")?, self.node("us-1")?];
        start_all(&mut nodes)?;
        Ok(nodes)
    }
}

/// A subscription, read line by line as it comes.
pub(crate) struct Stream {
    stream: TcpStream,
    text: String,
}

impl Stream {
    /// Opens a subscription as NDJSON.
    pub(crate) fn open(node: &Node, path: &str) -> Result<Stream> {
        let mut stream = TcpStream::connect_timeout(&node.address(), REQUEST)?;
        stream.set_read_timeout(Some(REQUEST))?;
        let request =
            format!("GET {path} HTTP/1.1\r\nhost: a\r\naccept: application/x-ndjson\r\n\r\n");
        stream.write_all(request.as_bytes())?;
        Ok(Stream { stream, text: String::new() })
    }

    /// Reads on until something was sent.
    pub(crate) fn expect(&mut self, wanted: &str) -> Result<()> {
        let mut buffer = [0; 4096];
        while !self.text.contains(wanted) {
            let n = self.stream.read(&mut buffer).with_context(|| self.text.clone())?;
            ensure!(n > 0, "the stream ended without {wanted:?}: {}", self.text);
            self.text.push_str(&String::from_utf8_lossy(&buffer[..n]));
        }
        Ok(())
    }

    /// The last cursor that was sent.
    pub(crate) fn cursor(&self) -> Option<&str> {
        self.text.rsplit("\"cursor\":\"").next()?.split('"').next()
    }
}
