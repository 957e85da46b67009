//! Server-sent events.

use std::io::{self, BufRead, Read};

/// Bytes of a line at most. The longest that is known has a receipt in it.
const MAX_LINE: u64 = 16 << 20;

/// What a server sends.
#[derive(Debug, PartialEq, Eq)]
pub enum Event {
    /// The data of an event.
    Data(String),
    /// A line without a meaning: the server is alive.
    Alive,
}

/// Reads the events of a stream.
#[derive(Debug)]
pub struct Events<R> {
    lines: R,
}

impl<R: BufRead> Events<R> {
    /// Returns the events of this stream.
    pub fn new(lines: R) -> Self {
        Self { lines }
    }

    /// Returns the next event; `None` at the end.
    ///
    /// # Errors
    ///
    /// Returns an error if the stream breaks, or is no text.
    pub fn next(&mut self) -> io::Result<Option<Event>> {
        let mut data: Option<String> = None;
        loop {
            let mut line = Vec::new();
            let n_bytes = (&mut self.lines)
                .take(MAX_LINE)
                .read_until(b'\n', &mut line)?;
            if n_bytes as u64 == MAX_LINE {
                let message = format!("a line has more than {MAX_LINE} bytes");
                return Err(io::Error::new(io::ErrorKind::InvalidData, message));
            }
            // An event without the empty line behind it was cut.
            if n_bytes == 0 {
                return Ok(None);
            }
            let line = String::from_utf8(line)
                .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
            let line = line.trim_end_matches(['\r', '\n']);
            if line.is_empty() {
                match data {
                    Some(data) => return Ok(Some(Event::Data(data))),
                    None => continue,
                }
            }
            let (name, value) = line.split_once(':').unwrap_or((line, ""));
            match name {
                "" if data.is_none() => return Ok(Some(Event::Alive)),
                "data" => {
                    let value = value.strip_prefix(' ').unwrap_or(value);
                    match &mut data {
                        Some(data) => {
                            data.push('\n');
                            data.push_str(value);
                        }
                        None => data = Some(value.to_owned()),
                    }
                }
                // `event`, `id` and `retry` mean nothing here.
                _ => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn events(stream: &[u8]) -> Vec<Event> {
        let mut events = Events::new(stream);
        std::iter::from_fn(|| events.next().unwrap()).collect()
    }

    #[test]
    fn lines_are_read_as_the_standard_says() {
        let data = |text: &str| Event::Data(text.to_owned());
        let stream =
            b": hello\n\nevent: a\ndata: {\"b\": 1}\n\ndata:two\r\ndata:  lines\r\n\r\n\ndata\n\n";
        let expected = [
            Event::Alive,
            data("{\"b\": 1}"),
            data("two\n lines"),
            data(""),
        ];
        assert_eq!(events(stream), expected);
        // What was cut is no event.
        assert_eq!(events(b"data: {\"a\": 1"), []);
        assert_eq!(events(b"data: 1\n"), []);
        assert_eq!(events(b""), []);
    }

    #[test]
    fn what_is_no_text_is_an_error() {
        let mut events = Events::new(&b"data: \xff\n\n"[..]);
        let error = events.next().unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidData);
    }
}
