//! Commands of `bitnet chat`.

use std::fmt::Write;

/// A parsed line of input.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Line<'a> {
    /// A message for the model.
    Message(&'a str),
    /// A command for the program.
    Command(Command<'a>),
}

/// A command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Command<'a> {
    Help,
    /// Show the system message, or replace it.
    System(Option<&'a str>),
    Retry,
    Undo,
    /// Write the conversation to this file.
    Save(&'a str),
    /// Load the conversation from this file.
    Load(&'a str),
    Timings,
    Reset,
    Exit,
}

/// Every command, with its argument and description.
const COMMANDS: [(&str, &str, &str); 9] = [
    ("/help", "", "show this list"),
    (
        "/system",
        " [TEXT]",
        "show the system message, or replace it",
    ),
    ("/retry", "", "regenerate the last answer"),
    ("/undo", "", "remove the last message and its answer"),
    ("/save", " FILE", "write the conversation as JSON"),
    ("/load", " FILE", "load a saved conversation"),
    ("/timings", "", "show the timings of the last answer"),
    ("/reset", "", "remove everything but the system message"),
    ("/exit", "", "end the chat, like Ctrl-D"),
];

/// Returns the commands, one per line.
pub fn list() -> String {
    let mut list = String::new();
    for (name, argument, what) in COMMANDS {
        let _ = writeln!(list, "  {:16}{what}", format!("{name}{argument}"));
    }
    list + "Type two slashes to begin a message with one: //etc is a folder."
}

/// A line that is neither a message nor a command.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum LineError {
    #[error("unknown command {0}, expected one of these")]
    Unknown(String),
    #[error("{0} takes no argument")]
    Argument(&'static str),
    #[error("{0} requires the name of a file")]
    NoFile(&'static str),
}

impl<'a> Line<'a> {
    /// Parses a line as a command or a message.
    ///
    /// # Errors
    ///
    /// Returns an error for an unknown command or a wrong argument.
    pub fn parse(line: &'a str) -> Result<Self, LineError> {
        let text = line.trim();
        if !text.starts_with('/') {
            return Ok(Self::Message(line));
        }
        if text.starts_with("//") {
            return Ok(Self::Message(&text[1..]));
        }
        let (name, rest) = text.split_once(char::is_whitespace).unwrap_or((text, ""));
        let rest = rest.trim();
        let Some((name, argument, _)) = COMMANDS.into_iter().find(|(known, ..)| *known == name)
        else {
            return Err(LineError::Unknown(name.to_owned()));
        };
        if argument.is_empty() && !rest.is_empty() {
            return Err(LineError::Argument(name));
        }
        if argument == " FILE" && rest.is_empty() {
            return Err(LineError::NoFile(name));
        }
        Ok(Self::Command(match name {
            "/help" => Command::Help,
            "/system" => Command::System(Some(rest).filter(|text| !text.is_empty())),
            "/retry" => Command::Retry,
            "/undo" => Command::Undo,
            "/save" => Command::Save(rest),
            "/load" => Command::Load(rest),
            "/timings" => Command::Timings,
            "/reset" => Command::Reset,
            _ => Command::Exit,
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_messages_or_commands() {
        let message = |text| Ok(Line::Message(text));
        let command = |command| Ok(Line::Command(command));
        let unknown = |name: &str| Err(LineError::Unknown(name.to_owned()));
        let cases = [
            ("Why?", message("Why?")),
            ("  1/2 is less ", message("  1/2 is less ")),
            ("//usr is a folder", message("/usr is a folder")),
            ("/help", command(Command::Help)),
            (" /exit\t", command(Command::Exit)),
            ("/system", command(Command::System(None))),
            (
                "/system  Be\nbrief. ",
                command(Command::System(Some("Be\nbrief."))),
            ),
            ("/save a b.json", command(Command::Save("a b.json"))),
            ("/load", Err(LineError::NoFile("/load"))),
            ("/reset now", Err(LineError::Argument("/reset"))),
            ("/helo", unknown("/helo")),
            ("/usr/bin/env is", unknown("/usr/bin/env")),
            ("/", unknown("/")),
            ("/Exit", unknown("/Exit")),
        ];
        for (line, expected) in cases {
            assert_eq!(Line::parse(line), expected, "{line}");
        }
    }

    #[test]
    fn every_command_of_the_list_is_known() {
        for (name, argument, _) in COMMANDS {
            let line = format!("{name}{argument}");
            assert!(matches!(Line::parse(&line), Ok(Line::Command(_))), "{line}");
        }
        assert_eq!(Line::parse("/exit"), Ok(Line::Command(Command::Exit)));
    }
}
