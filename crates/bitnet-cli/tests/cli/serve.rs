//! `bitnet serve` as a process.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::Child;
use std::time::Duration;

use serde_json::{Value, json};

use super::command;

/// A server on a port; killed when dropped.
struct Server {
    child: Child,
    port: u16,
}

impl Server {
    fn start(port: u16) -> Self {
        let port = port.to_string();
        let args = ["serve", "--port", &port, "--log-format", "none"];
        let mut child = command(Path::new("."), &args).spawn().unwrap();
        let mut line = String::new();
        let mut stdout = BufReader::new(child.stdout.take().unwrap());
        stdout.read_line(&mut line).unwrap();
        let Some(port) = line.strip_prefix("listening on http://127.0.0.1:") else {
            let mut stderr = String::new();
            let _ = child.stderr.take().unwrap().read_to_string(&mut stderr);
            panic!("{line}{stderr}");
        };
        let port = port.trim_end().parse().unwrap();
        Self { child, port }
    }

    /// Ends the process at once: SIGKILL.
    fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Sends a request for a stream.
    fn ask(&self, request: &Value) -> BufReader<TcpStream> {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).unwrap();
        let timeout = Some(Duration::from_mins(1));
        stream.set_read_timeout(timeout).unwrap();
        let body = request.to_string();
        let n_bytes = body.len();
        write!(
            stream,
            "POST /v1/completions HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\
             content-length: {n_bytes}\r\n\r\n{body}"
        )
        .unwrap();
        BufReader::new(stream)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may have been killed already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What a client has read of a stream.
#[derive(Debug, Default)]
struct Streamed {
    /// The tokens of each text.
    tokens: Vec<Vec<String>>,
    /// Whether the API's end was read.
    is_done: bool,
    /// Whether HTTP's end was read.
    is_complete: bool,
}

impl Streamed {
    /// Reads a stream of `n` texts to its end, or to the end of its connection. Calls
    /// `on_event` after each event.
    fn read(mut lines: impl BufRead, n: usize, mut on_event: impl FnMut(&Self)) -> Self {
        let mut read = Self {
            tokens: vec![Vec::new(); n],
            ..Self::default()
        };
        let mut line = String::new();
        // An error is a connection that broke.
        while lines.read_line(&mut line).is_ok_and(|n_bytes| n_bytes > 0) {
            match line.trim_end().strip_prefix("data: ") {
                Some("[DONE]") => read.is_done = true,
                // A last line can be cut.
                Some(event) if line.ends_with('\n') => {
                    read.add(&serde_json::from_str(event).unwrap());
                    on_event(&read);
                }
                // The last chunk.
                None if line == "0\r\n" => read.is_complete = true,
                Some(_) | None => {}
            }
            line.clear();
        }
        read
    }

    fn add(&mut self, event: &Value) {
        for choice in event["choices"].as_array().unwrap() {
            let tokens = choice["logprobs"]["tokens"].as_array().unwrap().iter();
            let tokens = tokens.map(|token| token.as_str().unwrap().to_owned());
            self.tokens[choice["index"].as_u64().unwrap() as usize].extend(tokens);
        }
    }
}

#[test]
fn a_killed_server_breaks_its_streams_and_writes_the_same_again() {
    const N: usize = 4;
    // It takes much longer than its first events.
    let request = json!({
        "prompt": "Once upon a time", "n": N, "seed": 3, "temperature": 1, "max_tokens": 1000,
        "ignore_eos": true, "logprobs": 0, "stream": true,
    });
    let mut server = Server::start(0);
    let stream = server.ask(&request);
    let port = server.port;
    let cut = Streamed::read(stream, N, |read| {
        if read.tokens.iter().all(|tokens| tokens.len() >= 5) {
            server.kill();
        }
    });
    assert!(!cut.is_done && !cut.is_complete, "{cut:?}");

    let server = Server::start(port);
    let whole = Streamed::read(server.ask(&request), N, |_| ());
    assert!(whole.is_done && whole.is_complete, "{whole:?}");
    for (cut, whole) in cut.tokens.iter().zip(&whole.tokens) {
        assert!(cut.len() >= 5 && cut.len() < whole.len(), "{}", cut.len());
        assert_eq!(cut[..], whole[..cut.len()]);
    }
}
