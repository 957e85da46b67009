//! What an error says besides its message.

/// What an error says besides its message.
pub trait Advice {
    /// Whether the question cannot be asked like that here; else something could not be
    /// measured.
    fn is_usage(&self) -> bool {
        false
    }

    /// What to do next, if there is something.
    fn hint(&self) -> Option<String> {
        None
    }

    /// What a build or a program said that failed.
    fn output(&self) -> Option<&str> {
        None
    }
}
