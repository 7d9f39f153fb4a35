//! How a command failed, and which exit code that is.

use std::fmt::{Display, Formatter};

use crate::client::{ClientError, Problem};
use crate::config::ConfigError;

use super::output::{Paint, paint};

/// Why a command ends with another code than 0.
#[derive(Debug)]
pub enum Failure {
    /// 1: it failed, or the server refused.
    Failed(String),
    /// 1 or 4: the server's problem.
    Refused(Box<Problem>),
    /// 2: the arguments or the configuration make no sense.
    Usage(String),
    /// 3: no server there.
    Unreachable(String),
    /// 4: it is not there.
    Absent(String),
    /// 5: nodes differ.
    Different(String),
}

impl Failure {
    /// A failure with this message.
    pub fn failed(message: impl Into<String>) -> Failure {
        Failure::Failed(message.into())
    }

    /// A failure to read or write `what`.
    pub fn of(what: impl Display) -> impl FnOnce(std::io::Error) -> Failure {
        move |error| Failure::Failed(format!("{what}: {error}"))
    }

    /// The exit code.
    pub fn code(&self) -> u8 {
        match self {
            Failure::Failed(_) => 1,
            Failure::Refused(problem) => 1 + 3 * u8::from(problem.is_absent()),
            Failure::Usage(_) => 2,
            Failure::Unreachable(_) => 3,
            Failure::Absent(_) => 4,
            Failure::Different(_) => 5,
        }
    }

    /// Says it on standard error; a server's problem with all that it told.
    pub fn print(&self) {
        eprintln!("{} {self}", paint(Paint::Red, "error:"));
        if let Failure::Refused(problem) = self
            && !problem.code.is_empty()
        {
            eprintln!("{}", problem.body);
        }
    }
}

impl Display for Failure {
    fn fmt(&self, f: &mut Formatter<'_>) -> std::fmt::Result {
        match self {
            Failure::Refused(problem) => write!(f, "{problem}"),
            Failure::Failed(message)
            | Failure::Usage(message)
            | Failure::Unreachable(message)
            | Failure::Absent(message)
            | Failure::Different(message) => f.write_str(message),
        }
    }
}

impl From<ClientError> for Failure {
    fn from(error: ClientError) -> Failure {
        match error {
            ClientError::Address(_) => Failure::Usage(error.to_string()),
            ClientError::Unreachable { .. } => Failure::Unreachable(error.to_string()),
            ClientError::Refused(problem) => Failure::Refused(problem),
            ClientError::Answer { .. } => Failure::Failed(error.to_string()),
        }
    }
}

impl From<ConfigError> for Failure {
    fn from(error: ConfigError) -> Failure {
        Failure::Usage(error.to_string())
    }
}

impl From<anyhow::Error> for Failure {
    fn from(error: anyhow::Error) -> Failure {
        Failure::Failed(format!("{error:#}"))
    }
}
