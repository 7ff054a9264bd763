//! Byte sizes as people write them on a command line.

use std::fmt;
use std::str::FromStr;

/// One mebibyte in bytes.
pub const MIB: u64 = 1 << 20;
/// One gibibyte in bytes.
pub const GIB: u64 = 1 << 30;

/// A number of bytes, written `512MiB`, `1GiB`, `64KiB` or plain bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ByteSize(pub u64);

impl ByteSize {
    /// The size in GiB, for figures 'per GiB'.
    pub fn gib(self) -> f64 {
        self.0 as f64 / GIB as f64
    }
}

impl FromStr for ByteSize {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let digits = text.bytes().take_while(u8::is_ascii_digit).count();
        let (number, unit) = text.split_at(digits);
        let factor = match unit.trim() {
            "" | "B" => 1,
            "KiB" => 1 << 10,
            "MiB" => MIB,
            "GiB" => GIB,
            other => return Err(format!("unknown unit '{other}': use B, KiB, MiB or GiB")),
        };
        let number: u64 = number.parse().map_err(|e| format!("'{text}' is no size: {e}"))?;
        number.checked_mul(factor).map(ByteSize).ok_or_else(|| format!("'{text}' is too large"))
    }
}

impl fmt::Display for ByteSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            n if n >= GIB && n % GIB == 0 => write!(f, "{} GiB", n / GIB),
            n if n >= MIB => write!(f, "{} MiB", n / MIB),
            n => write!(f, "{n} B"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_with_their_unit() {
        assert_eq!("1GiB".parse(), Ok(ByteSize(GIB)));
        assert_eq!("256MiB".parse(), Ok(ByteSize(256 * MIB)));
        assert_eq!("17".parse(), Ok(ByteSize(17)));
        assert!("1GB".parse::<ByteSize>().is_err());
        assert!("".parse::<ByteSize>().is_err());
        assert!("99999999999GiB".parse::<ByteSize>().is_err());
    }
}
