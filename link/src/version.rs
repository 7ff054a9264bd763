//! Versions of server software.

use std::fmt;
use std::str::FromStr;

/// A version of server software, such as 8.0.2. Orders as versions do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Version {
    /// The first number.
    pub major: u32,
    /// The second.
    pub minor: u32,
    /// The third.
    pub patch: u32,
}

impl Version {
    /// `major.minor.patch`.
    #[must_use]
    pub const fn new(major: u32, minor: u32, patch: u32) -> Self {
        Self { major, minor, patch }
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.major, self.minor, self.patch)
    }
}

/// A text that does not start with a version's numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a version: expected numbers such as 8.0.2")]
pub struct ParseVersionError;

impl FromStr for Version {
    type Err = ParseVersionError;

    /// Reads `8.0.2` and `8.0`; what follows a `-` (`9.0.0-rc1`) does not count.
    fn from_str(text: &str) -> Result<Self, ParseVersionError> {
        let numbers = text.split_once('-').map_or(text, |(numbers, _)| numbers);
        let mut parts = numbers.split('.').map(|part| part.parse().map_err(|_| ParseVersionError));
        let major = parts.next().ok_or(ParseVersionError)??;
        let minor = parts.next().unwrap_or(Ok(0))?;
        let patch = parts.next().unwrap_or(Ok(0))?;
        match parts.next() {
            None => Ok(Self { major, minor, patch }),
            Some(_) => Err(ParseVersionError),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_order_and_read_back() {
        let version = |text: &str| text.parse::<Version>().unwrap();
        assert!(version("7.0.15") > version("7.0.2") && version("10.0") > version("9.9.9"));
        assert_eq!(version("9.0.0-rc1").to_string(), "9.0.0");
        for text in ["", "x", "1.2.3.4", "1..2", "-1"] {
            assert!(text.parse::<Version>().is_err(), "{text}");
        }
    }
}
